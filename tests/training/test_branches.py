"""A run that continues from an earlier step, or whose best checkpoint was not kept: `last`, `best`
and the log always describe one line of training."""

from __future__ import annotations

import errno
import math
import os
import shlex
import time

import pytest

from helpers import exact_runs as exactness
from helpers.small_runs import log_of, trainer
from scratchlm.checkpoint import run_folder
from scratchlm.checkpoint.pointers import find_checkpoint, whole_checkpoints
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.cli.train import main
from scratchlm.devices.ranks import Ranks
from scratchlm.errors import FileFormatError, NumericalError
from scratchlm.training import run_config

GIVEN = {"data.train": "ids.npy", "model.vocab_size": "300"}


def scripted(run, losses):
    """Validation whose loss is `losses[step]`."""
    run.validate = lambda: {"val_loss": losses.get(run.step, 9.0)}
    return run


def poisoned(run, step):
    """A gradient that is not finite at `step`."""
    run.model.norm.weight.register_hook(lambda grad: grad * (math.nan if run.step == step else 1))
    return run


def listing(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_best_that_could_not_be_saved_is_none(tmp_path, monkeypatch):
    """If a new best checkpoint cannot be written, the old one stays the best and is not deleted.
    The next best must have a lower loss than the old one."""
    write = run_folder.write_payload

    def full(path, payload):
        if payload["step"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, payload)

    monkeypatch.setattr(run_folder, "write_payload", full)
    run = scripted(trainer(tmp_path, save_every=2, eval_every=2, keep_last=1),
                   {2: 3.0, 4: 1.0, 6: 2.0})  # fmt: skip
    run.iterations = 5
    run.fit()
    last = read_checkpoint(find_checkpoint(tmp_path, "last"))
    assert (last["step"], last["best_val_loss"], last["best_step"]) == (5, 3.0, 2)
    again = trainer(tmp_path, save_every=2, eval_every=2, keep_last=1)
    again.resume(find_checkpoint(tmp_path, "last"))
    assert (tmp_path / "checkpoints/best").read_text() == "step-00000002\n"
    scripted(again, {6: 2.0}).fit()
    assert (tmp_path / "checkpoints/best").read_text() == "step-00000006\n"
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert names == ["step-00000006", "step-00000008"]


def test_going_back_leaves_the_later_branch(tmp_path):
    """This also holds if the run ends before it saves: the next resume continues from there, and
    the log has each step once."""
    trainer(tmp_path, eval_every=0).fit()
    back = poisoned(trainer(tmp_path, eval_every=0, save_every=0), 6)
    back.resume(tmp_path / "checkpoints" / "step-00000004")
    with pytest.raises(NumericalError) as error:
        back.fit()
    assert f"--resume {tmp_path} --optim.lr" in error.value.__notes__[0]
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert find_checkpoint(tmp_path, "last").name == "step-00000004"
    again = trainer(tmp_path, eval_every=0)
    again.resume(find_checkpoint(tmp_path, "last"))
    again.fit()
    assert [line["step"] for line in log_of(tmp_path)] == [*range(1, 9)]


@pytest.fixture
def two_branches(tmp_path):
    """Steps 2, 4, 6, 8, of which 6 and 8 were left for 5 and 7, which came after 4."""
    trainer(tmp_path, eval_every=0, keep_last=0).fit()
    again = trainer(tmp_path, eval_every=0, save_every=0, keep_last=0)
    again.resume(tmp_path / "checkpoints" / "step-00000004")
    for again.iterations in (5, 7):
        again.fit()
    return tmp_path


def test_a_branch_that_was_left_is_not_gone_on_with(two_branches):
    folder = two_branches / "checkpoints"
    assert (folder / "left").read_text().split() == ["step-00000006", "step-00000008"]
    assert [path.name[-1] for path in whole_checkpoints(folder)] == [*"682457"]
    (folder / "step-00000007" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(FileFormatError) as error:
        trainer(two_branches).resume(folder / "step-00000007")
    assert error.value.__notes__[0].endswith("step-00000005")
    (folder / "last").unlink()
    assert run_config.resolve(None, GIVEN, str(two_branches))[1].name[-1] == "7"


def test_a_branch_that_was_left_is_deleted_first(two_branches):
    last = trainer(two_branches, eval_every=0, save_every=0, keep_last=4)
    last.resume(two_branches / "checkpoints" / "step-00000007")
    last.best_val_loss = -1.0
    last.fit()  # and step 8 is of this branch now
    names = [path.name[-1] for path in whole_checkpoints(two_branches / "checkpoints")]
    assert names == [*"4578"]
    assert (two_branches / "checkpoints/last").read_text() == "step-00000008\n"
    last.folder.save(last.model, last.optimizer, 8, best=False)
    last.folder.wait()
    assert not (two_branches / "checkpoints" / "left").exists()


def test_going_back_is_the_same_from_within_the_checkpoint(tmp_path, monkeypatch):
    trainer(tmp_path, eval_every=0).fit()
    monkeypatch.chdir(tmp_path / "checkpoints" / "step-00000004")
    _, checkpoint = run_config.resolve(None, GIVEN, ".")
    assert checkpoint == tmp_path / "checkpoints" / "step-00000004"


def test_a_best_whose_last_could_not_be_written_is_found_again(tmp_path, monkeypatch):
    """The pointer `last` comes first: `best` never names what the run may take back."""
    write, full = run_folder.write_pointer, []

    def pointer(path, name):
        if (path.name, name) in full:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, name)

    monkeypatch.setattr(run_folder, "write_pointer", pointer)
    full.append(("last", "step-00000004"))
    run = scripted(trainer(tmp_path, save_every=2, eval_every=2, keep_last=1), {2: 3.0, 4: 1.0})
    run.iterations = 7
    run.fit()
    assert find_checkpoint(tmp_path, "best").name == "step-00000002"
    full[:] = [("best", "step-00000008")]
    again = scripted(trainer(tmp_path, save_every=0, eval_every=8, keep_last=1), {8: 0.5})
    again.resume(find_checkpoint(tmp_path, "last"))
    with pytest.raises(OSError, match="No space"):
        again.fit()
    full.clear()
    end = trainer(tmp_path)
    end.resume(find_checkpoint(tmp_path, "last"))
    end.fit()  # nothing to do, but to name the best
    assert find_checkpoint(tmp_path, "best").name == "step-00000008"


def test_the_command_names_the_best_where_there_is_nothing_to_do(tmp_path, capsys):
    """A kill between the last save's two pointers leaves `best` at an older one, or at none."""
    flags = exactness.flags(tmp_path, "run", **{"train.iterations": 6, "train.eval_every": 2})
    del flags["train.epochs"]
    exactness.run(flags)
    best = tmp_path / "run" / "checkpoints" / "best"
    named = best.read_text()
    best.unlink()
    assert main(["--resume", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "nothing to do: the run is at step 6" in said
    assert main(["--resume", str(tmp_path / "run"), "--iterations", "3"]) == 0
    assert "nothing to do: the run is at step 6" in capsys.readouterr().out
    assert "trained:" not in said
    assert best.read_text() == named


def test_a_trainer_whose_last_save_failed_trains_on(tmp_path, monkeypatch):
    def full(path, payload):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = trainer(tmp_path, eval_every=0, save_every=0, iterations=9)
    run.iterations = 3
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_payload", full)
        with pytest.raises(OSError, match="No space"):
            run.fit()
    run.iterations = 8
    run.fit()
    assert find_checkpoint(tmp_path, "last").name == "step-00000008"


def test_a_run_that_has_nothing_to_do_changes_nothing(tmp_path):
    trainer(tmp_path).fit()
    before = listing(tmp_path)
    run = trainer(tmp_path, iterations=4)
    run.resume(tmp_path / "checkpoints" / "step-00000004")
    run.fit()
    assert listing(tmp_path) == before


def test_a_fork_that_ended_before_it_saved_goes_on_from_where_it_began(tmp_path):
    parent, fork = tmp_path / "parent", tmp_path / "a fork"
    trainer(parent, eval_every=0).fit()
    begun = parent / "checkpoints" / "step-00000004"
    run = poisoned(trainer(fork, eval_every=0, save_every=0), 6)
    run.resume(begun)
    with pytest.raises(NumericalError) as error:
        run.fit()
    words = shlex.split(error.value.__notes__[0].partition("to continue from it, run: ")[2])
    assert words[1:5] == ["--resume", str(begun), "--out", str(fork)]
    assert find_checkpoint(parent, "last").name == "step-00000008"


def test_other_validation_data_keeps_the_best_until_there_is_another(tmp_path):
    run = trainer(tmp_path, save_every=2, eval_every=2, keep_last=1)
    run.extra = {"validation": {"data": "one"}}
    scripted(run, {2: 1.0}).fit()
    again = trainer(tmp_path, iterations=11, eval_every=10, keep_last=1)
    again.extra = {"validation": {"data": "another"}}
    assert "the validation data changed" in again.resume(find_checkpoint(tmp_path, "last"))[-1]
    again.iterations = 9
    scripted(again, {9: math.inf}).fit()
    assert find_checkpoint(tmp_path, "best").name == "step-00000002"
    again.iterations = 10
    scripted(again, {10: 8.0}).fit()
    assert find_checkpoint(tmp_path, "best").name == "step-00000010"
    assert not (tmp_path / "checkpoints" / "step-00000002").exists()


def test_a_checkpoint_that_does_not_say_its_validation_data_keeps_its_best(tmp_path):
    scripted(trainer(tmp_path, eval_every=2), {4: 1.0}).fit()
    again = trainer(tmp_path)
    again.extra = {"validation": {"data": "one"}}
    assert len(again.resume(find_checkpoint(tmp_path, "last"))) == 1
    assert (again.best_val_loss, again.best_step) == (1.0, 4)


def test_the_steps_before_a_validation_that_failed_are_in_the_log(tmp_path):
    run = trainer(tmp_path, eval_every=5, save_every=0)
    run.look_every = 10  # as where a device is not waited for at each step

    def validate():
        raise NumericalError("the validation loss is not finite (nan at step 5); lower the rate")

    run.validate = validate
    with pytest.raises(NumericalError):
        run.fit()
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("save_format", ["directory", "pt"])
def test_what_is_kept_does_not_depend_on_times(tmp_path, save_format):
    """A copied run has the times of the copy."""
    run = trainer(tmp_path, save_every=1, save_format=save_format, keep_last=0, eval_every=0)
    run.best_val_loss = -1.0
    run.iterations = 5
    run.fit()
    folder = tmp_path / "checkpoints"
    now = time.time()
    for age, path in enumerate(sorted(folder.glob("step-*"))):
        os.utime(path, (now - age, now - age))
    again = trainer(tmp_path, save_format=save_format, keep_last=3, save_every=0, eval_every=0)
    again.resume(find_checkpoint(tmp_path, "last"))
    again.best_val_loss, again.iterations = -1.0, 6
    again.fit()
    assert sorted(path.stem[-1] for path in folder.glob("step-*")) == ["4", "5", "6"]


def test_another_rank_does_not_know_what_was_written(tmp_path):
    folder = run_folder.CheckpointFolder(tmp_path, "directory", 3, Ranks(rank=1, size=2))
    folder.saved = tmp_path / "step-00000002"
    run = trainer()
    folder.save(run.model, run.optimizer, 4, best=False)
    assert folder.saved is None
