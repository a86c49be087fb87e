"""Published tokenizers by name: tiktoken's ids from tiktoken's files."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

import pytest
import tiktoken
import tiktoken_ext.openai_public as published

from helpers.tokenizer_texts import texts
from scratchlm.data.download.table import read_table
from scratchlm.errors import FileFormatError
from scratchlm.files.checksum import sha256_of
from scratchlm.tokenizer.named import load_named

END = "<|endoftext|>"


@pytest.fixture
def gpt2(shared_data, tmp_path) -> Path:
    """The files that `scratchlm-data download gpt2` saves."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shared_data / f"gpt2_{name}", tmp_path / name)
    return tmp_path


def test_gpt2_from_each_of_its_files(gpt2, tmp_path):
    tokenizer = load_named("r50k_base", gpt2)
    ranks = tmp_path / "ranks"
    ranks.mkdir()
    tokenizer.save_tiktoken(ranks / "r50k_base.tiktoken")
    (file,) = read_table()["r50k_base"].entries
    assert sha256_of(ranks / "r50k_base.tiktoken") == file.sha256
    for name, folder in (("gpt2", gpt2), ("gpt2", ranks), ("r50k_base", ranks)):
        other = load_named(name, folder)
        assert other.hash == tokenizer.hash
        assert (len(other), other.token_to_id(END)) == (50257, 50256)
    (ranks / "r50k_base.tiktoken").write_text("not ranks\n")
    with pytest.raises(FileFormatError, match=re.escape("r50k_base.tiktoken")):
        load_named("gpt2", ranks)


def test_cl100k_is_tiktokens(tmp_path, monkeypatch):
    """Only the ranks are not the real ones, because no test downloads."""
    merged = [b" t", b" a", b"he", b"in", b"re", b" the", b"1" * 3, b"\n\n", b"'s"]
    tokens = [*(bytes([byte]) for byte in range(256)), *merged]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()]
    (tmp_path / "cl100k_base.tiktoken").write_bytes(b"".join(lines))
    monkeypatch.setattr(published, "load_tiktoken_bpe", lambda *_, **__: ranks)
    theirs = tiktoken.Encoding(**published.cl100k_base())
    ours = load_named("cl100k_base", tmp_path)
    assert len(ours) == theirs.n_vocab == 100_277
    specials = theirs.special_tokens_set
    assert set(ours.special_tokens) == specials
    for text in [*texts(5, 100), "".join(specials), "the 1111 tests'S\r\n\n the end \n"]:
        assert ours.encode(text) == theirs.encode(text, allowed_special="all")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "r50k_base",
            r"r50k_base\.tiktoken and no vocab\.json with .*download r50k_base --",
        ),
        ("gpt2", r"run scratchlm-data download gpt2 --output '.*my files'$"),
        ("cl100k_base", r"has no cl100k_base\.tiktoken\); run scratchlm-data download cl100k_base"),
        ("o200k", r"no such tokenizer \(o200k\); choose gpt2, r50k_base, cl100k_base, or"),
    ],
)
def test_the_error_contains_the_command_that_downloads(tmp_path, name, message):
    folder = tmp_path / "my files"
    folder.mkdir()
    (folder / "vocab.json").write_text("{}")  # without merges.txt
    with pytest.raises(ValueError, match=message):
        load_named(name, folder)


def test_the_folder_of_downloads_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"scratchlm-data download r50k_base$"):
        load_named("r50k_base")
    sources = read_table()
    assert all(sources[name].folder == "~/.cache/scratchlm" for name in ("gpt2", "cl100k_base"))
