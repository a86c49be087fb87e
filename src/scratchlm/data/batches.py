"""Batches from a one-dimensional run of tokens: random, by epoch, and for evaluation.

All are int64 `inputs` and `targets`, (batch, seq), with targets the tokens one place after the
inputs. Tokens may be a numpy array, a memory map, or a torch tensor on the CPU; only the windows
asked for are read.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scratchlm.config import takes_synonyms
from scratchlm.functional import IGNORED

Tokens = npt.NDArray[np.integer] | Tensor
Batch = tuple[Tensor, Tensor]


@takes_synonyms()
def get_batch(
    tokens: Tokens,
    batch_size: int,
    context_length: int,
    device: str | torch.device,
    generator: torch.Generator | None = None,
) -> Batch:
    """tokens: (n,) -> inputs, targets: (batch, seq) int64 on `device`.

    Windows start anywhere with equal chance, overlaps allowed. ValueError for a corpus shorter
    than context_length + 1; torch's own error for a device that is not there.
    """
    array = _as_array(tokens, batch_size, context_length)
    starts = torch.randint(len(array) - context_length, (batch_size,), generator=generator)
    windows = _windows(array, starts.numpy(), context_length + 1).to(device)
    return _split(windows)


class TrainBatches:
    """Batch `step` as a pure function of (seed, step): a resumed run reads what it would have.

    An epoch has n = max(1, (len − T)//T) windows of T + 1 tokens, T apart, so that no target is
    seen twice. Each epoch shifts them by a new random offset, of all that fit, and visits every one
    once, in a new order: numpy's PCG64 from SeedSequence([seed, epoch]). A batch may straddle
    epochs.
    """

    def __init__(self, tokens: Tokens, batch_size: int, context_length: int, seed: int) -> None:
        self.tokens = _as_array(tokens, batch_size, context_length)
        if seed < 0:
            raise ValueError(f"seed must be at least 0 ({seed}); pass e.g. 0")
        self.batch_size = batch_size
        self.context_length = context_length
        self.seed = seed
        self.windows_per_epoch = max(1, (len(self.tokens) - context_length) // context_length)
        self._starts: dict[int, npt.NDArray[np.int64]] = {}

    @property
    def batches_per_epoch(self) -> float:
        """Not rounded: N epochs are ceil(N * windows_per_epoch / batch_size) batches."""
        return self.windows_per_epoch / self.batch_size

    def batch(self, step: int) -> Batch:
        """inputs, targets: (batch, seq) int64 on the CPU."""
        if step < 0:
            raise ValueError(f"step must be at least 0 ({step}); count steps from 0")
        index = step * self.batch_size + np.arange(self.batch_size)
        epochs, places = np.divmod(index, self.windows_per_epoch)
        starts = np.concatenate(
            [self._epoch_starts(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
        )
        return _split(_windows(self.tokens, starts, self.context_length + 1))

    def _epoch_starts(self, epoch: int) -> npt.NDArray[np.int64]:
        """Where each window of the epoch starts, in the order of visit."""
        if epoch not in self._starts:
            while len(self._starts) >= 2:  # a batch straddles two epochs; older ones are done with
                del self._starts[next(iter(self._starts))]
            generator = np.random.Generator(
                np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
            )
            length, n = self.context_length, self.windows_per_epoch
            spare = len(self.tokens) - 1 - n * length
            offset = generator.integers(spare, endpoint=True)
            self._starts[epoch] = offset + length * generator.permutation(n)
        return self._starts[epoch]


class EvalBatches:
    """Iterating yields the same windows each time, evenly spaced and without overlap.

    Windows are T apart and cover the set; `max_batches` takes that many batches of them, 0 all,
    the partial one at the end included. Every batch has the same shape (a compiled model compiles
    once): what the last one lacks is input 0 with target -100. Weigh a batch's mean loss by its
    targets that are not -100.
    """

    def __init__(
        self, tokens: Tokens, batch_size: int, context_length: int, max_batches: int = 0
    ) -> None:
        # One prediction is enough to evaluate: a set shorter than a window is padded.
        self.tokens = _as_array(tokens, batch_size, context_length, shortest=2)
        if max_batches < 0:
            raise ValueError(
                f"max_batches must be at least 0 ({max_batches}); 0 takes the whole set"
            )
        self.context_length = context_length
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
        shape = (self.batch_size, self.context_length)
        for first in range(0, len(self._starts), self.batch_size):
            inputs = torch.zeros(shape, dtype=torch.int64)
            targets = torch.full(shape, IGNORED)
            for row, start in enumerate(self._starts[first : first + self.batch_size]):
                window = self.tokens[start : start + self.context_length + 1].astype(np.int64)
                inputs[row, : len(window) - 1] = torch.from_numpy(window[:-1])
                targets[row, : len(window) - 1] = torch.from_numpy(window[1:])
            yield inputs, targets


def _as_array(
    tokens: Tokens, batch_size: int, context_length: int, shortest: int | None = None
) -> npt.NDArray[np.integer]:
    array = tokens.numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"tokens must be one row of integers (shape {array.shape}, {array.dtype}); "
            "pass the ids of a token shard"
        )
    for name, size in (("batch_size", batch_size), ("context_length", context_length)):
        if not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1 ({size}); pass e.g. 32")
    if shortest is None:
        shortest = context_length + 1
    if len(array) < shortest:
        raise ValueError(
            f"a window needs {shortest} tokens ({len(array)}); "
            "use a longer text or a smaller context_length"
        )
    return array


def _windows(array: npt.NDArray[np.integer], starts: npt.NDArray[np.int64], length: int) -> Tensor:
    """array: (n,), starts: (batch,) -> (batch, length) int64."""
    rows = array[starts[:, None] + np.arange(length)]
    return torch.from_numpy(rows.astype(np.int64))


def _split(windows: Tensor) -> Batch:
    """(batch, seq + 1) -> inputs, targets: (batch, seq), contiguous, since a loss flattens them."""
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
