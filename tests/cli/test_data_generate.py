"""`scratchlm-data generate`, from the flags to the file."""

from __future__ import annotations

import pytest

from helpers.refusals import check_refusal
from scratchlm.cli.data import main as data
from scratchlm.data.sources import find_files


def test_the_last_line_is_the_next_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["generate", "copy", "--documents", "30", "--output", "my words.jsonl"]
    assert data(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "generated 30 documents of copy: my words.jsonl",
        "train: scratchlm-train --train_data 'my words.jsonl' --config tiny --vocab_size 257",
    ]
    before = find_files("my words.jsonl")[0].read_bytes()
    assert data([*words, "--seed=0"]) == 0
    assert find_files("my words.jsonl")[0].read_bytes() == before
    assert "replaced an older file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--documents", "3"], "--output"),
        (["--output", "a.jsonl"], "--documents"),
        (["--documents", "few", "--output", "a.jsonl"], "invalid int value: 'few'"),
        (["--documents", "0", "--output", "a.jsonl"], "at least 1 (0)"),
        (["--documents", "3", "--output", "a.json"], "use the name a.jsonl"),
        (["--documents", "3", "--output", "none/a.jsonl"], "no such folder (none)"),
        (["--documents", "3", "--output", "a.jsonl", "--seed", "-1"], "seed must be"),
        (["--documents", "3", "--documents", "4", "--output", "a.jsonl"], "two values"),
        (["--documents", "3", "--output", "a.jsonl", "--digits", "2"], "no such flag (--digits)"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, capsys, words, names):
    monkeypatch.chdir(tmp_path)
    check_refusal(data, ["generate", "arithmetic", *words], 2, names, capsys)


def test_an_unknown_task(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["generate", "sorting", "--documents", "3", "--output", "a.jsonl"]
    check_refusal(data, words, 2, "choose from arithmetic, copy, brackets", capsys)
