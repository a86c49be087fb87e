"""Faults during a run: the last good checkpoint remains, one line says what to do, and each kind of
fault has its exit code. A run that continues afterwards equals a run without a fault."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from helpers import exact_runs as exactness
from helpers import forked
from scratchlm import BPETokenizer
from scratchlm.checkpoint import directory, run_folder
from scratchlm.checkpoint.pointers import find_checkpoint
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.cli.command import one_line
from scratchlm.cli.train import main
from scratchlm.data.corpora import encode_corpus
from scratchlm.training.log import JsonlLog


def argv(folder, out="run", **changes) -> list[str]:
    given = exactness.flags(folder, out, **changes)
    return [word for key, value in given.items() for word in (f"--{key}", str(value).lower()
            if isinstance(value, bool) else str(value))]  # fmt: skip


def assert_one_line(capsys, *parts: str) -> None:
    lines = capsys.readouterr().err.strip().splitlines()
    said = [line for line in lines if line.startswith("scratchlm")]
    assert len(said) == 1, lines
    assert "Traceback" not in "".join(lines)
    for part in parts:
        assert part in said[0]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    process = forked.start(partial(exactness.run, exactness.flags(folder, "straight")))
    assert forked.wait(process) == 0
    return folder


def test_a_disk_that_is_full_in_the_middle_of_a_save(straight, monkeypatch, capsys):
    real, written = directory.write_tensors, []

    class Full:
        def __init__(self, sink):
            self.sink, self.room = sink, 3000

        def write(self, data):
            self.room -= memoryview(data).nbytes
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")
            return self.sink.write(data)

    def write_tensors(sink, tensors, *args):
        written.append(len(tensors))
        real(Full(sink) if len(written) > 8 else sink, tensors, *args)

    monkeypatch.setattr(directory, "write_tensors", write_tensors)
    assert main(argv(straight, "full")) == 5
    assert_one_line(capsys, "no space left on device", "step-00000015", "--resume")
    checkpoints = straight / "full" / "checkpoints"
    assert find_checkpoint(checkpoints, "last").name == "step-00000015"
    assert read_checkpoint(find_checkpoint(checkpoints, "last"))["step"] == 15
    assert not list(checkpoints.glob(".*"))
    monkeypatch.undo()
    exactness.run(exactness.flags(straight, "full"))
    exactness.assert_equal_runs(straight, "straight", "full")


def test_a_disk_that_was_full_for_a_while_costs_nothing(straight, monkeypatch, capsys):
    real, written = directory.write_tensors, []

    def write_tensors(sink, tensors, *args):
        written.append(len(tensors))
        if len(written) == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(sink, tensors, *args)

    monkeypatch.setattr(directory, "write_tensors", write_tensors)
    assert main(argv(straight, "for-a-while")) == 0
    said = capsys.readouterr()
    assert "a checkpoint was not written ([Errno 28] No space left on device" in said.out
    exactness.assert_equal_runs(straight, "straight", "for-a-while")


@contextlib.contextmanager
def largest_file(size):
    """Refuse to write more bytes, as a full disk does, with an error without a file name."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("form", ["directory", "pt"])
def test_what_cannot_be_written_is_named_with_a_remedy(tmp_path, capsys, form):
    words = argv(tmp_path, **{"train.save_format": form})
    with largest_file(50_000):
        assert main(words) == 5
    assert_one_line(capsys, "file too large (", "/run/checkpoints/step-0000000", "ulimit -f")
    assert not [*(tmp_path / "run" / "checkpoints").iterdir()]


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    full = pytest.raises(OSError, match="too large")
    with largest_file(100), full as caught, JsonlLog(path) as log:
        for step in range(10):
            log.write(step=step, loss=1.5)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))


def test_a_shard_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    tokenizer = BPETokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["<|endoftext|>"])
    (tmp_path / "docs.txt").write_text("a b c d " * 20_000)
    full = pytest.raises(OSError, match="too large")
    with largest_file(50_000), full as caught:
        encode_corpus(tokenizer, tmp_path / "docs.txt", tmp_path / "out", num_workers=1)
    assert Path(caught.value.filename).parent == tmp_path / "out"
    assert not [*(tmp_path / "out").glob("*.bin*")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE])
def test_a_lack_of_room_has_a_remedy_where_no_file_is_named(number):
    assert "; " in one_line(OSError(number, os.strerror(number)))


@pytest.mark.parametrize("more", [(), ("/run",)])
def test_a_units_capitals_are_left_alone(more):
    text = one_line(OSError(errno.ENOSPC, "No room for 2 GiB", *more))
    assert text.startswith("no room for 2 GiB")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert main(argv(tmp_path, "locked/run")) == 2
    assert_one_line(capsys, "permission denied", "locked")


def test_a_folder_on_a_read_only_disk(tmp_path, monkeypatch, capsys):
    def refuse(**kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(kwargs["dir"]))

    monkeypatch.setattr("scratchlm.training.preflight.tempfile.TemporaryFile", refuse)
    assert main(argv(tmp_path)) == 2
    assert_one_line(capsys, "read-only file system", "choose a path where you can write")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_sigterm_in_a_save_ends_after_it_is_whole(straight, monkeypatch, capsys):
    real, saves = run_folder.write_payload, []

    def slow(path, payload):
        saves.append(path.name)
        if len(saves) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)  # the loop goes on meanwhile, and stops
        real(path, payload)

    monkeypatch.setattr(run_folder, "write_payload", slow)
    assert main(argv(straight, "term")) == 143
    assert_one_line(capsys, "stopped at step", "--resume")
    last = find_checkpoint(straight / "term", "last")
    assert last.name == saves[-1], "the step it stopped at was saved too"
    assert read_checkpoint(last)["step"] == int(last.name[5:])
    monkeypatch.undo()
    exactness.run(exactness.flags(straight, "term"))
    assert exactness.difference(
        exactness.final(straight / "straight"), exactness.final(straight / "term")
    ) is None  # fmt: skip


def test_a_nan_stops_the_run_before_it_is_learned(straight, monkeypatch, capsys):
    from scratchlm.training.objective import Objective

    real, calls = Objective.forward, []

    def poisoned(self, **batch):
        calls.append(1)
        loss, figures, routers = real(self, **batch)
        if len(calls) == 25:
            figures["loss"] = figures["loss"] * float("nan")
        return loss, figures, routers

    monkeypatch.setattr(Objective, "forward", poisoned)
    assert main(argv(straight, "nan")) == 4
    assert_one_line(capsys, "the loss is not finite (nan at step 13)", "step-00000012", "reduce")
    monkeypatch.undo()
    exactness.run(exactness.flags(straight, "nan"))
    exactness.assert_equal_runs(straight, "straight", "nan")


def test_data_that_changed_before_a_resume_is_refused(tmp_path, capsys):
    forked.wait(forked.start(partial(exactness.run, exactness.flags(tmp_path, "run"))))
    tokens = np.load(tmp_path / "tokens.npy")
    tokens[17] ^= 1
    np.save(tmp_path / "tokens.npy", tokens)
    assert main([*argv(tmp_path), "--iterations", "70", "--resume", "auto"]) == 2
    capsys.readouterr()
    words = [word for word in argv(tmp_path) if word not in ("--train.epochs", "2.0")]
    before = sorted((tmp_path / "run").rglob("*"))
    assert main([*words, "--iterations", "70", "--resume", "auto"]) == 3
    assert_one_line(capsys, "the same batches", "train data was")
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_two_runs_do_not_share_a_folder(tmp_path, capsys):
    process = forked.start(partial(exactness.run, exactness.flags(tmp_path, "run") | {
        "train.epochs": 200.0}))  # fmt: skip
    try:
        while not (tmp_path / "run" / "log.jsonl").exists() and process.is_alive():
            time.sleep(0.01)
        out = tmp_path / "run"
        before = (out / "config.toml").read_text()
        assert main([*argv(tmp_path), "--resume", "auto"]) == 2
        assert_one_line(capsys, "another run is using this folder", f"process {process.pid}")
        assert (out / "config.toml").read_text() == before
    finally:
        process.kill()
        process.join()


def _ranks_run(ranks, given):
    exactness.run(given, ranks)


def test_a_killed_rank_ends_the_others_and_the_run_goes_on_equal(tmp_path):
    """Two ranks, one of them killed at a random moment, twice; both resumed."""
    given = exactness.flags(tmp_path, "straight")
    forked.run_ranks(tmp_path, 2, _ranks_run, given)
    given = exactness.flags(tmp_path, "killed")
    log = tmp_path / "killed" / "log.jsonl"
    for delay in (0.1, 0.25):
        processes = forked.start_ranks(tmp_path, 2, _ranks_run, given)
        seen = log.stat().st_size if log.exists() else 0
        while processes[0].is_alive() and (log.stat().st_size if log.exists() else 0) == seen:
            time.sleep(0.005)
        assert forked.kill_after(processes[1], delay)
        assert forked.wait(processes[0]) == 1
        kind, (name, message, trace) = forked.answer(tmp_path, 0)
        assert (kind, name) == ("error", "WorkerError"), trace
        assert "a rank was lost" in message
    forked.run_ranks(tmp_path, 2, _ranks_run, given)
    exactness.assert_equal_runs(tmp_path, "straight", "killed")


def test_a_second_signal_does_not_wait(tmp_path):
    """The first signal ends the run after the step. The second ends the run at once."""
    process = forked.start(partial(exactness.run, exactness.flags(tmp_path, "run") | {
        "train.epochs": 2000.0}))  # fmt: skip
    while not (tmp_path / "run" / "log.jsonl").exists() and process.is_alive():
        time.sleep(0.01)
    for _ in range(2):
        os.kill(process.pid, signal.SIGTERM)
    timer = threading.Timer(20, process.kill)
    timer.start()
    process.join()
    timer.cancel()
    assert process.exitcode in (1, -signal.SIGTERM)
