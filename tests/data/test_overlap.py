"""Documents that contain parts of an evaluation set: sets of n-grams are the oracle."""

from __future__ import annotations

import random

import pytest

from scratchlm.data.deduplication.ngrams import ngrams_of
from scratchlm.data.deduplication.overlap import all_strings, evaluation_ngrams, overlaps


def test_finds_what_sets_of_ngrams_find():
    rng = random.Random(0)
    words = ["a", "b", "c", "d"]
    values = [" ".join(rng.choices(words, k=rng.randrange(20))) for _ in range(60)]
    texts = [" ".join(rng.choices(words, k=rng.randrange(40))) for _ in range(800)]
    for n in (1, 5, 8):
        known = {ngram for value in values for ngram in ngrams_of(value, n)}
        hashes, short = evaluation_ngrams(values, n)
        assert len(hashes) == len(known)
        assert short == sum(not ngrams_of(value, n) for value in values)
        found = overlaps(texts, n, hashes).tolist()
        assert found == [bool(ngrams_of(text, n) & known) for text in texts]
    assert 20 < sum(found) < 780


def test_case_punctuation_and_numbers_do_not_hide_a_copy():
    question = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts?"
    hashes, short = evaluation_ngrams([{"question": question, "answer": "It takes 3"}], 13)
    assert short == 0
    copy = "q: a robe takes 12 bolts of\nBLUE fiber, and half that much white fiber — how many"
    other = "a robe takes 2 bolts of green fiber and half that much white fiber how many bolts"
    assert overlaps([copy, other, "", "a robe"], 13, hashes).tolist() == [True, False, False, False]


def test_no_evaluation_text_is_long_enough():
    hashes, short = evaluation_ngrams([{"q": "too short"}, {"q": "also"}], 13)
    assert (len(hashes), short) == (0, 2)
    assert overlaps(["some words " * 20, ""], 13, hashes).tolist() == [False, False]


@pytest.mark.parametrize(
    ("value", "strings"),
    [
        ("text", ["text"]),
        ({"ctx": "a", "endings": ["b", "c"], "label": 3, "more": None}, ["a", "b", "c"]),
        ({"messages": [{"role": "user", "content": "x"}]}, ["user", "x"]),
        (5, []),
    ],
)
def test_all_strings_of_an_example_count(value, strings):
    assert list(all_strings(value)) == strings
