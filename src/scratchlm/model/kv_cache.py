"""The keys and values of past tokens, so that generating a token costs one token's work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scratchlm.config import takes_synonyms

Device = torch.device | str | int | None


@takes_synonyms()
class KVCache:
    """Room for the keys and values of `context_length` tokens, in every layer, allocated once.

    keys, values (layer, batch, kv_head, context, d_head), of which the first `length` positions are
    filled. Every layer of a forward pass writes behind `length`; the model moves it once, at the
    end, so a pass that fails has changed nothing. Lowering `length` forgets the last tokens.

    It serves generation: it keeps no graph, and backward through a pass that used it fails.
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
        """What each layer's attention is given."""
        return [LayerCache(self, layer) for layer in range(self.keys.shape[0])]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (batch, kv_head, seq, d_head) -> the same of all length + seq positions, as views.

        Raises ValueError where they do not fit.
        """
        seq = k.shape[-2]
        self.require(seq)
        _, batch, kv_head, _, d_head = self.keys.shape
        if k.shape != (batch, kv_head, seq, d_head):
            raise ValueError(
                f"keys must be (batch, kv_head, seq, d_head) as the cache is "
                f"({tuple(k.shape)} for {(batch, kv_head, seq, d_head)}); make another cache"
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
        """Count the `seq` positions that every layer has now written."""
        self.require(seq)
        self.length += seq

    def reset(self) -> None:
        """Forget everything; the memory stays."""
        self.length = 0

    def forget_first(self, count: int) -> None:
        """Drop the `count` oldest positions; the others move to the front."""
        kept = self.length - count
        for tensor in (self.keys, self.values):
            tensor[..., :kept, :] = tensor[..., count : self.length, :].clone()
        self.length = kept

    def take(self, other: KVCache, rows: Tensor) -> None:
        """rows (batch,): sequence i becomes what sequence rows[i] of the other cache is."""
        self.length = other.length
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[..., : self.length, :] = theirs[..., : self.length, :].index_select(1, rows)

    def select(self, rows: Tensor) -> None:
        """rows (n,): sequence i becomes what sequence rows[i] was; n may be another batch size.

        With as many as before, what is filled is copied and the memory stays.
        """
        if len(rows) == self.keys.shape[1]:
            for tensor in (self.keys, self.values):
                filled = tensor[..., : self.length, :]
                filled.copy_(filled.index_select(1, rows))
        else:
            self.keys = self.keys.index_select(1, rows)
            self.values = self.values.index_select(1, rows)


class ConstantShapes:
    """A `KVCache` seen so that no shape changes from step to step, for `torch.compile` and CUDA
    graphs: a pass writes at `index`, and attention gets every position, filled or not.

    Whoever uses it gives the model positions and a mask of the filled ones, and counts for itself.
    """

    length = 0  # what the model may assume of room and positions: nothing

    def __init__(self, cache: KVCache) -> None:
        self.keys, self.values = cache.keys, cache.values
        self.index = torch.zeros(1, dtype=torch.long, device=self.keys.device)

    @property
    def layers(self) -> list[LayerCache]:
        return [LayerCache(self, layer) for layer in range(self.keys.shape[0])]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (batch, kv_head, 1, d_head) -> (batch, kv_head, context, d_head) of both."""
        keys, values = self.keys[layer], self.values[layer]
        return keys.index_copy_(2, self.index, k), values.index_copy_(2, self.index, v)

    def advance(self, seq: int) -> None:
        """Nothing: `index` is moved from outside."""


@dataclass(frozen=True)
class LayerCache:
    """One layer of a cache: all that an attention layer needs to know of it."""

    cache: KVCache | ConstantShapes
    layer: int

    @property
    def length(self) -> int:
        return self.cache.length

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (batch, kv_head, seq, d_head) -> the same of all length + seq positions."""
        return self.cache.update(self.layer, k, v)
