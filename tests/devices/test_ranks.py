"""Ranks, as processes that communicate by gloo; the tests with the marker gpu use NCCL."""

from __future__ import annotations

import functools
import itertools
import time
from datetime import timedelta

import pytest
import torch
from torch import nn

from helpers import forked
from scratchlm.devices.batch import Batch
from scratchlm.devices.ranks import ALONE, Ranks, Share, data_parallel, joined, reducing, shared


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("micro_batches", [1, 2, 3, 4, 6, 8])
def test_the_ranks_take_every_row_of_a_step_once(size, micro_batches):
    batch_size, first = 840, 7  # 840 is a multiple of 1 to 8
    rows = torch.arange(batch_size)
    seen = []
    for rank in range(size):
        share = Share.of(Ranks(rank, size), micro_batches, batch_size)
        for index in share.indices(first, micro_batches):
            mine = share.rows(Batch(rows, rows, rows))
            assert torch.equal(mine.inputs, mine.targets)
            assert torch.equal(mine.inputs, mine.first)
            seen += [(index, row) for row in mine.inputs.tolist()]
        assert len(seen) == (rank + 1) * batch_size * micro_batches // size, "as much as any other"
    every = itertools.product(range(first, first + micro_batches), range(batch_size))
    assert sorted(seen) == sorted(every)


def test_a_step_that_cannot_be_shared_is_refused():
    with pytest.raises(
        ValueError, match=r"divide a step of 1 x 6 sequences evenly \(4 ranks\); use"
    ):
        Share.of(Ranks(0, 4), 1, 6)


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("size", [1, 2, 3])
def test_batches_are_shared_and_made_up_to_as_many_for_each(number, size):
    batches = [Batch(*(torch.full((2,), i) for _ in range(3))) for i in range(number)]
    each = [list(shared(batches, Ranks(rank, size))) for rank in range(size)]
    assert {len(mine) for mine in each} == {-(-number // size)}
    counted = [int(b.targets[0]) for mine in each for b in mine if b.targets[0] != -100]
    assert all(torch.equal(b.inputs, b.first) for mine in each for b in mine)
    assert sorted(counted) == list(range(number))


def test_alone_nothing_is_sent():
    tensor = torch.ones(3)
    assert ALONE.sum(tensor) is tensor
    assert ALONE.total(3, torch.device("cpu")) == 3
    assert ALONE.any(True, torch.device("cpu"))
    assert not ALONE.any(False, torch.device("cpu"))
    assert ALONE.gather("x") == ["x"]
    with joined() as ranks:
        assert ranks == ALONE


def _talk(ranks):
    cpu = torch.device("cpu")
    module = nn.Linear(2, 1, bias=False)
    nn.init.ones_(module.weight)
    wrapped = data_parallel(module, cpu)
    gradients = []
    for now in (False, True):
        with reducing(wrapped, now):
            wrapped(torch.full((1, 2), float(ranks.rank + 1))).sum().backward()
        gradients.append(module.weight.grad.tolist())
    return (
        ranks.first, ranks.sum(torch.tensor([float(ranks.rank)])).tolist(),
        float(ranks.total(ranks.rank + 1, cpu)), ranks.any(ranks.rank == 1, cpu),
        ranks.gather(f"r{ranks.rank}"), gradients,
    )  # fmt: skip


def _late(ranks):
    if ranks.first:
        time.sleep(3)
    return ranks.gather(ranks.local_size, aside=True)


def test_a_wait_is_as_long_as_it_takes(tmp_path, monkeypatch):
    """A rank waits longer than the limit for the communication of a step."""
    short = functools.partial(joined, timedelta(seconds=2))
    monkeypatch.setattr(forked, "joined", short)
    assert forked.run_ranks(tmp_path, 2, _late) == [[2, 2], [2, 2]]


def test_two_ranks_talk(tmp_path):
    first, second = forked.run_ranks(tmp_path, 2, _talk)
    for rank, (is_first, total, count, any_, names, gradients) in enumerate((first, second)):
        assert is_first == (rank == 0)
        assert total == [1.0]
        assert count == 3
        assert any_
        assert names == ["r0", "r1"]
        own = rank + 1.0
        assert gradients[0] == [[own, own]], "before the last micro-batch nothing is summed"
        assert gradients[1] == [[3.0, 3.0]], "then both micro-batches are averaged over the ranks"
