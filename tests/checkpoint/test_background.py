from __future__ import annotations

import threading

import pytest
import torch

from scratchlm.checkpoint.background import CheckpointWriter, snapshot


def test_a_snapshot_keeps_its_values_while_the_model_goes_on():
    weight = torch.nn.Parameter(torch.ones(3))
    value = {"a": weight, "tied": weight, "list": [torch.zeros(2), 1], "tuple": (None, "x", 2.5)}
    taken = snapshot(value)
    with torch.no_grad():
        weight.add_(1)
        value["list"][0].add_(1)
    assert torch.equal(taken["a"], torch.ones(3))
    assert taken["tied"] is taken["a"], "tied weights are copied once, and stay tied"
    assert not taken["a"].requires_grad
    assert torch.equal(taken["list"][0], torch.zeros(2))
    assert taken["list"][1:] == [1]
    assert taken["tuple"] == (None, "x", 2.5)


def test_views_of_one_storage_are_not_mistaken_for_tied():
    base = torch.arange(6.0)
    taken = snapshot(
        {"whole": base, "front": base[:3], "empty": base[:0], "square": base.view(2, 3)}
    )
    assert taken["front"].tolist() == [0, 1, 2]
    assert taken["whole"].tolist() == [0, 1, 2, 3, 4, 5]
    assert taken["empty"].numel() == 0
    assert taken["square"].shape == (2, 3)


def test_writing_goes_on_beside_and_wait_hears_how_it_ended():
    writer, going, done = CheckpointWriter(), threading.Event(), []

    def write() -> None:
        going.wait(5)
        done.append(1)

    writer.submit(write)
    assert not done
    going.set()
    writer.wait()
    assert done == [1]

    def fail() -> None:
        raise OSError("full")

    writer.submit(fail)
    with pytest.raises(OSError, match="full"):
        writer.wait()
    writer.wait()
    writer.finish()


def test_finish_waits_and_does_not_ask():
    writer, done = CheckpointWriter(), []
    writer.submit(lambda: done.append(1))
    writer.finish()
    assert done == [1]
