"""Keys and values of past tokens. With this cache, a new token costs one token's work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scratchlm.config import takes_synonyms

Device = torch.device | str | int | None


@takes_synonyms()
class KVCache:
    """Memory for the keys and values of `context_length` tokens in every layer, allocated once.

    `keys` and `values` have the shape (layer, batch, kv_head, context, d_head). The first `length`
    positions are filled. In a forward pass every layer writes after `length`. The model increases
    `length` once, at the end, so a failed pass adds no token. A caller can decrease `length` to
    forget the last tokens.

    The cache is for generation. It stores no autograd graph, so `backward` fails after a pass with
    a cache.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_kv_heads: int,
        context_length: int,
        d_head: int,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (num_layers, batch_size, num_kv_heads, context_length, d_head)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    @property
    def context_length(self) -> int:
        return self.keys.shape[3]

    @property
    def layers(self) -> list[LayerCache]:
        """One `LayerCache` for the attention of each layer."""
        return [LayerCache(self, layer) for layer in range(self.keys.shape[0])]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (batch, kv_head, seq, d_head) -> both (batch, kv_head, length + seq, d_head).

        Store `k` and `v`, and return views of all keys and values of this layer. Raise ValueError
        if `k` does not fit in the cache.
        """
        seq = k.shape[-2]
        self.require(seq)
        _, batch, kv_head, _, d_head = self.keys.shape
        if k.shape != (batch, kv_head, seq, d_head):
            raise ValueError(
                f"the shape of the keys ({tuple(k.shape)}) must be the cache's (batch, kv_head, "
                f"seq, d_head) ({(batch, kv_head, seq, d_head)}); make a cache for this shape"
            )
        keys, values = self.keys[layer], self.values[layer]
        keys.narrow(2, self.length, seq).copy_(k.detach())
        values.narrow(2, self.length, seq).copy_(v.detach())
        end = self.length + seq
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    def require(self, seq: int) -> None:
        """Raise ValueError unless `seq` more tokens fit."""
        if self.length + seq > self.context_length:
            raise ValueError(
                f"the cache must have room for {seq} more tokens ({self.length} of "
                f"{self.context_length} positions are filled); call reset(), or make a longer cache"
            )

    def advance(self, seq: int) -> None:
        """Add `seq` to `length`, after every layer has written its `seq` positions."""
        self.require(seq)
        self.length += seq

    def reset(self) -> None:
        """Forget all tokens, and keep the memory."""
        self.length = 0

    def forget_first(self, count: int) -> None:
        """Drop the `count` oldest positions, and move the others to the front."""
        kept = self.length - count
        for tensor in (self.keys, self.values):
            tensor[..., :kept, :] = tensor[..., count : self.length, :].clone()
        self.length = kept

    def take(self, other: KVCache, rows: Tensor) -> None:
        """rows (batch,): copy sequence `rows[i]` of `other` into sequence i of this cache."""
        self.length = other.length
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[..., : self.length, :] = theirs[..., : self.length, :].index_select(1, rows)

    def select(self, rows: Tensor) -> None:
        """rows (n,): copy sequence `rows[i]` into sequence i. The new batch size is n.

        If n is the old batch size, copy only the filled positions, and keep the memory.
        """
        if len(rows) == self.keys.shape[1]:
            for tensor in (self.keys, self.values):
                filled = tensor[..., : self.length, :]
                filled.copy_(filled.index_select(1, rows))
        else:
            self.keys = self.keys.index_select(1, rows)
            self.values = self.values.index_select(1, rows)


class ConstantShapes:
    """A view of a `KVCache` with constant shapes, for `torch.compile` and CUDA graphs.

    A pass writes at `index`. Attention gets every position, even those that are not filled. So the
    caller passes the positions and a mask of the filled positions to the model. The caller also
    changes `index`.
    """

    length = 0  # always 0: the caller passes the positions, and checks that new tokens fit

    def __init__(self, cache: KVCache) -> None:
        self.keys, self.values = cache.keys, cache.values
        self.index = torch.zeros(1, dtype=torch.long, device=self.keys.device)

    @property
    def layers(self) -> list[LayerCache]:
        return [LayerCache(self, layer) for layer in range(self.keys.shape[0])]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (batch, kv_head, 1, d_head) -> both (batch, kv_head, context, d_head)."""
        keys, values = self.keys[layer], self.values[layer]
        return keys.index_copy_(2, self.index, k), values.index_copy_(2, self.index, v)

    def advance(self, seq: int) -> None:
        """Do nothing, because the caller changes `index`."""


@dataclass(frozen=True)
class LayerCache:
    """The part of a cache that one attention layer uses."""

    cache: KVCache | ConstantShapes
    layer: int

    @property
    def length(self) -> int:
        return self.cache.length

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (batch, kv_head, seq, d_head) -> both (batch, kv_head, length + seq, d_head)."""
        return self.cache.update(self.layer, k, v)
