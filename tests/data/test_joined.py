"""Several arrays as one: the oracle is `np.concatenate`."""

from __future__ import annotations

import numpy as np
import pytest

from scratchlm.data.joined import JoinedTokens, cut, joined

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("lengths", [[7], [3, 1, 4, 1, 5], [1] * 40, [50, 2]])
def test_every_slice_equals_the_slice_of_one_array(lengths: list[int]) -> None:
    arrays = [RNG.integers(0, 999, n).astype(("<u2", "<u4", "<i4")[n % 3]) for n in lengths]
    whole, one = np.concatenate(arrays), JoinedTokens(arrays)
    assert len(one) == len(whole)
    for start in range(len(whole) + 1):
        for stop in range(len(whole) + 3):
            assert one[start:stop].tolist() == whole[start:stop].tolist()
    assert one[-3:].tolist() == whole[-3:].tolist()
    assert one.dtype == whole.dtype
    for place in range(len(whole) + 1):
        for part, expected in zip(cut(one, place), np.split(whole, [place]), strict=True):
            assert len(part) == len(expected)
            assert part[:].tolist() == expected.tolist()
            assert part[1:4].tolist() == expected[1:4].tolist()


def test_one_array_stays_as_it_is() -> None:
    array = np.arange(5)
    assert joined([array]) is array
    kept, held_out = cut(array, 3)
    assert np.shares_memory(kept, array)
    assert np.shares_memory(held_out, array)
