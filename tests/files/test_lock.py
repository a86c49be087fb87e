from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers import forked
from scratchlm.files import lock
from scratchlm.files.lock import lock_file, locked


def _hold(folder) -> None:
    with locked(folder):
        (folder / "held").touch()
        time.sleep(60)


def test_a_second_run_is_refused_until_the_first_is_gone_however_it_went(tmp_path):
    holder = forked.start(_hold, tmp_path)
    while not (tmp_path / "held").exists():
        assert holder.is_alive()
        time.sleep(0.005)
    with pytest.raises(ValueError, match=f"process {holder.pid}.*another folder"), locked(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with locked(tmp_path):
        pass
    with locked(tmp_path), locked(tmp_path / "."):  # by the same process, again
        pass
    with locked(tmp_path):  # and it is given back
        pass


class FakeMsvcrt:
    """Imitate Windows' locks on a byte with Unix's locks on a file."""

    LK_NBLCK, LK_UNLCK = 2, 0

    @staticmethod
    def locking(descriptor: int, mode: int, size: int) -> None:
        assert os.lseek(descriptor, 0, os.SEEK_CUR) > 1000, "the holder's id must be readable"
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if mode else fcntl.LOCK_UN)


@pytest.fixture(params=["posix", "windows"])
def either_lock(request, monkeypatch) -> Any:
    """Return the module, and the module as Windows imports it."""
    if request.param == "posix":
        return lock
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", FakeMsvcrt)
    spec = importlib.util.spec_from_file_location("lock_of_windows", lock.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _hold_file(module, path) -> None:
    with module.lock_file(path, "a", "b"):
        path.with_suffix(".held").touch()
        time.sleep(60)


def test_a_file_is_held_by_one_process(either_lock, tmp_path):
    path = tmp_path / "x.lock"
    holder = forked.start(_hold_file, either_lock, path)
    while not path.with_suffix(".held").exists():
        assert holder.is_alive()
        time.sleep(0.005)
    with (
        pytest.raises(ValueError, match=rf"^in use \(.*, process {holder.pid}\); wait$"),
        either_lock.lock_file(path, "in use", "wait"),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert path.exists()
    with either_lock.lock_file(path, "in use", "wait"):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()
    with pytest.raises(KeyError), either_lock.locked(tmp_path / "new" / "run"):
        raise KeyError
    assert [each.name for each in tmp_path.iterdir()] == ["x.held"]


def _take_and_leave(path, module=lock) -> None:
    with module.lock_file(path, "in use", "wait"):
        pass


def test_a_copy_of_the_folder_and_the_process_itself_leave_the_lock_held(tmp_path):
    """POSIX releases a lock when any descriptor of the file closes, such as the descriptor of a
    copy."""
    run, path = tmp_path / "run", tmp_path / "run" / "lock"
    with locked(run):
        shutil.copytree(run, tmp_path / "copy")
        other = forked.start(_take_and_leave, path, file=tmp_path / "said")
        assert forked.wait(other) == 1
        assert f"in use ({run}, process {os.getpid()}); wait" in forked.traceback_in(
            tmp_path / "said"
        )
        with pytest.raises(ValueError, match=r"^in use"):
            _take_and_leave(path)


def _hold_and_fork(path, pids) -> None:
    with lock_file(path, "a", "b"):
        pids.write_text(str(forked.start(time.sleep, 60).pid))
        pids.rename(pids.with_suffix(".whole"))
        time.sleep(60)


def test_a_forked_process_does_not_hold_the_lock(tmp_path):
    path = tmp_path / "x.lock"
    holder = forked.start(_hold_and_fork, path, tmp_path / "pid")
    while not (tmp_path / "pid.whole").exists():
        assert holder.is_alive()
        time.sleep(0.005)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    child = int((tmp_path / "pid.whole").read_text())
    os.kill(child, 0)  # it lives
    _take_and_leave(path)
    os.kill(child, signal.SIGKILL)


def test_a_forked_process_that_leaves_the_block_leaves_the_lock(tmp_path):
    path = tmp_path / "x.lock"
    with lock_file(path, "in use", "wait"):
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            assert path.exists()
            other = forked.start(_take_and_leave, path)
            assert forked.wait(other) == 1
    if not child:
        os._exit(0)


class RemovedOnce(type(Path())):
    """A path whose file another process removes after this process has opened the file."""

    removed = False

    def open(self, *arguments, **options):
        file = super().open(*arguments, **options)
        if not self.removed:
            self.removed = True
            self.unlink()
        return file


def test_a_file_that_its_holder_removes_while_it_is_opened_is_not_taken(either_lock, tmp_path):
    path = tmp_path / "x.lock"
    with either_lock.lock_file(RemovedOnce(path), "in use", "wait"):
        assert path.read_text() == f"{os.getpid()}\n"
        assert forked.wait(forked.start(_take_and_leave, path, either_lock)) == 1


def test_a_folder_made_for_the_lock_alone_goes_with_it(tmp_path):
    with locked(tmp_path / "a" / "b" / "c"):
        pass
    with locked(tmp_path / "b"):
        (tmp_path / "b" / "log").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
