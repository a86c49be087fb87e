"""GPT-2's vocab.json and merges.txt: read them, write them, and refuse broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from helpers.broken_tokenizers import AB, ID, MERGES, Change, check_is_refused
from helpers.tokenizer_layouts import BYTES, NAMES, learned, parts_of
from helpers.tokenizer_texts import END, texts
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.formats.gpt2_files import read_gpt2, write_gpt2_merges, write_gpt2_vocab
from scratchlm.tokenizer.parts import TokenizerParts
from scratchlm.tokenizer.pieces.patterns import CL100K, GPT2

GPT2_PARTS = TokenizerParts(AB | {258: END.encode()}, MERGES, [END])


def test_from_gpt2_with_and_without_a_version_line(tmp_path: Path) -> None:
    tokens = [*NAMES.values(), "Ġt", "##", "Ġt##"]
    (tmp_path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(tokens)}))
    lines = "# #\nĠ t\nĠt ##\n"
    (tmp_path / "bare.txt").write_text(lines)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + lines)
    (tmp_path / "dos.txt").write_text("#version: 0.2\n" + lines, newline="\r\n")
    for merges in ("bare.txt", "merges.txt", "dos.txt"):
        parts = read_gpt2(tmp_path / "vocab.json", tmp_path / merges)
        assert parts.merges == [(b"#", b"#"), (b" ", b"t"), (b" t", b"##")]
        tokenizer = BPETokenizer.from_gpt2(tmp_path / "vocab.json", tmp_path / merges)
        assert tokenizer.merges == parts.merges
        assert [tokenizer.vocab[i] for i in range(256)] == [bytes([b]) for b in NAMES]
        assert tokenizer.special_tokens == [END]
        assert tokenizer.encode(f" t{END}##") == [256, 259, 257]


def test_gpt2_files_of_ours_load_in_tokenizers(tmp_path: Path) -> None:
    ours = BPETokenizer(learned(GPT2).vocab, learned(GPT2).merges, [END])
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocab.write_text(write_gpt2_vocab(parts_of(ours)), encoding="utf-8")
    merges.write_text(write_gpt2_merges(parts_of(ours)), encoding="utf-8")
    assert merges.read_text(encoding="utf-8").startswith("#version: 0.2\n")
    assert read_gpt2(vocab, merges) == parts_of(ours)
    theirs = tokenizers.ByteLevelBPETokenizer(str(vocab), str(merges))
    assert theirs.token_to_id(END) == len(ours) - 1
    for text in texts(5, 200):
        assert theirs.encode(text).ids == ours.encode(text, allowed_special="none"), repr(text)


def test_gpt2_files_keep_special_tokens_that_the_reader_is_told(tmp_path: Path) -> None:
    parts = TokenizerParts(BYTES | {256: "<é x>".encode()}, [], ["<é x>"])
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocab.write_text(write_gpt2_vocab(parts), encoding="utf-8")
    merges.write_text(write_gpt2_merges(parts), encoding="utf-8")
    assert read_gpt2(vocab, merges, ["<é x>"]) == parts


@pytest.mark.parametrize(
    "other", [{"pattern": CL100K}, {"ignore_merges": True}, {"normalization": "NFC"}]
)
def test_gpt2_files_refuse_what_they_cannot_hold(other: dict[str, Any]) -> None:
    parts = TokenizerParts(BYTES, [], [], **other)
    for write in (write_gpt2_vocab, write_gpt2_merges):
        with pytest.raises(ValueError, match=rf"GPT-2's files cannot store {next(iter(other))}"):
            write(parts)


VOCAB_JSON = [
    (lambda c: c.update(a=98), "two tokens have the same id"),
    (lambda c: c.update(a=1.5), ID),
    (lambda c: c.update(a=[]), ID),
    (lambda c: c.update({"a b": 300}), "represents no byte"),
    (lambda c: c.pop("ab"), r"merge 0 needs a token that is not in the vocabulary \(b'ab'\)"),
    (lambda c: c.update(zzz=300), r"no merge makes a token \(b'zzz', id 300\)"),
]


@pytest.mark.parametrize(("change", "message"), VOCAB_JSON, ids=range(len(VOCAB_JSON)))
def test_a_broken_vocab_json_is_refused(tmp_path: Path, change: Change, message: str) -> None:
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    content = json.loads(write_gpt2_vocab(GPT2_PARTS))
    change(content)
    vocab.write_text(json.dumps(content))
    merges.write_text(write_gpt2_merges(GPT2_PARTS))
    check_is_refused(lambda: read_gpt2(vocab, merges), vocab, message)


MERGES_TXT = [
    (b"", "the file is empty"),
    (b"a b\n\xff", r"the file is not UTF-8 \(byte 0xff at offset 4\)"),
    (b"\x1f\x8b\x08\0", "the file is not UTF-8"),
    (b"a b\0\n", "a token has a character that .* no byte .line 1: "),
    (
        "\ufeff\ufeff#version: 0.2\na b\nab c".encode(),
        "a token has a character that .* no byte .line 1: ",
    ),
    (b"a b c", "a merge must be two tokens .line 1: "),
    (b"#version: 0.2\na b\nab", "a merge must be two tokens .line 3: "),
    (b"a b\n\nab c\n", "a merge must be two tokens .line 2: "),
    (b"a b\r\r\nab c\n", "a merge must be two tokens|represents no byte"),
    (b"a\tb", "a merge must be two tokens"),
    ("a 中".encode(), "a token has a character that .* no byte .line 1: "),
    (b"a b\n#version c", "only the first line may start with #version .line 2"),
    (b"a b\nb c\nab c", r"merge 1 needs a token .*\(b'bc'\)"),
    (b"a b\nab c\na b", "a merge is listed 2 times"),
    (b"ab c\na b", "merge 0 joins a token that no earlier merge makes"),
    (b"a b\n", r"no merge makes a token \(b'abc', id 257\)"),
    (b"#version: 0.2\n", "no merge makes a token"),
    (write_gpt2_vocab(GPT2_PARTS).encode(), "a merge must be two tokens"),
]


@pytest.mark.parametrize(("data", "message"), MERGES_TXT, ids=range(len(MERGES_TXT)))
def test_a_broken_merges_txt_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocab.write_text(write_gpt2_vocab(GPT2_PARTS))
    merges.write_bytes(data)
    check_is_refused(lambda: read_gpt2(vocab, merges), tmp_path, message)
