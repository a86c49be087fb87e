"""A run on several ranks is the run on one: DDP and FSDP, and from any number to any other."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from helpers import exact_runs as exactness
from helpers import forked
from scratchlm.checkpoint.models import load_model
from scratchlm.checkpoint.pointers import find_checkpoint
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.cli.train import said_once
from scratchlm.devices.ranks import Ranks, agreed
from scratchlm.errors import (
    FileFormatError,
    Interrupted,
    NumericalError,
    OtherRankError,
    WorkerError,
)

SHORT = {
    "train.iterations": 12,
    "train.eval_every": 6,
    "train.save_every": 6,
    "train.keep_last": 0,
    "model.dropout": 0.0,
    "runtime.dtype": "float32",  # "auto" takes bfloat16 on a processor that has it
}


def given(folder, out, **changes):
    flags = exactness.flags(folder, out, **(SHORT | changes))
    flags.pop("train.epochs")
    return flags


def _run(ranks, flags):
    exactness.run(flags, ranks)


def run(folder, size, flags):
    forked.run_ranks(folder, size, _run, flags)


def assert_near(folder, one, other, *, tolerance=1e-5, steps=12):
    """Compare every number of the log and every tensor of the last checkpoint, within the
    tolerance."""
    logs = [exactness.log_of(folder / name) for name in (one, other)]
    assert [len(log) for log in logs] == [steps, steps]
    for mine, theirs in zip(*logs, strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            if isinstance(value, float):
                assert math.isclose(value, theirs[key], rel_tol=tolerance, abs_tol=tolerance), key
    first, second = (exactness.final(folder / name) for name in (one, other))
    for key, tensor in first["model"].items():
        torch.testing.assert_close(tensor, second["model"][key], rtol=tolerance, atol=tolerance)
    states = [payload["optimizer"]["state"] for payload in (first, second)]
    for index, state in states[0].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                other_value = states[1][index][key]
                torch.testing.assert_close(value, other_value, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_two_ranks_equal_one(tmp_path, parallel, optimizer):
    """The learning rate is small: Muon orthogonalizes, and AdamW's first steps divide, gradients
    that are near 0 and differ by rounding."""
    changes = {"optim.optimizer": optimizer, "optim.lr": 1e-3}
    if optimizer != "muon":
        changes["optim.adamw_lr"] = "none"
    if optimizer == "sgd":
        changes["optim.momentum"] = 0.9
    run(tmp_path, 1, given(tmp_path, "one", **changes))
    run(tmp_path, 2, given(tmp_path, "two", **{"runtime.parallel": parallel}, **changes))
    assert_near(tmp_path, "one", "two")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_four_ranks_share_two_micro_batches_by_rows(tmp_path, parallel):
    changes = {"optim.lr": 1e-3, "optim.adamw_lr": 1e-3}
    run(tmp_path, 1, given(tmp_path, "one", **changes))
    run(tmp_path, 4, given(tmp_path, "four", **{"runtime.parallel": parallel}, **changes))
    assert_near(tmp_path, "one", "four")


def test_from_one_rank_to_two_sharded_to_four_and_back(tmp_path):
    """A checkpoint does not know how many ranks it is from."""
    changes = {"optim.lr": 1e-3, "optim.adamw_lr": 1e-3, "model.tie_embeddings": "true"}
    straight = given(tmp_path, "straight", **changes)
    run(tmp_path, 1, straight)
    stages = [(1, "ddp", 3), (2, "fsdp", 6), (4, "ddp", 8), (4, "fsdp", 10), (1, "ddp", 12)]
    schedule = {"optim.schedule": "constant", "optim.warmup_steps": 0}
    run(tmp_path, 1, given(tmp_path, "flat", **changes, **schedule))
    for size, parallel, until in stages:
        flags = given(tmp_path, "moved", **changes, **schedule)
        run(tmp_path, size, {**flags, "runtime.parallel": parallel, "train.iterations": until,
                             "train.eval_every": 6})  # fmt: skip
        last = find_checkpoint(tmp_path / "moved", "last")
        assert last.name == f"step-{until:08d}"
        names = {path.name for path in last.iterdir()}
        assert ("model.safetensors" in names) == (parallel == "ddp")
        assert (f"state-{size:05d}-of-{size:05d}.safetensors" in names) == (parallel == "fsdp")
        spread = parallel if size > 1 else None
        assert read_checkpoint(last)["environment"]["parallel"] == spread
    flat = exactness.log_of(tmp_path / "flat")
    moved = exactness.log_of(tmp_path / "moved")
    for mine, theirs in zip(flat, moved, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    sharded = load_model(tmp_path / "moved" / "checkpoints" / "step-00000010", "cpu")
    assert sharded.lm_head.weight is sharded.embedding.weight
    history = read_checkpoint(find_checkpoint(tmp_path / "moved", "last"))["history"]
    assert [each["step"] for each in history] == [3, 6, 8, 10]


def test_a_sharded_run_resumed_on_as_many_ranks_is_equal_to_the_bit(tmp_path):
    changes = {"runtime.parallel": "fsdp", "model.dropout": 0.1}
    run(tmp_path, 2, given(tmp_path, "straight", **changes))
    first = given(tmp_path, "halves", **changes)
    run(tmp_path, 2, {**first, "train.iterations": 6, "optim.warmup_steps": 5})
    run(tmp_path, 2, first)
    one, two = exactness.final(tmp_path / "straight"), exactness.final(tmp_path / "halves")
    assert one.pop("history") == []
    assert [each["step"] for each in two.pop("history")] == [6]
    assert exactness.difference(one, two) is None


def test_only_the_first_rank_says_anything(tmp_path, capfd):
    run(tmp_path, 2, given(tmp_path, "run"))
    out = capfd.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("step ")]
    assert len(lines) == len(set(lines)) > 0
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, 13))


def test_bad_data_is_one_error_on_every_rank(tmp_path):
    """The first finds it, while the others wait."""
    flags = given(tmp_path, "run", **{"model.vocab_size": 90})
    for process in forked.start_ranks(tmp_path, 2, _run, flags):
        assert forked.wait(process) == 1
    for rank, raised in enumerate(("ValueError", "OtherRankError")):
        kind, (name, text, trace) = forked.answer(tmp_path, rank)
        assert (kind, name) == ("error", raised), trace
        assert "each id must be less than vocab_size" in text


@pytest.mark.parametrize(("error", "code"), [(Interrupted(15, "stopped"), 143),
                                             (NumericalError("nan"), 4)])  # fmt: skip
def test_what_all_ranks_raise_the_first_says(error, code):
    with pytest.raises(type(error)), said_once(Ranks(0, 2)):
        raise error
    with pytest.raises(SystemExit) as caught, said_once(Ranks(1, 2)):
        raise error
    assert caught.value.code == code
    with pytest.raises(OSError, match="its own"), said_once(Ranks(1, 2)):
        raise OSError("its own")


def _raises_on(ranks, failing):
    with agreed(ranks):
        if ranks.rank in failing:
            raise OSError(28, "No space left on device", f"rank-{ranks.rank}")
    return "went on"


@pytest.mark.parametrize("failing", [(), (1,), (1, 2)])
def test_what_one_rank_raises_ends_all_and_is_said_once(tmp_path, failing):
    processes = forked.start_ranks(tmp_path, 3, _raises_on, failing)
    codes = [forked.wait(process) for process in processes]
    assert codes == ([1, 1, 1] if failing else [0, 0, 0])
    answers = [forked.answer(tmp_path, rank) for rank in range(3)]
    if not failing:
        assert answers == [("ok", "went on")] * 3
        return
    names = [error[0] for _, error in answers]
    assert names == ["OtherRankError", "OSError", "OtherRankError"]
    assert all("rank-1" in error[1] for _, error in answers)


def test_a_signal_is_not_talked_about():
    class Silent(Ranks):
        def gather(self, mine, *, aside=False):
            raise AssertionError("the others may be gone")

    with pytest.raises(Interrupted), agreed(Silent(0, 2)):
        raise Interrupted(15, "stopped")


def test_a_rank_that_is_gone_hides_no_error():
    class Gone(Ranks):
        def gather(self, mine, *, aside=False):
            raise RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer")

    with pytest.raises(ValueError, match="mine"), agreed(Gone(0, 2)):
        raise ValueError("mine")
    with pytest.raises(WorkerError, match="a rank was lost"), agreed(Gone(0, 2)):
        pass


def test_another_ranks_error_ends_this_one_in_silence_with_its_code():
    with pytest.raises(SystemExit) as caught, said_once(Ranks(0, 2)):
        raise OtherRankError(FileFormatError("damaged; take another"))
    assert caught.value.code == 3


def test_activation_checkpointing_changes_nothing(tmp_path):
    changes = {"model.dropout": 0.1}
    run(tmp_path, 1, given(tmp_path, "plain", **changes))
    run(tmp_path, 1, given(tmp_path, "twice", **changes,
                           **{"runtime.activation_checkpointing": "true"}))  # fmt: skip
    assert exactness.log_of(tmp_path / "plain") == exactness.log_of(tmp_path / "twice")
