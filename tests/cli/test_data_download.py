"""`scratchlm-data download`, from a table of a local server to the files."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import fault_server as server
from helpers.refusals import check_refusal
from scratchlm.cli.data import main as data

CONTENT = random.Random(2).randbytes(200_000)
WORDS = ["download", "--table", "table.json"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.chdir(tmp_path)


def write_table(state: server.Server, **known) -> None:
    root = f"http://127.0.0.1:{state.port}"
    about = {"about": "a test", "licence": "MIT", "home": root}
    content = {
        "pile": about | {"files": [
            {"url": root + "/train/{00}.bin", "count": 3, "part": "train"},
            {"url": root + "/val.bin", "part": "val"}]},
        "set": about | {"folder": "sets/set", "files": [{"url": root + "/set.bin"} | known]},
    }  # fmt: skip
    Path("table.json").write_text(json.dumps(content), encoding="utf-8")


def test_names_are_listed(capsys):
    assert data(["download"]) == 0
    said = capsys.readouterr().out
    assert "pile " in said
    assert "into ~/.cache/scratchlm" in said
    assert not os.listdir()


def test_training_and_validation_files_go_to_their_folders(capsys):
    files = {"/train/00.bin": b"first", "/train/01.bin": b"second", "/val.bin": b"third"}
    with server.running(b"", files=files) as state:
        write_table(state)
        assert data([*WORDS, "pile"]) == 0
        assert Path("data/train/00.bin").read_bytes() == b"first"
        assert Path("data/val/val.bin").read_bytes() == b"third"
        assert sorted(state.paths) == ["/train/00.bin", "/val.bin"]
        said = capsys.readouterr().out.splitlines()
        assert said[0].startswith("pile: a test; licence: MIT; http://127.0.0.1")
        assert said[1:] == [
            "saved: data/train/00.bin (5 bytes; the server's length checked)",
            "saved: data/val/val.bin (5 bytes; the server's length checked)",
            "tokenize: scratchlm-data tokenize",
        ]
        words = ["--train_max", "2", "--train_dir", "t", "--val-dir=v", "--connections", "1"]
        assert data([*WORDS, "pile", *words]) == 0
        assert Path("t/01.bin").read_bytes() == b"second"
        assert Path("v/val.bin").exists()
        assert capsys.readouterr().out.splitlines()[-1] == (
            "tokenize: scratchlm-data tokenize --train_dir t --val_dir v --out_train_file "
            "t/train.h5 --out_val_file v/val.h5"
        )
        assert data([*WORDS, "pile"]) == 0
        said = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in said[1:-1]] == ["already there"] * 2


def test_a_text_without_validation_files(capsys):
    with server.running(b"", files={"/a.txt": b"text"}) as state:
        file = {"url": f"http://127.0.0.1:{state.port}/a.txt", "part": "train"}
        about = {"about": "a test", "licence": "MIT", "home": "here"}
        Path("table.json").write_text(json.dumps({"a": about | {"files": [file]}}), "utf-8")
        assert data([*WORDS, "a", "--train_dir", "my texts"]) == 0
        next_command = capsys.readouterr().out.splitlines()[-1]
        assert next_command == "train: scratchlm-train --train_data 'my texts' --config tiny"


def test_a_mirror_is_asked_instead(capsys):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    with server.running(b"") as state, server.running(CONTENT) as mirror:
        write_table(state, sha256=sha256, size=len(CONTENT))
        words = ["--mirror", f"http://127.0.0.1:{mirror.port}/hub/", "--output", "here"]
        assert data([*WORDS, "set", *words]) == 0
    assert state.paths == []
    assert mirror.paths == ["/hub/set.bin"]
    assert Path("here/set.bin").read_bytes() == CONTENT
    assert "SHA-256 checked" in capsys.readouterr().out


REFUSALS = [
    ("download shakespear", 2, "did you mean shakespeare"),
    ("dowload", 2, "did you mean download"),
    ("clone", 2, "did you mean clean?"),
    ("", 2, "required"),
    ("download gsm8k --train_dir x", 2, "--output"),
    ("download pile --output x", 2, "--train_dir"),
    ("download pile --train_max -1", 2, "train_max must be at least 0"),
    ("download pile --train_max many", 2, "train_max"),
    ("download pile --connections 0", 2, "connections must be at least 1"),
    ("download pile --mirror file:///tmp", 2, "the mirror must be a web address"),
    ("download pile --mirror hf-mirror.com", 2, "the mirror must be a web address"),
    ("download pile --trainmax 1", 2, "--train_max"),
    ("download pile tinystories", 2, "tinystories"),
    ("download pile --table none.json", 2, "none.json"),
    ("download pile --table bad.json", 3, "bad.json"),
    ("download shakespeare --train_max 0", 2, "set --train_max 1"),
    ("download shakespeare --train_dir bad.json", 2, "bad.json"),
]


@pytest.mark.parametrize(("words", "code", "names"), REFUSALS)
def test_a_mistake_is_one_line_and_no_file(words, code, names, capsys):
    Path("bad.json").write_text('{"a": 1}', encoding="utf-8")
    check_refusal(data, words.split(), code, names, capsys)


@pytest.mark.parametrize(
    ("fault", "code", "names"),
    [
        (server.page(404), 2, "404"),
        (server.cut(5), 3, "one size"),
        (server.page(200), 3, "a web page"),
    ],
)
def test_a_bad_server_is_one_line_and_no_file(fault, code, names, capsys):
    with server.running(CONTENT, always=fault) as state:
        write_table(state, size=len(CONTENT))
        check_refusal(data, [*WORDS, "set"], code, names, capsys)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_soon_and_the_next_start_continues(number, code):
    content = random.Random(3).randbytes(3_000_000)
    with server.running(content, pace=0.02) as state:
        write_table(state)
        words = [sys.executable, "-m", "scratchlm.cli.data", *WORDS, "pile"]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        parts = [Path("data/train/.00.bin.part"), Path("data/val/.val.bin.part")]
        while not all(part.exists() and part.stat().st_size > 100_000 for part in parts):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(number)
        start = time.monotonic()
        _, errors = process.communicate(timeout=20)
        assert time.monotonic() - start < 3
        assert process.returncode == code
        assert errors.decode() == (
            "scratchlm: the downloads stopped; repeat the command to continue them\n"
        )
        assert not Path("data/train/00.bin").exists()
        state.pace = 0.0
        assert data([*WORDS, "pile"]) == 0
    assert Path("data/train/00.bin").read_bytes() == content
    assert sum(each is not None for each in state.asked) == 2
