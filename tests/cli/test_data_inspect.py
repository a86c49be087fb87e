"""`scratchlm-data inspect` prints a report, or JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scratchlm.cli.data import main as data


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"meta": {"body": ["one", "two"]}}\n{\n', encoding="utf-8")
    Path("b.txt").write_text('{"text": "json in a text"}\n', encoding="utf-8")


def test_a_report(capsys):
    assert data(["inspect", "a.jsonl", "--field", "meta.body", "--join", r"\n\n"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == [
        "json lines: 1 file, 37 bytes",
        "2 records: 1 document, 0 empty, 0 without a text in 'meta.body', 1 bad",
        "  each line must be JSON (a.jsonl:2: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)); correct or remove the line",
        "fields, for --field:",
        "  meta.body  list 1",
        "text: 8 bytes, 8 in a document, 8 in the longest",
        "scripts of letters: latin 100%",
        r'sample a.jsonl:1: "one\n\ntwo"',
    ]


def test_a_text_that_looks_like_another_format(capsys):
    assert data(["inspect", "b.txt", "--sample", "0"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("b.txt is read as plain text but looks like JSON; change the file's")
    assert "sample" not in said
    assert "'<|endoftext|>' separates the documents" in said


def test_the_separator(capsys):
    assert data(["inspect", "b.txt", "--separator", "t"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[2:4] == [
        "'t' separates the documents of plain texts (see --separator)",
        "5 records: 5 documents, 0 empty, 0 without a text in 'text', 0 bad",
    ]


def test_json(capsys):
    assert data(["inspect", ".", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["records"], found["documents"], found["bad"]) == (3, 1, 1)
    assert found["fields"] == {"meta.body": {"list": 1}}


def test_help_needs_no_numpy():
    code = (
        "import sys; from scratchlm.cli.data import main\n"
        "try: main(['inspect', '--help'])\n"
        "finally: assert not {'numpy', 'torch', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--sample" in done.stdout
