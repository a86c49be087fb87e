"""`Decoder` extends several sequences together: one forward pass per step, with one KV cache.

    decoder = Decoder(model, max_tokens=100)
    logits = decoder.prefill([[5, 6, 7], [8]])      # (2, vocab)
    logits = decoder.step([1, 2])                   # (2, vocab)

Sampling, beam search, speculative decoding and chat use these calls. They run the model's
own forward pass.

Prompts of different lengths are aligned at their ends: shorter prompts start with padding (`.`). No
query attends to padding, and positions do not count padding. So each sequence gets the same result
as alone, and all sequences write at the same place of the cache:

    . . a b c        positions  0 0 0 1 2
    d e f g h        positions  0 1 2 3 4
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from scratchlm.config import takes_synonyms
from scratchlm.devices.compilation import compiling
from scratchlm.devices.runtime import resolve_dtype
from scratchlm.model.kv_cache import ConstantShapes, KVCache
from scratchlm.model.transformer import Transformer

Overflow = Literal["stop", "slide"]
CHUNK = 512  # prompt tokens in one pass: this bounds the memory that a long prompt needs
KEPT = 4  # free caches that a compiled step keeps for the next prompt
SHAPES = 256  # compiled shapes; torch's own limit is 8, and beyond this torch silently gets slow


@takes_synonyms()
class Decoder:
    """A model and the sequences that it continues.

    model: a model in evaluation mode. max_tokens: how many tokens the caller will add; this number
    bounds the cache's memory. chunk: how many tokens of a prompt one forward pass reads.

    overflow: what `step` does when a sequence fills the model's context. "stop" raises ValueError,
    so the caller must stop before. "slide" reads the last half of the context again, as a prompt,
    and then continues. It does the same with a prompt that is too long.

    compiled: a `CompiledStep` of the model, which runs each step with constant shapes.
    """

    def __init__(
        self,
        model: Transformer,
        max_tokens: int,
        *,
        overflow: Overflow = "stop",
        chunk: int = CHUNK,
        compiled: CompiledStep | None = None,
    ) -> None:
        self.model = model
        self.max_tokens = max_tokens
        self.overflow = overflow
        self.chunk = chunk
        self.compiled = compiled
        self.context_length = model.config.context_length
        self.device = model.embedding.weight.device
        # On a processor without bf16 arithmetic, attention is three times as fast in fp32.
        stored, native = model.embedding.weight.dtype, resolve_dtype("auto", self.device)
        self.cache_dtype = native if stored == torch.bfloat16 else stored
        self.ids: list[list[int]] = []  # all ids of each sequence, the prompt included
        self.lengths: list[int] = []  # the cache holds the last `lengths[i]` ids of sequence i

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """prompts, each of at least one id -> logits (batch, vocab) after their last ids.

        The prompts replace all earlier sequences.
        """
        self.ids = [list(prompt) for prompt in prompts]
        seen = [ids if self._fits(ids) else ids[-self._half :] for ids in self.ids]
        self.lengths = [len(ids) for ids in seen]
        longest = max(self.lengths)
        room = min(longest + self.max_tokens, self.context_length)
        self.cache = self._new_cache(len(prompts), room)
        padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids in seen])
        return self.model.logits(self._read(padded, self.cache, self._offsets(longest))[:, -1])

    def step(self, ids: Sequence[int]) -> Tensor:
        """ids (batch,), one for each sequence -> logits (batch, vocab) of the next id."""
        return self.extend([[i] for i in ids])[:, -1]

    @torch.inference_mode()
    def extend(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """ids (batch, n), n for each sequence -> logits (batch, n, vocab) after each id.

        It raises ValueError if a sequence would exceed the context, unless `overflow` is "slide"
        and n is 1.
        """
        count = len(ids[0])
        if max(self.lengths) + count > self.context_length:
            if self.overflow == "stop" or count > 1:
                raise ValueError(
                    f"the context is full ({max(self.lengths)} of {self.context_length} tokens, "
                    f"{count} to add); add fewer tokens, or set overflow to slide"
                )
            self._slide()
        if self.cache.length + count > self.cache.context_length:
            self._align()
        for row, new in enumerate(ids):
            self.ids[row] += new
            self.lengths[row] += count
        new_ids = torch.tensor(ids)
        if self.compiled is not None and count == 1:
            return self.compiled(new_ids.to(self.device), self.cache, self._offsets(count))
        return self.model.logits(self._read(new_ids, self.cache, self._offsets(count)))

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Replace sequence i by a copy of sequence rows[i].

        This reorders beams, multiplies samples and drops finished sequences.
        """
        if list(rows) == list(range(len(self.ids))):
            return
        places = torch.tensor(rows, device=self.device)
        if self.compiled is not None and len(rows) != len(self.ids):
            wider = self._new_cache(len(rows), self.cache.context_length)
            wider.take(self.cache, places)
            self.cache = wider
        else:
            self.cache.select(places)
        self.ids = [list(self.ids[row]) for row in rows]
        self.lengths = [self.lengths[row] for row in rows]
        self._align()

    def rewind(self, count: int) -> None:
        """Remove the last `count` ids of every sequence."""
        if count:
            self.cache.length -= count
            self.ids = [ids[:-count] for ids in self.ids]
            self.lengths = [length - count for length in self.lengths]

    def _new_cache(self, batch_size: int, room: int) -> KVCache:
        if self.compiled is None:
            return self.model.new_cache(batch_size, room, dtype=self.cache_dtype)
        return self.compiled.lend_cache(self, batch_size, room, self.cache_dtype)

    @property
    def _half(self) -> int:
        return self.context_length // 2

    def _fits(self, ids: Sequence[int]) -> bool:
        return len(ids) <= self.context_length or self.overflow == "stop"

    def _offsets(self, count: int = 0) -> list[int]:
        """Return how much padding each sequence has.

        count: the number of ids that `lengths` includes but the cache does not contain yet.
        """
        return [self.cache.length + count - length for length in self.lengths]

    def _read(self, ids: Tensor, cache: KVCache, offsets: list[int]) -> Tensor:
        """ids (batch, seq) that follow the cache -> `hidden` (batch, n, d_model) of the last chunk.

        n is seq if the ids fit in one chunk.
        """
        for chunk in ids.to(self.device).split(self.chunk, dim=1):
            start, end = cache.length, cache.length + chunk.shape[1]
            if not any(offsets):
                hidden = self.model.hidden(chunk, cache=cache)
                continue
            padding = torch.tensor(offsets, device=self.device)[:, None]  # (batch, 1)
            places = torch.arange(end, device=self.device)
            hidden = self.model.hidden(
                chunk,
                cache=cache,
                positions=(places[start:] - padding).clamp(min=0),  # (batch, seq)
                mask=(places >= padding)[:, None, None],  # (batch, head, query, key)
            )
        return hidden

    def _align(self) -> None:
        """Shift the cache to the front by the padding that all sequences have."""
        spare = min(self._offsets())
        if spare > 0:
            self.cache.forget_first(spare)

    def _slide(self) -> None:
        """Replace the keys and values of each full context by a second pass over its last half."""
        kept = self._half
        full = [row for row, n in enumerate(self.lengths) if n == self.context_length]
        for row in full:
            fresh = self.model.new_cache(1, kept, dtype=self.cache_dtype)
            self._read(torch.tensor([self.ids[row][-kept:]]), fresh, [0])
            self.cache.replace_last(row, fresh)
            self.lengths[row] = kept
        self._align()


class CompiledStep:
    """A graph of constant shapes that reads one token of every sequence.

    The first call compiles the graph. The graph reads the whole cache, and a mask hides the empty
    part, so every step can use the same graph. On CUDA, each step replays a CUDA graph. Raise
    ValueError for a model with a sliding window: its attention selects keys by their number, and
    this number includes the empty part here.
    """

    def __init__(self, model: Transformer, backend: str = "inductor") -> None:
        if model.config.window is not None:
            raise ValueError(
                f"a model with a sliding window cannot be compiled (window {model.config.window}); "
                "use --compile off"
            )
        cuda = model.embedding.weight.device.type == "cuda"
        mode = "reduce-overhead" if cuda and backend == "inductor" else None
        torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
        self.model = model
        self.view: ConstantShapes | None = None
        self.run: Callable[..., Tensor] = torch.compile(
            self._run, dynamic=False, mode=mode, backend=backend
        )
        self._free: list[KVCache] = []

    def lend_cache(
        self, borrower: object, batch_size: int, room: int, dtype: torch.dtype
    ) -> KVCache:
        """Return an empty cache for at least `room` tokens, reserved until `borrower` is deleted.

        Its length is a power of two (at most the context), and later borrowers reuse the cache. So
        a later prompt of another length has the same shapes and addresses, and torch does not
        compile again.
        """
        room = min(1 << (room - 1).bit_length(), self.model.config.context_length)
        del self._free[:-KEPT]
        for cache in self._free:
            if cache.batch_size == batch_size and cache.context_length == room:
                self._free.remove(cache)
                break
        else:
            cache = self.model.new_cache(batch_size, room, dtype=dtype)
        cache.reset()
        weakref.finalize(borrower, self._free.append, cache)
        return cache

    def _run(self, ids: Tensor, padding: Tensor, view: ConstantShapes) -> Tensor:
        """ids and padding (batch, 1) -> logits (batch, 1, vocab)."""
        places = torch.arange(view.keys.shape[3], device=ids.device)
        mask = (places >= padding) & (places <= view.index)
        return self.model(ids, cache=view, positions=view.index - padding, mask=mask[:, None, None])

    def __call__(self, ids: Tensor, cache: KVCache, offsets: list[int]) -> Tensor:
        if self.view is None or self.view.keys is not cache.keys:
            self.view = ConstantShapes(cache)
            # Without this mark, a CUDA graph copies the tensors at each step.
            for tensor in (cache.keys, cache.values):
                torch._dynamo.mark_static_address(tensor, guard=False)
        self.view.index.fill_(cache.length)
        padding = torch.tensor(offsets, device=ids.device)[:, None]
        with compiling():
            logits = self.run(ids, padding, self.view)
        cache.advance(1)
        return logits.clone()  # the next step overwrites the graph's own memory
