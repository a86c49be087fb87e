"""The normal form of words, and their hashes: two texts have equal hashes where words are equal."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest

from scratchlm.data.deduplication.ngrams import ngram_hashes, ngrams_of
from scratchlm.data.deduplication.words import BLOCK, is_alone, normal_words, word_hashes

ALPHABET = "aAbB é0129٣½ \n\t\u3000\u00a0.,.,\u066b-_'\"$+“”…—\u0301\u200b\u00ad\0我们がカກำ한İßΣﬁﷺ😀𠀀\ue000"  # noqa: E501


def random_texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(ALPHABET, k=rng.randrange(60))) for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n!?… ", []),
        ("The CAT, the cat.", ["the", "cat", "the", "cat"]),
        ("don't well-known re—read", ["don", "t", "well", "known", "re", "read"]),
        ("3.14 2,000 1999 v2 x10y200", ["0", "0", "0", "v0", "x0y0"]),
        ("1,299.50 1..2 .5 5. 1-2 a.b", ["0", "0", "0", "0", "0", "0", "0", "a", "b"]),
        ("Äpfel, cafe\u0301, NAÏVE", ["apfel", "cafe", "naive"]),
        ("床前明月光,疑是", ["床", "前", "明", "月", "光", "疑", "是"]),
        ("GPT是ok的 ", ["gpt", "是", "ok", "的"]),
        ("한국어 말", ["한국어", "말"]),
        (unicodedata.normalize("NFD", "한국어"), ["한국어"]),
        ("a\u200bb a\u00a0b", ["ab", "a", "b"]),
    ],
)
def test_the_normal_form(text, words):
    assert normal_words(text) == words


@pytest.mark.bench
def test_the_normal_form_is_that_of_datatrove_for_english(shared_data):
    """datatrove's words are those of spaCy; the normal form before that splits at white space."""
    text_module = pytest.importorskip("datatrove.utils.text")
    text = (shared_data / "shakespeare.txt").read_text(encoding="utf-8")
    assert normal_words(text) == text_module.simplify_text(text).split()


def test_equal_words_and_only_those_have_equal_hashes():
    texts = random_texts(2000, seed=0)
    hashes, counts = word_hashes(texts)
    words = [normal_words(text) for text in texts]
    assert counts.tolist() == list(map(len, words))
    flat = [word for each in words for word in each]
    known = dict(zip(flat, hashes.tolist(), strict=True))
    assert [known[word] for word in flat] == hashes.tolist()
    assert len(set(known.values())) == len(known) > 1000


def test_every_character_has_the_same_form_in_the_table():
    """Each character stands between two letters, so that its form decides the words."""
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    characters = [*characters[:0x3400], *characters[0x3400::97]]
    texts = [f"a{character}b" for character in characters]
    words = list(map(normal_words, texts))
    hashes, counts = word_hashes(texts)
    assert counts.tolist() == list(map(len, words))
    known = dict(zip((word for each in words for word in each), hashes.tolist(), strict=True))
    assert len(set(known.values())) == len(known)
    assert np.array_equal(word_hashes([" ".join(each) for each in words])[0], hashes)


def test_hashes_depend_neither_on_other_texts_nor_on_blocks():
    texts = [*random_texts(200, seed=1), "", *(["one two "] * 3), "x", "", ""]
    long = " ".join(random_texts(12_000, seed=2))
    assert len(long) > 2 * BLOCK
    texts.insert(7, long)
    hashes, counts = word_hashes(texts)
    alone = [word_hashes([text]) for text in texts]
    assert np.array_equal(hashes, np.concatenate([each for each, _ in alone]))
    assert counts.tolist() == [count for _, each in alone for count in each.tolist()]
    assert counts[7] == len(normal_words(long))


def test_a_chinese_text_without_spaces_has_the_same_words_in_blocks():
    text = "春眠不觉晓处处闻啼鸟" * (BLOCK // 5)
    hashes, counts = word_hashes([text])
    assert counts.tolist() == [len(text)]
    assert len(np.unique(hashes)) == 9
    assert is_alone("春")


def test_many_empty_texts():
    hashes, counts = word_hashes([""] * (3 * BLOCK))
    assert len(hashes) == 0
    assert not counts.any()
    assert word_hashes([])[1].tolist() == []


@pytest.mark.parametrize("n", [1, 2, 5, 13])
def test_ngram_hashes_are_those_of_the_definition(n):
    texts = random_texts(700, seed=3)
    hashes, counts = ngram_hashes(texts, n, whole=False)
    parts = np.split(hashes, np.cumsum(counts)[:-1])
    known: dict[tuple[str, ...], int] = {}
    for text, part in zip(texts, parts, strict=True):
        words = normal_words(text)
        ngrams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
        assert set(ngrams) == ngrams_of(text, n)
        assert len(part) == len(ngrams)
        for ngram, number in zip(ngrams, part.tolist(), strict=True):
            assert known.setdefault(ngram, number) == number
    assert len(set(known.values())) == len(known) > 40


def test_a_short_text_counts_as_a_whole_on_request():
    hashes, counts = ngram_hashes(["one two", "", "One, two!", "two one", "one"], 5, whole=True)
    assert counts.tolist() == [1, 0, 1, 1, 1]
    assert hashes[0] == hashes[1]
    assert len(set(hashes.tolist())) == 3
