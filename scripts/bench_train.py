"""Compare a training step and its parts with peers, in one run: `python scripts/bench_train.py`.

The script needs the extra `dev`. All take turns, and a ratio is the median over the rounds, as in
bench_model.py. The whole step is `Trainer`'s, with batches, clipping and the log's figures. Its
peers are the Llama of `transformers` and a loop in torch's own modules. Each runs with its default
settings, and with its best: compiled, torch's fused AdamW, and bfloat16 if the processor multiplies
it. Memory is the peak of the allocated bytes. For head and loss alone, it is what a fresh process
adds to its peak.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from allocated_memory import peak_bytes
from bench_model import ROUNDS, Job, measure
from torch import Tensor, nn
from transformers.utils import logging

from scratchlm import AdamW, ModelConfig, Transformer
from scratchlm.data.batches import TrainBatches
from scratchlm.devices.runtime import autocast, compile_blocks, resolve_dtype
from scratchlm.kernels.linear_cross_entropy import linear_cross_entropy
from scratchlm.optim.groups import adamw_groups
from scratchlm.training.peak_memory import peak_memory
from scratchlm.training.trainer import Trainer
from scratchlm.training.trainer_config import TrainerConfig

BATCH = 8
CPU = torch.device("cpu")
Shape = tuple[int, int, int]  # (tokens, d_model, vocab)
TIMED: list[Shape] = [(512, 192, 256), (2048, 384, 10_000)]
WEIGHED: list[Shape] = [(2048, 384, 10_000), (2048, 512, 50_257)]
MODEL = ModelConfig(10_000, 256, d_model=384, num_layers=6, num_heads=6, d_ff=1024)
STEPS = 10  # optimizer steps per round

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def fused(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return linear_cross_entropy(hidden, weight, targets)[0]


def two_steps(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")


def torchs_chunks(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return torch's own chunked loss, which exists from torch 2.13 on."""
    options = torch.nn.LinearCrossEntropyOptions()  # type: ignore[attr-defined, unused-ignore]
    return F.linear_cross_entropy(  # type: ignore[attr-defined, no-any-return, unused-ignore]
        hidden, weight, targets, reduction="sum", options=options
    )


def head_and_loss(loss: Loss, tokens: int, d_model: int, vocab: int) -> Job:
    """Return forward and backward of a head, from its inputs to the gradients of both."""
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
            theirs()  # compile
            measure(name, ours, peer_name, theirs, shape[0], "tokens/s")


def peak_growth(loss: Loss, shape: Shape) -> float:
    """Return the MB that a first call adds to the peak of the process."""
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
    """Return STEPS optimizer steps over the parameters of MODEL, each with a gradient."""
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
    ours()  # make the state
    for peer_name, settings in [("fused=True", {"fused": True}), ("as it comes", {})]:
        theirs = optimizer_steps(torch.optim.AdamW, **settings)
        theirs()
        measure(name, ours, f"torch.optim.AdamW, {peer_name}", theirs, STEPS, "steps/s")


class PlainBlock(nn.Module):
    """x (batch, seq, d_model) -> the same: a Llama's block in torch's own modules."""

    def __init__(self, d_model: int, d_ff: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attn_norm, self.ffn_norm = nn.RMSNorm(d_model, 1e-5), nn.RMSNorm(d_model, 1e-5)
        self.q, self.k, self.v, self.o = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(d_model, d_ff, bias=False) for _ in range(2))
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        read = self.attn_norm(x)
        q, k, v = (
            each(read).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.q, self.k, self.v)
        )
        q, k = (
            each * cos + torch.cat((-each.chunk(2, -1)[1], each.chunk(2, -1)[0]), -1) * sin
            for each in (q, k)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(attended.transpose(1, 2).flatten(2))
        read = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(read)) * self.up(read))


class Plain(nn.Module):
    """ids (batch, seq) -> logits (batch, seq, vocab)."""

    def __init__(self) -> None:
        super().__init__()
        assert MODEL.d_ff is not None
        self.embedding = nn.Embedding(MODEL.vocab_size, MODEL.d_model)
        self.blocks = nn.ModuleList(
            PlainBlock(MODEL.d_model, MODEL.d_ff, MODEL.num_heads) for _ in range(MODEL.num_layers)
        )
        self.norm = nn.RMSNorm(MODEL.d_model, 1e-5)
        self.head = nn.Linear(MODEL.d_model, MODEL.vocab_size, bias=False)
        half = torch.arange(0, MODEL.d_head, 2) / MODEL.d_head
        angles = torch.outer(torch.arange(MODEL.context_length), 10_000.0**-half).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))


def peer_step(model: nn.Module, best: bool) -> Job:
    """Return a step: forward, backward, clipping, AdamW. With `best`, use the fastest settings."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=best or None)
    dtype = resolve_dtype("auto", CPU) if best else torch.float32
    ids = torch.from_numpy(tokens()[: BATCH * (MODEL.context_length + 1)].astype(np.int64))
    ids = ids.view(BATCH, -1)

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        output = model(inputs)
        logits = output if isinstance(output, Tensor) else output.logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    run = torch.compile(loss_of, dynamic=False) if best else loss_of

    def job() -> None:
        with autocast(CPU, dtype):
            loss = run(ids[:, :-1], ids[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return job


def our_step(compiled: bool) -> Job:
    model = Transformer(MODEL)
    if compiled:
        compile_blocks(model.layers)
    return Trainer(
        model,
        AdamW(adamw_groups(model.named_parameters(), 0.1), lr=1e-4),
        TrainBatches(tokens(), BATCH, MODEL.context_length, 0),
        TrainerConfig(iterations=10**6, batch_size=BATCH),
        dtype=resolve_dtype("auto", CPU),
    ).train_step


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, MODEL.vocab_size, 200_000).astype(np.uint16)


def llama() -> nn.Module:
    logging.set_verbosity_error()
    config = transformers.LlamaConfig(
        vocab_size=MODEL.vocab_size, hidden_size=MODEL.d_model, intermediate_size=MODEL.d_ff or 0,
        num_hidden_layers=MODEL.num_layers, num_attention_heads=MODEL.num_heads,
        num_key_value_heads=MODEL.num_heads, max_position_embeddings=MODEL.context_length,
        tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


CONTENDERS: dict[str, Callable[[], Job]] = {
    "ours": lambda: our_step(compiled=True),
    "ours, not compiled": lambda: our_step(compiled=False),
    "transformers": lambda: peer_step(llama(), best=False),
    "transformers, at its best": lambda: peer_step(llama(), best=True),
    "a torch loop": lambda: peer_step(Plain(), best=False),
    "a torch loop, at its best": lambda: peer_step(Plain(), best=True),
}


def compare_steps() -> None:
    """Time all in turns, so that the ratios of ours to each come from the same minutes."""
    jobs: dict[str, Job] = {}
    for name, make in CONTENDERS.items():
        torch.manual_seed(0)
        jobs[name] = make()
        for _ in range(2):  # compile
            jobs[name]()
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(max(5, ROUNDS)):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            taken[name].append(time.perf_counter() - start)
    amount = BATCH * MODEL.context_length
    ours = taken.pop("ours")
    speed = amount / statistics.median(ours)
    for name, theirs in taken.items():
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        cells = (f"{speed:,.0f}", f"{amount / statistics.median(theirs):,.0f}", "tokens/s")
        print(f"| {STEP} | {name} | " + " | ".join(cells) + f" | {ratio:.2f}x |", flush=True)


STEP = "a whole step: 18M Llama, 8 x 256 tokens"


def compare_peaks() -> None:
    """Compare the memory of the weights, AdamW's two moments, and a step on top of them."""
    resident = 12 * Transformer(MODEL).num_parameters()
    theirs = (resident + peak_bytes(CONTENDERS["transformers"]())) / 1e6
    for name in ("ours", "ours, not compiled"):
        own = (resident + peak_bytes(CONTENDERS[name]())) / 1e6
        cells = (f"{own:,.0f}", f"{theirs:,.0f}", "MB", f"{theirs / own:.2f}x")
        print(
            f"| memory of {STEP}: {name} | transformers | " + " | ".join(cells) + " |", flush=True
        )


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    print("\n| job | peer | ours | peer's | unit | ratio |\n|---|---|---:|---:|---|---:|")
    compare_memory()  # first, because a new process inherits the peak of its parent
    compare_losses()
    compare_optimizers()
    compare_peaks()
    compare_steps()


if __name__ == "__main__":
    main()
