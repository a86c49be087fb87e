"""Ids equal the ids of two other implementations, tiktoken and `tokenizers`, on generated and real
texts. The time grows no faster than the text."""

from __future__ import annotations

import functools
import gc
import json
import lzma
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from helpers.text_generators import (
    ADVERSARIAL,
    END,
    OVERLAPPING,
    SOME,
    SPECIALS,
    TEXTS,
    Trio,
    random_chunks,
    random_texts,
    trained_trio,
    trio,
)
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.encoding.encoder import SHORT_TEXT
from scratchlm.tokenizer.pieces.patterns import PATTERNS
from scratchlm.tokenizer.pieces.pretokenize import BLOCK_CHARACTERS
from scratchlm.tokenizer.train import train_bpe_from_texts

# Few spaces and many: there are two ways through a text.
SEPARATORS = ["", " "]
MORE_SEPARATORS = [*SEPARATORS, "\n", "中", " a "]


@functools.cache
def gpt2_trio(folder: Path, specials: tuple[str, ...]) -> Trio:
    vocab = json.loads((folder / "gpt2_vocab.json").read_bytes())
    lines = (folder / "gpt2_merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [(a, b) for a, b in (line.split(" ") for line in lines if line[:8] != "#version")]
    assert len(merges) == 50_000
    plain = BPETokenizer.from_gpt2(folder / "gpt2_vocab.json", folder / "gpt2_merges.txt")
    return trio(BPETokenizer(plain.vocab, plain.merges, specials), vocab, merges)


@functools.cache
def trio_of(name: str, overlapping: bool) -> Trio:
    specials = OVERLAPPING if overlapping else SPECIALS
    return trained_trio(PATTERNS[name], specials, ignore_merges=name == "llama3")


@pytest.fixture(params=PATTERNS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def make_trio(name: str, request: pytest.FixtureRequest, overlapping: bool = False) -> Trio:
    """GPT-2's own vocabulary for its pattern, learned ones for the others; Llama 3 ignores merges
    where a piece is a token, as its file says."""
    if name == "gpt2":
        specials = tuple(OVERLAPPING if overlapping else SPECIALS)
        return gpt2_trio(request.getfixturevalue("shared_data"), specials)
    return trio_of(name, overlapping)


def assert_parity(trio: Trio, text: str) -> None:
    """Compare the ids of three implementations for three sets of special tokens, and decode
    them."""
    for allowed, ours, tik in (
        ("all", "all", "all"),
        ("some", SOME, SOME),
        ("none", "none", set()),
    ):
        ids = trio.ours.encode(text, ours)
        expected = trio.tiktoken.encode(text, allowed_special=tik, disallowed_special=())
        assert ids == expected, f"{allowed}, tiktoken: {text[:200]!r}"
        assert ids == trio.theirs(text, allowed), f"{allowed}, tokenizers: {text[:200]!r}"
        assert trio.ours.decode(ids) == text


def assert_all_ways(trio: Trio, text: str, rng: random.Random) -> None:
    """Every way of encoding gives the ids of `encode`."""
    for allowed in ("all", SOME, "none"):
        ids = trio.ours.encode(text, allowed)
        array = trio.ours.encode_array(text, allowed)
        assert array.dtype == trio.ours.dtype
        assert array.tolist() == ids
        chunks = random_chunks(rng, text)
        assert list(trio.ours.encode_iterable(chunks, allowed)) == ids, chunks


def joined(texts: list[str], separator: str) -> list[str]:
    """Join the texts to longer texts, which take the fast paths."""
    longer = [separator.join(texts[i : i + 600]) for i in range(0, len(texts), 600)]
    assert min(map(len, longer)) > SHORT_TEXT
    return longer


def check_generated(trio: Trio, texts: list[str], separators: list[str]) -> int:
    rng = random.Random(len(texts))
    for i, text in enumerate(texts):
        assert_parity(trio, text)
        if i % 4 == 0:
            assert_all_ways(trio, text, rng)
    for separator in separators:
        for text in joined(texts, separator):
            assert_parity(trio, text)
    return len(texts)


def check_hypothesis(trio: Trio, examples: int) -> int:
    seen: list[str] = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(TEXTS)
    def check(text: str) -> None:
        seen.append(text)
        assert_parity(trio, text)

    check()
    assert_all_ways(trio, "".join(seen), random.Random(0))
    return len(seen)


def test_ids_equal_both_on_generated_texts(name: str, request: pytest.FixtureRequest) -> None:
    three = make_trio(name, request)
    count = check_generated(three, random_texts(1, 1800), SEPARATORS)
    assert count + check_hypothesis(three, 200) >= 2000


@pytest.mark.slow
def test_ids_equal_both_on_20000_generated_texts(name: str, request: pytest.FixtureRequest) -> None:
    three = make_trio(name, request)
    count = check_generated(three, random_texts(2, 18_000), MORE_SEPARATORS)
    assert count + check_hypothesis(three, 3000) >= 20_000


@pytest.mark.parametrize("texts", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_the_longest_of_overlapping_special_tokens_wins_as_in_tokenizers(
    name: str, request: pytest.FixtureRequest, texts: int
) -> None:
    three = make_trio(name, request, overlapping=True)
    rng = random.Random(3)
    parts = [*OVERLAPPING * 3, "<a", ">", "a", "<b>", "'", "s", " ", "\n", "\u0301", "t", "1", "😀"]
    found = 0
    for _ in range(texts):
        text = "".join(rng.choices(parts, k=rng.randrange(14)))
        ids = three.ours.encode(text)
        assert ids == three.theirs(text, "all"), repr(text)
        assert three.ours.encode(text, "none") == three.theirs(text, "none"), repr(text)
        assert list(three.ours.encode_iterable(random_chunks(rng, text))) == ids, repr(text)
        assert three.ours.decode(ids) == text
        found += ids != three.ours.encode(text, "none")
    assert found > texts // 2


def long_texts(seed: int) -> list[str]:
    """Longer than a block, dense and with spaces; words of 20,000 letters."""
    rng = random.Random(seed)
    spread = random_texts(seed, 20_000)
    words = [
        "".join(rng.choices(letters, k=20_000)) for letters in ("ab", "etaoin", "日本語", "é1", "A")
    ]
    long = " ".join(spread) + "".join(words) + " ".join(words)
    long *= 1_100_000 // len(long) + 1
    dense = "".join(long.split(" "))
    return [long, dense * (1_100_000 // len(dense) + 1), "\n".join(words), *words]


@pytest.mark.slow
def test_ids_equal_both_on_texts_of_several_blocks(
    name: str, request: pytest.FixtureRequest
) -> None:
    three = make_trio(name, request)
    long, dense, *words = long_texts(4)
    assert min(len(long), len(dense)) > BLOCK_CHARACTERS
    for text in (long, dense, *words):
        assert_parity(three, text)
        assert_all_ways(three, text, random.Random(5))


def test_ids_equal_tiktoken_on_a_text_of_several_blocks() -> None:
    three = trio_of("o200k", False)
    text = " ".join(random_texts(6, 14_000))
    text *= 1_100_000 // len(text) + 1
    ids = three.ours.encode(text)
    assert ids == three.tiktoken.encode(text, allowed_special="all")
    assert three.ours.decode(ids) == text


# Real text


def read(path: Path) -> str:
    data = path.read_bytes()
    return (lzma.decompress(data) if path.suffix == ".xz" else data).decode()


SMALL_FILES = ["shakespeare.txt", "instructions.json", "hellaswag_sample.jsonl"]
LARGE_FILES = ["books_val.txt.xz", "tang_poems.txt.xz", "books_train.txt.xz"]


@pytest.mark.parametrize("file", SMALL_FILES)
def test_whole_files_equal_tiktoken(shared_data: Path, file: str) -> None:
    text = read(shared_data / file)
    for three in (gpt2_trio(shared_data, tuple(SPECIALS)), trio_of("cl100k", False)):
        ids = three.ours.encode(text)
        assert ids == three.tiktoken.encode(text, allowed_special="all")
        assert three.ours.decode(ids) == text


@pytest.mark.slow
@pytest.mark.parametrize("file", SMALL_FILES)
def test_whole_files_equal_both(
    shared_data: Path, file: str, name: str, request: pytest.FixtureRequest
) -> None:
    assert_parity(make_trio(name, request), read(shared_data / file))


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=pytest.mark.slow) for file in LARGE_FILES]
)
def test_large_files_equal_tiktoken(shared_data: Path, tmp_path: Path, file: str) -> None:
    text = read(shared_data / file)
    (tmp_path / "text").write_bytes(text.encode())
    three = gpt2_trio(shared_data, tuple(SPECIALS))
    expected = np.array(three.tiktoken.encode(text, allowed_special="all"))
    assert np.array_equal(three.ours.encode_array(text), expected)
    three.ours.encode_file(tmp_path / "text", tmp_path / "ids", num_workers=2)
    assert np.array_equal(np.fromfile(tmp_path / "ids", three.ours.dtype), expected)


# Text that is none


@pytest.mark.parametrize("surrogate", [0xD800, 0xDFFF])
def test_a_lone_surrogate_anywhere_is_an_error_with_its_place(name: str, surrogate: int) -> None:
    ours = trio_of(name, False).ours
    fills = ["a b c ", "中。", " ", "\n\n", f"{END}é "]
    befores = [fill * n for fill in fills for n in (0, 10, 2500)]
    befores += ["a b c " * 200_000] if name == "gpt2" else []  # more than a block
    for before in befores:
        message = rf"lone surrogate \(U\+{surrogate:04X} at character {len(before)}\); replace"
        for after in ("", " b" * 2000):
            text = before + chr(surrogate) + after
            for allowed in ("all", "none"):
                with pytest.raises(ValueError, match=message) as caught:
                    ours.encode(text, allowed)
                assert caught.type is ValueError
            with pytest.raises(ValueError, match=message):
                list(ours.encode_iterable([text[:50], text[50:]]))


# Time


def cpu_seconds(work: Callable[[Any], object], make: Callable[[], Any]) -> float:
    """Return the shortest time of three runs, each with its own argument."""
    best = float("inf")
    for _ in range(3):
        argument = make()
        gc.collect()
        start = time.process_time()
        work(argument)
        best = min(best, time.process_time() - start)
    return best


def assert_doubling_costs_at_most(limit: float, cost: Callable[[int], float]) -> None:
    """Over two doublings, from the size on where one run takes 0.03 s: a single one may cross the
    size of a cache. Another program may take a cache or a core away, so what looks too slow is
    measured again, and the least of each size counts."""
    size = 30_000
    # A text longer than a block is cut into blocks first: more time for each of its characters.
    while (once := cost(size)) < 0.03 or size <= BLOCK_CHARACTERS < 4 * size:
        size *= 2
    fourfold = cost(4 * size)
    for _ in range(3):
        if fourfold <= limit**2 * once:
            return
        once, fourfold = min(once, cost(size)), min(fourfold, cost(4 * size))
    growth = fourfold / once
    assert growth <= limit**2, f"{size} characters take {once:.3f} s, four times as many {growth}x"


def test_what_grows_faster_is_told() -> None:
    with pytest.raises(AssertionError, match=r"four times as many 8\.0x"):
        assert_doubling_costs_at_most(2.5, lambda size: (size / 1e6) ** 1.5)
    assert_doubling_costs_at_most(2.5, lambda size: (size / 1e6) ** 1.3)


def encoding_cost(tokenizer: BPETokenizer, make: Callable[[int], str]) -> Callable[[int], float]:
    def cost(size: int) -> float:
        text = make(size)
        fresh = functools.partial(BPETokenizer.from_parts, tokenizer.parts)  # nothing remembered
        return cpu_seconds(lambda new: new.encode(text), fresh)

    return cost


def test_encoding_twice_the_text_takes_twice_the_time() -> None:
    cost = encoding_cost(trio_of("o200k", False).ours, ADVERSARIAL["equal letters"])
    assert_doubling_costs_at_most(2.5, cost)


@pytest.mark.timing
@pytest.mark.parametrize("text", ADVERSARIAL)
@pytest.mark.parametrize("pattern", ["cl100k", "o200k"])
def test_encoding_twice_any_text_takes_twice_the_time(text: str, pattern: str) -> None:
    cost = encoding_cost(trio_of(pattern, False).ours, ADVERSARIAL[text])
    assert_doubling_costs_at_most(2.5, cost)


@pytest.mark.timing
@pytest.mark.parametrize("text", ADVERSARIAL)
@pytest.mark.parametrize("pattern", ["gpt2", "o200k"])
def test_learning_from_twice_the_text_takes_twice_the_time(text: str, pattern: str) -> None:
    def cost(size: int) -> float:
        learn = functools.partial(
            train_bpe_from_texts, vocab_size=400, pattern=PATTERNS[pattern], num_workers=1
        )
        return cpu_seconds(learn, lambda: [ADVERSARIAL[text](size)])

    assert_doubling_costs_at_most(2.5, cost)
