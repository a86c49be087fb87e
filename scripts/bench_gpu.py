"""Measure everything on one GPU, in one run of about six minutes: `python scripts/bench_gpu.py`.

The script needs the extras `dev` and `gpu`. It has seven parts, and --parts selects some of them:

- shapes: our attention on the GPU, against float64, as many cases as a minute allows.
- fp8: the tests of FP8 that need a GPU.
- memory: NVIDIA's compute-sanitizer looks for accesses outside of tensors, if it is installed.
- attention: our attention kernel beside FlashAttention-2 and cuDNN (`bench_attention.py`).
- training-124m, training-350m: the setup of `scratchlm-train`, with torch's attention and with
  ours, beside a nanoGPT-style loop: GPT-2 in torch's own modules, in bfloat16, compiled as a whole,
  with torch's fused AdamW. They take turns. The MFU is relative to the device's dense peak in the
  dtype.
- decoding: new tokens for one prompt, beside `transformers` (`bench_generate.py`).

A part that would begin after --minutes is not measured. If a part fails, the script prints the
error, runs the other parts, and ends with exit code 1.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bench_attention
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm import config as configuration
from scratchlm.costs.gpus import mfu, peak_flops
from scratchlm.costs.model_costs import training_flops_per_token
from scratchlm.data.batches import TrainBatches
from scratchlm.devices.runtime import autocast, compile_blocks, resolve_device, resolve_dtype
from scratchlm.devices.runtime_config import Attention, Dtype
from scratchlm.model.config import ModelConfig
from scratchlm.model.transformer import Transformer
from scratchlm.optim.config import OptimConfig
from scratchlm.optim.recipe import build_optimizer
from scratchlm.training.attention_choice import resolve_attention
from scratchlm.training.fp8_layers import use_fp8
from scratchlm.training.objective import Objective
from scratchlm.training.trainer import Trainer
from scratchlm.training.trainer_config import TrainerConfig

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
ROUNDS, STEPS = 5, 10  # steps per round
SHAPE_MINUTES = 1.0


class PeerBlock(nn.Module):
    """x (batch, seq, d_model) -> the same: GPT-2's block."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attn_norm, self.ffn_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        # (batch, seq, 3 · head · d_head) -> q, k, v (batch, head, seq, d_head)
        qkv = self.qkv(self.attn_norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.transpose(1, 3).unbind(2)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.ffn_norm(x)), approximate="tanh"))


class Peer(nn.Module):
    """inputs, targets (batch, seq) -> mean loss: a GPT-2 with a tied head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context_length, config.d_model)
        self.blocks = nn.Sequential(
            *(PeerBlock(config.d_model, config.num_heads) for _ in range(config.num_layers))
        )
        self.norm = nn.LayerNorm(config.d_model)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(inputs) + self.positions.weight[: inputs.shape[1]]
        logits = F.linear(self.norm(self.blocks(x)), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class PeerLoop:
    def __init__(self, config: ModelConfig, batches: TrainBatches, device: torch.device) -> None:
        self.model = Peer(config).to(device)
        self.loss = torch.compile(self.model, dynamic=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=6e-4, fused=True)
        self.batches, self.device, self.step = batches, device, 0
        self.dtype = resolve_dtype("auto", device)

    def train_step(self) -> None:
        batch = self.batches.batch(self.step)
        if self.device.type == "cuda":
            batch = batch.each(Tensor.pin_memory)
        batch = batch.each(lambda tensor: tensor.to(self.device, non_blocking=True))
        with autocast(self.device, self.dtype):
            loss = self.loss(batch.inputs, batch.targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1


def ours(
    config: ModelConfig,
    batches: TrainBatches,
    device: torch.device,
    attention: Attention,
    dtype: Dtype,
) -> Trainer:
    model = Transformer(config, resolve_attention(attention, device, config.d_head)).to(device)
    if dtype == "fp8":
        use_fp8(model.layers)
    compile_blocks(model.layers)
    return Trainer(
        model,
        build_optimizer(OptimConfig(), model),
        batches,
        TrainerConfig(iterations=10**6, batch_size=batches.batch_size, log_every=10**6),
        objective=Objective(model),
        dtype=resolve_dtype(dtype, device),
    )


def seconds_of(run: Trainer | PeerLoop, device: torch.device) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        run.train_step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def print_training(
    file: Path,
    batch_size: int,
    device: torch.device,
    attentions: Sequence[Attention],
    dtype: Dtype = "auto",
) -> None:
    """Print one row for each function of attention, and one for the peer of a GPT-2."""
    print("| training | tokens/s | MFU | beside the last |\n|---|---:|---:|---:|")
    tree = configuration.read_toml(file)["model"]
    config = configuration.build(ModelConfig, tree, "model.")
    ids = np.random.default_rng(0).integers(0, config.vocab_size, 4_000_000).astype(np.uint16)
    batches = TrainBatches(ids, batch_size, config.context_length, 0)
    runs: dict[str, Trainer | PeerLoop] = {
        f"{file.stem}, {name}": ours(config, batches, device, name, dtype) for name in attentions
    }
    if config.position == "learned":
        runs[f"{file.stem}, a nanoGPT-style loop"] = PeerLoop(config, batches, device)
    for run in runs.values():
        seconds_of(run, device)  # compile
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            taken[name].append(seconds_of(run, device))
    products = str(resolve_dtype("auto", device)).removeprefix("torch.")
    peak = peak_flops(chip(device), products if dtype == "auto" else dtype)
    tokens = STEPS * batch_size * config.context_length
    *_, last = taken.values()
    for each, times in taken.items():
        speed = tokens / statistics.median(times)
        used = mfu(speed, training_flops_per_token(config), peak)
        ratio = statistics.median(b / a for a, b in zip(times, last, strict=True))
        share = "n/a" if used is None else f"{used:.1%}"
        print(f"| {each} | {speed:,.0f} | {share} | {ratio:.2f}x |", flush=True)


def chip(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def output_of(command: Sequence[str], **environment: str) -> str:
    """Run a program from the root of the repository. Return what it prints. Raise RuntimeError if
    its exit code is not 0."""
    variables = os.environ | environment
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    output = (done.stdout + done.stderr).strip()
    if done.returncode:
        raise RuntimeError(f"a program failed (exit code {done.returncode}):\n{output}")
    return output


# Two lengths, a window, documents, grouped heads, and widths that are no powers of 2.
SMALL_CASE = """
import torch
from scratchlm.kernels.flash_attention import flash_attention
for queries, keys in ((65, 65), (33, 100)):
    sizes = (1, 4, queries, 40), (1, 2, keys, 40), (1, 2, keys, 24)
    q, k, v = (torch.randn(size, device="cuda", dtype=torch.bfloat16) for size in sizes)
    first = torch.arange(queries, device="cuda")[None] // 20 * 20
    inputs = [x.requires_grad_() for x in (q, k, v)]
    flash_attention(*inputs, window=17, first=first).square().sum().backward()
torch.cuda.synchronize()
"""
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def check_cases(
    cases: Sequence[Any],
    errors_of: Callable[[Any, torch.dtype], Mapping[str, float]],
    minutes: float,
) -> None:
    """Compare as many cases as the time allows, each in one dtype in turn. Raise RuntimeError for
    wrong results. errors_of: case, dtype -> {result: error / bound}."""
    end, worst, wrong, done = time.monotonic() + 60 * minutes, 0.0, [], 0
    for case, dtype in zip(cases, itertools.cycle(DTYPES), strict=False):
        if done and time.monotonic() > end:
            break
        errors, done = errors_of(case, dtype).values(), done + 1
        worst = max(worst, *errors)
        if not all(error <= 1 for error in errors):  # NaN is wrong too
            wrong.append(f"WRONG: {case}, {dtype}")
    print(f"{done} of {len(cases)} cases, largest error {worst:.2f} of its bound")
    if wrong:
        raise RuntimeError("\n".join(wrong))


def check_shapes(device: torch.device) -> None:
    """Compare long sequences first, then the random cases of the tests, with the table's blocks.

    The tests of the kernels (`pytest -m gpu tests/kernels`) compare each case in all three dtypes.
    They compile so many variants that they take much longer.
    """
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.flash_cases import Case, cases, errors  # type: ignore[import-not-found]

    sizes = [
        Case(2, 4, 2, length, length, width, width, window=window)
        for width in (64, 128)
        for length in (129, 1024)
        for window in (None, 100)
    ]
    every = [case._replace(blocks=None) for case in (*sizes, *cases(200))]
    check_cases(every, lambda case, dtype: errors(case, dtype, device.type), SHAPE_MINUTES)


def check_fp8(device: torch.device) -> None:
    words = ("-m", "pytest", "-q", "-m", "gpu", "tests/kernels/test_fp8_linear.py")
    print(output_of((sys.executable, *words)).splitlines()[-1])


def check_memory(device: torch.device) -> None:
    """Look for accesses outside of tensors.

    Each tensor has its own allocation, because the sanitizer does not see the borders of tensors
    inside the memory that torch keeps.
    """
    sanitizer = shutil.which("compute-sanitizer", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
    if sanitizer is None:
        print("not measured (compute-sanitizer is not installed)")
        return
    words = (sanitizer, "--tool", "memcheck", "--error-exitcode", "1", sys.executable, "-c")
    output = output_of((*words, SMALL_CASE), PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    if "ERROR SUMMARY: 0 errors" not in output:
        raise RuntimeError(f"compute-sanitizer printed no summary without errors:\n{output}")
    print("ERROR SUMMARY: 0 errors")


def measure_attention(device: torch.device) -> None:
    bench_attention.print_table(resolve_attention("triton", device, 128), device)


def measure_124m(device: torch.device) -> None:
    print_training(CONFIGS / "gpt2-124m.toml", 32, device, ("sdpa", "triton"))


def measure_350m(device: torch.device) -> None:
    print_training(CONFIGS / "gpt2-350m.toml", 16, device, ("sdpa", "triton"))


def measure_decoding(device: torch.device) -> None:
    import bench_generate  # imports transformers

    print(bench_generate.HEAD)
    bench_generate.measure(bench_generate.Case("124M", torch.bfloat16, 1), 3, device.type)


PARTS: dict[str, Callable[[torch.device], None]] = {
    "shapes": check_shapes,
    "fp8": check_fp8,
    "memory": check_memory,
    "attention": measure_attention,
    "training-124m": measure_124m,
    "training-350m": measure_350m,
    "decoding": measure_decoding,
}


def run_parts(names: Sequence[str], device: torch.device, minutes: float) -> list[str]:
    """Run the parts in this order, until the time is over. Return the parts that failed."""
    end, failed = time.monotonic() + 60 * minutes, []
    for name in names:
        print(f"\n## {name}\n", flush=True)
        if time.monotonic() > end:
            print("not measured (the time is over)")
            continue
        try:
            PARTS[name](device)
        except Exception as error:  # the other parts must still run
            failed.append(name)
            print(f"FAILED: {name}: {error}")
            traceback.print_exc()
    return failed


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=5.0, help="no part begins later (5)")
    parser.add_argument("--config", type=Path, help="instead of all parts, train this config")
    parser.add_argument("--batch_size", type=int, default=16, help="sequences per step (16)")
    parser.add_argument(
        "--attention", nargs="+", default=["triton"], help="with --config: sdpa, triton, readable"
    )
    parser.add_argument(
        "--dtype", choices=["auto", "fp8"], default="auto", help="with --config: of ours"
    )
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    dtype = str(resolve_dtype("auto", device)).removeprefix("torch.")
    print(f"{chip(device)}, torch {torch.__version__}, {dtype}")
    if args.config is None:
        if failed := run_parts(args.parts, device, args.minutes):
            raise SystemExit(f"these parts failed: {', '.join(failed)}")
    else:
        print_training(args.config, args.batch_size, device, args.attention, args.dtype)


if __name__ == "__main__":
    main()
