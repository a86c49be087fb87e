"""The keys and values of past tokens, so that generating a token costs one token's work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scratchlm.model.layers import Device


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
        end = self.length + seq
        self.keys[layer, :, :, self.length : end] = k.detach()
        self.values[layer, :, :, self.length : end] = v.detach()
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

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


@dataclass(frozen=True)
class LayerCache:
    """One layer of a cache: all that an attention layer needs to know of it."""

    cache: KVCache
    layer: int

    @property
    def length(self) -> int:
        return self.cache.length

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (batch, kv_head, seq, d_head) -> the same of all length + seq positions."""
        return self.cache.update(self.layer, k, v)
