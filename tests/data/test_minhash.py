"""MinHash against datasketch, exact Jaccard similarities, and the formula of its bands."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from scratchlm.data.deduplication.minhash import (
    band_keys,
    minima,
    permutations,
    probability_found,
    similar_documents,
    threshold,
)
from scratchlm.data.deduplication.ngrams import ngram_hashes, ngrams_of

NGRAM, BANDS, ROWS, SEED = 5, 14, 8, 1
LETTERS = "".join(map(chr, range(ord("a"), ord("z") + 1)))
WORDS = list(map("".join, product(LETTERS, repeat=3)))  # of random texts; a pair rarely shares any


def similarity(one: str, other: str) -> float:
    """The exact Jaccard similarity of the sets of n-grams."""
    first, second = ngrams_of(one, NGRAM), ngrams_of(other, NGRAM)
    return len(first & second) / len(first | second)


def planted(shared: int, own: int, rng: random.Random) -> tuple[str, str]:
    """Two texts that share `shared` n-grams; each has `own` others."""
    common = rng.choices(WORDS, k=shared + NGRAM - 1)
    one, other = (" ".join(common + rng.choices(WORDS, k=own)) for _ in range(2))
    return one, other


def keys_of(texts: list[str]) -> np.ndarray:
    return band_keys(texts, NGRAM, BANDS, ROWS, SEED)


def survivors(texts: list[str], folder: Path, parts: int = 1) -> list[int]:
    paths = []
    for number, part in enumerate(np.array_split(np.arange(len(texts)), parts)):
        paths.append(folder / f"part-{number}")
        paths[-1].write_bytes(keys_of([texts[index] for index in part]).astype("<u8").tobytes())
    (folder / "scratch").mkdir()
    dropped = set(similar_documents(paths, BANDS, folder / "scratch").tolist())
    return [index for index in range(len(texts)) if index not in dropped]


@pytest.mark.parametrize(
    ("shared", "own", "exact"), [(120, 40, 0.6), (144, 28, 0.72), (160, 20, 0.8), (180, 10, 0.9)]
)
def test_recall_is_that_of_the_formula(shared, own, exact):
    rng = random.Random(int(exact * 100))
    pairs = [planted(shared, own, rng) for _ in range(2000)]
    assert all(similarity(*pair) == pytest.approx(exact, abs=0.001) for pair in pairs[::40])
    one, other = (keys_of(list(side)) for side in zip(*pairs, strict=True))
    recall = (one == other).any(axis=1).mean()
    assert recall == pytest.approx(1 - (1 - exact**8) ** 14, abs=0.03)
    assert probability_found(exact, BANDS, ROWS) == pytest.approx(1 - (1 - exact**8) ** 14)


def test_no_pair_below_a_similarity_of_0_3_is_found(tmp_path):
    rng = random.Random(3)
    pairs = [planted(shared := rng.randrange(1, 60), 150 - shared, rng) for _ in range(2000)]
    assert all(similarity(*pair) < 0.3 for pair in pairs[::40])
    texts = [text for pair in pairs for text in pair]
    assert survivors(texts, tmp_path) == list(range(4000))


def test_the_estimates_have_the_right_mean_and_spread():
    """With k permutations, an estimate of s has the standard deviation sqrt(s (1 - s) / k)."""
    rng = random.Random(4)
    pairs = [planted(160, 20, rng) for _ in range(1000)]
    sides = []
    for side in zip(*pairs, strict=True):
        sides.append(minima(*ngram_hashes(list(side), NGRAM, whole=True), 112, SEED))
    estimates = (sides[0] == sides[1]).mean(axis=1)
    deviation = (0.8 * 0.2 / 112) ** 0.5
    assert estimates.mean() == pytest.approx(0.8, abs=3 * deviation / 1000**0.5)
    assert estimates.std() == pytest.approx(deviation, rel=0.1)


@pytest.mark.bench
def test_agrees_with_datasketch():
    """Both estimate one similarity; the difference of two estimates is at most 3 deviations."""
    datasketch = pytest.importorskip("datasketch")
    rng = random.Random(5)
    count = 1024
    for shared in (30, 100, 160, 190):
        pair = planted(shared, 200 - shared, rng)
        exact = similarity(*pair)
        ours = minima(*ngram_hashes(list(pair), NGRAM, whole=True), count, SEED)
        theirs = []
        for text in pair:
            theirs.append(datasketch.MinHash(num_perm=count, seed=SEED))
            for ngram in ngrams_of(text, NGRAM):
                theirs[-1].update(" ".join(ngram).encode())
        deviation = (exact * (1 - exact) / count) ** 0.5
        estimate = (ours[0] == ours[1]).mean()
        assert estimate == pytest.approx(theirs[0].jaccard(theirs[1]), abs=3 * 2**0.5 * deviation)
        assert estimate == pytest.approx(exact, abs=3 * deviation)


def test_the_minima_are_those_of_a_loop():
    rng = np.random.default_rng(6)
    counts = np.array([0, 3, 1, 0, 0, 2500, 1020, 4, 0, 1, 0])
    hashes = rng.integers(0, 2**64, counts.sum(), dtype=np.uint64)
    found = minima(hashes, counts, 10, seed=2)
    for text, part in enumerate(np.split(hashes, np.cumsum(counts)[:-1])):
        each = [minima(part[place : place + 1], np.array([1]), 10, seed=2)[0] for place in
                range(len(part))]  # fmt: skip
        expected = np.min(each, axis=0) if each else np.full(10, 2**64 - 1, np.uint64)
        assert np.array_equal(found[text], expected)


def test_the_first_of_each_group_stays_for_any_blocks_and_batches(tmp_path):
    rng = random.Random(7)
    texts = []
    for _ in range(60):
        words = rng.choices(WORDS, k=300)
        for _ in range(rng.randrange(1, 4)):
            words[rng.randrange(300)] = rng.choice(WORDS)
            texts.append(" ".join(words))
    rng.shuffle(texts)
    found = []
    for parts in (1, 2, 13, 60):
        folder = tmp_path / str(parts)
        folder.mkdir()
        found.append(survivors(texts, folder, parts))
    assert found[0] == found[1] == found[2] == found[3]
    ngrams = [ngrams_of(text, NGRAM) for text in texts]
    shared = [[2 * len(one & other) > len(one) for other in ngrams[:index]]
              for index, one in enumerate(ngrams)]  # fmt: skip
    assert found[0] == [index for index, with_earlier in enumerate(shared) if not any(with_earlier)]


def test_short_texts_are_compared_as_a_whole_and_texts_without_words_never(tmp_path):
    texts = ["Yes.", "no", "YES!", "...", "", "...", "yes no", "one two three", "One two: three"]
    assert survivors(texts, tmp_path) == [0, 1, 3, 4, 5, 6, 7]


def test_the_functions_are_permutations():
    """On the 2^16 smallest numbers, modulo 2^16, each function has each result once."""
    factors, summands = permutations(20, SEED)
    numbers = np.arange(1 << 16, dtype=np.uint64)
    for results in (factors * numbers + summands) % np.uint64(1 << 16):
        assert len(np.unique(results)) == 1 << 16


def test_another_seed_gives_other_permutations():
    texts = [" ".join(WORDS[:50])]
    assert not (band_keys(texts, 5, 14, 8, 1) == band_keys(texts, 5, 14, 8, 2)).any()


def test_the_numbers_of_datatrove():
    """datatrove's documentation states 0.72 and 0.924 for 14 bands of 8 rows."""
    assert threshold(14, 8) == pytest.approx(0.72, abs=0.005)
    assert probability_found(0.8, 14, 8) == pytest.approx(0.924, abs=0.0005)
