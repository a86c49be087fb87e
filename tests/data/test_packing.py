"""Best-fit packing: compare with the rule as a plain loop, and with the best of all packings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratchlm.data.packing import pack


def rooms_of_a_plain_loop(lengths: list[int], row_length: int) -> list[int]:
    """Best fit, longest first: look at all rows for each document."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else row_length) - length)
    return sorted(rooms)


def fewest_rows(lengths: list[int], row_length: int) -> int:
    """Try all packings. Each document goes into each row that has room."""
    best = len(lengths)

    def place(rest: list[int], rooms: list[int]) -> None:
        nonlocal best
        if len(rooms) >= best:
            return
        if not rest:
            best = len(rooms)
            return
        for i, room in enumerate(rooms):
            if room >= rest[0]:
                place(rest[1:], [*rooms[:i], room - rest[0], *rooms[i + 1 :]])
        place(rest[1:], [*rooms, row_length - rest[0]])

    place(sorted(lengths, reverse=True), [])
    return best


SETS = st.integers(1, 40).flatmap(
    lambda row: st.tuples(st.lists(st.integers(1, row), max_size=60), st.just(row))
)


@given(SETS, st.integers(0, 9), st.integers(0, 3))
@settings(max_examples=150, deadline=None, database=None)
def test_the_rows_are_those_of_the_rule(case, seed, epoch):
    lengths, row_length = case
    packing = pack(lengths, row_length, seed, epoch)
    assert sorted(np.concatenate([*packing, []]).tolist()) == list(range(len(lengths)))
    rooms = [row_length - sum(lengths[document] for document in row) for row in packing]
    assert sorted(rooms) == rooms_of_a_plain_loop(lengths, row_length)
    assert packing.wasted == sum(rooms)


@given(st.lists(st.integers(1, 12), max_size=8))
@settings(max_examples=60, deadline=None, database=None)
def test_few_rows_more_than_the_best_of_all_packings(lengths):
    fewest = fewest_rows(lengths, 12)
    assert fewest <= len(pack(lengths, 12)) <= 11 / 9 * fewest + 1


def test_seed_and_epoch_alone_choose_the_rows():
    lengths = np.random.default_rng(0).integers(1, 20, 200)
    rows = {
        (seed, epoch): [row.tolist() for row in pack(lengths, 32, seed, epoch)]
        for seed in range(2)
        for epoch in range(2)
    }
    assert rows[0, 0] == [row.tolist() for row in pack(lengths, 32)]
    in_any_order = {frozenset(map(tuple, each)) for each in rows.values()}
    assert len(in_any_order) == 4, "the rows contain other documents, too"


def test_long_documents_do_not_come_first():
    """trl's rows come in the order of their longest document."""
    lengths = np.random.default_rng(0).integers(1, 100, 3000)
    longest = [lengths[row].max() for row in pack(lengths, 100)]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.1


def test_short_documents_fill_almost_all_places():
    lengths = np.minimum(np.random.default_rng(0).lognormal(4, 0.6, 5000).astype(int) + 1, 512)
    packing = pack(lengths, 512)
    assert packing.wasted < 0.005 * 512 * len(packing)


def test_an_empty_set_has_no_rows():
    assert len(pack([], 8)) == pack([], 8).wasted == 0


@pytest.mark.parametrize("length", [0, -1, 9])
def test_a_document_that_fits_in_no_row_is_refused(length):
    with pytest.raises(ValueError, match=rf"1 to 8 tokens \(document 1: {length}\)"):
        pack([3, length, 8], 8)


@pytest.mark.parametrize("numbers", [(0,), (8, -1), (8, 0, -1)])
def test_numbers_that_no_rows_can_have(numbers):
    with pytest.raises(ValueError, match="row_length must be at least 1, and seed and epoch at"):
        pack([1], *numbers)
