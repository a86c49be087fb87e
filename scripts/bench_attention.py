"""Compare our attention kernel with torch's, in one run: `python scripts/bench_attention.py`.

The script needs the extra `gpu`, and a GPU. FlashAttention-2 and cuDNN are the kernels of
`F.scaled_dot_product_attention`, each pinned by name. All take turns, in bfloat16, causal, with
16,384 tokens and a width of 2,048. The times are medians of Triton's `do_bench`, which queues many
calls, so that the GPU does not wait for Python. A forward pass counts 2 products of
query x key x d_head, of which a causal mask needs half. A backward pass counts 5. A ratio above 1
means that ours is faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from scratchlm.devices.runtime import resolve_device
from scratchlm.model.attention import Attend
from scratchlm.training.attention_choice import resolve_attention

ROUNDS = 5
OURS = "ours"
Causal = Callable[[Tensor, Tensor, Tensor], Tensor]


class Shape(NamedTuple):
    """Multi-head attention over `batch` sequences of `seq` tokens."""

    batch: int
    heads: int
    seq: int
    d_head: int

    def flops(self, products: int) -> float:
        """Return the FLOPs of so many causal products."""
        return products * self.batch * self.heads * self.seq**2 * self.d_head


SHAPES = [
    Shape(16_384 // seq, 2_048 // d_head, seq, d_head)
    for d_head in (64, 128)
    for seq in (1_024, 2_048, 4_096, 8_192, 16_384)
]


def pinned(backend: SDPBackend) -> Causal:
    """Return torch's attention with exactly this kernel. Without it, a call raises RuntimeError."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return attend


def causal(attend: Attend) -> Causal:
    return lambda q, k, v: attend(q, k, v, causal=True)


PEERS = {
    "FlashAttention-2": pinned(SDPBackend.FLASH_ATTENTION),
    "cuDNN": pinned(SDPBackend.CUDNN_ATTENTION),
}


def seconds(job: Callable[[], object], device: torch.device) -> float:
    """Return the time of one call, on the device's own clock."""
    if device.type != "cuda":
        began = time.perf_counter()
        job()
        return time.perf_counter() - began
    import triton

    return triton.testing.do_bench(job, warmup=10, rep=50, return_mode="median") / 1e3


def times(
    shape: Shape, ways: Mapping[str, Causal], device: torch.device, rounds: int = ROUNDS
) -> dict[str, tuple[float, float] | None]:
    """Return {way: median seconds of forward and of backward, None if the peer cannot run}."""
    torch.manual_seed(0)
    # (batch, seq, head, d_head) in memory, as a layer's projections write them
    size = (shape.batch, shape.seq, shape.heads, shape.d_head)
    q, k, v, grad = (
        torch.randn(size, device=device, dtype=torch.bfloat16).transpose(1, 2) for _ in range(4)
    )
    inputs = [x.requires_grad_() for x in (q, k, v)]
    jobs: dict[str, tuple[Callable[[], object], ...]] = {}
    for name, way in ways.items():
        try:
            output = way(*inputs)
        except RuntimeError:  # torch lacks this kernel for the device
            if name == OURS:
                raise
            continue

        def forward(way: Causal = way) -> object:
            with torch.no_grad():
                return way(*inputs)

        def backward(output: Tensor = output) -> object:
            return torch.autograd.grad(output, inputs, grad, retain_graph=True)

        jobs[name] = forward, backward
        for job in jobs[name]:  # compile
            job()
    taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, both in jobs.items():
            taken[name].append(tuple(seconds(job, device) for job in both))
    return {
        name: tuple(map(statistics.median, zip(*taken[name], strict=True)))
        if name in taken
        else None
        for name in ways
    }


def print_table(
    ours: Attend, device: torch.device, shapes: Sequence[Shape] = SHAPES, rounds: int = ROUNDS
) -> None:
    ways = {OURS: causal(ours), **PEERS}
    columns = [OURS, *(name for peer in PEERS for name in (peer, "ratio"))]
    print(f"| TFLOP/s | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for shape in shapes:
        found = times(shape, ways, device, rounds)
        for index, (name, products) in enumerate((("forward", 2), ("backward", 5))):
            cells = []
            for way, both in found.items():
                speed = None if both is None else shape.flops(products) / both[index] / 1e12
                cells.append("n/a" if speed is None else f"{speed:,.4g}")
                if way != OURS:
                    mine = found[OURS]
                    ratio = both and mine and both[index] / mine[index]
                    cells.append("n/a" if ratio is None else f"{ratio:.2f}x")
            what = f"d_head {shape.d_head}, {shape.batch} x {shape.seq:,} tokens, {name}"
            print(f"| {what} | {' | '.join(cells)} |", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    device = resolve_device(parser.parse_args(argv).device)
    print_table(resolve_attention("triton", device, 128), device)


if __name__ == "__main__":
    main()
