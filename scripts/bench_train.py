"""The parts of a training step beside torch's own, in one run: `python scripts/bench_train.py`.

Needs the extra `dev`. Ours and the peer take turns, and the ratio is the median of the rounds', as
in bench_model.py. What a loss adds to a process's memory is measured in a fresh one each.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from bench_model import ROUNDS, Job, measure
from torch import Tensor

from scratchlm import AdamW, ModelConfig, Transformer
from scratchlm.kernels.linear_cross_entropy import linear_cross_entropy
from scratchlm.metrics import peak_memory

Shape = tuple[int, int, int]  # tokens, d_model, vocab
TIMED: list[Shape] = [(512, 192, 256), (2048, 384, 10_000)]
WEIGHED: list[Shape] = [(2048, 384, 10_000), (2048, 512, 50_257)]
MODEL = ModelConfig(10_000, 256, d_model=384, num_layers=6, num_heads=6, d_ff=1024)
STEPS = 10  # of the optimizer, a round

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def fused(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return linear_cross_entropy(hidden, weight, targets)[0]


def two_steps(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")


def torchs_chunks(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """From torch 2.13 on."""
    options = torch.nn.LinearCrossEntropyOptions()  # type: ignore[attr-defined, unused-ignore]
    return F.linear_cross_entropy(  # type: ignore[attr-defined, no-any-return, unused-ignore]
        hidden, weight, targets, reduction="sum", options=options
    )


def head_and_loss(loss: Loss, tokens: int, d_model: int, vocab: int) -> Job:
    """Forward and backward of one head, from its inputs to the gradients of both."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, d_model, requires_grad=True)
    weight = (torch.randn(vocab, d_model) * d_model**-0.5).requires_grad_()
    targets = torch.randint(0, vocab, (tokens,))

    def job() -> None:
        hidden.grad = weight.grad = None
        loss(hidden, weight, targets).backward()

    return job


def compare_losses() -> None:
    peers = {"cross_entropy(linear())": two_steps, "the same, compiled": torch.compile(two_steps)}
    if hasattr(F, "linear_cross_entropy"):
        peers["F.linear_cross_entropy, in chunks"] = torchs_chunks
    for shape in TIMED:
        name = "head and loss: {:,} tokens, d{}, vocabulary {:,}".format(*shape)
        ours = head_and_loss(fused, *shape)
        for peer_name, peer in peers.items():
            theirs = head_and_loss(peer, *shape)
            theirs()  # compiles
            measure(name, ours, peer_name, theirs, shape[0], "tokens/s")


def peak_growth(loss: Loss, shape: Shape) -> float:
    """MB that a first call adds to the most that the process had held."""
    job = head_and_loss(loss, *shape)
    before = peak_memory(torch.device("cpu"))
    job()
    after = peak_memory(torch.device("cpu"))
    assert before is not None, "no peak is kept on Windows"
    assert after is not None
    return (after - before) / 1e6


def compare_memory() -> None:
    context = multiprocessing.get_context("spawn")
    for shape in WEIGHED:
        grown = []
        for loss in (fused, two_steps):
            with context.Pool(1) as pool:
                grown.append(pool.apply(peak_growth, (loss, shape)))
        name = "memory of head and loss: {:,} tokens, d{}, vocabulary {:,}".format(*shape)
        cells = (f"{grown[0]:,.0f}", f"{grown[1]:,.0f}", "MB", f"{grown[1] / grown[0]:.2f}x")
        print(f"| {name} | cross_entropy(linear()) | " + " | ".join(cells) + " |", flush=True)


def optimizer_steps(make: Callable[..., torch.optim.Optimizer], **settings: Any) -> Job:
    """STEPS steps over the parameters of MODEL, each with a gradient."""
    torch.manual_seed(0)
    params = list(Transformer(MODEL).parameters())
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer = make(params, lr=1e-4, **settings)

    def job() -> None:
        for _ in range(STEPS):
            optimizer.step()

    return job


def compare_optimizers() -> None:
    params = [param.numel() for param in Transformer(MODEL).parameters()]
    millions = sum(params) / 1e6
    name = f"AdamW: {millions:.1f}M parameters in {len(params)} tensors"
    ours = optimizer_steps(AdamW)
    ours()  # makes the state
    for peer_name, settings in [("fused=True", {"fused": True}), ("as it comes", {})]:
        theirs = optimizer_steps(torch.optim.AdamW, **settings)
        theirs()
        measure(name, ours, f"torch.optim.AdamW, {peer_name}", theirs, STEPS, "steps/s")


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    print("\n| job | peer | ours | peer's | unit | ratio |\n|---|---|---:|---:|---|---:|")
    compare_memory()  # first: a new process begins with the peak of its parent
    compare_losses()
    compare_optimizers()


if __name__ == "__main__":
    main()
