"""Flash attention in four Triton kernels: output, delta, gradients of k and v, gradient of q.

Each program computes one block of rows and visits blocks of the other side. The arithmetic is that
of `functional.flash_attention`, with exponentials to the base 2, because a GPU computes exp2 in one
instruction. docs/kernels.md shows the blocks that each program visits.

Names: D and DV are the widths of q and k, and of v. M and N are the numbers of queries and keys in
a block. A block's width is the next power of 2, at least 16, and its columns after D are 0.

Offsets between blocks, heads and rows of the batch are 64-bit numbers. An offset inside a block is
a 32-bit number, so the caller must pass a distance between rows below 2²⁴ elements.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LAST_INT = tl.constexpr(2**31 - 1)


class Heads(NamedTuple):
    """A tensor (batch, head, row, width): its memory and its strides. The last stride is 1."""

    memory: Any
    batch: Any
    head: Any
    row: Any


class Rows(NamedTuple):
    """One head (row, width) of such a tensor."""

    memory: Any
    row: Any


class Sizes(NamedTuple):
    """`group` query heads use the same head of keys."""

    heads: Any
    group: Any
    queries: Any
    keys: Any


class Visited(NamedTuple):
    """The rows from `start` to `stop`. Those from `full_start` to `full_stop` need no mask."""

    start: Any
    full_start: Any
    full_stop: Any
    stop: Any


@triton.constexpr_function
def padded(width):
    """Return the width of a block for rows of `width` numbers."""
    return max(16, triton.next_power_of_2(width))


@triton.jit
def one_head(x, batch, head):
    return Rows(x.memory + batch * x.batch + head * x.head, x.row)


@triton.jit
def places(x, start, M: tl.constexpr, D: tl.constexpr):
    """Return the addresses of M rows of a head, from row `start` on: (M, padded D)."""
    block = x.memory + tl.cast(start, tl.int64) * x.row
    return block + tl.arange(0, M)[:, None] * x.row + tl.arange(0, padded(D))[None, :]


@triton.jit
def exists(start, rows, M: tl.constexpr, D: tl.constexpr):
    """Return which elements of M rows from `start` on a head of `rows` rows has: (M, padded D)."""
    row = start + tl.arange(0, M) < rows
    return row[:, None] & (tl.arange(0, padded(D)) < D)[None, :]


@triton.jit
def load(x, start, rows, M: tl.constexpr, D: tl.constexpr, TAIL: tl.constexpr):
    """Return M rows of a head. With TAIL, some rows may lie after the end, and are 0."""
    at = places(x, start, M, D)
    if TAIL:
        return tl.load(at, mask=exists(start, rows, M, D), other=0.0)
    elif padded(D) != D:
        return tl.load(at, mask=(tl.arange(0, padded(D)) < D)[None, :], other=0.0)
    else:
        return tl.load(at)


@triton.jit
def store(x, start, rows, block, M: tl.constexpr, D: tl.constexpr):
    """Store a block in M rows of a head, without those after the end."""
    at = places(x, start, M, D)
    tl.store(at, block.to(x.memory.dtype.element_ty), mask=exists(start, rows, M, D))


@triton.jit
def load_numbers(numbers, row, rows, fill, TAIL: tl.constexpr):
    """Return one number for each row. With TAIL, rows after the end get `fill`."""
    if TAIL:
        return tl.load(numbers + row, mask=row < rows, other=fill)
    else:
        return tl.load(numbers + row)


@triton.jit
def visits(blocks, MASKED: tl.constexpr):
    """Return the range of a loop over the blocks that need a mask, or over those that need none."""
    if MASKED:
        return blocks.start, blocks.stop - (blocks.full_stop - blocks.full_start)
    else:
        return blocks.full_start, blocks.full_stop


@triton.jit
def visit(i, blocks, MASKED: tl.constexpr):
    """Return the first row of visit `i`. The masked loop jumps over the blocks without a mask."""
    if MASKED:
        return i + tl.where(i < blocks.full_start, 0, blocks.full_stop - blocks.full_start)
    else:
        return i


@triton.jit
def interval(first, batch, row, sizes, window, CAUSAL: tl.constexpr):
    """Return the first and the last key of each query in `row`. A row may lie after the end."""
    position = row + sizes.keys - sizes.queries  # the last query has the position of the last key
    if CAUSAL:
        last_key = position
    else:
        last_key = tl.zeros_like(row) + (sizes.keys - 1)
    first_key = tl.zeros_like(row)
    if window is not None:
        first_key = tl.maximum(position - window + 1, 0)
    if first is not None:
        own = tl.load(first + batch * sizes.queries + row, mask=row < sizes.queries, other=0)
        first_key = tl.maximum(first_key, own)
    return first_key, last_key


@triton.jit
def key_blocks(first_key, last_key, row, sizes, N: tl.constexpr):
    """Return the blocks of keys that these queries visit. Every query attends to every key from
    `full_start` to `full_stop`."""
    real = row < sizes.queries
    start = tl.min(tl.where(real, first_key, LAST_INT), 0) // N * N
    stop = tl.max(tl.where(real, last_key, -1), 0) + 1
    full_start = tl.cdiv(tl.max(tl.where(real, first_key, 0), 0), N) * N
    full_stop = (tl.min(tl.where(real, last_key, LAST_INT), 0) + 1) // N * N
    full_start = tl.maximum(tl.minimum(full_start, stop), start)
    return Visited(start, full_start, tl.maximum(full_stop, full_start), stop)


@triton.jit
def forward(q, k, v, output, log_sums, first, sizes, window, scale,
            D: tl.constexpr, DV: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
            CAUSAL: tl.constexpr):  # fmt: skip
    """Compute M rows of the output, and of log2 Σ exp(score) (batch, head, query)."""
    start_row, batch, head = query_block(sizes, M, CAUSAL)
    row = start_row + tl.arange(0, M)
    real = row < sizes.queries
    q_block = load(one_head(q, batch, head), start_row, sizes.queries, M, D, True)
    k_head = one_head(k, batch, head // sizes.group)
    v_head = one_head(v, batch, head // sizes.group)
    first_key, last_key = interval(first, batch, row, sizes, window, CAUSAL)
    blocks = key_blocks(first_key, last_key, row, sizes, N)

    y = tl.zeros([M, padded(DV)], tl.float32)
    peak = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    y, peak, total = attend(
        y, peak, total, q_block, k_head, v_head, blocks, first_key, last_key, sizes.keys,
        scale * LOG2_E, D, DV, N, True,
    )  # fmt: skip
    y, peak, total = attend(
        y, peak, total, q_block, k_head, v_head, blocks, first_key, last_key, sizes.keys,
        scale * LOG2_E, D, DV, N, False,
    )  # fmt: skip

    # A query without a key gets zeros. Its log-sum +inf makes p 0 in the backward pass. NaN ≠ 0.
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    y = y / total[:, None]
    store(one_head(output, batch, head), start_row, sizes.queries, y, M, DV)
    log_sum = tl.where(empty, float("inf"), peak + tl.log2(total))
    tl.store(log_sums + (batch * sizes.heads + head) * sizes.queries + row, log_sum, mask=real)


@triton.jit
def query_block(sizes, M: tl.constexpr, CAUSAL: tl.constexpr):
    """Return the first row, the batch and the head of this program. The grid has one axis, because
    a GPU limits the other axes to 65,535 programs."""
    blocks = tl.cdiv(sizes.queries, M)
    block = tl.program_id(0) % blocks
    if CAUSAL:  # the last rows have the most keys, so they begin first
        block = blocks - 1 - block
    head = (tl.program_id(0) // blocks).to(tl.int64)
    return block * M, head // sizes.heads, head % sizes.heads


@triton.jit
def attend(y, peak, total, q, k_head, v_head, blocks, first_key, last_key, keys, scale,
           D: tl.constexpr, DV: tl.constexpr, N: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """Add the visited keys to the running sums of a block of queries."""
    begin, end = visits(blocks, MASKED)
    for i in range(begin, end, N):
        at = visit(i, blocks, MASKED)
        k = load(k_head, at, keys, N, D, MASKED)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if MASKED:
            key = at + tl.arange(0, N)[None, :]
            inside = (key >= first_key[:, None]) & (key <= last_key[:, None])
            scores = tl.where(inside, scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        # Without a key so far, the peak is −inf, and −inf − (−inf) would be NaN.
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        p = tl.exp2(scores - base[:, None])
        rescale = tl.exp2(peak - base)
        total = total * rescale + tl.sum(p, 1)
        y = y * rescale[:, None]
        v = load(v_head, at, keys, N, DV, MASKED)
        y = tl.dot(p.to(v.dtype), v, y, input_precision="ieee")
        peak = new_peak
    return y, peak, total


@triton.jit
def delta(output, grad, deltas, sizes, DV: tl.constexpr, M: tl.constexpr):
    """Compute Σ grad ⊙ output for M rows: what softmax's gradient subtracts from each query."""
    start_row, batch, head = query_block(sizes, M, False)
    row = start_row + tl.arange(0, M)
    y = load(one_head(output, batch, head), start_row, sizes.queries, M, DV, True)
    dy = load(one_head(grad, batch, head), start_row, sizes.queries, M, DV, True)
    at = deltas + (batch * sizes.heads + head) * sizes.queries + row
    tl.store(at, tl.sum(y.to(tl.float32) * dy.to(tl.float32), 1), mask=row < sizes.queries)


@triton.jit
def grad_q(q, k, v, grad, log_sums, deltas, dq, first, sizes, window, scale,
           D: tl.constexpr, DV: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
           CAUSAL: tl.constexpr):  # fmt: skip
    """Compute M rows of the gradient of q. The program visits the same keys as in `forward`."""
    start_row, batch, head = query_block(sizes, M, CAUSAL)
    row = start_row + tl.arange(0, M)
    q_block = load(one_head(q, batch, head), start_row, sizes.queries, M, D, True)
    dy = load(one_head(grad, batch, head), start_row, sizes.queries, M, DV, True)
    numbers = (batch * sizes.heads + head) * sizes.queries
    log_sum = load_numbers(log_sums + numbers, row, sizes.queries, float("inf"), True)
    delta = load_numbers(deltas + numbers, row, sizes.queries, 0.0, True)
    k_head = one_head(k, batch, head // sizes.group)
    v_head = one_head(v, batch, head // sizes.group)
    first_key, last_key = interval(first, batch, row, sizes, window, CAUSAL)
    blocks = key_blocks(first_key, last_key, row, sizes, N)

    sum_q = tl.zeros([M, padded(D)], tl.float32)
    sum_q = add_grad_q(
        sum_q, q_block, dy, log_sum, delta, k_head, v_head, blocks, first_key, last_key,
        sizes.keys, scale * LOG2_E, D, DV, N, True,
    )  # fmt: skip
    sum_q = add_grad_q(
        sum_q, q_block, dy, log_sum, delta, k_head, v_head, blocks, first_key, last_key,
        sizes.keys, scale * LOG2_E, D, DV, N, False,
    )  # fmt: skip
    store(one_head(dq, batch, head), start_row, sizes.queries, sum_q * scale, M, D)


@triton.jit
def add_grad_q(sum_q, q, dy, log_sum, delta, k_head, v_head, blocks, first_key, last_key, keys,
               scale, D: tl.constexpr, DV: tl.constexpr, N: tl.constexpr,
               MASKED: tl.constexpr):  # fmt: skip
    """Add the part of the visited keys to the gradient of a block of queries."""
    begin, end = visits(blocks, MASKED)
    for i in range(begin, end, N):
        at = visit(i, blocks, MASKED)
        k = load(k_head, at, keys, N, D, MASKED)
        v = load(v_head, at, keys, N, DV, MASKED)
        p = tl.exp2(tl.dot(q, tl.trans(k), input_precision="ieee") * scale - log_sum[:, None])
        if MASKED:
            key = at + tl.arange(0, N)[None, :]
            inside = (key >= first_key[:, None]) & (key <= last_key[:, None])
            p = tl.where(inside, p, 0.0)
        dp = tl.dot(dy, tl.trans(v), input_precision="ieee")
        ds = p * (dp - delta[:, None])
        sum_q = tl.dot(ds.to(k.dtype), k, sum_q, input_precision="ieee")
    return sum_q


@triton.jit
def grad_kv(q, k, v, grad, log_sums, deltas, dk, dv, first, until, sizes, window, scale,
            D: tl.constexpr, DV: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
            CAUSAL: tl.constexpr):  # fmt: skip
    """Compute N rows of the gradients of k and v: the sums over the query heads of a group.

    until (batch, 2, key): the number of queries before the first query that may not attend to the
    key, and the number of queries up to the last query that may, both by `first` alone.
    """
    programs = tl.cdiv(sizes.keys, N)  # a head
    kv_heads = sizes.heads // sizes.group
    kv_head = (tl.program_id(0) // programs).to(tl.int64)
    batch, kv_head = kv_head // kv_heads, kv_head % kv_heads
    start_key = tl.program_id(0) % programs * N
    # A row after the last key is 0. Its sums are numbers that nobody stores.
    k_block = load(one_head(k, batch, kv_head), start_key, sizes.keys, N, D, True)
    v_block = load(one_head(v, batch, kv_head), start_key, sizes.keys, N, DV, True)
    blocks = query_blocks(until, batch, start_key, sizes, window, M, N, CAUSAL)
    key = start_key + tl.arange(0, N)

    sum_k = tl.zeros([N, padded(D)], tl.float32)
    sum_v = tl.zeros([N, padded(DV)], tl.float32)
    for member in range(sizes.group):
        head = kv_head * sizes.group + member
        numbers = (batch * sizes.heads + head) * sizes.queries
        q_head, dy_head = one_head(q, batch, head), one_head(grad, batch, head)
        sum_k, sum_v = add_grad_kv(
            sum_k, sum_v, k_block, v_block, q_head, dy_head, log_sums + numbers, deltas + numbers,
            blocks, key, first, batch, sizes, window, scale * LOG2_E, D, DV, M, CAUSAL, True,
        )  # fmt: skip
        sum_k, sum_v = add_grad_kv(
            sum_k, sum_v, k_block, v_block, q_head, dy_head, log_sums + numbers, deltas + numbers,
            blocks, key, first, batch, sizes, window, scale * LOG2_E, D, DV, M, CAUSAL, False,
        )  # fmt: skip
    store(one_head(dk, batch, kv_head), start_key, sizes.keys, sum_k * scale, N, D)
    store(one_head(dv, batch, kv_head), start_key, sizes.keys, sum_v, N, DV)


@triton.jit
def add_grad_kv(sum_k, sum_v, k, v, q_head, dy_head, log_sums, deltas, blocks, key, first, batch,
                sizes, window, scale, D: tl.constexpr, DV: tl.constexpr, M: tl.constexpr,
                CAUSAL: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """Add the part of the visited queries of a head. The scores are transposed: (key, query)."""
    begin, end = visits(blocks, MASKED)
    for i in range(begin, end, M):
        at = visit(i, blocks, MASKED)
        row = at + tl.arange(0, M)
        q = load(q_head, at, sizes.queries, M, D, MASKED)
        dy = load(dy_head, at, sizes.queries, M, DV, MASKED)
        # A row after the last query has the log-sum +inf, so its p is 0.
        log_sum = load_numbers(log_sums, row, sizes.queries, float("inf"), MASKED)
        delta = load_numbers(deltas, row, sizes.queries, 0.0, MASKED)
        p = tl.exp2(tl.dot(k, tl.trans(q), input_precision="ieee") * scale - log_sum[None, :])
        if MASKED:
            first_key, last_key = interval(first, batch, row, sizes, window, CAUSAL)
            inside = (key[:, None] >= first_key[None, :]) & (key[:, None] <= last_key[None, :])
            p = tl.where(inside, p, 0.0)
        sum_v = tl.dot(p.to(dy.dtype), dy, sum_v, input_precision="ieee")
        dp = tl.dot(v, tl.trans(dy), input_precision="ieee")
        ds = p * (dp - delta[None, :])
        sum_k = tl.dot(ds.to(q.dtype), q, sum_k, input_precision="ieee")
    return sum_k, sum_v


@triton.jit
def query_blocks(until, batch, start_key, sizes, window, M: tl.constexpr, N: tl.constexpr,
                 CAUSAL: tl.constexpr):  # fmt: skip
    """Return the blocks of queries that visit these keys. Every query from `full_start` to
    `full_stop` attends to every key of the block."""
    shift = sizes.keys - sizes.queries
    last_key = tl.minimum(start_key + N, sizes.keys) - 1
    start = 0
    full_start = 0
    full_stop = sizes.queries
    stop = sizes.queries
    if CAUSAL:
        start = tl.maximum(start_key - shift, 0) // M * M
        full_start = tl.maximum(last_key - shift, 0)
    if window is not None:
        full_stop = tl.minimum(full_stop, start_key - shift + window)
        stop = tl.minimum(stop, last_key - shift + window)
    if until is not None:
        key = start_key + tl.arange(0, N)
        real = key < sizes.keys
        at = until + batch * 2 * sizes.keys + key
        before = tl.load(at, mask=real, other=LAST_INT)
        full_stop = tl.minimum(full_stop, tl.min(before, 0))
        up_to = tl.load(at + sizes.keys, mask=real, other=0)
        stop = tl.minimum(stop, tl.max(up_to, 0))
    stop = tl.maximum(stop, start)
    full_start = tl.maximum(tl.minimum(tl.cdiv(full_start, M) * M, stop), start)
    return Visited(start, full_start, tl.maximum(full_stop // M * M, full_start), stop)
