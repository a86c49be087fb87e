"""Attention sinks with torch's fused kernel: one more logit for each head, without a value.

A head that needs no key gives its weight to the sink, which adds nothing to the output (gpt-oss,
arXiv 2508.10925; arXiv 2309.17453). torch's kernel has no sinks. So the sink becomes a key at the
front, with the value 0. One more element makes its score the sink's logit: it is 1 in the sink's
key, 0 in the other keys, and the logit in every query. The kernel then stays as fast as it is for
one more key, needs no matrix of scores, and computes the gradient of the sinks too.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from scratchlm.functional import check_sinks

_WIDER = 8  # more elements of a head: a multiple of 8 is fast on a GPU


def attend_with_sinks(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sinks: Tensor, *, is_causal: bool
) -> Tensor:
    """q (..., head, query, d_head), k (..., kv_head, key, d_head), v (..., kv_head, key, d_v),
    sinks (head,) -> (..., head, query, d_v).

    `mask` and `is_causal` mean the same as in torch's scaled_dot_product_attention. Raise
    ValueError if q has not one head for each sink.
    """
    check_sinks(sinks, q)
    d_head, d_v, key = q.shape[-1], v.shape[-1], k.shape[-2]
    width = max(d_head, d_v) + _WIDER
    # `is_causal` aligns the first query with the first key, which is the sink. So this query is
    # one more query, whose output is dropped.
    extra = int(is_causal)
    q = F.pad(q, (0, width - d_head, extra, 0))
    k = F.pad(k, (0, width - d_head, 1, 0))
    v = F.pad(v, (0, width - d_v, 1, 0))
    q[..., d_head] = (sinks * math.sqrt(d_head)).unsqueeze(-1).to(q.dtype)
    k[..., 0, d_head] = 1
    if mask is not None:
        mask = F.pad(mask.expand(*mask.shape[:-1], key), (1, 0), value=True)
    attended = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=is_causal,
        scale=1 / math.sqrt(d_head),
        enable_gqa=q.shape[-3] != k.shape[-3],
    )
    return attended[..., extra:, :d_v]
