"""Compare training on one GPU with a nanoGPT-style loop, in one run: `python scripts/bench_gpu.py`.

Ours is the setup of `scratchlm-train` for the config. The peer is GPT-2 in torch's own modules, in
bfloat16, compiled as a whole, with torch's fused AdamW, as in nanoGPT. They take turns. MFU is a
share of the device's dense peak in the dtype. `scratchlm.costs.model_costs` counts the FLOPs.

    python scripts/bench_gpu.py --config configs/gpt2-350m.toml --batch_size 16
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm import config as configuration
from scratchlm.costs.gpus import mfu, peak_flops
from scratchlm.costs.model_costs import flops_per_token
from scratchlm.data.batches import TrainBatches
from scratchlm.devices.runtime import autocast, compile_blocks, resolve_device, resolve_dtype
from scratchlm.model.config import ModelConfig
from scratchlm.model.transformer import Transformer
from scratchlm.optim.config import OptimConfig
from scratchlm.optim.recipe import build_optimizer
from scratchlm.training.objective import Objective
from scratchlm.training.trainer import Trainer
from scratchlm.training.trainer_config import TrainerConfig

CONFIGS = Path(__file__).parents[1] / "configs"
ROUNDS, STEPS = 5, 10  # steps per round


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


def ours(config: ModelConfig, batches: TrainBatches, device: torch.device) -> Trainer:
    model = Transformer(config).to(device)
    compile_blocks(model.layers)
    return Trainer(
        model,
        build_optimizer(OptimConfig(), model),
        batches,
        TrainerConfig(iterations=10**6, batch_size=batches.batch_size, log_every=10**6),
        objective=Objective(model),
        dtype=resolve_dtype("auto", device),
    )


def seconds_of(run: Trainer | PeerLoop, device: torch.device) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        run.train_step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIGS / "gpt2-124m.toml")
    parser.add_argument("--batch_size", type=int, default=32, help="sequences per step")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    device = resolve_device(args.device)
    tree = configuration.read_toml(args.config)["model"]
    config = configuration.build(ModelConfig, tree, "model.")
    ids = np.random.default_rng(0).integers(0, config.vocab_size, 4_000_000).astype(np.uint16)
    batches = TrainBatches(ids, args.batch_size, config.context_length, 0)
    is_gpt2 = config.position == "learned"
    runs: dict[str, Trainer | PeerLoop] = {"ours": ours(config, batches, device)}
    if is_gpt2:
        runs["a nanoGPT-style loop"] = PeerLoop(config, batches, device)
    for run in runs.values():
        seconds_of(run, device)  # compile
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            taken[name].append(seconds_of(run, device))
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    dtype = str(resolve_dtype("auto", device)).removeprefix("torch.")
    peak = peak_flops(chip, dtype)
    print(f"{chip}, torch {torch.__version__}, {dtype}, {args.config.stem}")
    print("\n| training | tokens/s | MFU | ratio |\n|---|---:|---:|---:|")
    tokens = STEPS * args.batch_size * config.context_length
    for each, times in taken.items():
        speed = tokens / statistics.median(times)
        used = mfu(speed, 3 * flops_per_token(config), peak)
        ratio = statistics.median(b / a for a, b in zip(taken["ours"], times, strict=True))
        share = "n/a" if used is None else f"{used:.1%}"
        print(f"| {each} | {speed:,.0f} | {share} | {ratio:.2f}x |", flush=True)


if __name__ == "__main__":
    main()
