"""`python -m scratchlm`: the commands, one phrase each."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from helpers.refusals import check_refusal
from scratchlm.__main__ import main as overview

ROOT = Path(__file__).parents[2]


def test_the_overview_lists_every_command(capsys):
    for words in ([], ["--help"], ["-h"]):
        assert overview(words) == 0
        lines = capsys.readouterr().out.splitlines()
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        names = [line.split()[0] for line in lines if line.startswith("scratchlm-")][:-1]
        assert names == list(scripts["project"]["scripts"])
        assert all(len(line.split()) > 2 for line in lines if line)


def test_the_overview_imports_no_torch():
    code = (
        "from scratchlm.__main__ import main; main([]); import sys; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("--mode train --epochs 3", "; use scratchlm-train --epochs 3"),
        ("--mode=train", "; use scratchlm-train"),
        ("--mode generate", "; use scratchlm-generate"),
        ("--mode interactive", "; use scratchlm-chat"),
        ("--mode demo", "; use bash scripts/quickstart.sh"),
        ("train --lr 1", "; use scratchlm-train --lr 1"),
        ("scratchlm-chat", "; use scratchlm-chat"),
        ("trian", "did you mean scratchlm-train?"),
        ("--mode", "to list the commands"),
        ("dance", "to list the commands"),
    ],
)
def test_the_overview_runs_nothing_and_names_the_command(
    words, names, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    check_refusal(overview, words.split(), 2, names, capsys)
