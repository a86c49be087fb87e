"""Standard input, output and error are UTF-8 in every command and in every locale."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import tiny
from helpers.refusals import check_refusal
from scratchlm import save_checkpoint
from scratchlm.cli.chat import main as chat
from scratchlm.cli.generate import main as generate
from scratchlm.cli.inspect import main as inspect
from scratchlm.cli.tokenize import main as tokenize
from scratchlm.cli.train import main as train

TEXT = "über 中文 😀"
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENCODINGS = ["ascii", "latin-1", "utf-8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    tokenizer = tiny.tokenizer(folder)
    tokenizer.save(folder / "über.json")
    save_checkpoint(folder / "中文.pt", tiny.model(), None, 1, tokenizer=tokenizer.to_json())
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    """Return run(main, words, encoding) -> standard output and error of a process with such
    streams."""
    monkeypatch.chdir(folder)

    def call(main, words, encoding, stdin=b"", code=0) -> tuple[str, str]:
        streams = {name: io.BytesIO() for name in ("stdout", "stderr")}
        for name, content in streams.items():
            monkeypatch.setattr(sys, name, io.TextIOWrapper(content, encoding=encoding))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding=encoding))
        assert main(words) == code
        sys.stdout.flush()
        return streams["stdout"].getvalue().decode(), streams["stderr"].getvalue().decode()

    return call


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_commands_data_goes_out_as_utf8(run, encoding):
    words = ["--model_path", "中文.pt", "--prompt", TEXT, "--max_tokens", "2", "--seed", "1"]
    assert run(generate, words, encoding)[0].startswith(TEXT)
    record = json.loads(run(generate, [*words, "--json"], encoding)[0])
    assert record["prompt"] == TEXT
    assert "ü" in run(generate, [*words, "--show_tokens"], encoding)[0]
    shown = run(tokenize, ["--tokenizer_path", "über.json", "--show", "über"], encoding)[0]
    assert shown.replace("|", "").startswith("über")
    assert " 😀\n" in run(tokenize, ["--inspect", "über.json"], encoding)[0]
    assert json.loads(run(inspect, ["中文.pt", "--json"], encoding)[0])["path"] == "中文.pt"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_pipe_is_read_as_utf8(run, encoding, tmp_path):
    words = ["--model_path", "中文.pt", "--max_tokens", "2", "--seed", "1"]
    stdin = TEXT.encode()
    assert run(generate, ["--prompt_file", "-", *words], encoding, stdin)[0].startswith(TEXT)
    typed = f"{TEXT}\n/save {tmp_path}/ü.json\n".encode()
    errors = run(chat, words, encoding, typed)[1]
    assert errors.splitlines()[-1] == f"saved: {tmp_path}/ü.json"
    messages = json.loads((tmp_path / "ü.json").read_text(encoding="utf-8"))["messages"]
    assert messages[0]["content"] == TEXT


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_error_names_the_file_as_it_was_typed(run, encoding):
    errors = run(generate, ["--model_path", "ö.pt", "--prompt", "a"], encoding, code=2)[1]
    assert errors.startswith("scratchlm: error: the checkpoint does not exist (ö.pt); ")
    _, errors = run(inspect, ["a\ud800"], encoding, code=2)
    assert "(a\\ud800)" in errors


def test_a_name_that_no_config_can_hold_is_called_that(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    np.save("caf\udce9.npy", np.zeros(500, dtype=np.uint16))
    words = ["--train_data", "caf\udce9.npy", "--vocab_size", "300", "--d_model", "16"]
    words += ["--num_heads", "2", "--max_seq_len", "16", "--device", "cpu"]
    check_refusal(train, words, 2, "a path must be UTF-8", capsys)


def test_a_byte_order_mark_is_no_part_of_a_prompt(run, tmp_path):
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbfthe cat")
    words = ["--model_path", "中文.pt", "--prompt_file", str(tmp_path / "prompt.txt"), "--json"]
    record = json.loads(run(generate, [*words, "--max_tokens", "1"], "utf-8")[0])
    assert record["prompt"] == "the cat"


def test_a_process_in_the_c_locale_reads_and_writes_utf8(folder):
    """Its arguments and file names are bytes for Python, and must not change."""
    environment = os.environ | C_LOCALE
    words = [sys.executable, "-m", "scratchlm.cli.tokenize", "--tokenizer_path"]
    for name, code in (("über.json", 0), ("ö.json", 2)):
        done = subprocess.run([*words, name, "--show", "über"], cwd=folder, env=environment,
                              capture_output=True, check=False)  # fmt: skip
        assert done.returncode == code, done.stderr
        assert code or done.stdout.decode().replace("|", "").startswith("über")
    assert "(ö.json)" in done.stderr.decode()


@pytest.mark.slow
def test_a_chat_in_the_c_locale_saves_under_the_name_that_is_typed(folder):
    environment = os.environ | C_LOCALE
    words = [sys.executable, "-m", "scratchlm.cli.chat", "--model_path", "中文.pt"]
    subprocess.run([*words, "--max_tokens", "1"], input="ü\n/save ü.json\n".encode(),
                   cwd=folder, env=environment, capture_output=True, check=True)  # fmt: skip
    assert (folder / "ü.json").is_file()


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (generate, ["--model_path", "m.pt", "--prompt", "caf\udce9"]),
        (generate, ["--model_path", "m.pt", "--stop", "caf\udce9"]),
        (chat, ["--model_path", "m.pt", "--stop", "caf\udce9"]),
    ],
)
def test_an_argument_that_is_not_utf8_is_called_that(main, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check_refusal(main, words, 2, "must be UTF-8", capsys)
