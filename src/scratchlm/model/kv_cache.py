"""Keys and values of past tokens. With this cache, a new token costs one token's work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scratchlm.config import takes_synonyms

Device = torch.device | str | int | None
Keys = tuple[Tensor | None, Tensor | None]

REWIND = 16  # how many of the last tokens a caller can forget in a cache with windows
_STEPS = 16  # how many tokens a layer with a window adds before it moves its keys to the front


def stored_positions(window: int | None, context_length: int) -> int:
    """Return the number of tokens whose keys and values a layer stores.

    A layer without a window stores all tokens. A layer with a window stores the tokens that the
    window reaches, and a few more, so that it does not move its keys at every token.
    """
    if window is None:
        return context_length
    return min(context_length, window - 1 + REWIND + _STEPS)


@takes_synonyms()
class KVCache:
    """Memory for the keys and values of `context_length` tokens in every layer, allocated once.

    In a forward pass every layer writes after `length`. The model increases `length` once, at the
    end, so a failed pass adds no token. A caller can decrease `length` to forget the last tokens.

    `windows` contains the window of each layer, or None for a layer that attends to all tokens. A
    layer with a window stores only `stored_positions`, so a caller can forget at most `REWIND`
    tokens of a longer text.

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
        windows: Sequence[int | None] | None = None,
    ) -> None:
        self.context_length = context_length
        self.length = 0
        self._windows = [None] * num_layers if windows is None else list(windows)
        sizes = [stored_positions(window, context_length) for window in self._windows]
        self.stacks: dict[int, LayerStack] = {}
        for size in dict.fromkeys(sizes):  # one stack for the layers that store equally many tokens
            shape = (sizes.count(size), batch_size, num_kv_heads, size, d_head)
            keys, values = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
            self.stacks[size] = LayerStack(keys, values, [0] * shape[0])
        self._places = [
            (self.stacks[size], sizes[:layer].count(size)) for layer, size in enumerate(sizes)
        ]

    @property
    def keys(self) -> Tensor:
        """(layer, batch, kv_head, position, d_head): the keys, if all layers store equally many."""
        (stack,) = self.stacks.values()
        return stack.keys

    @property
    def values(self) -> Tensor:
        """(layer, batch, kv_head, position, d_head): the values that belong to `keys`."""
        (stack,) = self.stacks.values()
        return stack.values

    @property
    def batch_size(self) -> int:
        return next(iter(self.stacks.values())).keys.shape[1]

    @property
    def nbytes(self) -> int:
        return sum(stack.keys.nbytes + stack.values.nbytes for stack in self.stacks.values())

    @property
    def layers(self) -> list[LayerCache]:
        """One `LayerCache` for the attention of each layer."""
        return [LayerCache(self, layer) for layer in range(len(self._places))]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (batch, kv_head, seq, d_head) -> both (batch, kv_head, key, d_head).

        Store `k` and `v`, and return all keys and values of this layer, which end with `k` and `v`.
        Without a window, the result is views that begin with the first token. With a window, the
        result begins at or before the first token that the window of a new token reaches. Raise
        ValueError if `k` does not fit in the cache.
        """
        seq = k.shape[-2]
        self.require(seq)
        stack, number = self._places[layer]
        _, batch, kv_head, _, d_head = stack.keys.shape
        if k.shape != (batch, kv_head, seq, d_head):
            raise ValueError(
                f"the shape of the keys ({tuple(k.shape)}) must be the cache's (batch, kv_head, "
                f"seq, d_head) ({(batch, kv_head, seq, d_head)}); make a cache for this shape"
            )
        window = self._windows[layer]
        needed = self.length if window is None else min(self.length, window - 1)
        return stack.write(number, self.length, needed, k.detach(), v.detach())

    def cut(self, mask: Tensor | None, first: Tensor | None, seq: int, key: int) -> Keys:
        """Make a mask (..., end) and first keys fit the last `key` of all end = length + seq keys.

        `update` returns only these keys in a layer with a window.
        """
        dropped = self.length + seq - key
        if dropped and mask is not None and mask.shape[-1] > 1:
            mask = mask[..., dropped:]
        if dropped and first is not None:
            first = (first - dropped).clamp(min=0)
        return mask, first

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
        for stack in self.stacks.values():
            stack.forget_first(count, self.length)
        self.length -= count

    def replace_last(self, row: int, other: KVCache) -> None:
        """Replace the last tokens of sequence `row` by the tokens of `other`, which has one
        sequence."""
        for (mine, number), (theirs, place) in zip(self._places, other._places, strict=True):
            end = self.length - mine.begins[number]
            last = other.length - theirs.begins[place]
            count = min(end, last)
            for into, source in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                into[number, row, :, end - count : end] = source[place, 0, :, last - count : last]

    def take(self, other: KVCache, rows: Tensor) -> None:
        """rows (batch,): copy sequence `rows[i]` of `other` into sequence i of this cache."""
        for size, mine in self.stacks.items():
            theirs = other.stacks[size]
            filled = theirs.filled(other.length)
            for into, source in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                into[..., :filled, :] = source[..., :filled, :].index_select(1, rows)
            mine.begins = list(theirs.begins)
        self.length = other.length

    def select(self, rows: Tensor) -> None:
        """rows (n,): copy sequence `rows[i]` into sequence i. The new batch size is n.

        If n is the old batch size, copy only the filled positions, and keep the memory.
        """
        same = len(rows) == self.batch_size
        for stack in self.stacks.values():
            if same:
                for tensor in (stack.keys, stack.values):
                    filled = tensor[..., : stack.filled(self.length), :]
                    filled.copy_(filled.index_select(1, rows))
            else:
                stack.keys = stack.keys.index_select(1, rows)
                stack.values = stack.values.index_select(1, rows)


@dataclass
class LayerStack:
    """The memory of the layers that store equally many tokens.

    `keys` and `values` have the shape (layer, batch, kv_head, position, d_head). Position 0 of a
    layer contains the token with the number `begins[layer]`, and later tokens follow.
    """

    keys: Tensor
    values: Tensor
    begins: list[int]

    def write(
        self, layer: int, length: int, needed: int, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """k, v (batch, kv_head, seq, d_head) -> both (batch, kv_head, key, d_head).

        Store `k` and `v` after `length` tokens. The result also has the last `needed` tokens before
        `k` and `v`, and may have earlier tokens.
        """
        keys, values = self.keys[layer], self.values[layer]
        begin, seq, positions = self.begins[layer] if length else 0, k.shape[-2], keys.shape[2]
        if begin > length - needed:
            raise ValueError(
                f"a layer with a window must have the last {needed} tokens (the cache has "
                f"{max(0, length - begin)}); forget at most {REWIND} tokens, or call reset()"
            )
        if length + seq - begin > positions:
            # A caller may forget `REWIND` tokens, so this also keeps the tokens that become the
            # first ones of the window then.
            kept = min(length - begin, needed + REWIND)
            past = slice(length - begin - kept, length - begin)
            if kept + seq > positions:
                k, v = (
                    torch.cat((old[:, :, past], new.to(old.dtype)), 2)
                    for old, new in ((keys, k), (values, v))
                )
                self.begins[layer] = length + seq - positions
                keys.copy_(k[:, :, -positions:])
                values.copy_(v[:, :, -positions:])
                return k, v
            for tensor in (keys, values):
                tensor[:, :, :kept] = tensor[:, :, past].clone()
            begin = length - kept
        self.begins[layer] = begin
        keys.narrow(2, length - begin, seq).copy_(k)
        values.narrow(2, length - begin, seq).copy_(v)
        end = length + seq - begin
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    def filled(self, length: int) -> int:
        """Return the number of positions that contain one of the first `length` tokens."""
        return max(0, length - min(self.begins))

    def forget_first(self, count: int, length: int) -> None:
        """Drop the first `count` of `length` tokens, and subtract `count` from the other numbers.

        The layers of a stack have equal begins, unless the last pass failed.
        """
        for layer, begin in enumerate(self.begins):
            for tensor in (self.keys[layer], self.values[layer]) if count > begin else ():
                kept = tensor[..., count - begin : length - begin, :].clone()
                tensor[..., : kept.shape[-2], :] = kept
            self.begins[layer] = max(0, begin - count)


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

    def cut(self, mask: Tensor | None, first: Tensor | None, seq: int, key: int) -> Keys:
        """Return both, because the caller's mask is for all positions."""
        return mask, first


@dataclass(frozen=True)
class LayerCache:
    """The part of a cache that one attention layer uses."""

    cache: KVCache | ConstantShapes
    layer: int

    @property
    def length(self) -> int:
        return self.cache.length

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (batch, kv_head, seq, d_head) -> both (batch, kv_head, key, d_head)."""
        return self.cache.update(self.layer, k, v)

    def cut(self, mask: Tensor | None, first: Tensor | None, seq: int, key: int) -> Keys:
        """Make a mask and first keys fit the `key` keys that `update` returned."""
        return self.cache.cut(mask, first, seq, key)
