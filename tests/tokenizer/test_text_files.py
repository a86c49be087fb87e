"""Reading text files, and ranges of them against the pieces of the whole."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tqdm import tqdm

from scratchlm.tokenizer.pieces import text_files
from scratchlm.tokenizer.pieces.patterns import PATTERNS
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer
from scratchlm.tokenizer.pieces.text_files import Range, cut_file, read_text, texts_of

SPECIALS = ["<|a|>", "<|a|><|a|>", "<|", "al", "lal", "'s 1", " x x "]
WORDS = [*"asé中1²'!😀  \nx", "ll", "al", "\u0301", "\r\n"]


def silent() -> tqdm[None]:
    return tqdm(disable=True)


@pytest.mark.parametrize("pattern", [*PATTERNS.values(), r"\S+\s*|\s+"], ids=[*PATTERNS, "own"])
def test_the_pieces_of_all_ranges_are_the_pieces_of_the_file(
    tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "WINDOW", 60)
    rng = random.Random(0)
    ranges = 0
    for i in range(60):
        specials = rng.choice([[], ["<|a|>"], SPECIALS])
        pretokenizer = Pretokenizer(pattern, specials)
        text = "".join(rng.choices([*WORDS, *specials], k=300))
        path = tmp_path / str(i)
        path.write_bytes(text.encode())
        items = list(cut_file(path, pretokenizer, rng.randrange(5, 200), silent()))
        pieces = []
        for item in items:
            for block in texts_of(item, pretokenizer):
                for j, part in enumerate(pretokenizer.split(block)):
                    pieces += [part] if j % 2 else pretokenizer.pieces(part)
        expected = []
        for j, part in enumerate(pretokenizer.split(text)):
            expected += [part] if j % 2 else pretokenizer.pieces(part)
        assert pieces == [piece for piece in expected if piece], (text, items)
        if pretokenizer.known:
            assert [item.start for item in items] == [0, *(item.end for item in items)][:-1]
            ranges += len(items)
    assert ranges > 200 or pattern not in PATTERNS.values()


def test_a_file_without_borders_is_one_range(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"a" * 200_000)
    assert list(cut_file(path, Pretokenizer(), 1000, silent())) == [Range(path, 0, 200_000)]


def test_read_text_gives_bytes_as_they_are(tmp_path: Path) -> None:
    text = "one\ufeff\r\ntwo\rthree\n" + "é中😀\u2028" * 400_000  # characters across every 1 MiB
    path = tmp_path / "text"
    path.write_bytes(text.encode())
    chunks = list(read_text(path))
    assert "".join(chunks) == text
    assert len(chunks) > 3


@pytest.mark.parametrize(
    ("data", "byte", "offset"),
    [
        (b"ab\xffcd", "0xff", 2),
        (b"\xc3(", "0xc3", 0),
        (b"fine " + "é".encode()[:1], "0xc3", 5),  # cut at the end
        (b"a" * ((1 << 20) - 1) + b"\xe4\xb8!", "0xe4", (1 << 20) - 1),  # cut by the reads
        (b"a" * (1 << 20) + b"a\x80", "0x80", (1 << 20) + 1),
    ],
)
def test_read_text_names_the_byte_that_is_not_utf8(
    tmp_path: Path, data: bytes, byte: str, offset: int
) -> None:
    path = tmp_path / "latin"
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match=rf"is not UTF-8 \(.*latin: byte {byte} at offset {offset}\); "
    ):
        list(read_text(path))
