"""Counts of pieces, compared with a loop that cuts each whole text and counts its pieces."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from scratchlm.tokenizer.learning import counting
from scratchlm.tokenizer.learning.counting import batches, count_pieces
from scratchlm.tokenizer.pieces.patterns import PATTERNS
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer

WORDS = [
    "the",
    "cat's",
    "x",
    "1984",
    "!",
    "é",
    "e\u0301",
    "中文",
    "👍",
    "'",
    "\x01",
    "<|a|>",
    "A" * 200,
]
SPACES = [
    " ",
    " ",
    " ",
    "  ",
    "   ",
    "\n",
    " \n",
    "\n ",
    "\r\n\r\n",
    "\t",
    "\u3000 ",
    "\v",
    " \x01",
]


def random_text(rng: random.Random) -> str:
    spaced = rng.choice([0, 1, 1, 3])
    return "".join(rng.choices(WORDS + spaced * SPACES, k=rng.randrange(80)))


@pytest.mark.parametrize("pattern", [*PATTERNS.values(), r"\w+|\W"], ids=[*PATTERNS, "own"])
def test_counts_equal_counting_every_piece(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    texts = [random_text(rng) for _ in range(2000)]
    pretokenizer = Pretokenizer(pattern, ["<|a|>"])
    expected: Counter[bytes] = Counter()
    for text in texts:
        for ordinary in text.split("<|a|>"):
            expected.update(piece.encode() for piece in pretokenizer.pieces(ordinary))
    monkeypatch.setattr(counting, "BATCH_CHARACTERS", 3000)
    for num_workers in (1, 2):
        assert count_pieces(iter(texts), pretokenizer, num_workers) == expected


def test_batches_hold_all_texts_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "BATCH_CHARACTERS", 4)
    found = list(batches(["ab", "c", "de", "", "fghijk", "l"]))
    assert found == [["ab", "c", "de"], ["", "fghijk"], ["l"]]
    assert list(batches([])) == []
