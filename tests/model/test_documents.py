"""Several documents in a row: `first`. The oracle computes each document alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.variants import SMALL, VARIANTS
from scratchlm import ModelConfig, Transformer, functional
from scratchlm.devices.runtime import compile_blocks, recompute_activations
from scratchlm.model.attention import Attend, MultiHeadAttention, sdpa
from scratchlm.model.segments import by_documents

ROWS = [[5, 1, 9, 5], [20], [1, 1, 17, 1]]  # the lengths of the documents in each row
ATTENDS = [sdpa, functional.scaled_dot_product_attention]


def first_of(rows: list[list[int]]) -> Tensor:
    """Return `first` (row, seq), from the lengths of the documents."""
    return torch.tensor(
        [[start for start, n in zip(starts_of(row), row, strict=True) for _ in range(n)]
         for row in rows],
        dtype=torch.int32,
    )  # fmt: skip


def starts_of(row: list[int]) -> list[int]:
    return [sum(row[:i]) for i in range(len(row))]


def qkv(*leading: int, heads: int = 4, kv_heads: int = 2) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(*leading, each, 20, 8) for each in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def alone(tensors: list[Tensor], window: int | None) -> Tensor:
    """(row, head, seq, d) -> torch's attention to each document of ROWS alone."""
    rows = []
    for number, row in enumerate(ROWS):
        parts = []
        for start, n in zip(starts_of(row), row, strict=True):
            q, k, v = (each[number : number + 1, :, start : start + n] for each in tensors)
            i = torch.arange(n)
            band = i <= i[:, None]
            band &= i > i[:, None] - (window or n)
            parts.append(F.scaled_dot_product_attention(q, k, v, band, enable_gqa=True))
        rows.append(torch.cat(parts, 2))
    return torch.cat(rows)


@pytest.mark.parametrize("attend", ATTENDS)
@pytest.mark.parametrize("window", [None, 1, 4, 30])
def test_a_row_of_documents_is_each_document_alone(attend: Any, window: int | None) -> None:
    tensors, direction = qkv(3), torch.randn(3, 4, 20, 8, dtype=torch.float64)
    ours = attend(*tensors, causal=True, window=window, first=first_of(ROWS))
    theirs = alone(tensors, window)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for mine, other in zip(
        *(torch.autograd.grad(y, tensors, direction) for y in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("autocast", [False, True])
def test_short_documents_lose_no_digits_in_16_bits(autocast: bool) -> None:
    q, k, v = (each.detach().bfloat16() for each in qkv(3))
    with torch.autocast("cpu", enabled=autocast):
        ours = sdpa(q, k, v, causal=True, first=first_of(ROWS))
    theirs = functional.scaled_dot_product_attention(q, k, v, causal=True, first=first_of(ROWS))
    assert ours.dtype == torch.bfloat16
    assert (ours != theirs).float().mean() < 0.01, "both round once"


def test_rows_of_one_document_each() -> None:
    """Neighbours of equal length go through attention together."""
    calls: list[torch.Size] = []

    def attend(*qkv: Tensor) -> Tensor:
        calls.append(qkv[0].shape)
        return sdpa(*qkv, causal=True)

    tensors, rows = qkv(3), [[20], [20], [10, 10]]
    ours = by_documents(attend, *tensors, first_of(rows))
    expected = functional.scaled_dot_product_attention(*tensors, causal=True, first=first_of(rows))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    assert calls == [(2, 4, 20, 8), (2, 4, 10, 8)]


@pytest.mark.parametrize("attend", ATTENDS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("query", [20, 7])
@pytest.mark.parametrize("masked", [True, False])
def test_first_is_a_mask_of_keys(attend: Attend, causal: bool, query: int, masked: bool) -> None:
    """Any `first` (not only documents), beside a mask, with fewer queries than keys."""
    q, k, v = qkv(2)
    first = torch.randint(0, 20, (2, query), dtype=torch.int32)
    first[0, 0] = 20  # a query without keys gets zeros
    chosen = torch.rand(2, 1, query, 20) < 0.7
    own = (torch.arange(20) >= first[..., None])[:, None]
    expected = functional.scaled_dot_product_attention(
        q[..., -query:, :], k, v, own & chosen if masked else own, causal=causal
    )
    ours = attend(q[..., -query:, :], k, v, chosen if masked else None, causal=causal, first=first)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    assert not ours[0, :, 0].any()


@pytest.mark.parametrize("attend", ATTENDS)
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_any_leading_axes(attend: Attend, leading: tuple[int, ...]) -> None:
    tensors = qkv(*leading)
    first = first_of([[5, 15]])[0].expand(*leading, 20)
    parts = zip(*(each.split([5, 15], -2) for each in tensors), strict=True)
    expected = torch.cat([attend(*part, causal=True) for part in parts], -2)
    ours = attend(*tensors, causal=True, first=first)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    if not leading:  # and one head without its axis
        q, k, v = (each[0] for each in tensors)
        one = attend(q, k, v, causal=True, first=first)
        torch.testing.assert_close(one, ours[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("attend", ATTENDS)
def test_a_first_of_other_axes_is_refused(attend: Attend) -> None:
    q, k, v = qkv(3)
    first = first_of(ROWS)
    for wrong in (first.float(), first[:, :-1], first[0], first[:, None]):
        with pytest.raises(ValueError, match=r"first must contain a whole number .* use the axes"):
            attend(q, k, v, causal=True, first=wrong)


def model_of(variant: dict[str, Any], attend: Attend = sdpa) -> tuple[Transformer, Tensor]:
    torch.manual_seed(1)
    model = Transformer(ModelConfig(**SMALL | variant), attend=attend).double()
    return model, torch.randint(0, 61, (3, 20))


def packed_and_alone(model: Transformer, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of rows of documents, and of each document alone."""
    alone = [
        torch.cat([model(ids[None, number, start : start + n])[0]
                   for start, n in zip(starts_of(row), row, strict=True)])
        for number, row in enumerate(ROWS)
    ]  # fmt: skip
    return model(ids, first=first_of(ROWS)), torch.stack(alone)


def gradients(model: Transformer, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_are_those_of_each_document_alone(variant: dict[str, Any]) -> None:
    """In float64, so that a difference of 1e-9 is no rounding."""
    model, ids = model_of(variant)
    packed, alone = packed_and_alone(model, ids)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-9)
    targets = torch.randint(0, 61, (3, 20))
    ours, theirs = gradients(model, packed, targets), gradients(model, alone, targets)
    for name in theirs.keys() | ours.keys():
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-9, msg=name)
    readable, _ = model_of(variant, functional.scaled_dot_product_attention)
    readable.load_state_dict(model.state_dict())
    torch.testing.assert_close(readable(ids, first=first_of(ROWS)), packed, rtol=0, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_gradient_reaches_another_document(variant: dict[str, Any]) -> None:
    model, ids = model_of(variant)
    embedded: list[Tensor] = []
    model.embedding.register_forward_hook(lambda *given: embedded.append(given[2]))
    logits = model(ids, first=first_of([[8, 12]] * 3))
    for own, other in ((slice(0, 8), slice(8, 20)), (slice(8, 20), slice(0, 8))):
        (grad,) = torch.autograd.grad(logits[:, own].square().sum(), embedded, retain_graph=True)
        assert not grad[:, other].any()
        assert grad[:, own].abs().sum(-1).all()


def test_a_model_refuses_a_first_of_other_axes() -> None:
    model, ids = model_of({})
    first = first_of(ROWS)
    for wrong in (first.float(), first[:, :-1], first[0]):
        with pytest.raises(ValueError, match=r"a whole number for each token .* the axes of ids"):
            model(ids, first=wrong)


def test_positions_count_from_the_first_key() -> None:
    """Learned positions show it. Positions that a caller sets stay as they are."""
    model, ids = model_of({"position": "learned"})
    first = first_of(ROWS)
    explicit = model(ids, first=first, positions=torch.arange(20) - first)
    assert torch.equal(model(ids, first=first), explicit)
    other = model(ids, first=first, positions=torch.arange(20))
    assert (other - explicit).abs().max() > 1e-3
    attention = MultiHeadAttention(32, 4).double()
    x = torch.randn(3, 20, 32, dtype=torch.float64)
    torch.testing.assert_close(attention(x, first=first)[0, :5], attention(x[0, :5]))


@torch.no_grad()
def test_a_cache_continues_rows_of_documents() -> None:
    """With a cache, `first` counts from the first cached key."""
    model, ids = model_of({"position": "learned"})
    first, cache = first_of(ROWS), model.new_cache(3)
    parts = [
        model(part, cache=cache, first=own)
        for part, own in zip(ids.split([7, 1, 12], 1), first.split([7, 1, 12], 1), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids, first=first), rtol=0, atol=1e-9)


def test_an_attention_without_first_computes_rows_without_documents() -> None:
    def attend(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        return sdpa(q, k, v, mask, causal=causal)

    model, ids = model_of({}, attend)
    model(ids)
    with pytest.raises(TypeError, match="first"):
        model(ids, first=first_of(ROWS))


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[7], VARIANTS[9]])
def test_compiled_blocks_compute_the_same(variant: dict[str, Any], recompute: bool) -> None:
    model, ids = model_of(variant)
    targets = torch.randint(0, 61, (3, 20))
    run = partial(model, ids, first=first_of(ROWS))
    expected = gradients(model, run(), targets)
    tolerance = 1e-5 if "moe" in variant else 1e-9  # routers compute in fp32
    if recompute:
        recompute_activations(model.layers)
    compile_blocks(model.layers)
    for _ in range(2):
        for name, gradient in gradients(model, run(), targets).items():
            torch.testing.assert_close(gradient, expected[name], rtol=0, atol=tolerance)
