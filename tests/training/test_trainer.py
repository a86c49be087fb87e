from __future__ import annotations

import dataclasses
import math
import os
import random
import shutil
import signal
import threading

import numpy as np
import pytest
import torch

from helpers import tiny
from helpers.pairs import pair
from helpers.small_runs import TOKENS, log_of, trainer
from scratchlm import AdamW, functional, load_model
from scratchlm.checkpoint import run_folder
from scratchlm.checkpoint.pointers import find_checkpoint
from scratchlm.checkpoint.report import describe
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.data.batches import TrainBatches
from scratchlm.devices.batch import Batch
from scratchlm.errors import FileFormatError, Interrupted, NumericalError
from scratchlm.training.trainer import Trainer
from scratchlm.training.trainer_config import TrainerConfig


def comparable(log):
    return [
        {key: value for key, value in line.items() if key not in ("tokens_per_second", "memory")}
        for line in log
    ]


def test_accumulated_equals_one_batch():
    """Micro-batches with different numbers of targets, against one batch of all of them."""
    torch.manual_seed(0)
    ids = torch.randint(0, 300, (8, 33))
    inputs, targets = ids[:, :-1], ids[:, 1:].clone()
    targets[:3, 5:] = -100

    class Sliced:
        def __init__(self, size):
            self.size = size

        def batch(self, step):
            rows = slice(step * self.size, (step + 1) * self.size)
            return Batch(inputs[rows], targets[rows])

    whole = trainer(dropout=0.0, batches=Sliced(8), batch_size=8)
    parts = trainer(dropout=0.0, batches=Sliced(2), batch_size=2, accumulate=4)
    first, second = whole.train_step(), parts.train_step()
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-6)
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-5)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_the_definition():
    run = trainer(dropout=0.0)
    inputs, targets = pair(run.micro_batches.batches.batch(0))
    expected = functional.cross_entropy(run.model(inputs), targets).item()
    assert run.train_step()["loss"] == pytest.approx(expected, rel=1e-6)
    assert run.step == 1


def test_one_batch_is_overfitted():
    class Same:
        def batch(self, step):
            return batch

    batch = TrainBatches(TOKENS, 4, 32, 0).batch(0)
    run = trainer(dropout=0.0, batches=Same(), iterations=120)
    run.schedule = lambda step: 1.0
    for _ in range(120):
        last = run.train_step()["loss"]
    assert last < 0.05


def test_the_run_folder(tmp_path):
    run = trainer(tmp_path)
    run.fit()
    log = log_of(tmp_path)
    assert [line["step"] for line in log] == list(range(1, 9))
    assert all({"loss", "lr", "grad_norm", "tokens_per_second"} <= line.keys() for line in log)
    assert [line["step"] for line in log if "val_loss" in line] == [3, 6, 8]
    assert [line["lr"] for line in log[:2]] == [0.01, 0.02], "warm-up over two steps"
    best = min((line for line in log if "val_loss" in line), key=lambda line: line["val_loss"])
    folder = tmp_path / "checkpoints"
    assert (folder / "last").read_text() == "step-00000008\n"
    assert (folder / "best").read_text() == f"step-{best['step']:08d}\n"
    steps = {2, 4, 6, 8, 3}  # every second, and the first validation, which is the best so far
    assert steps <= {int(path.name[5:]) for path in folder.glob("step-*")}
    ids = torch.arange(9)[None]
    saved = load_model(folder / "last", "cpu")
    assert torch.equal(saved(ids), run.model.eval()(ids))


@pytest.mark.parametrize("save_format", ["directory", "pt"])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, save_format):
    """Losses, gradient norms, learning rates, validation, weights and moments; dropout is on."""
    straight = trainer(tmp_path / "a", save_format=save_format)
    straight.fit()
    stopped = trainer(tmp_path / "b", save_format=save_format)
    stopped.iterations = 4
    stopped.fit()
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    resumed = trainer(tmp_path / "b", seed=0, model=tiny.model(7, dropout=0.1),
                      save_format=save_format)  # fmt: skip
    resumed.resume(find_checkpoint(tmp_path / "b", "last"))
    assert resumed.step == 4
    resumed.fit()
    a, b = comparable(log_of(tmp_path / "a")), comparable(log_of(tmp_path / "b"))
    assert b[3].pop("val_loss")  # the stopped run also validated at its last step
    assert a == b
    first, second = (
        read_checkpoint(find_checkpoint(tmp_path / name, "last")) for name in ("a", "b")
    )
    assert first["rng"][0]["python"] == second["rng"][0]["python"]
    assert torch.equal(first["rng"][0]["torch"], second["rng"][0]["torch"])
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), name
    for index, state in first["optimizer"]["state"].items():
        for name, value in state.items():
            other = second["optimizer"]["state"][index][name]
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other)), name


@pytest.mark.parametrize("left_out", ["rng", "optimizer", "step"])
def test_resume_would_differ_without_each_saved_part(tmp_path, left_out):
    """The negative control of the test above."""
    straight = trainer(tmp_path / "a")
    straight.fit()
    resumed = trainer(model=tiny.model(0, dropout=0.1))
    fresh_rng, fresh_state = torch.get_rng_state(), resumed.optimizer.state_dict()
    resumed.resume(tmp_path / "a" / "checkpoints" / "step-00000004")
    if left_out == "rng":
        torch.set_rng_state(fresh_rng)
    elif left_out == "optimizer":
        resumed.optimizer.load_state_dict(fresh_state)
    else:
        resumed.step = 0
    losses = [resumed.train_step()["loss"] for _ in range(4)]
    assert losses != [line["loss"] for line in log_of(tmp_path / "a")[4:]]


def test_resume_drops_the_log_past_its_step(tmp_path):
    trainer(tmp_path).fit()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # cut by a kill
    again = trainer(tmp_path, iterations=10)
    again.resume(tmp_path / "checkpoints" / "step-00000006")
    again.fit()
    assert [line["step"] for line in log_of(tmp_path)] == list(range(1, 11))


def test_resume_keeps_the_settings_at_hand(tmp_path):
    trainer(tmp_path).fit()
    other = trainer(iterations=20)
    for group in other.optimizer.param_groups:
        group["initial_lr"] *= 2
    other.resume(tmp_path / "checkpoints" / "step-00000008")
    assert other.optimizer.param_groups[0]["initial_lr"] == 0.04


def test_resume_refuses_what_does_not_fit(tmp_path):
    trainer(tmp_path).fit()
    last = find_checkpoint(tmp_path, "last")
    other = trainer()
    other.data_id = {"train data": "other"}
    with pytest.raises(FileFormatError, match=r"train data was tokens, is now other"):
        other.resume(last)
    wider = trainer(model=tiny.model(d_ff=128))
    with pytest.raises(FileFormatError, match="must fit the model"):
        wider.resume(last)
    adamw = trainer()
    adamw.optimizer = AdamW(adamw.model.parameters())
    with pytest.raises(FileFormatError, match="another optimizer"):
        adamw.resume(last)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(tmp_path, number):
    run = trainer(tmp_path, iterations=100_000, save_every=0, eval_every=0)
    before = signal.getsignal(number)
    threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
    with pytest.raises(Interrupted, match=r"stopped at step .*\n.*--resume") as stopped:
        run.fit()
    assert stopped.value.signum == number
    assert signal.getsignal(number) is before
    assert find_checkpoint(tmp_path, "last").name == f"step-{run.step:08d}"
    assert log_of(tmp_path)[-1]["step"] == run.step


def killed_in_validation(run):
    """Stop the process as a kill at this place does: nothing runs afterwards, except a write that
    is in progress."""

    def dies():
        raise SystemExit

    run.validate = dies
    with pytest.raises(SystemExit):
        run.fit()


@pytest.mark.parametrize("step", [6, 8])  # in the middle, and the last
def test_a_kill_in_a_validation_loses_no_due_checkpoint(tmp_path, step):
    settings = {"save_every": 6, "eval_every": step}
    straight = trainer(tmp_path / "straight", **settings)
    straight.fit()
    killed_in_validation(trainer(tmp_path / "killed", **settings))
    last = find_checkpoint(tmp_path / "killed", "last")
    assert last.name == f"step-{step:08d}"
    again = trainer(tmp_path / "killed", **settings)
    again.resume(last)
    again.fit()
    assert comparable(log_of(tmp_path / "killed")) == comparable(log_of(tmp_path / "straight"))
    assert (again.best_val_loss, again.best_step) == (straight.best_val_loss, straight.best_step)
    for name in ("last", "best"):
        one, other = (tmp_path / run / "checkpoints" / name for run in ("straight", "killed"))
        assert one.read_text() == other.read_text()


def test_a_due_checkpoint_is_written_once_and_then_named_best(tmp_path, monkeypatch):
    written = []
    write = run_folder.write_payload
    monkeypatch.setattr(
        run_folder, "write_payload",
        lambda path, payload: (written.append(payload["step"]), write(path, payload)),
    )  # fmt: skip
    run = trainer(tmp_path, save_every=4, eval_every=4)
    losses = {4: 2.0, 8: 1.0}
    run.validate = lambda: {"val_loss": losses[run.step]}
    run.fit()
    assert written == [4, 8]
    assert find_checkpoint(tmp_path, "best").name == "step-00000008"
    assert describe(tmp_path)["best_val_loss"] == 1.0
    again = trainer(tmp_path, save_every=4, eval_every=4)
    again.validate = lambda: pytest.fail("it was validated: its loss is in the log")
    again.resume(tmp_path / "checkpoints" / "step-00000004")
    assert (again.best_val_loss, again.best_step, again.pending) == (2.0, 4, None)


def test_a_checkpoint_whose_validation_is_not_finite_does_not_stay(tmp_path):
    run = trainer(tmp_path, save_every=2, eval_every=4)

    def bad():
        raise NumericalError("the validation loss is not finite")

    run.validate = bad
    with pytest.raises(NumericalError, match=r"not finite\n.*step-00000002"):
        run.fit()
    assert find_checkpoint(tmp_path, "last").name == "step-00000002"
    assert not (tmp_path / "checkpoints" / "step-00000004").exists()


def test_a_non_finite_loss_stops_before_the_step(tmp_path):
    run = trainer(tmp_path, save_every=2, eval_every=0)
    original = run.schedule

    def poisoned(step):
        if step == 6:
            with torch.no_grad():
                run.model.norm.weight[0] = math.nan
        return original(step)

    run.schedule = poisoned
    with pytest.raises(
        NumericalError, match=r"loss is not finite \(nan at step 7.*\n.*step-00000006"
    ):
        run.fit()
    assert find_checkpoint(tmp_path, "last").name == "step-00000006"
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_the_steps_that_led_to_a_nan_are_in_the_log(tmp_path):
    run = trainer(tmp_path, eval_every=0, save_every=0)
    run.look_every = 6  # as where a device is not waited for at each step
    run.model.norm.weight.register_hook(lambda grad: grad * (math.nan if run.step == 3 else 1))
    with pytest.raises(NumericalError, match="gradient norm is not finite"):
        run.fit()
    assert [line["grad_norm"] is None for line in log_of(tmp_path)] == [False] * 3 + [True] * 3


def test_a_non_finite_gradient_stops_before_the_step(tmp_path):
    run = trainer(tmp_path)
    run.model.embedding.weight.register_hook(lambda grad: grad * math.inf)
    before = run.model.norm.weight.clone()
    with pytest.raises(NumericalError, match="gradient norm is not finite"):
        run.fit()
    assert torch.equal(run.model.norm.weight, before)
    assert not (tmp_path / "checkpoints").exists()


def test_only_the_last_checkpoints_and_the_best_are_kept(tmp_path):
    run = trainer(tmp_path, save_every=1, keep_last=2, eval_every=0)
    run.best_val_loss = -1.0  # no validation will improve on it
    run.fit()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert kept == ["step-00000007", "step-00000008"]


def test_checkpoints_that_are_moved_or_linked_meanwhile_stop_no_training(tmp_path):
    run = trainer(tmp_path, save_every=1, keep_last=2, eval_every=0)
    run.iterations = 3
    run.fit()
    folder = tmp_path / "checkpoints"
    (folder / "step-00000002").rename(tmp_path / "elsewhere")
    (folder / "step-00000002").symlink_to(tmp_path / "elsewhere")
    (folder / "best").write_text("step-00000001\n")  # which is gone
    (folder / "step-notes.txt").write_text("mine")
    run.iterations = 8
    run.best_step = 1
    run.folder.go_on_from = lambda checkpoint, step: None
    run.fit()
    kept = sorted(path.name for path in folder.glob("step-*"))
    assert kept == ["step-00000007", "step-00000008", "step-notes.txt"]
    assert (tmp_path / "elsewhere" / "manifest.json").is_file()


def test_validation_is_weighted_by_targets_and_changes_nothing():
    run = trainer()
    state = torch.get_rng_state()
    losses, counts = [], []
    run.model.eval()
    for inputs, targets in map(pair, run.val_batches):
        losses.append(functional.cross_entropy(run.model(inputs), targets).item())
        counts.append((targets != -100).sum().item())
    expected = np.average(losses, weights=counts)
    assert run.validate() == {"val_loss": pytest.approx(expected, rel=1e-6)}
    assert torch.equal(torch.get_rng_state(), state)
    run.bytes_of = torch.full((300,), 2)
    assert run.validate()["val_bits_per_byte"] == pytest.approx(
        expected / math.log(2) / 2, rel=1e-6
    )


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer().fit()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, r"train.batch_size must be at least 1 \(0\)"),
        ({"iterations": 0}, r"train.iterations must be at least 1 \(0\)"),
        ({"epochs": 1.0}, r"exclude each other"),
        ({"max_grad_norm": -1.0}, r"max_grad_norm must be above 0 \(-1.0\)"),
        ({"seed": -1}, r"train.seed must be at least 0 \(-1\)"),
    ],
)
def test_the_config_is_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TrainerConfig(iterations=3), **changes)


def test_speed_counts_the_tokens_of_a_step_and_no_time_of_a_save(monkeypatch, tmp_path):
    clock = iter([10.0, 12.0, 15.0, 16.0, 20.0, 24.0, 25.0, 26.0])
    monkeypatch.setattr("scratchlm.training.progress.time.perf_counter", lambda: next(clock))
    trainer(tmp_path, accumulate=2, iterations=2, eval_every=0, save_every=1).fit()
    seconds = [2.0, 4.0]  # from 10 to 12; saved until 16; from 16 to 20
    found = [line["tokens_per_second"] for line in log_of(tmp_path)]
    assert found == [2 * 4 * 32 / each for each in seconds]


def test_gradients_left_from_before_do_not_count():
    first, second = trainer(dropout=0.0), trainer(dropout=0.0)
    for parameter in second.model.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    assert first.train_step()["grad_norm"] == second.train_step()["grad_norm"]


def test_a_step_or_validation_without_targets_is_an_error():
    class Masked:
        def batch(self, step):
            return Batch(torch.zeros(2, 8, dtype=torch.long), torch.full((2, 8), -100))

    with pytest.raises(ValueError, match="all are -100 at step 1"):
        trainer(batches=Masked()).train_step()
    run = trainer()
    run.val_batches = [Masked().batch(0)]
    with pytest.raises(ValueError, match="validation data"):
        run.validate()


def test_a_generator_is_no_validation_set():
    model = tiny.model()
    with pytest.raises(ValueError, match="must be readable many times"):
        Trainer(
            model, AdamW(model.parameters()), trainer().micro_batches.batches,
            TrainerConfig(iterations=1), val_batches=(batch for batch in ()),
        )  # fmt: skip


def test_the_best_is_kept_and_found_after_a_resume_from_an_earlier_step(tmp_path):
    run = trainer(tmp_path, save_every=1, keep_last=2, eval_every=1)
    losses = iter([5.0, 1.0, 4.0, 4.0, 4.0, 0.5, 4.0, 4.0, 3.0, 3.0, 3.0])
    run.validate = lambda: {"val_loss": next(losses)}
    run.iterations = 5
    run.fit()
    folder = tmp_path / "checkpoints"
    assert sorted(path.name[-1] for path in folder.glob("step-*")) == ["2", "4", "5"]
    run.iterations = 8
    run.fit()
    assert (folder / "best").read_text() == "step-00000006\n"
    again = trainer(tmp_path, keep_last=2, save_every=1, eval_every=1)
    again.validate = run.validate
    again.resume(folder / "step-00000007")
    again.fit()
    assert (folder / "best").read_text() == "step-00000006\n"
    assert (folder / "last").read_text() == "step-00000008\n"
    earlier = trainer(tmp_path, keep_last=2, iterations=7, eval_every=0)
    earlier.resume(folder / "step-00000006")
    earlier.best_step = 2  # as of a branch whose best is gone
    earlier.best_val_loss = -1.0
    earlier.fit()
    assert not (folder / "best").exists()


def test_a_kill_while_an_old_checkpoint_is_deleted_leaves_no_half_of_it(tmp_path, monkeypatch):
    def killed(path, ignore_errors=False):
        if (path / "manifest.json").exists():
            (path / "manifest.json").unlink()
            raise KeyboardInterrupt

    run = trainer(tmp_path, save_every=1, keep_last=2, eval_every=0)
    run.iterations = 2
    run.fit()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        run.iterations = 3
        with pytest.raises(KeyboardInterrupt):
            run.fit()
    folder = tmp_path / "checkpoints"
    assert sorted(path.name[-1] for path in folder.glob("step-*")) == ["2", "3"]
    again = trainer(tmp_path, save_every=1, keep_last=2, eval_every=0)
    again.resume(folder / "step-00000003")
    again.iterations = 4
    again.fit()
    assert sorted(path.name[-1] for path in folder.glob("step-*")) == ["3", "4"]
    assert not list(folder.glob(".*"))


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for_between_looks():
    model = tiny.model(dropout=0.1).cuda()
    run = trainer(model=model, iterations=100, log_every=50, accumulate=2)
    for _ in range(3):  # the first steps make states and load kernels
        run.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        record = run.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert record["loss"].is_cuda


@pytest.mark.gpu
def test_a_gpu_learns_what_a_cpu_learns(tmp_path):
    logs = []
    for device in ("cpu", "cuda"):
        trainer(tmp_path / device, model=tiny.model().to(device), dropout=0.0, log_every=3).fit()
        logs.append([line["loss"] for line in log_of(tmp_path / device)])
    assert logs[0] == pytest.approx(logs[1], rel=1e-3)
