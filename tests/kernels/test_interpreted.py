"""Run tests/interpreted, where Triton's interpreter runs the kernels, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

FOLDER = Path(__file__).parents[1] / "interpreted"
MUTATE = FOLDER.parents[1] / "scripts" / "mutate_kernels.py"
FILES = sorted(FOLDER.glob("test_*.py"))
SLOW = [path for path in FILES if "\n@pytest.mark.slow\n" in path.read_text(encoding="utf-8")]


def run(path: Path, expression: str) -> None:
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", expression]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(path)],
        cwd=FOLDER.parents[1],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_kernels_in_the_interpreter(path: Path) -> None:
    run(path, "not slow")


@pytest.mark.slow
@pytest.mark.parametrize("path", SLOW, ids=lambda path: path.stem)
def test_more_of_the_kernels_in_the_interpreter(path: Path) -> None:
    run(path, "slow")


@pytest.mark.slow
def test_each_planted_fault_is_caught() -> None:
    done = subprocess.run([sys.executable, MUTATE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


CRASH = """
import sys
sys.path.insert(0, {scripts!r})
import mutate_kernels as script
from pathlib import Path
old = "position = row + sizes.keys - sizes.queries"
fault = script.Fault("an unknown name", script.KERNELS, old, "position = unknown")
print(script.result(fault, Path({folder!r})))
"""


@pytest.mark.slow
def test_a_fault_that_only_crashes_is_not_caught(tmp_path: Path) -> None:
    code = CRASH.format(scripts=str(MUTATE.parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("(False, 'case 1"), done.stdout + done.stderr
    assert "unknown" in done.stdout
