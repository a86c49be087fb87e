"""tiktoken's files: tiktoken gives our ids, and the error for a broken file names its line."""

from __future__ import annotations

import base64
import gzip
import json
import random
from pathlib import Path

import pytest
import tiktoken
import tiktoken.load

from helpers.broken_tokenizers import AB, JSON, check_is_refused
from helpers.tokenizer_layouts import (
    BYTES,
    learned,
    llama3_layout,
    parts_of,
    samples,
)
from helpers.tokenizer_texts import END
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.formats.tiktoken_files import (
    merges_of_ranks,
    parts_of_ranks,
    read_tiktoken,
    splits_of_ranks,
    tiktoken_ranks,
    write_tiktoken,
)
from scratchlm.tokenizer.formats.tokenizer_json import read_tokenizer_json
from scratchlm.tokenizer.parts import TokenizerParts
from scratchlm.tokenizer.pieces.patterns import CL100K, GPT2, LLAMA3, O200K

RANKS = write_tiktoken({token: id for id, token in AB.items()})


def test_a_tiktoken_file_of_ours_loads_in_tiktoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # it would keep what it read under the path
    path = tmp_path / "ours.tiktoken"
    for pattern in (GPT2, CL100K, O200K):
        tokenizer = learned(pattern)
        ours = BPETokenizer(tokenizer.vocab, tokenizer.merges, [END], pattern)
        ranks = tiktoken_ranks(parts_of(ours))
        path.write_bytes(write_tiktoken(ranks))
        assert tiktoken.load.load_tiktoken_bpe(str(path)) == ranks == read_tiktoken(path)
        theirs = tiktoken.Encoding(
            "ours", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END: len(ours) - 1}
        )
        for text in samples([END], 6, 100):
            assert theirs.encode(text, allowed_special="all") == ours.encode(text), repr(text)
        assert BPETokenizer.from_tiktoken(ranks, [END], pattern).hash == ours.hash


def test_two_tokens_of_one_rank_are_refused() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    for given, specials in ((ranks, {"<|x|>": 65}), (ranks | {b"ab": 97}, ())):
        with pytest.raises(
            ValueError, match=r"two tokens have the same rank \((65|97): b'[aA]' and "
        ):
            BPETokenizer.from_tiktoken(given, specials)


def test_llama3_is_a_tiktoken_file_too() -> None:
    """Its tokens out of reach of merges are found whole by tiktoken as well."""
    parts = read_tokenizer_json(json.dumps(llama3_layout(learned(LLAMA3))), "x")
    ranks = tiktoken_ranks(parts)
    with pytest.raises(ValueError, match=r"lower ranks never makes a token \(b' zyxwvut'"):
        merges_of_ranks(ranks)
    ours = BPETokenizer(
        {rank: token for token, rank in ranks.items()},
        splits_of_ranks(ranks),
        pattern=LLAMA3,
        ignore_merges=True,
    )
    theirs = tiktoken.Encoding("ours", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens={})
    for text in samples([], 7, 200):
        assert theirs.encode(text) == ours.encode(text), repr(text)


def test_what_is_no_tiktoken_file_is_refused() -> None:
    vocab = BYTES | {256: b"ab", 257: b"bc", 258: b"abc"}
    merges = [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c")]
    assert len(tiktoken_ranks(TokenizerParts(vocab, merges, []))) == 259
    for parts, message in (
        (TokenizerParts(vocab, [merges[1], merges[0], merges[2]], []),
         r"in the order of ids \(merge 1 makes id 256 after id 257\)"),
        (TokenizerParts(vocab, merges[:2], []), r"ranks imply other merges \(merge 2: \[\]"),
        (TokenizerParts(vocab, [*merges[:2], (b"a", b"bc")], []), r"imply other merges \(merge 2"),
        (TokenizerParts(vocab, merges, [], normalization="NFC"), r"not normalize text \(NFC\)"),
        (TokenizerParts({1: b"\x01"}, [], []), r"a token for each byte \(0x00 has none"),
        (TokenizerParts(BYTES | {300: b"xyz"}, [], []), r"lower ranks never makes a token"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            tiktoken_ranks(parts)
    with pytest.raises(ValueError, match="change a rank"):
        write_tiktoken({b"a": 0, b"b": 0})


def line(token: bytes, rank: object) -> bytes:
    return b"%s %s\n" % (base64.b64encode(token), str(rank).encode())


TIKTOKEN = [
    (b"", "the file is empty"),
    (RANKS[: len(RANKS) // 2], "line 1.. must be a token|no rank"),
    (RANKS[:-3], "line 258 must be a token|repeats the rank of"),
    (RANKS + b"YWJjZA==", "line 259 must be a token in base64, a space and a rank"),
    (RANKS + b"YWJjZA== \n", "line 259 must be"),
    (RANKS + b"YWJjZA==  300\n", "line 259 must be"),
    (RANKS + b"YWJjZA== 300 1\n", "line 259 must be"),
    (RANKS + b"\nYWJjZA== 300\n", "line 259 must be"),
    (RANKS + b"YWJjZA 300\n", "the token in line 259 must be base64"),
    (RANKS + b"YWJjZB== 300\n", "the token in line 259 must be base64"),
    (RANKS + b"YW!jZA== 300\n", "the token in line 259 must be base64"),
    (RANKS + b"= 300\n", "the token in line 259 must be base64"),
    (RANKS + b" 300\n", "line 259 must be"),
    (RANKS + line(b"abcd", -1), "line 259 must be"),
    (RANKS + line(b"abcd", 3.0), "line 259 must be"),
    (RANKS + line(b"abcd", "nan"), "line 259 must be"),
    (RANKS + line(b"abcd", "1_0"), "line 259 must be"),
    (RANKS + line(b"abcd", "٣"), "line 259 must be"),
    (RANKS + line(b"abcd", 2**22), "line 259 has a rank above"),
    (RANKS + line(b"abcd", 10**400), "line 259 must be"),
    (RANKS + line(b"ab", 300), r"line 259 repeats a token \(b'ab'\)"),
    (RANKS + line(b"abcd", 5), r"line 259 repeats the rank of line 6 \(5\)"),
    (b"\n".join(RANKS.split(b"\n")[1:]), "the byte 0x00 has no rank"),
    (b"\0" * 99, "line 1 must be"),
    (gzip.compress(RANKS, mtime=0), "line 1 must be"),
    (JSON.encode(), "line 1 must be"),
]


@pytest.mark.parametrize(("data", "message"), TIKTOKEN, ids=range(len(TIKTOKEN)))
def test_a_broken_tiktoken_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "ranks.tiktoken"
    path.write_bytes(data)
    check_is_refused(lambda: read_tiktoken(path), path, message)


def test_line_ends_of_windows_and_holes_in_ranks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ranks.tiktoken"
    path.write_bytes((RANKS + line(b"abcd", 300)).replace(b"\n", b"\r\n"))
    assert read_tiktoken(path) == {token: id for id, token in AB.items()} | {b"abcd": 300}


@pytest.mark.parametrize("seed", range(3))
def test_merges_of_all_tokens_together_are_those_of_each(seed: int) -> None:
    """Of random vocabularies, some of which have tokens that merges never make."""
    rng = random.Random(seed)
    reachable = 0
    for _ in range(60):
        words = [b"a", b"b", b"\0", b"\xff"]
        for _ in range(12):
            words.append(rng.choice(words) + rng.choice(words))
        if rng.random() < 0.4:
            words.insert(rng.randrange(4, 16), bytes(rng.choices(b"ab\0", k=4)))
        ranks = {bytes([byte]): byte for byte in range(256)}
        ranks |= {word: 256 + 2 * i for i, word in enumerate(dict.fromkeys(words[4:]))}
        parts = parts_of_ranks(ranks, [], GPT2)
        try:
            expected = merges_of_ranks(ranks)
            reachable += 1
        except ValueError:
            expected = splits_of_ranks(ranks)
        assert list(parts.merges) == expected
        assert [*BPETokenizer.from_parts(parts).merges] == expected
    assert 5 < reachable < 55
