"""Batches of a mixture: windows of several sources, in fixed proportions at every step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scratchlm.data.batches import (
    EvalBatches,
    Tokens,
    TrainBatches,
    batch_of,
    numbers_in,
    padded,
)
from scratchlm.data.rows import Documents
from scratchlm.data.turns import Turns
from scratchlm.devices.batch import Batch


@dataclass(frozen=True, eq=False)
class Mixture:
    """Several sources of tokens. Each whole number in `weights` is the weight of a source."""

    names: tuple[str, ...]
    sources: tuple[Tokens, ...]
    weights: tuple[int, ...]


class MixedBatches:
    """Compute batch `step` of a mixture from (seed, step) alone.

    Window t of the run is row t % batch_size of batch t // batch_size. `Turns` chooses its source.
    Each source is a `TrainBatches`, with its own epochs and its own order. An epoch of the mixture
    has as many windows as the epochs of all sources together.
    """

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        context_length: int,
        seed: int,
        documents: Documents | None = None,
    ) -> None:
        self.turns, self.documents = Turns(mixture.weights), documents
        self.sources = [
            TrainBatches(tokens, batch_size, context_length, seed, number, documents)
            for number, tokens in enumerate(mixture.sources)
        ]
        self.names, self.batch_size, self.context_length = mixture.names, batch_size, context_length
        self.windows_per_epoch = sum(source.windows_per_epoch for source in self.sources)

    def batch(self, step: int) -> Batch:
        """Return the batch, on the CPU."""
        of, numbers = self.turns.of(numbers_in(step, self.batch_size))
        windows = np.empty((self.batch_size, self.context_length + 1), dtype=np.int64)
        for number in np.unique(of):
            rows = np.flatnonzero(of == number)
            windows[rows] = self.sources[number].windows(numbers[rows])
        return batch_of(windows, self.documents)

    def told_of_rows(self) -> Iterator[str]:
        """Yield the line of each source about its documents."""
        for name, source in zip(self.names, self.sources, strict=True):
            yield from (f"{name}: {line}" for line in source.told_of_rows())

    def counts(self, steps: int) -> list[int]:
        """Return how many windows of the first `steps` batches come from each source."""
        return self.turns.counts(steps * self.batch_size)

    def told(self, steps: int) -> Iterator[str]:
        """Yield a line for each source: its windows in `steps` batches, and its epochs."""
        counts = self.counts(steps)
        for name, source, count in zip(self.names, self.sources, counts, strict=True):
            epochs = count / source.windows_per_epoch
            repeated = ", so its text repeats" if count > source.windows_per_epoch else ""
            yield (
                f"{name}: {count:,} of {sum(counts):,} sequences ({count / sum(counts):.1%}), "
                f"which is {epochs:.3g} epochs of this source{repeated}"
            )


class MixedEvalBatches:
    """Yield the same windows of a mixture at each iteration, in the proportions of the weights.

    No window repeats: the smallest source, compared with its weight, limits their number.
    `max_batches` limits the number too, if it is not 0. Each source's windows are evenly spaced.
    """

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        context_length: int,
        max_batches: int = 0,
        documents: Documents | None = None,
    ) -> None:
        for tokens in mixture.sources:
            EvalBatches(tokens, batch_size, context_length, max_batches)  # checks its arguments
        self.names, self.sources = mixture.names, mixture.sources
        self.context_length, self.documents = context_length, documents
        self.turns = Turns(mixture.weights)
        self._whole = [(len(tokens) - 1) // context_length for tokens in mixture.sources]
        if min(self._whole) == 0:
            shortest = mixture.names[self._whole.index(0)]
            raise ValueError(
                f"each source must be longer than the context ({shortest}, context "
                f"{context_length}); use a longer text or a smaller context_length"
            )
        wanted = max_batches * batch_size or sum(self._whole)
        low, high = 1, wanted  # the largest number of windows that repeats none
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._fits(middle) else (low, middle - 1)
        self.num_windows, self.batch_size = low, min(batch_size, low)

    def _fits(self, windows: int) -> bool:
        return all(
            count <= whole
            for count, whole in zip(self.turns.counts(windows), self._whole, strict=True)
        )

    def counts(self) -> list[int]:
        """Return how many windows come from each source."""
        return self.turns.counts(self.num_windows)

    def __len__(self) -> int:
        return -(-self.num_windows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        counts, length = self.counts(), self.context_length
        for first in range(0, self.num_windows, self.batch_size):
            windows = np.arange(first, min(first + self.batch_size, self.num_windows))
            rows = []
            for source, number in zip(*map(np.ndarray.tolist, self.turns.of(windows)), strict=True):
                start = number * self._whole[source] // counts[source] * length
                rows.append(np.asarray(self.sources[source][start : start + length + 1]))
            yield padded(rows, self.batch_size, length, self.documents)


def train_batches(
    data: Tokens | Mixture,
    batch_size: int,
    context_length: int,
    seed: int,
    documents: Documents | None = None,
) -> TrainBatches | MixedBatches:
    """Return the training batches of one source or of a mixture."""
    if isinstance(data, Mixture):
        return MixedBatches(data, batch_size, context_length, seed, documents)
    return TrainBatches(data, batch_size, context_length, seed, documents=documents)


def eval_batches(
    data: Tokens | Mixture,
    batch_size: int,
    context_length: int,
    max_batches: int,
    documents: Documents | None = None,
) -> EvalBatches | MixedEvalBatches:
    """Return the validation batches of one source or of a mixture."""
    if isinstance(data, Mixture):
        return MixedEvalBatches(data, batch_size, context_length, max_batches, documents)
    return EvalBatches(data, batch_size, context_length, max_batches, documents)
