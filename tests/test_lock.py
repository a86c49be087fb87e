from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from typing import Any

import pytest

import forked
from scratchlm import lock
from scratchlm.lock import locked


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
    """Windows' locks on a byte, by those of POSIX."""

    LK_NBLCK, LK_UNLCK = 2, 0

    @staticmethod
    def locking(descriptor: int, mode: int, size: int) -> None:
        assert os.lseek(descriptor, 0, os.SEEK_CUR) > 1000, "the holder's id must be readable"
        os.lockf(descriptor, os.F_TLOCK if mode else os.F_ULOCK, size)


@pytest.fixture(params=["posix", "windows"])
def either_lock(request, monkeypatch) -> Any:
    """The module, and the same as Windows imports it."""
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


def test_a_folder_made_for_the_lock_alone_goes_with_it(tmp_path):
    with locked(tmp_path / "a" / "b" / "c"):
        pass
    with locked(tmp_path / "b"):
        (tmp_path / "b" / "log").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
