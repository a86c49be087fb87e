from __future__ import annotations

import os
import signal
import time

import pytest

import forked
from scratchlm.run_lock import locked


def _hold(folder) -> None:
    with locked(folder):
        (folder / "held").touch()
        time.sleep(60)


def test_a_second_run_is_refused_until_the_first_is_gone_however_it_went(tmp_path):
    holder = forked.start(_hold, tmp_path)
    while not (tmp_path / "held").exists():
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


def test_a_folder_made_for_the_lock_alone_goes_with_it(tmp_path):
    with locked(tmp_path / "a" / "b" / "c"):
        pass
    with locked(tmp_path / "b"):
        (tmp_path / "b" / "log").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
