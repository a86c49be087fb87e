"""Editors on Windows write a byte order mark. Each command ignores it in every file of a user."""

from __future__ import annotations

import codecs
import io
import json
import sys
from pathlib import Path

import pytest

from helpers import tiny
from scratchlm import BPETokenizer, save_checkpoint, train_bpe
from scratchlm.chat.conversation import Conversation
from scratchlm.cli.chat import main as chat
from scratchlm.cli.generate import main as generate
from scratchlm.config import read_toml
from scratchlm.generation.generator import TextGenerator

TEXT = "the cat sat on the mat. " * 50


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def marked(name: str, content: str | bytes) -> Path:
    content = content if isinstance(content, bytes) else content.encode()
    Path(name).write_bytes(codecs.BOM_UTF8 + content)
    return Path(name)


def test_tokenizer_files(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer(tmp_path)
    tokenizer.save("t.json")
    assert BPETokenizer.load(marked("t.json", Path("t.json").read_bytes())).hash == tokenizer.hash
    tokenizer.save_gpt2("vocab.json", "merges.txt")
    files = [marked(name, Path(name).read_bytes()) for name in ("vocab.json", "merges.txt")]
    assert BPETokenizer.from_gpt2(*files).hash == tokenizer.hash
    tokenizer.save_tiktoken("ranks.tiktoken")
    ranks = marked("ranks.tiktoken", Path("ranks.tiktoken").read_bytes())
    again = BPETokenizer.from_tiktoken(ranks, tokenizer.special_tokens)
    assert again.encode(TEXT) == tokenizer.encode(TEXT)


def test_corpora(tmp_path: Path) -> None:
    tokenizer = train_bpe(marked("text", TEXT), 270)
    Path("plain").write_text(TEXT, encoding="utf-8")
    assert tokenizer.hash == train_bpe("plain", 270).hash
    assert tokenizer.encode_file("text", "a.bin") == len(tokenizer.encode(TEXT))


def test_configs() -> None:
    assert read_toml(marked("a.toml", "[model]\nd_model = 3\n")) == {"model": {"d_model": 3}}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_standard_input(
    encoding: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = tiny.tokenizer(tmp_path)
    save_checkpoint("m.pt", tiny.model(), None, 1, tokenizer=tokenizer.to_json())

    def given(text: str) -> None:
        stdin = io.BytesIO(codecs.BOM_UTF8 + text.encode())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin, encoding=encoding))

    words = ["--model_path", "m.pt", "--device", "cpu", "--max_tokens", "3"]
    given("über the cat")
    assert generate([*words, "--prompt_file", "-"]) == 0
    assert capsys.readouterr().out.startswith("über the cat")
    given("/seed\n")
    assert chat(words) == 2
    assert "(/seed)" in capsys.readouterr().err, "a command on the first line is known as one"
    given("a\n\ufeffb\n/save c.json\n")
    assert chat([*words, "--template", "plain"]) == 0
    messages = json.loads(Path("c.json").read_bytes())["messages"]
    said = [each["content"] for each in messages if each["role"] == "user"]
    assert said == ["a", "\ufeffb"], "only the first line has the mark"


def test_prompts_and_conversations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tiny.tokenizer(tmp_path)
    save_checkpoint("m.pt", tiny.model(), None, 1, tokenizer=tokenizer.to_json())
    words = ["--model_path", "m.pt", "--device", "cpu", "--max_tokens", "3", "--prompt_file"]
    assert generate([*words, str(marked("prompt.txt", "the cat"))]) == 0
    assert capsys.readouterr().out.startswith("the cat")
    content = {"template": "plain", "system": None, "messages": []}
    writer = TextGenerator.load("m.pt", None, "cpu")
    loaded = Conversation.from_json(writer, marked("c.json", json.dumps(content)).read_bytes(), "c")
    assert loaded.messages == []
