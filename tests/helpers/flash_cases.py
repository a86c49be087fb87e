"""Cases of flash attention: random shapes, inputs between guards, the fp64 results, and a bound.

The bound holds for each element of a result: |error| ≤ c · eps · (the sum of the absolute values of
the terms that the result adds up). So a wrong small number counts as much as a wrong large number.
Below the smallest normal number, probabilities and results have fewer digits. So the bound has the
smallest normal number as one more term, which matters only for fp16.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scratchlm.kernels import flash_launch
from scratchlm.kernels.flash_blocks import Blocks
from scratchlm.kernels.flash_launch import Inputs

SMALL = Blocks(16, 16, 4, 1)  # a short sequence has several blocks
LIMITS = {torch.float32: 32, torch.bfloat16: 4, torch.float16: 4}  # c; exp2 decides that of fp32
GUARD = 77.0
NAMES = ("output", "grad_q", "grad_k", "grad_v", "log_sums")
Starts = Literal["none", "documents", "padding", "any"]


class Case(NamedTuple):
    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    d_head: int
    d_v: int
    causal: bool = True
    window: int | None = None
    first: Starts = "none"
    blocks: Blocks | None = SMALL  # None: those of the table


FIXED = [
    Case(1, 1, 1, 1, 1, 16, 16),
    Case(1, 2, 1, 1, 33, 16, 16),
    Case(1, 2, 2, 33, 1, 16, 16),
    Case(1, 2, 1, 17, 17, 16, 16, window=1),
    Case(1, 2, 1, 40, 40, 16, 16, window=16),
    Case(1, 2, 1, 40, 40, 16, 16, window=17),
    Case(1, 1, 1, 16, 48, 16, 16, causal=False),
    Case(1, 4, 1, 31, 47, 24, 16),
    Case(2, 2, 1, 33, 33, 40, 16, first="documents"),
    Case(2, 4, 2, 50, 50, 16, 16, first="padding"),
    Case(1, 2, 1, 50, 33, 16, 16, first="any", window=20),
    Case(1, 2, 2, 20, 7, 16, 16, window=3),
    Case(2, 6, 2, 50, 50, 16, 16, blocks=Blocks(32, 16, 4, 1)),
    Case(2, 3, 1, 50, 47, 16, 24, blocks=Blocks(16, 32, 4, 1), first="documents"),
    Case(1, 1, 1, 48, 48, 64, 64),
    Case(1, 1, 1, 33, 33, 128, 128),
    Case(1, 1, 1, 17, 17, 192, 128),
    Case(1, 1, 1, 17, 17, 256, 256),
    Case(1, 1, 1, 19, 21, 3, 5),
]


def cases(count: int, seed: int = 0) -> Iterator[Case]:
    """Yield the fixed cases, then random ones."""
    yield from FIXED[:count]
    rng = random.Random(seed)
    for _ in range(count - len(FIXED)):
        heads = rng.choice([1, 2, 3, 4])
        keys = rng.choice([1, 5, 15, 16, 17, 31, 32, 33, 47, 50])
        d_head = rng.choice([16, 16, 16, 32, 24, 40])
        causal = rng.random() < 0.8
        yield Case(
            rng.choice([1, 1, 2]) if heads < 3 else 1,
            heads,
            rng.choice([groups for groups in (1, 2, 3, 4) if heads % groups == 0]),
            rng.choice([keys, keys, keys, 1, rng.randint(1, 50)]),
            keys,
            d_head,
            rng.choice([d_head, d_head, 16]),
            causal,
            rng.choice([None, None, None, 1, 2, 7, 16, 17, 30]) if causal else None,
            rng.choice(["none", "none", "none", "documents", "padding", "any"]),
            rng.choice([SMALL, SMALL, Blocks(16, 32, 4, 1), Blocks(32, 16, 4, 1)]),
        )


def between_guards(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, guard: float
) -> tuple[Tensor, Tensor]:
    """Return a (batch, head, seq, width) view with a layer's strides, and all of its memory.

    The memory contains `guard`. Strides are multiples of 16 if the width is. Otherwise the
    kernels would read a copy, without guards.
    """
    batch, heads, seq, width = shape
    whole = (batch + 2, seq + 2, heads + 1, width + 32)
    memory = torch.full(whole, guard, dtype=dtype, device=device)
    return memory[1:-1, 1:-1, :-1, 16 : 16 + width].transpose(1, 2), memory


def firsts(case: Case, device: str) -> Tensor | None:
    """Return the first key of each query (batch, query). The memory around the keys is a guard."""
    batch, queries, keys = case.batch, case.queries, case.keys
    if case.first == "none":
        return None
    if case.first == "padding":
        values = torch.randint(0, keys, (batch, 1)).expand(batch, queries)
    elif case.first == "any":  # not sorted, before the first key, after the last key
        values = torch.randint(-3, keys + 3, (batch, queries))
    else:
        begins = torch.rand(batch, queries + keys) < 0.15
        places = torch.arange(-queries, keys).expand(batch, -1)
        values = torch.where(begins, places, -queries).cummax(1).values[:, -queries:].clamp(min=0)
    memory = torch.full((batch * queries + 20,), 2**30, dtype=torch.int32, device=device)
    return memory[10:-10].view(batch, queries).copy_(values)


class Run(NamedTuple):
    """The inputs of a case, and the results of the kernels: the output, the gradients of q, k and
    v, and the log-sums."""

    x: Inputs
    grad: Tensor
    results: tuple[Tensor, ...]


def run(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Run:
    """Run the kernels with NaN around each input, and check that they write only the results."""
    torch.manual_seed(seed)
    c = case
    of_q, of_k = (c.batch, c.heads, c.queries), (c.batch, c.kv_heads, c.keys)
    shapes = (*of_q, c.d_head), (*of_k, c.d_head), (*of_k, c.d_v), (*of_q, c.d_v)
    q, k, v, grad = (
        between_guards(shape, dtype, device, torch.nan)[0].copy_(torch.randn(shape))
        for shape in shapes
    )
    window = None if c.window is None or c.window >= c.keys else c.window
    x = Inputs(q, k, v, firsts(c, device), c.causal or c.window is not None, window)

    guarded = [between_guards(shape, dtype, device, GUARD) for shape in (shapes[3], *shapes[:3])]
    output, *grads = (view for view, _ in guarded)
    numbers = torch.full((c.batch * c.heads * c.queries + 20,), GUARD, device=device)
    log_sums = numbers[10:-10].view(of_q)
    flash_launch.forward(x, output, log_sums, c.blocks)
    flash_launch.backward(x, grad, output, log_sums, tuple(grads), c.blocks)

    guarded.append((log_sums, numbers))
    results = tuple(view.clone() for view, _ in guarded)
    for view, memory in guarded:
        view.fill_(GUARD)
        assert (memory == GUARD).all(), "a kernel wrote outside its result"
    return Run(x, grad, results)


def exact(x: Inputs, grad: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the results in fp64, and the sum of absolute values in the bound of each.

    This is the formula with a matrix of all scores. The formula shares no code with the kernels.
    """
    group, scale = x.q.shape[1] // x.k.shape[1], x.q.shape[-1] ** -0.5
    q, k, v, dy = (each.double() for each in (x.q, x.k, x.v, grad))
    k, v = (each.repeat_interleave(group, 1) for each in (k, v))
    allowed = allowed_keys(x)
    scores = q @ k.mT * scale
    p = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1) * allowed
    log_sums = scores.masked_fill(~allowed, -torch.inf).logsumexp(-1) * math.log2(math.e)
    output = p @ v
    ds = p * (dy @ v.mT - (dy * output).sum(-1, keepdim=True)) * scale
    least = torch.finfo(x.q.dtype).tiny * allowed
    terms = p * (dy.abs() @ v.abs().mT + (dy.abs() * (p @ v.abs())).sum(-1, keepdim=True)) + least

    def summed(each: Tensor) -> Tensor:  # over the query heads of a group
        return each.unflatten(1, (-1, group)).sum(2)

    results = [output, ds @ k, summed(ds.mT @ q), summed(p.mT @ dy)]
    results.append(log_sums.where(log_sums > -torch.inf, torch.inf))  # a query without a key
    kept = p + least
    q_, k_, v_, dy_ = (each.abs() for each in (q, k, v, dy))
    sums = [kept @ v_, scale * terms @ k_, scale * summed(terms.mT @ q_), summed(kept.mT @ dy_)]
    sums.append(1 + (q_ @ k_.mT * scale).amax(-1) * math.log2(math.e))
    return results, sums


def allowed_keys(x: Inputs) -> Tensor:
    """Return the keys to which each query may attend, as booleans (batch, 1, query, key)."""
    batch, queries, keys = x.q.shape[0], x.q.shape[2], x.k.shape[2]
    key = torch.arange(keys, device=x.q.device)
    position = torch.arange(queries, device=x.q.device)[:, None] + keys - queries
    allowed = torch.ones(batch, 1, queries, keys, dtype=torch.bool, device=x.q.device)
    if x.causal:
        allowed = allowed & (key <= position)
    if x.window is not None:
        allowed = allowed & (key > position - x.window)
    if x.first is not None:
        allowed = allowed & (key >= x.first[:, None, :, None])
    return allowed


def errors(case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> dict[str, float]:
    """Return the largest error of each result, in units of its bound. NaN counts as infinity."""
    return dict(zip(NAMES, ratios(*run(case, dtype, device, seed)), strict=True))


def ratios(x: Inputs, grad: Tensor, results: tuple[Tensor, ...]) -> list[float]:
    """Return the largest error of each result, in the order of `NAMES`."""
    found = []
    for ours, theirs, total in zip(results, *exact(x, grad), strict=True):
        dtype = ours.dtype
        error = (ours.double() - theirs).abs().where(ours != theirs, 0.0)  # ∞ − ∞ would be NaN
        unit = torch.finfo(dtype).eps * (total + torch.finfo(dtype).tiny)
        ratio = torch.where(total > 0, error / unit, torch.where(error == 0, 0.0, torch.inf))
        found.append(ratio.nan_to_num(nan=torch.inf).max().item() / LIMITS[dtype])
    return found


def errors_of_far_memory() -> list[float]:
    """Return the errors for k and v whose batches, heads or rows are 2³¹ elements away.

    The memory has 5 GB, but the pages that no tensor touches need no RAM.
    """
    memory = torch.empty(2**31 + 2**29, dtype=torch.bfloat16)
    found = []
    for shape, strides in (
        ((2, 1, 20, 16), (2**31 + 64, 320, 16)),  # the stride needs 64 bits
        ((3, 1, 20, 16), (2**30 + 64, 320, 16)),  # the stride times the batch does
        ((1, 3, 20, 16), (640, 2**30 + 64, 16)),
        ((1, 1, 160, 16), (64, 64, 2**24 - 64)),
    ):
        torch.manual_seed(0)
        k, v = (
            memory[at:].as_strided(shape, (*strides, 1)).copy_(torch.randn(shape)) for at in (0, 32)
        )
        q, grad = torch.randn(2, *shape).bfloat16()
        x = Inputs(q, k, v, None, True, None)
        output, *grads = (torch.empty(shape, dtype=q.dtype) for _ in range(4))
        log_sums = torch.empty(shape[:3])
        flash_launch.forward(x, output, log_sums, SMALL)
        flash_launch.backward(x, grad, output, log_sums, tuple(grads), SMALL)
        found += ratios(x, grad, (output, *grads, log_sums))
    return found


SKIPS = {
    "a window": ([0] * 50, 17),
    "documents": ([0] * 17 + [17] * 16 + [33] * 17, None),
    "queries without a key": ([0] * 20 + [64] * 30, None),
    "a document that begins late": ([20] * 50, None),
    "a window and documents": ([0] * 30 + [30] * 20, 17),
}


def wrong_visits(name: str) -> list[str]:
    """Put NaN into one block at a time. Return the results of which other blocks were reached.

    A program that visits a block with NaN writes NaN, because 0 · NaN is NaN. So the results show
    which blocks each program visits: those with a key to which one of its queries may attend. The
    batch contains one row for each block of keys, then one row for each block of queries.
    """
    starts, window = SKIPS[name]
    length, size = len(starts), SMALL.keys
    blocks = -(-length // size)
    torch.manual_seed(0)
    q, k, v, grad = torch.randn(4, 2 * blocks, 1, length, 16)
    for at in range(blocks):
        block = slice(at * size, (at + 1) * size)
        k[at, :, block] = v[at, :, block] = torch.nan
        q[blocks + at, :, block] = grad[blocks + at, :, block] = torch.nan
    first = torch.tensor([starts] * 2 * blocks, dtype=torch.int32)
    x = Inputs(q, k, v, first, True, window)
    output, *grads = (torch.zeros_like(q) for _ in range(4))
    log_sums = torch.zeros(q.shape[:3])
    flash_launch.forward(x, output, log_sums, SMALL)
    flash_launch.backward(x, grad, output, log_sums, tuple(grads), SMALL)

    padded = torch.zeros(blocks * size, blocks * size, dtype=torch.bool)
    padded[:length, :length] = allowed_keys(x)[0, 0]
    visited = padded.unflatten(1, (blocks, size)).unflatten(0, (blocks, size)).any(3).any(1)
    by_query = visited.repeat_interleave(size, 0)[:length].T  # (block of keys, query)
    by_key = visited.repeat_interleave(size, 1)[:, :length]  # (block of queries, key)
    results = zip(NAMES[:4], (output, *grads), strict=True)
    found = {result: x.isnan().any(-1)[:, 0] for result, x in results}
    return [
        *(each for each in NAMES[:2] if not torch.equal(found[each][:blocks], by_query)),
        *(each for each in NAMES[2:4] if not torch.equal(found[each][blocks:], by_key)),
    ]
