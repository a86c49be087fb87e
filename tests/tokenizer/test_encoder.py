"""The fast ways to encode a text, compared with the two-line definition: cut the text, merge each
piece."""

from __future__ import annotations

import argparse
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.encoding import encoder, stretch_cache
from scratchlm.tokenizer.encoding.batch_merging import BatchMerger, PairTable
from scratchlm.tokenizer.encoding.merging import merge_word
from scratchlm.tokenizer.pieces.byte_strings import byte_starts
from scratchlm.tokenizer.pieces.patterns import PATTERNS
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer
from scratchlm.tokenizer.train import train_bpe

Pair = tuple[int, int]
ALPHABET = [
    "a",
    "b",
    "the",
    "ing",
    "é",
    "中",
    "👍",
    "1",
    "'s",
    "'",
    ".",
    "!",
    "\u0301",
    "\t",
    "\x85",
]
SIGNS = ["\0", "\x01", "\x02"]  # of which the fast paths make use themselves
SPACES = [" ", " ", " ", "  ", "   ", "\n", "\r\n", "\n\n    ", " \n ", "\u3000", "\x1c"]


def random_vocabulary(rng: random.Random) -> tuple[dict[Pair, int], list[int]]:
    """Merges of a few bytes in any order, as no training would give: ranks may fall as well."""
    ids = list(b"abcd")
    pairs: list[Pair] = []
    for _ in range(60):
        pair = (rng.choice(ids), rng.choice(ids))
        if pair not in pairs:
            pairs.append(pair)
            ids.append(256 + len(pairs) - 1)
    order = rng.sample(range(len(pairs)), len(pairs))
    return {pairs[i]: rank for rank, i in enumerate(order)}, [256 + i for i in order]


def as_arrays(ranks: dict[Pair, int]) -> tuple[Any, Any]:
    return np.array(list(ranks), np.int64).reshape(-1, 2), np.array([*ranks.values()], np.int64)


def batch_merger(ranks: dict[Pair, int], products: list[int]) -> BatchMerger:
    return BatchMerger(range(256), *as_arrays(ranks), np.array(products))


def test_merging_together_equals_merging_one_by_one() -> None:
    rng = random.Random(0)
    several = 0
    for _ in range(300):
        ranks, products = random_vocabulary(rng)
        words = [bytes(rng.choices(b"abcd", k=rng.randrange(1, 30))) for _ in range(40)]
        expected = [merge_word(list(word), ranks, products) for word in words]
        data = np.frombuffer(b"".join(words), np.uint8)
        starts = np.cumsum([0, *map(len, words)])[:-1]
        ids = batch_merger(ranks, products).merge(data, starts)
        ends = [*starts[1:], len(data)]
        got = [[id for id in ids[a:b] if id >= 0] for a, b in zip(starts, ends, strict=True)]
        assert got == expected
        several += len(data) - sum(map(len, expected))
    assert several > 30_000  # merges done


def test_pair_table_knows_every_pair_and_no_other() -> None:
    rng = random.Random(1)
    ranks = {(rng.randrange(60_000), rng.randrange(60_000)): i for i in range(50_000)}
    table = PairTable(*as_arrays(ranks), 60_000)
    first, second = np.array(list(ranks)).T
    assert table(first.copy(), second.copy()).tolist() == list(ranks.values())
    others = [(a, b) for a, b in zip(second.tolist(), first.tolist(), strict=True)]
    expected = [ranks.get(pair, 1 << 30) for pair in others]
    assert table(second.copy(), first.copy()).tolist() == expected
    assert PairTable(*as_arrays({}), 10)(first.copy(), second.copy()).min() == 1 << 30


def test_byte_starts() -> None:
    for words in (["a", "bc", "d"], ["é", "中a", "x👍", "y"]):
        data = np.frombuffer("".join(words).encode(), np.uint8)
        lengths = [len(word.encode()) for word in words]
        assert (
            byte_starts(np.array(list(map(len, words))), data).tolist()
            == np.cumsum([0, *lengths])[:-1].tolist()
        )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "text"
    source = Path(argparse.__file__).read_bytes()
    path.write_bytes(source + "春眠不覺曉,處處聞啼鳥。夜來風雨聲。花落知多少。\n".encode() * 50)
    return path


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_every_way_through_a_text_gives_the_same_ids(
    corpus: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Learned with GPT-2's, whose tokens go on from a line's end: a wrong piece gives other ids.
    learned = train_bpe(corpus, 700, [])
    tokenizer = BPETokenizer(learned.vocab, learned.merges, [], pattern)
    ids = {token: id for id, token in tokenizer.vocab.items()}
    ranks = {(ids[a], ids[b]): rank for rank, (a, b) in enumerate(tokenizer.merges)}
    products = [ids[a + b] for a, b in tokenizer.merges]

    def by_definition(text: str) -> list[int]:
        pieces = Pretokenizer(pattern).pieces(text)
        return [
            id
            for piece in pieces
            for id in merge_word([ids[bytes([b])] for b in piece.encode()], ranks, products)
        ]

    monkeypatch.setattr(encoder, "SHORT_TEXT", 0)
    monkeypatch.setattr(encoder, "FEW_WORDS", 2)
    rng = random.Random(2)
    for i in range(1500):
        kinds = ALPHABET + SPACES * rng.choice([0, 1, 4])
        text = "".join(rng.choices(kinds, k=rng.randrange(60)))
        if i % 5 == 0:
            text += rng.choice(SIGNS) + text
        if i % 10 == 0:
            text += "  \n\n" + "x" * 600 + "\n\n " + text
        assert tokenizer.encode(text) == by_definition(text), repr(text)


def test_threads_share_a_tokenizer(corpus: Path) -> None:
    learned = train_bpe(corpus, 700, [])
    text = corpus.read_text(encoding="utf-8")
    texts = [text[i : i + 9000] for i in range(0, 200 * 400, 400)]
    expected = [learned.encode(text) for text in texts]
    fresh = BPETokenizer.from_parts(learned.parts)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(fresh.encode, texts)) == expected
    assert [fresh.encode(text) for text in texts] == expected


def test_more_stretches_than_the_cache_holds(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one text: no border in it lets it be cut into blocks, for white space touches white."""
    tokenizer = train_bpe(corpus, 700, [])
    text = "\t ".join(map(chr, range(0x2190, 0x2400)))
    expected = tokenizer.encode(text)
    for name, value in (("SHORT_TEXT", 0), ("MANY", 64), ("FEW_WORDS", 2)):
        monkeypatch.setattr(encoder, name, value)
    monkeypatch.setattr(stretch_cache, "CAPACITY", 64)
    assert BPETokenizer.from_parts(tokenizer.parts).encode(text) == expected
    assert BPETokenizer.from_parts(tokenizer.parts).encode(text.replace(" ", "")) == (
        tokenizer.encode(text.replace(" ", ""))
    )


def test_the_cache_of_words_is_bounded(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = train_bpe(corpus, 500, [])
    id_of = {token: id for id, token in trained.vocab.items()}
    words = encoder.WordEncoder(id_of, trained.parts.merges, trained.dtype, {})
    encode = encoder.TextEncoder(words, trained.pattern, None)
    monkeypatch.setattr(encoder, "CACHED_WORDS", 100)
    text = " ".join(map(str, range(3000))) + " " + "x" * 1000
    sizes = []
    for each in [text, text, *(f"n{number}" for number in range(1000))]:
        assert encode(each) == trained.encode_array(each).tobytes()
        sizes.append(len(words))
    assert max(sizes) == 100
    assert max(map(len, words)) <= encoder.LONGEST_CACHED


def test_bytes_that_the_vocabulary_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = BPETokenizer({0: b"a", 1: b" ", 2: b"aa"}, [(b"a", b"a")])
    long = "a aa " * 2000
    assert tokenizer.encode(long)[:5] == [0, 1, 2, 1, 0]
    for text in ("ab", long + "b", "a" * 9000 + "b"):
        with pytest.raises(ValueError, match="no token for a byte of the text \\(0x62"):
            tokenizer.encode_array(text, strict=True)
    with pytest.warns(UserWarning, match="the encoder drops such bytes, as `tokenizers` does"):
        assert tokenizer.encode(long + "b") == tokenizer.encode(long)


def test_a_lone_surrogate_in_a_long_text_is_named() -> None:
    tokenizer = BPETokenizer({i: bytes([i]) for i in range(256)}, [])
    for surrogate in ("\ud800", "\udfff"):
        with pytest.raises(ValueError, match=r"lone surrogate \(U\+D[8F].. at character 6000\)"):
            tokenizer.encode("a b c " * 1000 + surrogate + " d" * 5000)


def test_ignore_merges_takes_a_piece_that_is_a_token_whole() -> None:
    vocab = {i: bytes([i]) for i in range(256)} | {256: b" b", 257: b"bc", 258: b" bc"}
    merges = [(b" ", b"b"), (b"b", b"c")]  # which leave " bc" as " b", "c"
    for text in ("a bc", "a bc " * 1000, "\nbc" * 3000):
        plain = BPETokenizer(vocab, merges)
        whole = BPETokenizer(vocab, merges, ignore_merges=True)
        assert set(plain.encode(text)) & {258} == set()
        assert (258 in whole.encode(text)) == (" bc" in text)
        assert plain.decode(plain.encode(text)) == whole.decode(whole.encode(text)) == text


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_normalization(corpus: Path, form: str) -> None:
    import unicodedata

    plain = train_bpe(corpus, 400)
    tokenizer = BPETokenizer(
        plain.vocab,
        plain.merges,
        plain.special_tokens,
        normalization=form,  # type: ignore[arg-type]
    )
    for text in ("e\u0301\u00e9 \ufb01 \uac00", "e\u0301 \u00e9 \ufb01 " * 1000):
        normalized = unicodedata.normalize(form, text)  # type: ignore[arg-type]
        assert tokenizer.encode(text) == plain.encode(normalized)
        chunks = [text[i : i + 7] for i in range(0, len(text), 7)]
        assert list(tokenizer.encode_iterable(chunks)) == plain.encode(normalized)
    with pytest.raises(ValueError, match="normalization must be NFC"):
        BPETokenizer({}, [], normalization="nfc")  # type: ignore[arg-type]
