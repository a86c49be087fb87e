"""Compare generation with an installed peer, in one run: `python scripts/bench_generate.py`.

The script needs the extra `dev`. Weights are random, a prompt has 32 tokens, and greedy decoding
adds 128. Ours and `transformers.generate` (default settings, same weights) take turns, and the
ratio is the median over the rounds. The peer of int8 weights is our own bf16. The share of memory
bandwidth divides the bytes of the weights by what a sum over 256 MB reads, measured in the same
rounds, because a token reads every weight once. If there is a GPU, the comparison runs on it.

--perplexity RUN TEXT prints instead how much int8 weights raise a trained model's perplexity.
--ways compares instead the ways to generate: a GPT-2 in a Hugging Face folder (124M, random
weights) with the same weights in our own model from the start, and `generate` with `TextGenerator`.
`generate` packs the weights at every call, and its time includes that.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging as hub_logging

from scratchlm import BPETokenizer, ModelConfig, TextGenerator, Transformer, generate
from scratchlm.checkpoint.models import load_with_tokenizer
from scratchlm.convert.hf_folder import from_hf, to_hf
from scratchlm.generation.decoder import CompiledStep, Decoder
from scratchlm.generation.low_precision import HalfLinear, Weights, packed
from scratchlm.generation.sampling import decode
from scratchlm.generation.strategies import Strategy

PROMPT, NEW, VOCAB = 32, 128, 50_304
GREEDY = Strategy(temperature=0)
SHAPES: dict[str, dict[str, Any]] = {
    "30M": {"d_model": 384, "num_layers": 6, "num_heads": 6},
    "124M": {"d_model": 768, "num_layers": 12, "num_heads": 12},
    "1.5B": {"d_model": 1600, "num_layers": 48, "num_heads": 25},
}
HEAD = (
    "| parameters | dtype | batch | peer | ours, tokens/s | peer's | ratio | first token | "
    "of bandwidth | weights held | same ids |\n" + "|---|---|---:|---|" + "---:|" * 7
)


@dataclass(frozen=True)
class Case:
    size: str
    dtype: torch.dtype
    batch: int
    weights: Weights = "stored"


CPU = [
    Case("30M", torch.bfloat16, 1),
    Case("30M", torch.bfloat16, 1, "int8"),
    Case("30M", torch.float32, 1),
    Case("30M", torch.bfloat16, 8),
    Case("124M", torch.bfloat16, 1),
    Case("124M", torch.bfloat16, 1, "int8"),
    Case("124M", torch.float32, 1),
    Case("124M", torch.bfloat16, 8),
]
CUDA = [
    Case("124M", torch.bfloat16, 1),
    Case("124M", torch.bfloat16, 64),
    Case("1.5B", torch.bfloat16, 1),
]


def peer_of(model: Transformer, case: Case, device: str) -> Callable[[list[list[int]]], Any]:
    """Return the peer, which writes new ids.

    For int8, it is our own model as stored. Otherwise it is Hugging Face's Llama with the same
    weights.
    """
    if case.weights == "int8":
        stored = packed(copy.deepcopy(model).to(device))
        return lambda prompts: write(stored, prompts, None)[0]
    peer: Any
    with tempfile.TemporaryDirectory() as folder:
        to_hf(model, Path(folder) / "model")
        peer = transformers.AutoModelForCausalLM.from_pretrained(
            f"{folder}/model", dtype=case.dtype
        )
    peer = peer.to(device=device).eval()
    how = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def complete(prompts: list[list[int]]) -> Any:
        return peer.generate(torch.tensor(prompts, device=device), **how)[:, PROMPT:].tolist()

    return complete


def timed(job: Callable[[], Any], device: str) -> tuple[float, Any]:
    start = time.perf_counter()
    result = job()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def bandwidth(device: str) -> float:
    """Return the bytes per second that a sum over 256 MB reads, the best of three."""
    numbers = torch.ones(64 * 2**20, device=device)
    return numbers.nbytes / min(timed(numbers.sum, device)[0] for _ in range(3))


def write(model: Transformer, prompts: list[list[int]], compiled: CompiledStep | None) -> Any:
    """Return all new ids, and the seconds to the first."""
    start = time.perf_counter()
    first = 0.0
    for rows in decode(Decoder(model, NEW, compiled=compiled), prompts, GREEDY):
        first = first or (time.perf_counter() - start if rows[0].ids else 0.0)
        ids = [row.ids for row in rows]
    return ids, first


def measure(case: Case, rounds: int, device: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(VOCAB, PROMPT + NEW, tie_embeddings=True, **SHAPES[case.size])
    model = Transformer(config).to(case.dtype)
    theirs = peer_of(model, case, device)
    ours = packed(copy.deepcopy(model).to(device), case.weights)
    compiled = CompiledStep(ours) if device == "cuda" else None
    prompts = torch.randint(VOCAB, (case.batch, PROMPT)).tolist()
    write(ours, prompts, compiled)  # warm up: touch memory, choose kernels, capture graphs
    theirs(prompts)
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(rounds):
        mine, (written, first) = timed(lambda: write(ours, prompts, compiled), device)
        other, expected = timed(lambda: theirs(prompts), device)
        read = model.num_parameters() * (1 if case.weights == "int8" else case.dtype.itemsize)
        taken.append((mine, other, first, read * NEW / mine / bandwidth(device)))
    mine, other, first, share = (statistics.median(column) for column in zip(*taken, strict=True))
    ratio = statistics.median(row[1] / row[0] for row in taken)
    same = (torch.tensor(written) == torch.tensor(expected)).float().mean().item()
    name = str(case.dtype).removeprefix("torch.") if case.weights == "stored" else "int8, bfloat16"
    whom = "ours in bfloat16" if case.weights == "int8" else "transformers"
    memory = sum(bytes_of(ours).values()) / 2**20
    print(
        f"| {case.size} | {name} | {case.batch} | {whom} | {case.batch * NEW / mine:,.0f} | "
        f"{case.batch * NEW / other:,.0f} | {ratio:.2f}x | {1e3 * first:.0f} ms | {share:.0%} | "
        f"{memory:,.0f} MB | {same:.0%} |",
        flush=True,
    )


def bytes_of(model: torch.nn.Module) -> dict[int, int]:
    """Return the bytes of all tensors in the modules, each counted once."""
    found: dict[int, int] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers, vars(module)):
            tensors = (x for x in held.values() if isinstance(x, torch.Tensor))
            found |= {id(x): x.numel() * x.element_size() for x in tensors}
        if isinstance(module, HalfLinear):
            found[id(module)] = module.nbytes
    return found


def print_perplexity(run: str, text: str) -> None:
    """Print the perplexity on the first 200,000 characters, in windows of the model's context."""
    loaded = load_with_tokenizer(run)
    model, tokenizer = loaded.model, loaded.tokenizer
    ids = torch.tensor(tokenizer.encode(Path(text).read_text(encoding="utf-8")[:200_000]))
    length = model.config.context_length
    windows = ids[: (len(ids) - 1) // length * length + 1].unfold(0, length + 1, length)
    print("| weights | nats a token | perplexity |\n|---|---:|---:|")
    for name, twin in (
        ("fp32", packed(model.float())),
        ("bf16", packed(copy.deepcopy(model).bfloat16())),
        ("int8, bf16", packed(copy.deepcopy(model).bfloat16(), "int8")),
    ):
        losses = []
        with torch.inference_mode():
            for window in windows.split(8):
                logits = twin(window[:, :-1]).float().flatten(0, 1)
                losses.append(torch.nn.functional.cross_entropy(logits, window[:, 1:].flatten()))
        loss = torch.stack(losses).mean()
        print(f"| {name} | {loss:.4f} | {loss.exp():.3f} |", flush=True)


def print_ways(rounds: int) -> None:
    tokenizer = BPETokenizer({byte: bytes([byte]) for byte in range(256)}, [])
    prompt = "x" * PROMPT
    ids = tokenizer.encode(prompt)
    print(
        "| dtype | Hugging Face folder, tokens/s | own memory | folder / own | TextGenerator | "
        "generate / TextGenerator |\n" + "|---|" + "---:|" * 5
    )
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            peer: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config())
            peer.to(dtype).save_pretrained(folder)
            hub = from_hf(folder)
            own = Transformer(hub.config).to(dtype)
            own.load_state_dict(hub.state_dict())
            writer = TextGenerator(own, tokenizer, end_ids=[])
            jobs: dict[str, Callable[[], Any]] = {
                "hub": partial(generate, hub, ids, NEW, 0.0, vocab_size=256),
                "own": partial(generate, own, ids, NEW, 0.0, vocab_size=256),
                "writer": partial(writer.generate, prompt, NEW, temperature=0),
            }
            for job in jobs.values():  # warm up: touch memory, choose kernels
                job()
            taken = [{name: timed(job, "cpu")[0] for name, job in jobs.items()}
                     for _ in range(rounds)]  # fmt: skip
        speed = {name: NEW / statistics.median(row[name] for row in taken) for name in jobs}
        hub_ratio = statistics.median(row["own"] / row["hub"] for row in taken)
        ratio = statistics.median(row["writer"] / row["own"] for row in taken)
        print(
            f"| {str(dtype).removeprefix('torch.')} | {speed['hub']:.1f} | {speed['own']:.1f} | "
            f"{hub_ratio:.2f}x | {speed['writer']:.1f} | {ratio:.2f}x |",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=SHAPES, help="only this size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--perplexity", nargs=2, metavar=("RUN", "TEXT"))
    parser.add_argument("--ways", action="store_true", help="compare ways to generate")
    args = parser.parse_args(argv)
    if args.perplexity:
        print_perplexity(*args.perplexity)
        return
    hub_logging.set_verbosity_error()
    hub_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if args.ways:
        print_ways(args.rounds)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {device}, "
          f"{torch.get_num_threads()} threads, {args.rounds} rounds, "
          f"{bandwidth(device) / 1e9:.1f} GB/s")  # fmt: skip
    print(f"\n{HEAD}")
    for case in CUDA if device == "cuda" else CPU:
        if args.size in (None, case.size):
            measure(case, args.rounds, device)


if __name__ == "__main__":
    main()
