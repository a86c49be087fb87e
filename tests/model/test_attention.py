"""Attention: the readable definition and torch's kernel as twins, and the heads around them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from scratchlm import KVCache, MultiHeadAttention, RotaryEmbedding
from scratchlm.functional import einx, scaled_dot_product_attention
from scratchlm.model.attention import Attend, sdpa


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random_qkv(
    *leading: int, query: int = 5, key: int = 5, kv_heads: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(*leading, 4, query, 8, requires_grad=True),
        torch.randn(*leading, kv_heads, key, 8, requires_grad=True),
        torch.randn(*leading, kv_heads, key, 8, requires_grad=True),
    )


def band(query: int, key: int, window: int) -> Tensor:
    """The definition of a window: row by row, key by key."""
    last = key - query
    return torch.tensor(
        [[i + last - window < j <= i + last for j in range(key)] for i in range(query)]
    )


def assert_agree(ours: Tensor, theirs: Tensor, inputs: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    direction = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, direction),
        torch.autograd.grad(theirs, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("leading", "kv_heads"), [((), 4), ((2,), 4), ((2,), 2), ((2,), 1), ((2, 3), 2)]
)
@pytest.mark.parametrize(("query", "key"), [(5, 5), (1, 7), (3, 7), (7, 3)])
@pytest.mark.parametrize("causal", [False, True])
def test_sdpa_equals_the_definition(
    leading: tuple[int, ...], kv_heads: int, query: int, key: int, causal: bool
) -> None:
    q, k, v = random_qkv(*leading, query=query, key=key, kv_heads=kv_heads)
    for mask in (None, torch.rand(query, key) < 0.6, torch.rand(*leading, 1, query, key) < 0.6):
        ours = sdpa(q, k, v, mask, causal=causal)
        theirs = scaled_dot_product_attention(q, k, v, mask, causal=causal)
        assert_agree(ours, theirs, (q, k, v))


@pytest.mark.parametrize(("query", "key"), [(6, 6), (1, 6), (3, 8)])
@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_window_equals_the_definition_under_its_mask(query: int, key: int, window: int) -> None:
    q, k, v = random_qkv(2, query=query, key=key, kv_heads=2)
    near = band(query, key, window)
    for mask in (None, torch.rand(2, 1, query, key) < 0.6):
        both = near if mask is None else mask & near
        for causal in (False, True):  # a window implies it
            ours = sdpa(q, k, v, mask, causal=causal, window=window)
            assert_agree(ours, scaled_dot_product_attention(q, k, v, both), (q, k, v))


@pytest.mark.parametrize("attend", [sdpa, scaled_dot_product_attention])
def test_a_query_that_may_attend_nothing_gets_zeros(attend: Attend) -> None:
    q, k, v = random_qkv(2)
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[2] = False
    out = attend(q, k, v, mask)
    assert not out[..., 2, :].any()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), (q, k, v)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_close_to_the_definition(dtype: torch.dtype) -> None:
    q, k, v = (t.detach().to(dtype) for t in random_qkv(2, query=32, key=32, kv_heads=2))
    ours = sdpa(q, k, v, causal=True)
    assert ours.dtype == dtype
    theirs = scaled_dot_product_attention(q, k, v, causal=True)
    # The kernel rounds its weights to the half before it sums, the definition only the result.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_only_the_needed_mask_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[bool, bool]] = []

    def spy(
        q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor | None, is_causal: bool, **_: bool
    ) -> Tensor:
        calls.append((attn_mask is not None, is_causal))
        return q

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    q, k, v = random_qkv(2)
    sdpa(q, k, v, causal=True)
    sdpa(q, k, v, window=5)
    sdpa(q[..., :1, :], k, v, causal=True)
    assert calls == [(False, True), (False, True), (False, False)]
    calls.clear()
    sdpa(q[..., :2, :], k, v, causal=True)
    sdpa(q, k, v, window=4)
    sdpa(q[..., :1, :], k, v, window=4)
    # One query of a window attends the last keys, all of them.
    assert calls == [(True, False), (True, False), (False, False)]


def test_wrong_arguments_are_refused() -> None:
    q, k, v = random_qkv(2)
    with pytest.raises(ValueError, match=r"mask must be boolean \(torch.float32\); use True"):
        sdpa(q, k, v, torch.zeros(5, 5))
    with pytest.raises(ValueError, match=r"window must be a whole number of at least 1 \(0\)"):
        sdpa(q, k, v, window=0)
    with pytest.raises(ValueError, match=r"num_heads \(4\) must divide d_model \(30\).*; change"):
        MultiHeadAttention(30, 4)
    with pytest.raises(ValueError, match=r"num_kv_heads \(3\) must divide num_heads"):
        MultiHeadAttention(32, 4, 3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_matches_torchs_multi_head_attention(bias: bool, causal: bool) -> None:
    ours = MultiHeadAttention(32, 4, causal=causal, bias=bias)
    theirs = nn.MultiheadAttention(32, 4, bias=bias, batch_first=True)
    projections = (ours.q_proj, ours.k_proj, ours.v_proj)
    theirs.in_proj_weight.data = torch.cat([p.weight.data for p in projections])
    theirs.out_proj.weight.data = ours.o_proj.weight.data
    if bias:
        for projection in (*projections, ours.o_proj):
            nn.init.normal_(projection.bias)
        theirs.in_proj_bias.data = torch.cat([p.bias.data for p in projections])
        theirs.out_proj.bias.data = ours.o_proj.bias.data
    x = torch.randn(2, 6, 32, requires_grad=True)
    future = torch.ones(6, 6, dtype=torch.bool).triu(1) if causal else None
    assert_agree(ours(x), theirs(x, x, x, attn_mask=future, need_weights=False)[0], (x,))


def test_head_arithmetic_equals_einx() -> None:
    attention = MultiHeadAttention(32, 4, 2)
    x = torch.randn(2, 6, 32)

    def split(projection: nn.Module) -> Tensor:
        spread = "... seq (head d_head) -> ... head seq d_head"
        return einx.id(spread, projection(x), d_head=8)

    y = scaled_dot_product_attention(
        split(attention.q_proj), split(attention.k_proj), split(attention.v_proj), causal=True
    )
    definition = attention.o_proj(einx.id("... head seq d_head -> ... seq (head d_head)", y))
    torch.testing.assert_close(attention(x), definition, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_any_leading_axes(leading: tuple[int, ...]) -> None:
    attention = MultiHeadAttention(32, 4, 2, rope=RotaryEmbedding(8, 16))
    x = torch.randn(*leading, 6, 32)
    flat = attention(x.reshape(-1, 6, 32)).view_as(x)
    torch.testing.assert_close(attention(x), flat, rtol=1e-5, atol=1e-6)


def test_without_rope_and_causality_the_order_does_not_matter() -> None:
    attention = MultiHeadAttention(32, 4, causal=False)
    x, order = torch.randn(2, 6, 32), torch.randperm(6)
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order], rtol=1e-5, atol=1e-5)
    causal = MultiHeadAttention(32, 4)
    assert (causal(x[:, order]) - causal(x)[:, order]).abs().max() > 1e-2


def test_interleaved_rope_is_half_split_with_reordered_rows() -> None:
    interleaved = MultiHeadAttention(32, 4, 2, rope=RotaryEmbedding(8, 16, interleaved=True))
    half_split = MultiHeadAttention(32, 4, 2, rope=RotaryEmbedding(8, 16))
    weights = interleaved.state_dict()
    for name in ("q_proj.weight", "k_proj.weight"):
        pairs = "(head pair two) d_model -> (head two pair) d_model"
        weights[name] = einx.id(pairs, weights[name], pair=4, two=2)
    half_split.load_state_dict(weights)
    x = torch.randn(2, 6, 32)
    torch.testing.assert_close(half_split(x), interleaved(x), rtol=1e-5, atol=1e-6)


def test_positions_of_each_sequence() -> None:
    attention = MultiHeadAttention(32, 4, rope=RotaryEmbedding(8, 64))
    x = torch.randn(2, 6, 32)
    torch.testing.assert_close(  # only distances count
        attention(x, positions=torch.arange(6) + torch.tensor([[0], [50]])),
        attention(x),
        rtol=1e-4,
        atol=1e-5,
    )
    stretched = attention(x, positions=torch.arange(6) * 7)
    assert (stretched - attention(x)).abs().max() > 1e-2


def test_cache_of_one_layer_continues_the_sequence() -> None:
    attention = MultiHeadAttention(32, 4, 2, rope=RotaryEmbedding(8, 16), qk_norm=True)
    x = torch.randn(2, 10, 32)
    cache = KVCache(1, 2, 2, 16, 8)
    parts = []
    for part in x.split([4, 1, 3, 2], dim=1):
        parts.append(attention(part, cache=cache.layers[0]))
        cache.advance(part.shape[1])
    torch.testing.assert_close(torch.cat(parts, 1), attention(x), rtol=1e-5, atol=1e-5)


def test_attend_is_handed_in() -> None:
    windowed = MultiHeadAttention(32, 4, attend=partial(sdpa, window=2))
    x = torch.randn(1, 8, 32)
    y = windowed(x)
    x[:, 0] += 1  # seen from positions 0 and 1 only
    changed = (windowed(x) != y).any(-1)[0]
    assert changed.tolist() == [True, True] + [False] * 6


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_kernels_equal_the_definition(dtype: torch.dtype) -> None:
    q, k, v = (t.detach().to("cuda", dtype) for t in random_qkv(2, query=64, key=64, kv_heads=2))
    mask = torch.rand(64, 64, device="cuda") < 0.5
    mask[3] = False
    for keys, chosen in ((q, None), (q, mask), (q[..., -9:, :], None)):
        theirs = scaled_dot_product_attention(keys, k, v, chosen, causal=True)
        tolerance = 1e-4 if dtype == torch.float32 else 2e-2
        ours = sdpa(keys, k, v, chosen, causal=True)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
