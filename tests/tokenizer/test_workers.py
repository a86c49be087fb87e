"""Worker processes: they keep the order, limit the work in progress, report a death, and import
nothing slow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scratchlm.errors import WorkerError
from scratchlm.tokenizer.workers import parallel_map, workers_for


def test_small_files_stay_in_one_process() -> None:
    assert workers_for(3_999_999, None) == workers_for(3_999_999, 8) == 1
    assert workers_for(10**8, 8) == 8
    assert 1 <= workers_for(10**8, None) <= (os.cpu_count() or 1)
    with pytest.raises(ValueError, match=r"at least 1 \(0\)"):
        workers_for(1, 0)


def test_workers_do_not_import_torch(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from scratchlm.tokenizer.workers import parallel_map\n"
        "def names(block): return sorted(sys.modules)\n"
        "for names in parallel_map(names, ['a', 'b', 'c'], 2):\n"
        "    assert 'scratchlm.tokenizer.workers' in names and 'torch' not in names\n"
        "print('fine')"
    )
    script = tmp_path / "unguarded.py"  # without `if __name__ == '__main__'`
    script.write_text(program)
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("fine\n", "")


def test_a_worker_that_dies_is_an_error() -> None:
    with pytest.raises(WorkerError, match="worker process died"):
        list(parallel_map(lambda block: os._exit(1), ["a"] * 9, 2))


def test_parallel_map_keeps_order_and_few_blocks_in_flight() -> None:
    taken = 0

    def blocks() -> Iterator[str]:
        nonlocal taken
        for taken in range(100):
            yield str(taken)

    for i, result in enumerate(parallel_map(int, blocks(), 2)):
        assert result == i
        assert taken - i <= 4
