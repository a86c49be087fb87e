"""Flash attention in Triton: its contract, its borders, and what must change no bit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from scratchlm import functional
from scratchlm.kernels.flash_attention import flash_attention


def heads(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return (batch, head, seq, width) with the strides of a layer's projection."""
    batch, head, seq, width = shape
    return torch.randn(batch, seq, head, width).to(dtype).transpose(1, 2).requires_grad_()


def with_gradients(*qkv: Tensor, grad: Tensor, **how: Any) -> list[Tensor]:
    output = flash_attention(*qkv, **how)
    return [output, *torch.autograd.grad(output, qkv, grad)]


@pytest.mark.parametrize(
    "how",
    [
        {}, {"causal": True}, {"window": 5}, {"window": 99},
        {"first": torch.tensor([[0, 3, 3] * 3] * 2)},
    ],
    ids=str,
)  # fmt: skip
def test_the_contract_is_that_of_the_definition(how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    qkv = heads(2, 4, 9, 24), heads(2, 2, 11, 24), heads(2, 2, 11, 16)
    grad = torch.randn(2, 4, 9, 16)
    ours = with_gradients(*qkv, grad=grad, **how)
    for definition in (
        functional.scaled_dot_product_attention, functional.flash_attention
    ):  # fmt: skip
        output = definition(*qkv, **how)
        theirs = [output, *torch.autograd.grad(output, qkv, grad)]
        for one, other in zip(ours, theirs, strict=True):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("leading", [(), (3,), (2, 2, 3)])
def test_other_leading_axes(leading: tuple[int, ...]) -> None:
    q, k, v = (torch.randn(*leading, 5, 8) for _ in range(3))
    first = torch.tensor([0, 0, 2, 2, 4]).expand(*leading[:-1], 5)
    ours = flash_attention(q, k, v, causal=True, first=first)
    theirs = functional.scaled_dot_product_attention(q, k, v, causal=True, first=first)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("queries", "keys"), [(0, 3), (3, 0)])
def test_nothing_to_attend(queries: int, keys: int) -> None:
    qkv = heads(1, 2, queries, 16), heads(1, 2, keys, 16), heads(1, 2, keys, 16)
    output, *grads = with_gradients(*qkv, grad=torch.ones(1, 2, queries, 16))
    assert output.count_nonzero() == 0
    assert all(grad.shape == x.shape for grad, x in zip(grads, qkv, strict=True))
    assert all(grad.count_nonzero() == 0 for grad in grads)


@pytest.mark.parametrize("queries", [0, 4])
def test_an_empty_batch(queries: int) -> None:
    q, k = torch.randn(0, 2, queries, 16), torch.randn(0, 2, 5, 16)
    first = torch.zeros(0, queries, dtype=torch.long)
    for attend in (flash_attention, functional.flash_attention):
        assert attend(q, k, k, causal=True, first=first).shape == q.shape


def test_a_number_that_is_not_finite_can_reach_other_queries_of_a_block() -> None:
    """So `flash_attention` needs finite values. In skipped blocks, NaN reaches nothing."""
    q, k, v = (heads(1, 1, 60, 16) for _ in range(3))
    with torch.no_grad():
        v[:, :, 59] = torch.nan
    output = flash_attention(q, k, v, causal=True)
    assert output[:, :, 58].isnan().all()
    assert output[:, :, :32].isfinite().all()


def test_queries_without_a_key_get_zeros_and_give_none() -> None:
    """Queries 0 to 3 come before the first key. Query 5 has a document that begins after it."""
    torch.manual_seed(0)
    qkv = heads(1, 2, 9, 16), heads(1, 1, 5, 16), heads(1, 1, 5, 16)
    first = torch.tensor([[0, 0, 0, 0, -(2**40), 2**40, 1, 1, 1]])
    output, grad_q, *_ = with_gradients(
        *qkv, grad=torch.randn(1, 2, 9, 16), causal=True, first=first
    )
    for x in (output, grad_q):
        assert x[:, :, [0, 1, 2, 3, 5]].count_nonzero() == 0
    assert (output[:, :, [4, 6, 7, 8]] != 0).all()


def test_keys_outside_the_interval_change_no_bit() -> None:
    torch.manual_seed(0)
    q, k, v = heads(1, 2, 40, 16), heads(1, 1, 40, 16), heads(1, 1, 40, 16)
    first = torch.arange(40)[None] // 13 * 13
    how: dict[str, Any] = {"window": 9, "first": first}
    before = flash_attention(q, k, v, **how)
    with torch.no_grad():
        k[:, :, [0, 5, 22]] += 9
        v[:, :, [0, 5, 22]] += 9
    after = flash_attention(q, k, v, **how)
    same = (before == after).all(-1).all(1)[0]
    assert torch.nonzero(~same).flatten().tolist() == [*range(13), *range(22, 26)]


def test_packed_documents_equal_each_document_alone() -> None:
    torch.manual_seed(0)
    q, k, v = (heads(1, 2, 45, 16) for _ in range(3))
    grad = torch.randn(1, 2, 45, 16)
    lengths = [7, 16, 1, 21]
    starts = [0, 7, 23, 24]
    first = torch.repeat_interleave(torch.tensor(starts), torch.tensor(lengths))[None]
    packed = with_gradients(q, k, v, grad=grad, causal=True, first=first)
    for start, length in zip(starts, lengths, strict=True):
        own = slice(start, start + length)
        parts = [x.detach()[:, :, own].requires_grad_() for x in (q, k, v)]
        alone = with_gradients(*parts, grad=grad[:, :, own], causal=True)
        for one, other in zip(packed, alone, strict=True):
            torch.testing.assert_close(one[:, :, own], other, rtol=1e-5, atol=1e-6)


def test_left_padding_equals_the_text_alone() -> None:
    torch.manual_seed(0)
    q, k, v = (heads(2, 2, 20, 16) for _ in range(3))
    padded = flash_attention(q, k, v, causal=True, first=torch.tensor([[6], [0]]).expand(2, 20))
    alone = flash_attention(*(x[:1, :, 6:] for x in (q, k, v)), causal=True)
    torch.testing.assert_close(padded[:1, :, 6:], alone, rtol=1e-5, atol=1e-6)
    assert padded[0, :, :6].count_nonzero() == 0


def test_grouped_heads_equal_repeated_keys() -> None:
    torch.manual_seed(0)
    q, k, v = heads(2, 6, 20, 16), heads(2, 2, 20, 16), heads(2, 2, 20, 16)
    grad = torch.randn(2, 6, 20, 16)
    grouped = with_gradients(q, k, v, grad=grad, causal=True)
    many = (x.detach().repeat_interleave(3, 1).requires_grad_() for x in (k, v))
    output, grad_q, *grads = with_gradients(q, *many, grad=grad, causal=True)
    assert torch.equal(grouped[0], output)
    assert torch.equal(grouped[1], grad_q)
    for one, other in zip(grouped[2:], grads, strict=True):
        total = other.unflatten(1, (2, 3)).sum(2)
        torch.testing.assert_close(one, total, rtol=1e-5, atol=1e-5)


def test_the_order_of_heads_and_rows_changes_no_bit() -> None:
    torch.manual_seed(0)
    qkv = [heads(3, 3, 20, 16) for _ in range(3)]
    grad = torch.randn(3, 3, 20, 16)
    turned = [x.detach().flip(0, 1).requires_grad_() for x in qkv]
    ours = with_gradients(*qkv, grad=grad, causal=True)
    theirs = with_gradients(*turned, grad=grad.flip(0, 1), causal=True)
    assert all(torch.equal(a, b.flip(0, 1)) for a, b in zip(ours, theirs, strict=True))


def test_any_strides() -> None:
    """The layouts are: another order of axes, a last stride of 2, and one row for all batches."""
    torch.manual_seed(0)
    q = torch.randn(2, 4, 16, 20).mT.requires_grad_()
    k = torch.randn(2, 4, 20, 32)[..., ::2].requires_grad_()
    v = torch.randn(1, 4, 20, 16).expand(2, -1, -1, -1).requires_grad_()
    grad = torch.randn(16).expand(2, 4, 20, 16)
    ours = with_gradients(q, k, v, grad=grad, causal=True)
    plain = [x.detach().contiguous().requires_grad_() for x in (q, k, v)]
    theirs = with_gradients(*plain, grad=grad.contiguous(), causal=True)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_nan_stays_visible() -> None:
    q, k, v = (heads(1, 1, 20, 16) for _ in range(3))
    with torch.no_grad():
        k[:, :, 7] = torch.nan
    output = flash_attention(q, k, v, causal=True)
    assert output[:, :, :7].isfinite().all()
    assert output[:, :, 7:].isnan().all()


@pytest.mark.filterwarnings("ignore:overflow")  # in rows after the last key, which are not stored
def test_scores_of_any_size_are_finite() -> None:
    q, k, v = (heads(1, 1, 20, 16) for _ in range(3))
    results = with_gradients(q * 1e4, k * 1e4, v, grad=torch.ones(1, 1, 20, 16), causal=True)
    assert all(x.isfinite().all() for x in results)


HUGE = """
import sys
sys.path.insert(0, "tests")
from helpers import interpreter
interpreter.mend()
from helpers.flash_cases import errors_of_far_memory
print(max(errors_of_far_memory()))
"""


def test_offsets_past_2_to_the_31() -> None:
    """A 32-bit offset would read elsewhere, or end the process with a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1


@pytest.mark.parametrize(
    ("shapes", "dtypes", "how", "message"),
    [
        ([(4, 8)] * 3, [0, 0, 0], {"mask": torch.ones(4, 4) > 0}, r"must get no mask \(shape \("),
        ([(4, 8)] * 3, [0, 1, 0], {}, r"must have one dtype of .*float32.*bfloat16"),
        ([(4, 8)] * 3, [2, 2, 2], {}, r"must have one dtype of .*float64"),
        ([(4, 8), (4, 9), (4, 8)], [0, 0, 0], {}, r"must fit.*\[\(4, 8\), \(4, 9\)"),
        ([(3, 4, 8), (2, 4, 8), (2, 4, 8)], [0, 0, 0], {}, r"kv_head must divide head"),
        ([(2, 1, 4, 8), (1, 4, 8), (1, 4, 8)], [0, 0, 0], {}, r"must fit"),
        ([(4, 264)] * 3, [0, 0, 0], {}, r"at most 256 numbers \(q 264, v 264\); use sdpa"),
        ([(4, 8)] * 3, [0, 0, 0], {"window": 0}, r"window must be a whole number .* 1 \(0\)"),
        ([(4, 8)] * 3, [0, 0, 0], {"window": 2.5}, r"whole number of at least 1 \(2\.5\)"),
        ([(0, 4, 8)] * 3, [0, 0, 0], {}, r"heads and widths must not be 0 \(\[\(0, 4, 8\)"),
        ([(4, 0)] * 3, [0, 0, 0], {}, r"heads and widths must not be 0 \(\[\(4, 0\)"),
        ([(4, 8)] * 3, [0, 0, 0], {"first": torch.zeros(4) > 0}, r"number for each query .*bool"),
        ([(4, 8)] * 3, [0, 0, 0], {"first": torch.zeros(3)}, r"first must contain a whole number"),
    ],
)  # fmt: skip
def test_refuses_what_does_not_fit(
    shapes: list[tuple[int, ...]], dtypes: list[int], how: dict[str, Any], message: str
) -> None:
    kinds = torch.float32, torch.bfloat16, torch.float64
    qkv = [torch.zeros(shape, dtype=kinds[i]) for shape, i in zip(shapes, dtypes, strict=True)]
    with pytest.raises(ValueError, match=message):
        flash_attention(*qkv, **how)
