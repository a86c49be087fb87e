"""The keys and values of past tokens, so that a new token costs only one token's work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scratchlm.config import takes_synonyms

Device = torch.device | str | int | None


@takes_synonyms()
class KVCache:
    """Memory for the keys and values of `context_length` tokens in every layer, allocated once.

    keys, values (layer, batch, kv_head, context, d_head): the first `length` positions are filled.
    In a forward pass every layer writes after `length`. The model raises `length` once, at the end,
    so a failed pass adds no token. A caller lowers `length` to forget the last tokens.

    The cache is for generation: it keeps no graph, so backward through a pass that used it fails.
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
        """k, v (batch, kv_head, seq, d_head) -> both (batch, kv_head, length + seq, d_head), views.

        Raises ValueError if k does not fit the cache.
        """
        seq = k.shape[-2]
        self.require(seq)
        _, batch, kv_head, _, d_head = self.keys.shape
        if k.shape != (batch, kv_head, seq, d_head):
            raise ValueError(
                "keys do not fit the (batch, kv_head, seq, d_head) of the cache "
                f"({tuple(k.shape)}, not {(batch, kv_head, seq, d_head)}); make another cache"
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
                f"the cache has no room ({self.length} of {self.context_length} positions filled, "
                f"{seq} to add); reset() it or make a longer one"
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
        """rows (batch,): sequence `rows[i]` of the other cache becomes sequence i of this one."""
        self.length = other.length
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[..., : self.length, :] = theirs[..., : self.length, :].index_select(1, rows)

    def select(self, rows: Tensor) -> None:
        """rows (n,): copy sequence rows[i] into sequence i; n becomes the batch size.

        If the batch size stays, it copies only the filled positions and allocates no new cache.
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

    A pass writes at `index`, and attention gets every position, filled or not. The caller passes
    positions and a mask of the filled ones to the model, and moves `index` itself.
    """

    length = 0  # the model cannot know it: the caller gives positions and checks the room

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
        """Do nothing: the caller moves `index`."""


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
