"""Batches from a one-dimensional array of tokens: random, by epoch, and for evaluation.

A batch is int64 `inputs` and `targets`, (batch, seq). The targets are the tokens one place after
the inputs. Tokens may be a numpy array, a memory map, several of these (`JoinedTokens`), or a torch
tensor on the CPU. A batch reads only its own windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scratchlm.config import takes_synonyms
from scratchlm.data.joined import TokenArray
from scratchlm.devices.ranks import Batch
from scratchlm.functional import IGNORED

Tokens = npt.NDArray[np.integer] | TokenArray | Tensor


@takes_synonyms()
def get_batch(
    tokens: Tokens,
    batch_size: int,
    context_length: int,
    device: str | torch.device,
    generator: torch.Generator | None = None,
) -> Batch:
    """tokens: (n,) -> inputs, targets: (batch, seq) int64 on `device`.

    Windows start at uniformly random places and may overlap. Raise ValueError if there are fewer
    than context_length + 1 tokens. torch raises its own error for a missing device.
    """
    array = _as_array(tokens, batch_size, context_length)
    starts = torch.randint(len(array) - context_length, (batch_size,), generator=generator)
    windows = _windows(array, starts.numpy(), context_length + 1).to(device)
    return inputs_and_targets(windows)


class TrainBatches:
    """Compute batch `step` from (seed, step) alone, so a resumed run reads the same batches.

    T is the context length. An epoch has n = max(1, (len − T)//T) windows of T + 1 tokens. Windows
    start T tokens apart, so an epoch uses no target twice. Each epoch shifts its windows by an
    offset, which is uniformly random over all possible offsets. It visits each window once, in
    random order. numpy's PCG64 with SeedSequence([seed, epoch]) samples the offset and the order. A
    batch may contain windows of several epochs. source: the number of these tokens in a mixture,
    as the spawn key of the sequence, so that each source has its own order; 0 has no spawn key.
    """

    def __init__(
        self, tokens: Tokens, batch_size: int, context_length: int, seed: int, source: int = 0
    ) -> None:
        self.tokens = _as_array(tokens, batch_size, context_length)
        if seed < 0:
            raise ValueError(f"seed must be at least 0 ({seed}); pass e.g. 0")
        self.batch_size = batch_size
        self.context_length = context_length
        self.seed = seed
        self._key = (source,) if source else ()
        self.windows_per_epoch = max(1, (len(self.tokens) - context_length) // context_length)
        self._starts: dict[int, npt.NDArray[np.int64]] = {}

    def batch(self, step: int) -> Batch:
        """Return inputs, targets: (batch, seq) int64 on the CPU."""
        if step < 0:
            raise ValueError(f"step must be at least 0 ({step}); count steps from 0")
        return inputs_and_targets(self.windows(step * self.batch_size + np.arange(self.batch_size)))

    def windows(self, numbers: npt.NDArray[np.int64]) -> Tensor:
        """numbers: (n,), not decreasing -> (n, seq + 1) int64: these windows, counted from step 0.

        Window number `windows_per_epoch` is the first window of the second epoch.
        """
        epochs, places = np.divmod(numbers, self.windows_per_epoch)
        starts = np.concatenate(
            [self._epoch_starts(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
        )
        return _windows(self.tokens, starts, self.context_length + 1)

    def _epoch_starts(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the start of each window of the epoch, in the order of visits."""
        if epoch not in self._starts:
            while len(self._starts) >= 2:  # a batch may cross into the next epoch: keep two
                del self._starts[next(iter(self._starts))]
            generator = np.random.Generator(
                np.random.PCG64(np.random.SeedSequence([self.seed, epoch], spawn_key=self._key))
            )
            length, n = self.context_length, self.windows_per_epoch
            spare = len(self.tokens) - 1 - n * length
            offset = generator.integers(spare, endpoint=True)
            self._starts[epoch] = offset + length * generator.permutation(n)
        return self._starts[epoch]


class EvalBatches:
    """Yield the same windows at each iteration, evenly spaced and without overlap.

    Without a limit, windows start `context_length` tokens apart and cover the set. `max_batches`
    limits the number of batches; 0 uses all windows, including the partial window at the end. All
    batches have the same shape, so torch compiles a model once. Input 0 with target -100 pads the
    last batch. To average the batches' mean losses, weight each batch by its number of targets that
    are not -100.
    """

    def __init__(
        self, tokens: Tokens, batch_size: int, context_length: int, max_batches: int = 0
    ) -> None:
        # Two tokens are enough for one prediction. Padding extends a set that is shorter than a
        # window.
        self.tokens = _as_array(tokens, batch_size, context_length, shortest=2)
        if max_batches < 0:
            raise ValueError(
                f"max_batches must be at least 0 ({max_batches}); pass 0 to use the whole set"
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
        for first in range(0, len(self._starts), self.batch_size):
            starts = self._starts[first : first + self.batch_size]
            rows = [self.tokens[start : start + self.context_length + 1] for start in starts]
            yield padded(rows, self.batch_size, self.context_length)


def padded(rows: Sequence[npt.NDArray[np.integer]], batch_size: int, context_length: int) -> Batch:
    """rows: windows of 2 to seq + 1 tokens -> inputs, targets (batch, seq). Input 0 and target -100
    pad the short rows and the missing rows."""
    inputs = torch.zeros((batch_size, context_length), dtype=torch.int64)
    targets = torch.full((batch_size, context_length), IGNORED)
    for row, window in enumerate(rows):
        ids = torch.from_numpy(window.astype(np.int64))
        inputs[row, : len(ids) - 1] = ids[:-1]
        targets[row, : len(ids) - 1] = ids[1:]
    return inputs, targets


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


def _windows(
    array: npt.NDArray[np.integer] | TokenArray, starts: npt.NDArray[np.int64], length: int
) -> Tensor:
    """array: (n,), starts: (batch,) -> (batch, length) int64."""
    if isinstance(array, np.ndarray):
        rows = array[starts[:, None] + np.arange(length)]
    else:
        rows = np.stack([array[start : start + length] for start in starts.tolist()])
    return torch.from_numpy(rows.astype(np.int64))


def inputs_and_targets(windows: Tensor) -> Batch:
    """(batch, seq + 1) -> contiguous inputs, targets: (batch, seq). A loss flattens them."""
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
