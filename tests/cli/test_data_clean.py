"""`scratchlm-data clean`, from files and a config to shards, a report and a figure."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from helpers.refusals import check_refusal
from scratchlm.cli.data import main as data

ROOT = Path(__file__).parents[2]
CONFIG = '[[step]]\nkind = "length"\nmin_chars = 6\n[[step]]\nkind = "strip_returns"\n'
WORDS = ["clean", "a.jsonl", "--config", "c.toml", "--output", "out"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(CONFIG, "utf-8")
    texts = ["short", "longer\r\n", "long enough"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    Path("a.jsonl").write_text(lines, "utf-8")


def test_documents_are_cleaned_and_accounted_for(capsys):
    pytest.importorskip("matplotlib")
    assert data([*WORDS, "--report", "report.json", "--plot", "report.png"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "documents: 3 in = 2 kept + 1 dropped by length (step 1) + 0 rejected",
        "bytes: 62 in = 45 kept + 17 dropped by length (step 1) + 0 rejected",
        "length (step 1): 1 too short",
        "strip_returns (step 2) changed 1 kept document (-1 bytes)",
        "2 documents, 18 bytes of text: out",
    ]
    report = json.loads(Path("report.json").read_text("utf-8"))
    assert report["kept"] == {"documents": 2, "bytes": 45}
    assert Path("report.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir("out")) == ["clean-00000.jsonl.zst", "manifest.json"]
    assert data([*WORDS, "--resume"]) == 0  # finished: the account, a second time
    assert "documents: 3 in = 2 kept" in capsys.readouterr().out


def test_the_documentation_of_this_repository_is_cleaned(capsys):
    """The first command of the section Clean."""
    words = [str(ROOT / "README.md"), str(ROOT / "docs"), "--config", str(ROOT / "docs/clean.toml")]
    assert data(["clean", *words, "--output", "cleaned"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    read, kept = (int(first.split(word)[0].split()[-1]) for word in (" in", " kept"))
    assert read > kept > 5


def test_a_text_that_looks_like_json(capsys):
    Path("j.txt").write_text('{"text": "long enough"}', "utf-8")
    assert data(["clean", "j.txt", *WORDS[2:]]) == 0
    assert capsys.readouterr().out.startswith("j.txt is read as plain text but looks like JSON")


FOLDER = ["clean", "in", "--config", "c.toml"]
BAD = [
    (WORDS[:4], 2, "--output"),
    (["clean", "a.jsonl", "--output", "out"], 2, "--config"),
    ([*WORDS[:3], "none.toml", *WORDS[4:]], 2, "none.toml"),
    ([*WORDS, "--step", "nfc"], 2, "--step"),
    ([*WORDS, "--num_workers", "0"], 2, "num_workers must be at least 1 (0)"),
    ([*WORDS, "--max_bad", "-1"], 2, "max_bad must be at least 0 (-1)"),
    ([*WORDS, "--max_bad", "3"], 2, "add --rejects FILE.jsonl"),
    ([*WORDS, "--field", "body"], 2, "'body'"),
    ([*WORDS, "--field", "a..b"], 2, "must not have an empty key"),
    ([*WORDS, "--separator", ""], 2, "the separator must not be empty"),
    ([*WORDS, "--resume"], 2, "--resume needs a run that began (out has none)"),
    ([*WORDS[:5], "old.jsonl"], 2, "the output must be a folder, not a file (old.jsonl)"),
    ([*WORDS[:5], "link"], 2, "an output must not be a link (link)"),
    ([*WORDS[:5], "a.jsonl"], 2, "--output must not be among the inputs (a.jsonl, input a.jsonl)"),
    ([*FOLDER, "--output", "in/o"], 2, "--output must not be among the inputs (in/o, input in)"),
    ([*FOLDER, "--output", "o", "--rejects", "./in/r.jsonl"], 2, "(./in/r.jsonl, input in)"),
    (["clean", "*.jsonl", *WORDS[2:], "--rejects", "new.jsonl"], 2, "(new.jsonl, input *.jsonl)"),
    (["clean", "in/**", *WORDS[2:], "--rejects", "in/new"], 2, "(in/new, input in/**)"),
    (["clean", "**/*.zst", *WORDS[2:]], 2, "--output must not be among the inputs (out, input **"),
    (["clean", "linked", *WORDS[2:], "--report", "in/new"], 2, "(in/new, input linked)"),
    ([*WORDS, "--report", "a.jsonl"], 2, "--report must not be among the inputs"),
    ([*WORDS, "--report", "c.toml"], 2, "--report must not be among the inputs (c.toml"),
    ([*WORDS, "--rejects", "r", "--report", "./r"], 2, "--rejects and --report must be separate"),
    ([*WORDS, "--rejects", "out"], 2, "--output and --rejects must be separate"),
    ([*WORDS, "--report", "in"], 2, "is a directory (in)"),
    ([*WORDS, "--plot", "p.svg"], 2, "must end in .png (p.svg); use the name p.png"),
    ([*WORDS[:5], "none/out"], 2, "none"),
    ([*WORDS, "--report", "none/report.json"], 2, "none"),
    ([*WORDS, "--plot", "none/report.png"], 2, "none"),
    (["clean", "none.jsonl", *WORDS[2:]], 2, "none.jsonl"),
    (["clean", "cut.jsonl.zst", *WORDS[2:]], 3, "truncated (cut.jsonl.zst)"),
    (["clean", "bad.jsonl", *WORDS[2:]], 2, "bad.jsonl:2"),
]


@pytest.mark.parametrize(("words", "code", "told"), BAD)
def test_refusals(capsys, words, code, told):
    import zstandard

    packed = zstandard.compress(Path("a.jsonl").read_bytes() * 99)
    Path("cut.jsonl.zst").write_bytes(packed[: len(packed) // 2])
    Path("old.jsonl").touch()
    Path("in").mkdir()
    Path("in/a.txt").write_text("text", "utf-8")
    Path("link").symlink_to("in")
    Path("linked").mkdir()
    Path("linked/part").symlink_to("../in")
    Path("bad.jsonl").write_bytes(b'"a text"\n{"text": "\xff"}\n')
    check_refusal(data, words, code, told, capsys)
