"""The decoder-only transformer: GPT-2 and Llama are configurations of this one class."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from scratchlm.model.attention import Attend, MultiHeadAttention, sdpa
from scratchlm.model.config import FeedForward, ModelConfig, Norm
from scratchlm.model.feed_forward import ReluSquared, SwiGLU
from scratchlm.model.kv_cache import KVCache, LayerCache
from scratchlm.model.layers import Device, Embedding, LayerNorm, Linear, RMSNorm
from scratchlm.model.rope import RotaryEmbedding

__all__ = ["ModelConfig", "Transformer", "TransformerBlock"]


class TransformerBlock(nn.Module):
    """x (..., seq, d_model) -> (..., seq, d_model), each half added to what it read.

    x + attn(attn_norm(x)), then x + ffn(ffn_norm(x)).  Norms first: arXiv 2002.04745

    residual_scale multiplies the initial standard deviation of the two layers that write into the
    residual stream, `attn.o_proj` and `ffn.down_proj`.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        num_kv_heads: int | None = None,
        *,
        rope: RotaryEmbedding | None = None,
        attend: Attend = sdpa,
        norm: Norm = "rmsnorm",
        ffn: FeedForward = "swiglu",
        norm_eps: float = 1e-5,
        bias: bool = False,
        qk_norm: bool = False,
        dropout: float = 0.0,
        residual_scale: float = 1.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        new: dict[str, Any] = {"device": device, "dtype": dtype}
        self.attn_norm = _new_norm(norm, d_model, norm_eps, bias, **new)
        self.attn = MultiHeadAttention(
            d_model,
            num_heads,
            num_kv_heads,
            rope=rope,
            attend=attend,
            bias=bias,
            qk_norm=qk_norm,
            norm_eps=norm_eps,
            std_out=residual_scale / math.sqrt(d_model),
            **new,
        )
        self.ffn_norm = _new_norm(norm, d_model, norm_eps, bias, **new)
        std_out = residual_scale / math.sqrt(d_ff)
        match ffn:
            case "swiglu":
                self.ffn: nn.Module = SwiGLU(d_model, d_ff, bias, std_out=std_out, **new)
            case "relu2":
                self.ffn = ReluSquared(d_model, d_ff, bias, std_out=std_out, **new)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        cache: LayerCache | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """x (..., seq, d_model) -> (..., seq, d_model); the rest as for `MultiHeadAttention`."""
        attended = self.attn(self.attn_norm(x), cache=cache, positions=positions, mask=mask)
        x = x + self.dropout(attended)
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


class Transformer(nn.Module):
    """ids (..., seq) -> logits (..., seq, vocab).

    Initial values, normals cut at ±3 std:

    | parameter                      | std                  |
    | ------------------------------ | -------------------- |
    | embedding, lm_head             | 1/(2√d_model)        |
    | q, k, v, gate and up_proj      | 1/√in                |
    | o_proj, down_proj              | 1/√(in · 2 · layers) |
    | the same, residual_init="zero" | all 0                |
    | norm weights                   | all 1                |
    | biases                         | all 0                |

    1/√in keeps the variance of what passes through, at any width. 2 · layers branches add up in the
    residual stream, so each starts at that fraction of the variance (GPT-2, section 2.3). The
    head's half of 1/√in starts the loss about 1/8 above ln(vocab_size): GPT-2's 0.02 at GPT-2's
    width, and more below it, where training is faster for it.

    `attend` is how attention is computed; it is no part of the model, and no checkpoint holds it.
    """

    def __init__(
        self,
        config: ModelConfig,
        attend: Attend = sdpa,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        assert config.num_kv_heads is not None  # ModelConfig resolves both
        assert config.d_ff is not None
        self.config = config
        new: dict[str, Any] = {"device": device, "dtype": dtype}
        self.embedding = Embedding(config.vocab_size, config.d_model, **new)
        self.dropout = nn.Dropout(config.dropout)
        rope = _new_rope(config, device)  # one table, shared by all layers
        match config.residual_init:
            case "scaled":
                residual_scale = 1 / math.sqrt(2 * config.num_layers)
            case "zero":
                residual_scale = 0.0
        self.layers = nn.ModuleList(
            TransformerBlock(
                config.d_model,
                config.num_heads,
                config.d_ff,
                config.num_kv_heads,
                rope=rope,
                attend=attend,
                norm=config.norm,
                ffn=config.ffn,
                norm_eps=config.norm_eps,
                bias=config.bias,
                qk_norm=config.qk_norm,
                dropout=config.dropout,
                residual_scale=residual_scale,
                **new,
            )
            for _ in range(config.num_layers)
        )
        self.norm = _new_norm(config.norm, config.d_model, config.norm_eps, config.bias, **new)
        self.lm_head = Linear(
            config.d_model, config.vocab_size, std=0.5 / math.sqrt(config.d_model), **new
        )
        if config.tie_embeddings:
            self.lm_head.weight = self.embedding.weight

    def forward(
        self,
        ids: Tensor,
        *,
        cache: KVCache | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """ids (..., seq) -> logits (..., seq, vocab), of the token that follows each.

        cache: ids continue the tokens it holds, and are added to it; ids are then (batch, seq).
        positions (seq,) or (..., seq): by default 0…seq−1, or onward from the cache's length.
        mask: boolean, (seq, key) or (..., 1 or head, seq, key), True where a query may attend, in
        addition to causality; key counts the cache's tokens and then ids'.

        Raises ValueError for more tokens than `context_length` or the cache have room for.
        """
        return self.lm_head(self.hidden(ids, cache=cache, positions=positions, mask=mask))

    def hidden(
        self,
        ids: Tensor,
        *,
        cache: KVCache | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """ids (..., seq) -> (..., seq, d_model): `forward` up to the head, behind the last norm."""
        start = 0 if cache is None else cache.length
        self._check(ids, start, mask)
        if positions is None:
            positions = torch.arange(start, start + ids.shape[-1], device=ids.device)
        x = self.dropout(self.embedding(ids))
        caches = [None] * len(self.layers) if cache is None else cache.layers
        for layer, layer_cache in zip(self.layers, caches, strict=True):
            x = layer(x, cache=layer_cache, positions=positions, mask=mask)
        if cache is not None:
            cache.advance(ids.shape[-1])
        return self.norm(x)

    def _check(self, ids: Tensor, start: int, mask: Tensor | None) -> None:
        if ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"ids must be int64 or int32 ({ids.dtype}); convert them with .long()")
        end = start + ids.shape[-1]
        if end > self.config.context_length:
            raise ValueError(
                f"the text is longer than context_length ({end} > {self.config.context_length}); "
                f"drop its beginning, or train with a longer context"
            )
        if mask is not None and mask.ndim not in (2, ids.ndim + 2):
            raise ValueError(
                f"mask must be (seq, key) or (batch, 1 or head, seq, key) ({tuple(mask.shape)}); "
                f"mask[:, None, None, :] gives a mask of keys the two axes"
            )

    def new_cache(
        self,
        batch_size: int,
        context_length: int | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> KVCache:
        """An empty cache on the model's device, in its dtype (give autocast's where it is on)."""
        assert self.config.num_kv_heads is not None  # ModelConfig resolves it
        weight = self.embedding.weight
        return KVCache(
            self.config.num_layers,
            batch_size,
            self.config.num_kv_heads,
            self.config.context_length if context_length is None else context_length,
            self.config.d_head,
            device=weight.device,
            dtype=weight.dtype if dtype is None else dtype,
        )

    def num_parameters(self, *, embeddings: bool = True) -> int:
        """How many numbers are trained; without `embeddings`, neither embedding nor lm_head count.

        The smaller count is the N of arXiv 2001.08361.
        """
        total = sum(p.numel() for p in self.parameters())  # a tied weight appears once
        if embeddings:
            return total
        vocabulary = {self.embedding.weight, self.lm_head.weight}
        return total - sum(weight.numel() for weight in vocabulary)


def _new_rope(config: ModelConfig, device: Device) -> RotaryEmbedding | None:
    match config.position:
        case "rope":
            return RotaryEmbedding(
                config.d_head,
                config.context_length,
                config.rope_theta,
                config.rope_interleaved,
                device=device,
            )
        case "none":
            return None


def _new_norm(
    norm: Norm, d_model: int, eps: float, bias: bool, *, device: Device, dtype: torch.dtype | None
) -> nn.Module:
    match norm:
        case "rmsnorm":
            return RMSNorm(d_model, eps, device=device, dtype=dtype)
        case "layernorm":
            return LayerNorm(d_model, eps, bias, device=device, dtype=dtype)
