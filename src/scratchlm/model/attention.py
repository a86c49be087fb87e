"""Attention: torch's fused kernel with the contract of `functional`, and the multi-head layer."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm.config import takes_synonyms
from scratchlm.functional import check_first, check_window
from scratchlm.model.config import Gate
from scratchlm.model.kv_cache import LayerCache
from scratchlm.model.layers import Linear, NoPositions, RMSNorm
from scratchlm.model.rope import RotaryEmbedding
from scratchlm.model.segments import by_documents, keys_from, positions_from
from scratchlm.model.sinks import attend_with_sinks


class Attend(Protocol):
    """An implementation of attention: the contract of `functional.scaled_dot_product_attention`."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        *,
        causal: bool = False,
        first: Tensor | None = None,
    ) -> Tensor: ...


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    first: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """q (..., query, d_head), k (..., key, d_head), v (..., key, d_v) -> (..., query, d_v).

    This is the fast version of `functional.scaled_dot_product_attention`, with the same contract.
    `mask` is boolean and broadcasts to (..., query, key). `causal` aligns the last query with the
    last key. A query that may attend to no key gets zeros. `k` and `v` may have fewer heads (axis
    −3) than `q`.

    With `window`, a query attends to the last `window` keys, including the query's own key.
    `window` implies `causal` (sliding windows, arXiv 2310.06825).

    With `first` (..., query), query i attends to the keys from first[i] on: the keys of its own
    document. On a CPU, causal attention without `mask` then computes document by document. Other
    devices use a mask.

    With `sinks` (head,), the softmax has one more logit for each head (`model.sinks`).

    Raise ValueError if `mask` is not boolean, if `window` is below 1, or if `first` does not have
    the axes of q without heads and d_head, or `sinks` not one number for each head.
    """
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean ({mask.dtype}); use True where a query may attend")
    check_window(window)
    query, key = q.shape[-2], k.shape[-2]
    if first is not None:
        check_first(first, q)
        if mask is None and (causal or window is not None) and q.device.type == "cpu":
            alone = partial(sdpa, causal=True, window=window, sinks=sinks)
            attended = by_documents(alone, q, k, v, first)
            if attended is not None:
                return attended
        mask = keys_from(first, q, key) if mask is None else mask & keys_from(first, q, key)
    if window is not None:
        causal = True
        if (reach := window + query - 1) < key:  # some keys come before every window
            k, v, key = k[..., -reach:, :], v[..., -reach:, :], reach
            mask = mask if mask is None or mask.shape[-1] == 1 else mask[..., -reach:]
        window = window if window < key else None
    # torch's is_causal aligns the first query with the first key. `causal` aligns the last query
    # with the last key. Both mean the same only for equal lengths.
    is_causal = causal and window is None and mask is None and query == key
    if causal and not is_causal and (window is not None or query > 1):
        mask = _in_band(mask, query, key, window, q.device)
    if sinks is not None:
        return attend_with_sinks(q, k, v, mask, sinks, is_causal=is_causal)
    grouped = q.ndim > 2 and q.shape[-3] != k.shape[-3]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=grouped
    )


def _in_band(
    mask: Tensor | None, query: int, key: int, window: int | None, device: torch.device
) -> Tensor:
    """Return `mask` and the causal mask (query, key), with only the last `window` keys."""
    last = key - query  # query i has the position of key i + last
    band = torch.ones(query, key, dtype=torch.bool, device=device).tril(last)
    band = band if window is None else band.triu(last - window + 1)
    return band if mask is None else mask & band


class AttentionGate(nn.Module):
    """y (..., head, seq, d_head), x (..., seq, d_model) -> y ⊙ sigmoid(W x).  arXiv 2505.06708

    W computes one number per element of y (`width` d_head), or one number per head (`width` 1).
    """

    def __init__(self, d_model: int, num_heads: int, width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.proj = Linear(d_model, num_heads * width)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        # (..., seq, head · width) -> (..., seq, head, width) -> (..., head, seq, width)
        gate = self.proj(x).unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)
        return y * gate.sigmoid()


class NoGate(nn.Module):
    """The layer that replaces a gate in a model without gates: y -> y."""

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return y


@takes_synonyms()
class MultiHeadAttention(nn.Module):
    """x (..., seq, d_model) -> (..., seq, d_model).

    W_o concat_h(attend(W_q x, W_k x, W_v x)_h).  arXiv 1706.03762

    `num_heads` is the number of query heads. `num_kv_heads` is the number of key and value heads,
    which may be smaller (arXiv 2305.13245).

    `rope` rotates q and k by their positions. Without `rope`, the layer learns the order of tokens
    only from the causal mask. `qk_norm` applies an RMSNorm over d_head to q and k before `rope`
    (arXiv 2302.05442), and `qk_norm_gain` adds a gain to this RMSNorm. `gate` multiplies the output
    of attention before W_o (`AttentionGate`). `sinks` learns one more logit for each head, which
    `attend` must accept. The layer passes `window` to `attend`, where it means
    the same as in `sdpa`. `bias` adds a bias to all four projections, and `qkv_bias` only to the
    projections of q, k and v.

    Raise ValueError if `d_model`, `num_heads` and `num_kv_heads` do not fit together, or if
    `attend` cannot compute sinks.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        d_head: int | None = None,
        rope: RotaryEmbedding | None = None,
        causal: bool = True,
        attend: Attend = sdpa,
        bias: bool = False,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        qk_norm_gain: bool = True,
        gate: Gate = "none",
        window: int | None = None,
        sinks: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if (d_head is None and d_model % num_heads) or num_heads % num_kv_heads:
            raise ValueError(
                f"num_heads ({num_heads}) must divide d_model ({d_model}), and num_kv_heads "
                f"({num_kv_heads}) must divide num_heads; change one of these numbers"
            )
        self.d_head = d_model // num_heads if d_head is None else d_head
        self.causal = causal
        # Without a window, `attend` may be a function that accepts no `window`.
        self.attend: Attend = attend if window is None else partial(attend, window=window)  # type: ignore[call-arg]
        if sinks and "sinks" not in inspect.signature(attend).parameters:
            raise ValueError(
                "the function that computes attention must accept sinks "
                f"({getattr(attend, '__name__', attend)}); choose --attention sdpa"
            )
        self.sinks = nn.Parameter(torch.zeros(num_heads)) if sinks else None
        self.rope: RotaryEmbedding | NoPositions = NoPositions() if rope is None else rope
        qkv_bias = qkv_bias or bias
        self.q_proj = Linear(d_model, num_heads * self.d_head, qkv_bias)
        self.k_proj = Linear(d_model, num_kv_heads * self.d_head, qkv_bias)
        self.v_proj = Linear(d_model, num_kv_heads * self.d_head, qkv_bias)
        self.o_proj = Linear(num_heads * self.d_head, d_model, bias)
        norm = partial(RMSNorm, self.d_head, norm_eps, qk_norm_gain)
        self.q_norm = norm() if qk_norm else nn.Identity()
        self.k_norm = norm() if qk_norm else nn.Identity()
        match gate:
            case "elementwise":
                self.gate: nn.Module = AttentionGate(d_model, num_heads, self.d_head)
            case "headwise":
                self.gate = AttentionGate(d_model, num_heads, 1)
            case "none":
                self.gate = NoGate()

    def forward(
        self,
        x: Tensor,
        *,
        cache: LayerCache | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """x (..., seq, d_model) -> (..., seq, d_model).

        positions: (seq,), or (..., seq) with x's leading axes. The default positions start at 0,
        or at the length of the cache. With `first`, they start at 0 at the key `first`.
        mask: boolean, broadcasts to (..., head, seq, key), True where a query may attend. The
        causal mask applies too. With a cache, the keys of x follow the cached keys.
        first: (..., seq), the first key that each query may attend to.
        """
        # (..., seq, head · d_head) -> (..., seq, head, d_head) -> (..., head, seq, d_head)
        q = self.q_norm(self.q_proj(x).unflatten(-1, (-1, self.d_head))).transpose(-3, -2)
        k = self.k_norm(self.k_proj(x).unflatten(-1, (-1, self.d_head))).transpose(-3, -2)
        v = self.v_proj(x).unflatten(-1, (-1, self.d_head)).transpose(-3, -2)
        if positions is None:
            start = 0 if cache is None else cache.length
            positions = positions_from(start, x.shape[-2], first, x.device)
        positions = positions.unsqueeze(-2)  # (..., 1, seq): one set for all heads
        q, k = self.rope.turn(q, k, positions)
        if cache is not None:
            k, v = cache.update(k, v)  # in the cache's dtype, which may be wider
            mask, first = cache.cut(mask, first, x.shape[-2], k.shape[-2])
        # Without documents and sinks, `attend` may be a function that accepts neither.
        given = {"first": first, "sinks": self.sinks}
        own = {name: value for name, value in given.items() if value is not None}
        attended = self.attend(q.to(k.dtype), k, v, mask, causal=self.causal, **own).to(x.dtype)
        y = self.gate(attended, x)
        # (..., head, seq, d_head) -> (..., seq, head, d_head) -> (..., seq, head · d_head)
        return self.o_proj(y.transpose(-3, -2).flatten(-2))
