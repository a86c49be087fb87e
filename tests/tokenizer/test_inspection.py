"""The report on a tokenizer: every line for a small tokenizer, and the sums for a sample."""

from __future__ import annotations

import doctest
import re

import pytest

from scratchlm.tokenizer import inspection
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.inspection import inspect, merge_tree, shown_token
from scratchlm.tokenizer.pieces.patterns import PATTERNS

TOKENS = [b"t", b"h", b"e", b" ", b"\xe4", b"\xb8", b"\xad", b"th", b"the", b" the", b"\xe4\xb8"]
MERGES = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the"), (b"\xe4", b"\xb8")]
SMALL = BPETokenizer(dict(enumerate(TOKENS)) | {20: b"<|end|>"}, MERGES, ["<|end|>"])

REPORT = r"""
ids             21 (9 without a token)
single bytes    7
merges          4
special tokens  1
        20  '<|end|>'
pattern         gpt2
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

bytes per token, without special tokens
   1        7  ########################################
   2        2  ############
   3        1  ######
   4        1  ######

the longest tokens    bytes
         9                4  ␣the
         8                3  the
         7                2  th
        10                2  \xe4\xb8
         0                1  t
         1                1  h
         2                1  e
         3                1  ␣
         4                1  \xe4
         5                1  \xb8

sample          tokens  bytes/token  characters/token
  latin              2         3.50              3.50
  cjk                3         1.33              0.67
  all                5         2.20              1.80

'the the中' is cut into 2 pieces: 'the', ' the中'
               t h e
      merge 0  th e
      merge 1  the
          ids  8
               ␣ t h e \xe4 \xb8 \xad
      merge 0  ␣ th e \xe4 \xb8 \xad
      merge 1  ␣ the \xe4 \xb8 \xad
      merge 2  ␣the \xe4 \xb8 \xad
      merge 3  ␣the \xe4\xb8 \xad
          ids  9 10 6
"""


def test_every_line_of_the_report() -> None:
    assert inspect(SMALL, sample="the the 中", word="the the中") == REPORT.strip("\n")
    assert inspect(SMALL) == REPORT.strip("\n").split("\n\nsample")[0]


def test_the_ids_of_the_merge_tree_are_those_of_encode() -> None:
    for word in ("the the中", "het", " the", "thethe"):
        rows = re.findall(r"^ +ids  ([\d ]+)$", merge_tree(SMALL, word), re.MULTILINE)
        assert [int(id) for row in rows for id in row.split()] == SMALL.encode(word)


def test_what_is_not_the_default_is_named() -> None:
    specials = [f"<|{i}|>" for i in range(25)]
    tokenizer = BPETokenizer(
        dict(enumerate(TOKENS)),
        MERGES[:1],
        specials,
        PATTERNS["qwen2"],
        ignore_merges=True,
        normalization="NFC",
    )
    report = inspect(tokenizer, word="the")
    for line in (
        "normalization   NFC",
        "ignore_merges   a piece in the vocabulary is not merged",
        "special tokens  25",
        "  and 5 more",
        "pattern         qwen2",
        "  whole piece  the\n          ids  8",
    ):
        assert line in report
    assert tokenizer.encode("the") == [8]
    other = BPETokenizer(dict(enumerate(TOKENS)), MERGES, pattern=r"[\s\S]")
    assert "pattern         custom" in inspect(other)


def test_what_cannot_be_encoded_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="lone surrogate"):
        merge_tree(SMALL, "t\ud800")
    with pytest.raises(ValueError, match="no token for a byte"):
        merge_tree(SMALL, "x")


def test_a_token_is_shown_on_one_line() -> None:
    assert shown_token(" é\n\x00\u200b中".encode() + b"\xff") == "␣é\\n\\x00\\u200b中\\xff"


def test_the_doctest() -> None:
    result = doctest.testmod(inspection)
    assert result.attempted
    assert not result.failed
