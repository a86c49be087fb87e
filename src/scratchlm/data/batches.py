"""Batches from a one-dimensional array of tokens: random, by epoch, and for evaluation.

A batch has int64 `inputs` and `targets`, (batch, seq). The targets are the tokens one place after
the inputs. With `Documents`, a batch also has the place where each document begins. Tokens may be a
numpy array, a memory map, several of these (`JoinedTokens`), or a torch tensor on the CPU. A batch
reads only its own windows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scratchlm.config import takes_synonyms
from scratchlm.data.aligned import AlignedRows
from scratchlm.data.joined import TokenArray
from scratchlm.data.rows import PADDING, Documents, Numbers, Rows, StreamRows, windows_at
from scratchlm.devices.batch import Batch
from scratchlm.functional import IGNORED

_SEEN = 1 << 22  # ids in which we look for a separator

Tokens = npt.NDArray[np.integer] | TokenArray | Tensor


@takes_synonyms()
def get_batch(
    tokens: Tokens,
    batch_size: int,
    context_length: int,
    device: str | torch.device,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """tokens: (n,) -> inputs, targets: (batch, seq) int64 on `device`.

    Windows start at uniformly random places and may overlap. Raise ValueError if there are fewer
    than context_length + 1 tokens. torch raises its own error for a missing device.
    """
    array = _as_array(tokens, batch_size, context_length)
    starts = torch.randint(len(array) - context_length, (batch_size,), generator=generator)
    windows = torch.from_numpy(windows_at(array, starts.numpy(), context_length + 1))
    return inputs_and_targets(windows.to(device))


class TrainBatches:
    """Compute batch `step` from (seed, step) alone, so a resumed run reads the same batches.

    An epoch visits each of its rows once, in random order. The rows are `StreamRows`, or
    `AlignedRows` if `documents` says so. numpy's PCG64 with SeedSequence([seed, epoch]) samples the
    order. A batch may contain rows of several epochs. source: the number of these tokens in a
    mixture, as the spawn key of the sequence, so that each source has its own order; 0 has no spawn
    key.
    """

    def __init__(
        self,
        tokens: Tokens,
        batch_size: int,
        context_length: int,
        seed: int,
        source: int = 0,
        documents: Documents | None = None,
    ) -> None:
        array = _as_array(tokens, batch_size, context_length)
        if seed < 0:
            raise ValueError(f"seed must be at least 0 ({seed}); pass e.g. 0")
        self.batch_size, self.context_length = batch_size, context_length
        self.seed, self.documents = seed, documents
        self.rows: StreamRows | AlignedRows = StreamRows(array, context_length)
        if documents and documents.aligned:
            self.rows = AlignedRows(array, context_length, documents.separator)
        self.windows_per_epoch = self.rows.count
        self._key = (source,) if source else ()
        # A batch may cross into the next epoch, so keep two.
        self._epoch = functools.lru_cache(2)(self._shuffled)

    def batch(self, step: int) -> Batch:
        """Return the batch, on the CPU."""
        numbers = numbers_in(step, self.batch_size)
        return batch_of(self.windows(numbers), self.documents)

    def windows(self, numbers: Numbers) -> Numbers:
        """numbers: (n,), not decreasing -> (n, seq + 1): these rows, counted from step 0.

        Row number `windows_per_epoch` is the first row of the second epoch.
        """
        epochs, places = np.divmod(numbers, self.windows_per_epoch)
        return np.concatenate(
            [self._epoch(int(epoch))(places[epochs == epoch]) for epoch in np.unique(epochs)]
        )

    def told_of_rows(self) -> Iterator[str]:
        """Yield a line about the documents, if there is something to say."""
        if isinstance(self.rows, AlignedRows):
            yield self.rows.told()
        elif self.documents is not None:
            start = np.asarray(self.rows.tokens[:_SEEN])
            if not (start == self.documents.separator).any():
                yield (
                    f"the first {len(start):,} ids contain no separator (id "
                    f"{self.documents.separator}), so they are one document; check data.separator"
                )

    def _shuffled(self, epoch: int) -> Rows:
        """Return the rows of the epoch, in the order of visits."""
        seeds = np.random.SeedSequence([self.seed, epoch], spawn_key=self._key)
        return self.rows.shuffled(np.random.Generator(np.random.PCG64(seeds)))


def numbers_in(step: int, batch_size: int) -> Numbers:
    """Return the numbers of the rows in a batch, counted from step 0: (batch_size,)."""
    if step < 0:
        raise ValueError(f"step must be at least 0 ({step}); count steps from 0")
    return step * batch_size + np.arange(batch_size)


class EvalBatches:
    """Yield the same windows at each iteration, evenly spaced and without overlap.

    Without a limit, windows start `context_length` tokens apart and cover the set. `max_batches`
    limits the number of batches; 0 uses all windows, including the partial window at the end. All
    batches have the same shape, so torch compiles a model once. Padding fills the last batch. The
    windows cut the stream, also if training uses aligned rows, so that losses are comparable. To
    average the batches' mean losses, weight each batch by its number of targets that are not -100.
    """

    def __init__(
        self,
        tokens: Tokens,
        batch_size: int,
        context_length: int,
        max_batches: int = 0,
        documents: Documents | None = None,
    ) -> None:
        # Two tokens are enough for one prediction. Padding extends a set that is shorter than a
        # window.
        self.tokens = _as_array(tokens, batch_size, context_length, shortest=2)
        if max_batches < 0:
            raise ValueError(
                f"max_batches must be at least 0 ({max_batches}); pass 0 to use the whole set"
            )
        self.context_length, self.documents = context_length, documents
        targets = len(self.tokens) - 1
        windows = -(-targets // context_length)
        wanted = max_batches * batch_size
        if 0 < wanted < windows:
            whole = targets // context_length
            self._starts = np.arange(wanted) * whole // wanted * context_length
        else:
            self._starts = np.arange(windows) * context_length
        self.batch_size = min(batch_size, len(self._starts))

    def __len__(self) -> int:
        return -(-len(self._starts) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self._starts), self.batch_size):
            starts = self._starts[first : first + self.batch_size]
            rows = [self.tokens[start : start + self.context_length + 1] for start in starts]
            yield padded(rows, self.batch_size, self.context_length, self.documents)


def padded(
    rows: Sequence[npt.NDArray[np.integer]],
    batch_size: int,
    context_length: int,
    documents: Documents | None,
) -> Batch:
    """rows: windows of 2 to seq + 1 tokens -> batch. Padding fills short rows and missing rows."""
    windows = np.full((batch_size, context_length + 1), PADDING)
    for row, window in enumerate(rows):
        windows[row, : len(window)] = window
    return batch_of(windows, documents)


def batch_of(windows: Numbers, documents: Documents | None) -> Batch:
    """windows: (batch, seq + 1), with PADDING at the end of a row -> batch.

    A place whose target is padding gets input 0 and target -100.
    """
    inputs, targets = inputs_and_targets(torch.from_numpy(windows))
    first, padding = None, targets == PADDING
    if documents and documents.separate:
        ends = inputs == documents.separator
        targets = targets.masked_fill(ends, IGNORED)  # this target belongs to another document
        first = first_keys(ends)
    return Batch(inputs.masked_fill(padding, 0), targets.masked_fill(padding, IGNORED), first)


def first_keys(ends: Tensor) -> Tensor:
    """ends: (batch, seq), True at the last token of a document -> (batch, seq) int32: the first
    token of each token's document, or 0 for a document that begins before the row."""
    places = torch.arange(1, ends.shape[1], dtype=torch.int32)
    begins = torch.zeros(ends.shape, dtype=torch.int32)
    begins[:, 1:] = places.where(ends[:, :-1], 0)
    return begins.cummax(1).values


def _as_array(
    tokens: Tokens, batch_size: int, context_length: int, shortest: int | None = None
) -> npt.NDArray[np.integer] | TokenArray:
    array = tokens.numpy() if isinstance(tokens, Tensor) else tokens
    if not hasattr(array, "dtype"):
        array = np.asarray(array)
    shape = array.shape if isinstance(array, np.ndarray) else (len(array),)
    if len(shape) != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"tokens must be a 1-D array of integers (shape {shape}, {array.dtype}); "
            "pass the ids of a token file"
        )
    for name, size in (("batch_size", batch_size), ("context_length", context_length)):
        if not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1 ({size}); pass e.g. 32")
    if shortest is None:
        shortest = context_length + 1
    if len(array) < shortest:
        raise ValueError(
            f"the data must have at least {shortest} tokens ({len(array)}); "
            "use a longer text or a smaller context_length"
        )
    return array


def inputs_and_targets(windows: Tensor) -> tuple[Tensor, Tensor]:
    """(batch, seq + 1) -> contiguous inputs, targets: (batch, seq). A loss flattens them."""
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
