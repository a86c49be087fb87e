"""Cutting text: GPT-2's pieces by hand, and each border of a block against the pieces of the whole
text."""

from __future__ import annotations

import itertools
import pickle
import random
import re
import time
from collections.abc import Iterator

import pytest
import regex

from scratchlm.tokenizer.pieces.patterns import GPT2
from scratchlm.tokenizer.pieces.pretokenize import (
    Pretokenizer,
    check_special_tokens,
)

# Few characters of every kind, so that short random texts hold every awkward neighbourhood.
NASTY = ["a", "s", "l", "é", "中", "1", "²", "'", "!", "́", "😀", " ", " ", "\n", "\r\n", "\u3000"]
SPECIALS = ["<|a|>", "<|a|><|a|>", "<|", "al", "lal", "'s 1"]


def whole_pieces(text: str, special_tokens: list[str]) -> list[str]:
    """The definition without blocks: split at the longest special token, and use findall on the
    text between."""
    longest_first = sorted(special_tokens, key=len, reverse=True)
    parts = (
        re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if longest_first else [text]
    )
    pieces = []
    for i, part in enumerate(parts):
        pieces += [part] if i % 2 else regex.findall(GPT2, part)
    return pieces


def random_chunks(rng: random.Random, text: str) -> list[str]:
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(12)))
    return [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]


def test_gpt2_pieces_by_hand() -> None:
    pieces = Pretokenizer().pieces("I'll say:  'tis 42°!\r\n\n  x\t")
    assert pieces == ["I", "'ll", " say", ":", " ", " '", "tis", " 42", "°!", "\r\n\n ", " x", "\t"]


@pytest.mark.parametrize(
    "special_tokens",
    [[], ["<|a|>"], ["a!1"], SPECIALS],
    ids=["none", "one", "of_classes", "overlap"],
)
def test_blocks_have_the_pieces_of_the_whole_text(special_tokens: list[str]) -> None:
    rng = random.Random(0)
    pretokenizer = Pretokenizer(GPT2, special_tokens)
    several = 0
    for _ in range(2500):
        alphabet = rng.sample(NASTY, rng.randrange(1, len(NASTY))) + special_tokens[:4]
        text = "".join(rng.choices(alphabet, k=rng.randrange(40)))
        blocks = list(pretokenizer.blocks(random_chunks(rng, text)))
        assert "".join(blocks) == text
        pieces = [p for block in blocks for p in whole_pieces(block, special_tokens)]
        assert pieces == whole_pieces(text, special_tokens), (text, blocks)
        several += len(blocks) > 1
    assert several > 500  # the claim is about cutting, so texts must have been cut


def test_blocks_under_another_pattern_are_cut_at_special_tokens_only() -> None:
    pretokenizer = Pretokenizer(r"\S+\s*|\s+", ["<|a|>"])
    chunks = ["one two ", "three<|", "a|>four", " five", "<|a|><|a|>", "<|a"]
    assert list(pretokenizer.blocks(chunks)) == ["one two three<|a|>", "four five<|a|><|a|>", "<|a"]


def test_blocks_hold_back_little_and_come_at_once() -> None:
    taken = given = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 20
            yield "so goes one line and\n"[:20]

    for block in itertools.islice(Pretokenizer(GPT2, ["<|endoftext|>"]).blocks(lines()), 1000):
        given += len(block)
        assert taken - given <= 60


def test_an_endless_word_is_not_searched_again_and_again() -> None:
    start = time.process_time()
    assert len(list(Pretokenizer().blocks("a" for _ in range(300_000)))) == 1
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("special_tokens", "message"),
    [
        ("<|a|>", "must be a list of strings"),
        ([""], "must not be empty"),
        (["b", "a", "b"], "2 times"),
        (["\ud800"], "lone"),
    ],
)
def test_wrong_special_tokens(special_tokens: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_special_tokens(special_tokens)


def test_wrong_patterns() -> None:
    with pytest.raises(ValueError, match="must be a regular expression"):
        Pretokenizer("(")
    with pytest.raises(ValueError, match="capturing groups"):
        Pretokenizer("(a)|b")
    with pytest.raises(ValueError, match="does not match every character of the text"):
        Pretokenizer(r"\w+").pieces("one two")


def test_a_pretokenizer_can_be_sent_to_another_process() -> None:
    copy = pickle.loads(pickle.dumps(Pretokenizer(GPT2, ["<|a|>"])))
    assert copy.split("x<|a|>") == ["x", "<|a|>", ""]
    assert copy.pieces("x y") == ["x", " y"]
