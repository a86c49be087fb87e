"""Exact duplicates: a Python dict is the oracle. Equal keys are found in any blocks."""

from __future__ import annotations

import random
import unicodedata
from collections import defaultdict

import numpy as np
import pytest

from scratchlm.data.deduplication.equal_records import equal_pairs
from scratchlm.data.deduplication.exact import digest, digests, equal_documents, folded
from scratchlm.data.deduplication.groups import Groups
from scratchlm.data.deduplication.signatures import signature_blocks


def later_copies(keys: list) -> list[int]:
    """The oracle."""
    seen: set = set()
    return [number for number, key in enumerate(keys) if key in seen or seen.add(key)]


def test_white_space_and_composition_do_not_matter():
    one = "Café  society\n\n in\tParis "
    other = unicodedata.normalize("NFD", " Café society in Paris")
    assert digest(one) == digest(other)
    assert digest(one) != digest(one.lower())
    assert digest("a b") != digest("ab")
    assert digest("") == digest(" \n")


def test_the_digest_of_a_long_text_is_that_of_its_folded_form():
    rng = random.Random(0)
    for size in (100, 70_000, 300_000):
        text = "".join(rng.choices("abcé \n\t\u3000", k=size))
        assert digest(text) == digest(folded(text))
        assert digest(text) != digest(text + " more")
    assert digest("x" * 200_000 + "  y") == digest("x" * 200_000 + " y")


def test_digests_are_the_digests_of_each_text():
    spaces = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    rng = random.Random(0)
    choice = [*spaces, " ", " ", "a", "é", "e\u0301", "\u2019", "\u200b", "\x00", "中", "🙂"]
    texts = ["".join(rng.choices(choice, k=rng.randrange(30))) for _ in range(300)]
    texts += ["", " ", "a  b\u3000" * 30_000, *spaces]
    for some in (texts, texts[:1], []):
        assert digests(some) == b"".join(map(digest, some))


def test_finds_what_a_set_finds(tmp_path):
    rng = random.Random(1)
    texts = ["".join(rng.choices("ab \n", k=rng.randrange(12))) for _ in range(20_000)]
    (tmp_path / "scratch").mkdir()
    paths = []
    for number, start in enumerate(range(0, len(texts), 3000)):
        paths.append(tmp_path / f"signatures-{number}")
        paths[-1].write_bytes(b"".join(map(digest, texts[start : start + 3000])))
    found = equal_documents(paths, tmp_path / "scratch")
    expected = later_copies([" ".join(text.split()) for text in texts])
    assert found.tolist() == expected
    assert 1000 < len(expected) < 19_000
    assert found.dtype == np.int64


def test_no_signatures_have_no_copies(tmp_path):
    assert equal_documents([], tmp_path).tolist() == []
    (tmp_path / "empty").write_bytes(b"")
    assert equal_documents([tmp_path / "empty"], tmp_path).tolist() == []


@pytest.mark.parametrize("size", [5, 90, 5000])
@pytest.mark.parametrize("merge_size", [50, 10_000])
@pytest.mark.parametrize("width", [1, 2])
def test_pairs_connect_equal_keys_for_any_blocks(tmp_path, size, merge_size, width):
    rng = np.random.default_rng(size)
    many = rng.integers(0, 2**64, (400, width), dtype=np.uint64)
    keys = many[rng.integers(0, 400, 1000)]
    keys[::3] = many[0]  # one key of many documents
    keys[1::7, 0] = many[1, 0]  # keys that differ only in the second number
    records = np.concatenate([keys, np.arange(1000, dtype=np.uint64)[:, None]], axis=1).T
    blocks = (records[:, start : start + size] for start in range(0, 1000, size))
    groups, seconds = Groups(1000), set()
    for first, second in equal_pairs(blocks, tmp_path, merge_size):
        assert (first < second).all()
        groups.join(first, second)
        seconds.update(second.tolist())
    expected = later_copies(list(map(tuple, keys.tolist())))
    assert groups.repeated().tolist() == expected == sorted(seconds)


def test_signature_blocks_cross_files(tmp_path):
    numbers = np.arange(60, dtype="<u8")
    paths = []
    for number, part in enumerate(np.split(numbers, [3 * 2, 3 * 2, 3 * 13])):
        paths.append(tmp_path / str(number))
        part.tofile(paths[-1])
    found = [(first, block.copy()) for first, block in signature_blocks(paths, 3, 8)]
    assert [first for first, _ in found] == [0, 8, 16]
    assert np.array_equal(np.concatenate([block for _, block in found]), numbers.reshape(20, 3))


def components(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """The oracle: the later members of connected components, by search."""
    near = defaultdict(set)
    for one, other in pairs:
        near[one].add(other)
        near[other].add(one)
    seen: set[int] = set()
    later = []
    for number in range(count):
        if number in seen:
            later.append(number)
            continue
        todo = [number]
        while todo:
            if (each := todo.pop()) not in seen:
                seen.add(each)
                todo += near[each]
    return later


@pytest.mark.parametrize("seed", range(10))
def test_groups_are_connected_components_in_any_order(seed):
    rng = random.Random(seed)
    count = rng.choice([2, 50, 400])
    pairs = [(rng.randrange(count), rng.randrange(count)) for _ in range(rng.randrange(2 * count))]
    expected = components(count, pairs)
    for _ in range(3):
        rng.shuffle(pairs)
        groups = Groups(count)
        for start in range(0, len(pairs), step := rng.randrange(1, 100)):
            part = np.array(pairs[start : start + step])
            groups.join(part[:, 0], part[:, 1])
        assert groups.repeated().tolist() == expected


def test_a_chain_of_a_million_documents_is_one_group():
    groups = Groups(1_000_000)
    groups.join(np.arange(999_999), np.arange(1, 1_000_000))
    assert groups.firsts(np.array([999_999])).tolist() == [0]
    assert len(groups.repeated()) == 999_999
