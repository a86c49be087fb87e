"""Batches: the same for the same seed and step, every window once per epoch, targets one place
after the inputs."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.pairs import pair, same
from scratchlm.data.batches import EvalBatches, TrainBatches, get_batch

TOKENS = np.arange(1000, 2003, dtype=np.uint16)  # its values tell where a window came from


def check(inputs: Tensor, targets: Tensor, shape: tuple[int, int]) -> None:
    assert inputs.shape == targets.shape == shape
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.is_contiguous()
    assert targets.is_contiguous()
    assert torch.equal(targets, inputs + 1)


@pytest.mark.parametrize("kind", ["array", "memmap", "tensor"])
def test_get_batch_shape_and_shift(kind: str, tmp_path: Path) -> None:
    TOKENS.tofile(tmp_path / "tokens.bin")
    tokens = {
        "array": TOKENS,
        "memmap": np.memmap(tmp_path / "tokens.bin", np.uint16, mode="r"),
        "tensor": torch.from_numpy(TOKENS),
    }[kind]
    generator = torch.Generator().manual_seed(0)
    inputs, targets = get_batch(tokens, 4, 16, "cpu", generator)
    check(inputs, targets, (4, 16))
    assert torch.equal(inputs, get_batch(TOKENS, 4, 16, "cpu", generator.manual_seed(0))[0])


def test_get_batch_reaches_every_start_alike() -> None:
    """With 10 tokens and context 7, a window starts at 0, 1 or 2, each in a third of the cases."""
    inputs, targets = get_batch(np.arange(10), 30_000, 7, "cpu", torch.Generator().manual_seed(0))
    assert targets.max() == 9  # the last token is a target
    counts = torch.bincount(inputs[:, 0])
    assert len(counts) == 3
    assert (counts - 10_000).abs().max() < 400  # 5 standard deviations


def test_get_batch_of_one_window() -> None:
    inputs, targets = get_batch(np.arange(5), 2, 4, "cpu")
    check(inputs, targets, (2, 4))


def test_get_batch_refuses_what_has_no_window() -> None:
    with pytest.raises(ValueError, match=r"must have at least 5 tokens \(4\); use"):
        get_batch(np.arange(4), 2, 4, "cpu")
    with pytest.raises(
        ValueError, match=r"a 1-D array of integers \(shape \(2, 3\), int64\); pass"
    ):
        get_batch(np.ones((2, 3), dtype=np.int64), 2, 2, "cpu")
    with pytest.raises(ValueError, match=r"a 1-D array of integers .*float64"):
        get_batch(np.ones(9), 2, 2, "cpu")
    with pytest.raises(ValueError, match=r"batch_size must be a whole number of at least 1 \(0\)"):
        get_batch(TOKENS, 0, 2, "cpu")
    with pytest.raises(ValueError, match=r"context_length must be a whole .* at least 1 \(0\)"):
        get_batch(TOKENS, 2, 0, "cpu")


def test_get_batch_raises_torchs_own_error_for_a_missing_device() -> None:
    with pytest.raises((RuntimeError, AssertionError)) as theirs:
        torch.empty(1).to("cuda:99")
    with pytest.raises(type(theirs.value)) as ours:
        get_batch(TOKENS, 2, 4, "cuda:99")
    assert str(ours.value) == str(theirs.value)


def epoch_starts(batches: TrainBatches, epoch: int) -> list[int]:
    """Return the start of each window of an epoch, computed from the batches."""
    n, size = batches.windows_per_epoch, batches.batch_size
    starts = []
    for step in range(epoch * n // size, -(-(epoch + 1) * n // size)):
        inputs, targets = pair(batches.batch(step))
        check(inputs, targets, (size, batches.context_length))
        for row in range(size):
            if epoch * n <= step * size + row < (epoch + 1) * n:
                starts.append(int(inputs[row, 0]) - 1000)
    return starts


@pytest.mark.parametrize("batch_size", [1, 7, 30, 64, 200])
def test_every_window_exactly_once_an_epoch(batch_size: int) -> None:
    batches = TrainBatches(TOKENS, batch_size, 16, seed=0)
    assert batches.windows_per_epoch == (1003 - 16) // 16 == 61  # 7, 30, 64, 200: batches straddle
    orders = [epoch_starts(batches, epoch) for epoch in range(4)]
    for starts in orders:
        offset = min(starts)
        assert 0 <= offset <= 1003 - 1 - 61 * 16
        assert sorted(starts) == [offset + 16 * i for i in range(61)]
        assert starts != sorted(starts)
    assert len({tuple(starts) for starts in orders}) == 4
    assert len({min(starts) for starts in orders}) > 1  # the offset changes too


def test_offsets_reach_every_token() -> None:
    """100 tokens are 5 windows of 16, shifted by 0 to 19: targets 1 to 99."""
    batches = TrainBatches(TOKENS[:100], 5, 16, seed=0)
    seen = {int(t) for epoch in range(200) for t in batches.batch(epoch).targets.flatten()}
    assert seen == set(range(1001, 1100))


def test_order_is_the_documented_one() -> None:
    """If these numbers change, old runs resume with other data. So they must not change, in numpy
    too."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, 2])))
    offset = generator.integers(0, 27)
    expected = offset + 16 * generator.permutation(61)
    starts = epoch_starts(TrainBatches(TOKENS, 8, 16, seed=5), 2)
    assert starts == expected.tolist()
    assert starts[:3] == [773, 693, 469]


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    used = TrainBatches(TOKENS, 8, 16, seed=3)
    for step in (90, 0, 3, 55, 7, 8, 0):
        used.batch(step)
    for step in (0, 7, 8, 54, 90, 10**6):
        fresh = TrainBatches(TOKENS, 8, 16, seed=3).batch(step)
        assert same(used.batch(step), fresh)
    other = TrainBatches(TOKENS, 8, 16, seed=4).batch(0)
    assert not torch.equal(used.batch(0).inputs, other.inputs)


def test_a_long_run_remembers_few_epochs() -> None:
    batches = TrainBatches(np.zeros(100_002, np.uint16), 100, 1, seed=0)
    batches.batch(0)
    tracemalloc.start()
    for epoch in range(1, 20):
        batches.batch(1000 * epoch)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 3 * 800_000  # an epoch is 100,000 places of 8 bytes


@pytest.mark.parametrize("length", [17, 18, 31, 32, 33, 48, 49])
def test_short_corpora(length: int) -> None:
    batches = TrainBatches(TOKENS[:length], 5, 16, seed=0)
    assert batches.windows_per_epoch == max(1, (length - 16) // 16)
    for step in range(10):
        check(*pair(batches.batch(step)), (5, 16))


def test_train_batches_refuse() -> None:
    with pytest.raises(ValueError, match=r"must have at least 17 tokens \(16\); use"):
        TrainBatches(TOKENS[:16], 5, 16, seed=0)
    with pytest.raises(ValueError, match=r"seed must be at least 0 \(-1\); pass"):
        TrainBatches(TOKENS, 5, 16, seed=-1)
    with pytest.raises(ValueError, match=r"step must be at least 0 \(-1\); count"):
        TrainBatches(TOKENS, 5, 16, seed=0).batch(-1)


def test_eval_covers_the_whole_set_once() -> None:
    batches = [pair(batch) for batch in EvalBatches(TOKENS, 8, 16, max_batches=0)]
    assert len(batches) == 8  # 1002 targets are 63 windows
    assert {tuple(inputs.shape) for inputs, _ in batches} == {(8, 16)}
    targets = torch.cat([targets.flatten() for _, targets in batches])
    assert targets[targets != -100].tolist() == list(range(1001, 2003))
    for inputs, expected in batches:
        kept = expected != -100
        assert torch.equal(inputs[kept], expected[kept] - 1)
        assert inputs.dtype == expected.dtype == torch.int64


def test_eval_takes_evenly_spaced_windows() -> None:
    batches = EvalBatches(TOKENS, 4, 16, max_batches=3)
    first = [pair(batch) for batch in batches]
    assert len(first) == len(batches) == 3
    for inputs, targets in first:
        check(inputs, targets, (4, 16))  # nothing padded
    starts = torch.cat([inputs[:, 0] for inputs, _ in first]) - 1000
    gaps = starts.diff()
    assert starts[0] == 0
    assert gaps.min() >= 16  # no overlap
    assert gaps.max() - gaps.min() <= 16
    assert starts[-1] > 1003 * 0.85
    for (a, _), b in zip(first, batches, strict=True):
        assert torch.equal(a, b.inputs)


def test_eval_of_a_set_shorter_than_a_window() -> None:
    (batch,) = EvalBatches(TOKENS[:4], 8, 6, max_batches=0)
    inputs, targets = pair(batch)
    assert inputs.tolist() == [[1000, 1001, 1002, 0, 0, 0]]
    assert targets.tolist() == [[1001, 1002, 1003, -100, -100, -100]]
    with pytest.raises(ValueError, match=r"must have at least 2 tokens \(1\)"):
        EvalBatches(TOKENS[:1], 8, 6)
    with pytest.raises(ValueError, match=r"max_batches must be at least 0 \(-1\); pass 0"):
        EvalBatches(TOKENS, 8, 6, max_batches=-1)


@pytest.mark.parametrize("limit", [1, 7, 8, 9, 100])
def test_eval_with_more_batches_than_there_are_is_the_whole_set(limit: int) -> None:
    whole = list(EvalBatches(TOKENS, 8, 16, max_batches=0))
    some = list(EvalBatches(TOKENS, 8, 16, max_batches=limit))
    assert len(some) == min(limit, 8)
    if limit >= 8:
        assert all(same(a, b) for a, b in zip(some, whole, strict=True))
