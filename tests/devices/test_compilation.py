"""Around torch.compile: a signal breaks nothing, a damaged cache is repaired, and the error of a
failed compiler is one line."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import regex
import torch

from helpers import exact_runs as exactness
from helpers import tiny
from scratchlm import SGD
from scratchlm.cli.command import exit_code
from scratchlm.data.batches import TrainBatches
from scratchlm.devices.compilation import compiling, mend_cache
from scratchlm.errors import WorkerError
from scratchlm.generation.decoder import CompiledStep, Decoder
from scratchlm.generation.sampling import decode
from scratchlm.generation.strategies import Strategy
from scratchlm.training.objective import Objective
from scratchlm.training.trainer import Notes, Trainer
from scratchlm.training.trainer_config import TrainerConfig

LIBRARY = Path(regex.__file__).parent  # real shared libraries, small and whole
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ELF, /proc and g++")


def signalled(*numbers: str) -> int:
    """Return the exit status of a process that sends signals to itself."""
    return subprocess.run(["sh", "-c", "; ".join(f"kill -{n} $$" for n in numbers)]).returncode


def test_a_signal_waits_for_the_compiler_and_never_reaches_it():
    reached = []

    def compiled():
        with compiling():
            signal.raise_signal(signal.SIGINT)
            reached.append(signalled("TERM", "INT"))

    with pytest.raises(KeyboardInterrupt):
        compiled()
    assert reached == [0]
    assert signalled("TERM") == -signal.SIGTERM  # the controls: outside it is as before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_damaged_libraries_leave_the_cache_and_whole_ones_stay(tmp_path):
    whole = next(LIBRARY.glob("*.so"))
    content = whole.read_bytes()
    for folder in ("ab", "cd", "locks"):
        (tmp_path / folder).mkdir()
    shutil.copy(whole, tmp_path / "ab" / "whole.main.so")
    for length in (0, 10, 63, 64, 1000, len(content) // 2, len(content) - 1):
        (tmp_path / "ab" / f"cut{length}.main.so").write_bytes(content[:length])
    (tmp_path / "cd" / "zeros.so").write_bytes(bytes(len(content)))
    (tmp_path / "cd" / "written.main.so").write_bytes(content[:1000])
    with (tmp_path / "locks" / "written.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as torch does while its compiler writes
        mend_cache(tmp_path)
    kept = sorted(path.name for path in tmp_path.glob("*/*.so"))
    assert kept == ["whole.main.so", "written.main.so"]


def failing(graph, inputs):
    raise RuntimeError("C++ compile error\n\nCommand:\nx\n\ng++: fatal error: Killed cc1plus")


def expect_one_line():
    return pytest.raises(WorkerError, match=r"\(g\+\+: fatal error: Killed cc1plus\)")


def test_a_compiler_that_fails_is_one_line():
    with expect_one_line() as caught, compiling():
        torch.compile(lambda x: x + 1, backend=failing)(torch.ones(1))
    assert exit_code(caught.value) == 5
    with pytest.raises(ZeroDivisionError), compiling():
        1 / 0  # noqa: B018


def test_a_damaged_precompiled_header_is_named_with_its_folder():
    def damaged(graph, inputs):
        raise RuntimeError("C++ compile error\ncc1plus: error: while reading precompiled header: x")

    named = pytest.raises(WorkerError, match=r"; remove the folder /\S+/precompiled_headers, ")
    with named, compiling():
        torch.compile(lambda x: x + 2, backend=damaged)(torch.ones(1))


def test_training_validation_and_generation_are_wrapped():
    model = tiny.model()
    objective = torch.compile(Objective(model), backend=failing)
    batches = TrainBatches(np.arange(200), 2, 8, 0)
    config = TrainerConfig(iterations=1, batch_size=2)
    trainer = Trainer(model, SGD(model.parameters(), 0.1), batches, config, objective=objective,
                      val_batches=[batches.batch(0)], notes=Notes(compiled=True))  # fmt: skip
    step = CompiledStep(model, failing)

    def generate():
        return [*decode(Decoder(model, 4, compiled=step), [[1, 2]], Strategy())]

    for run in (trainer.train_step, trainer.validate, generate):
        with expect_one_line():
            run()


def command(folder, out):
    given = exactness.flags(folder, out, **{"runtime.compile": "on", "train.epochs": 0.2})
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    return [sys.executable, "-m", "scratchlm.cli.train", *words]


def compiler_of(session: int) -> bool:
    """Return whether the C++ compiler runs in the session of a process."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "cmdline").read_bytes()
            if b"cc1plus" in text and b"main.cpp" in text and os.getsid(int(path.name)) == session:
                return True
        except OSError:
            continue
    return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_compiler_works_breaks_no_later_run(tmp_path, monkeypatch, number):
    """The signal goes to the whole process group, as a terminal sends it."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    first = subprocess.Popen(
        command(tmp_path, "stopped"), start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while first.poll() is None and not compiler_of(first.pid):
        time.sleep(0.02)
    os.killpg(first.pid, number)
    _, said = first.communicate(timeout=200)
    assert first.returncode == 128 + number, said
    assert len([line for line in said.splitlines() if line.startswith("scratchlm: stopped")]) == 1
    assert "Traceback" not in said
    libraries = [*cache.glob("*/*.so")]
    mend_cache(cache)
    assert libraries
    assert all(path.exists() for path in libraries)
    for path in libraries:  # what no signal, but a loss of power may leave
        path.write_bytes(path.read_bytes()[:1000])
    done = subprocess.run(command(tmp_path, "later"), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
