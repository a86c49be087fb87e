"""Batches of dialogues. A row has several whole dialogues, and each attends only to itself.

`Batch.first` has the place where each input's dialogue begins, so positions count from 0 in each
dialogue. The room that remains at the end of a row is a segment of its own, without targets. Each
dialogue has a target, so each row has a target too. Both dialogues of a pair of answers are in the
same row.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from scratchlm.data.batches import numbers_in
from scratchlm.data.conversations.examples import number_of
from scratchlm.data.conversations.masks import Example
from scratchlm.data.conversations.pairs import Pair
from scratchlm.data.packing import Numbers, Packing, pack
from scratchlm.devices.batch import Batch
from scratchlm.functional import IGNORED


class Examples:
    """Store examples in two arrays: the ids in `dtype`, and one byte for each mark.

    lengths: (examples,) the number of predictions of each example.
    """

    KIND = "dialogue"

    def __init__(self, examples: Iterable[Example], dtype: npt.DTypeLike = np.int64) -> None:
        ids, marks, sizes = bytearray(), bytearray(), [0]
        for example in examples:
            ids += example.ids.astype(dtype).tobytes()
            marks += example.is_target.tobytes()
            sizes.append(len(example.ids))
        self._ids, self._marks = np.frombuffer(ids, dtype), np.frombuffer(marks, np.bool_)
        self._ends = np.cumsum(sizes)
        self._numbers = np.arange(len(sizes) - 1)
        self.lengths = np.array(sizes[1:], dtype=np.int64) - 1

    def chosen(self, numbers: Numbers) -> Examples:
        """Return the examples with these numbers, which may repeat. They share the arrays."""
        part = copy.copy(self)
        part._numbers, part.lengths = self._numbers[numbers], self.lengths[numbers]
        return part

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> Example:
        stored = self._numbers[number]
        place = slice(self._ends[stored], self._ends[stored + 1])
        return Example(self._ids[place].astype(np.int64), self._marks[place])

    def hashes(self) -> Iterator[bytes]:
        """Yield a hash of the ids of each example."""
        for stored in self._numbers:
            ids = self._ids[self._ends[stored] : self._ends[stored + 1]]
            yield hashlib.sha256(ids.tobytes()).digest()

    def hash(self) -> str:
        """Return the SHA-256 of the ids and the marks of all examples in order."""
        digest = hashlib.sha256()
        for array in (self._ids, self._marks, self._ends, self._numbers):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def batch(self, rows: Sequence[Numbers], batch_size: int, context_length: int) -> Batch:
        """rows: the numbers of the examples in each row -> batch. Missing rows are padding."""
        inputs = np.zeros((batch_size, context_length), dtype=np.int64)
        targets = np.full_like(inputs, IGNORED)
        first = np.zeros(inputs.shape, dtype=np.int32)
        for row, numbers in enumerate(rows):
            start = 0
            for number in numbers.tolist():
                end = start + int(self.lengths[number])
                inputs[row, start:end], targets[row, start:end] = self[number].inputs_and_targets()
                first[row, start:end] = start
                start = end
            first[row, start:] = start
        return Batch(*map(torch.from_numpy, (inputs, targets, first)))


class Pairs:
    """Store pairs of examples. `Examples` explains the arguments.

    lengths: (pairs,) the number of predictions of each pair.
    """

    KIND = "pair"

    def __init__(self, pairs: Iterable[Pair], dtype: npt.DTypeLike = np.int64) -> None:
        self.examples = Examples(itertools.chain.from_iterable(pairs), dtype)
        self.lengths = self.examples.lengths.reshape(-1, 2).sum(1)

    def chosen(self, numbers: Numbers) -> Pairs:
        """Return the pairs with these numbers, which may repeat. They share the arrays."""
        part = copy.copy(self)
        part.examples, part.lengths = self.examples.chosen(_both(numbers)), self.lengths[numbers]
        return part

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: Sequence[Numbers], batch_size: int, context_length: int) -> Batch:
        """rows: the numbers of the pairs in each row -> batch. Missing rows are padding."""
        examples = [_both(row) for row in rows]
        pairs = np.zeros((batch_size, context_length), dtype=np.int32)
        for row, numbers in enumerate(examples):
            count = np.arange(1, len(numbers) // 2 + 1)
            signed = np.stack((count, -count), axis=1).ravel()
            marks = np.repeat(signed, self.examples.lengths[numbers])
            pairs[row, : len(marks)] = marks
        batch = self.examples.batch(examples, batch_size, context_length)
        return replace(batch, pairs=torch.from_numpy(pairs))

    def hashes(self) -> Iterator[bytes]:
        """Yield a hash of the ids of each pair."""
        both = self.examples.hashes()
        yield from (chosen + rejected for chosen, rejected in zip(both, both, strict=True))

    def hash(self) -> str:
        """Return the SHA-256 of the ids and the marks of all pairs in order."""
        return self.examples.hash()


def _both(numbers: Numbers) -> Numbers:
    """Return the numbers of both examples of each pair."""
    return np.stack((2 * numbers, 2 * numbers + 1), axis=1).ravel()


class DialogueBatches:
    """Compute batch `step` of a training run from (seed, step) alone.

    An epoch visits each row once, and `pack` makes its rows from (seed, epoch). Every epoch has the
    same number of rows. A batch may contain rows of two epochs. Without `packing`, a row has one
    dialogue.
    """

    def __init__(
        self,
        examples: Examples | Pairs,
        batch_size: int,
        context_length: int,
        seed: int,
        packing: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 ({batch_size}); pass e.g. 8")
        self.examples, self.batch_size = examples, batch_size
        self.context_length, self.seed, self.packing = context_length, seed, packing
        # A batch may cross into the next epoch, so keep two.
        self._epoch = functools.lru_cache(2)(self._packed)
        self.windows_per_epoch = len(self._epoch(0))

    def batch(self, step: int) -> Batch:
        """Return the batch, on the CPU."""
        numbers = numbers_in(step, self.batch_size)
        epochs, places = np.divmod(numbers, self.windows_per_epoch)
        rows = zip(epochs.tolist(), places.tolist(), strict=True)
        numbers_of = [self._epoch(epoch)[place] for epoch, place in rows]
        return self.examples.batch(numbers_of, self.batch_size, self.context_length)

    def told_of_rows(self) -> Iterator[str]:
        """Yield a line about the rows and their padding."""
        rows = self.windows_per_epoch
        places = rows * self.context_length
        wasted = places - int(self.examples.lengths.sum())
        yield (
            f"an epoch has {number_of(len(self.examples), self.examples.KIND)} in "
            f"{number_of(rows, 'row')} of {self.context_length:,} tokens; padding is {wasted:,} of "
            f"{places:,} places "
            f"({wasted / places:.2%})"
        )

    def _packed(self, epoch: int) -> Packing:
        lengths = self.examples.lengths
        if not self.packing:  # each dialogue fills a row
            lengths = np.full_like(lengths, self.context_length)
        return pack(lengths, self.context_length, self.seed, epoch)


class DialogueEvalBatches:
    """Yield the same rows at each iteration. `max_batches` limits their number; 0 uses all.

    All batches have the same shape. The last batch may have rows of padding.
    """

    def __init__(
        self, examples: Examples | Pairs, batch_size: int, context_length: int, max_batches: int = 0
    ) -> None:
        self.examples, self.context_length = examples, context_length
        self._rows = list(pack(examples.lengths, context_length))
        if max_batches:
            self._rows = self._rows[: max_batches * batch_size]
        self.batch_size = min(batch_size, len(self._rows))

    def __len__(self) -> int:
        return -(-len(self._rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self._rows), self.batch_size):
            rows = self._rows[first : first + self.batch_size]
            yield self.examples.batch(rows, self.batch_size, self.context_length)
