"""The turns of a mixture: at every step, each source has its fraction of the windows, within one
window. The oracle counts the windows one by one, in whole numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest

from scratchlm.data.turns import Turns


def largest_error(sources: np.ndarray, weights: list[int]) -> float:
    """Return max |count - w t| over all sources and all t, in windows."""
    t = np.arange(1, len(sources) + 1)
    errors = [
        np.abs(np.cumsum(sources == source) * sum(weights) - weight * t).max() / sum(weights)
        for source, weight in enumerate(weights)
    ]
    return max(errors)


def one_by_one(weights: list[int], number: int) -> np.ndarray:
    """The source that lacks most is next. This is the simple rule, which `Turns` replaces."""
    counts, sources = [0] * len(weights), []
    for t in range(1, number + 1):
        lacks = [weight * t - count * sum(weights)
                 for weight, count in zip(weights, counts, strict=True)]  # fmt: skip
        sources.append(lacks.index(max(lacks)))
        counts[sources[-1]] += 1
    return np.array(sources)


def test_the_bound_holds_at_each_of_a_million_steps() -> None:
    for weights in ([7, 3], [1, 1, 1], [999, 1], [3, 100, 3, 1, 100, 20, 1, 1, 3, 1, 1, 100]):
        sources, _ = Turns(weights).of(np.arange(1_000_000))
        assert largest_error(sources, weights) <= 1 - 1 / (2 * len(weights) - 2)


def test_the_bound_holds_for_many_weights() -> None:
    rng = random.Random(0)
    for _ in range(300):
        weights = [rng.choice([1, 1, 2, 10, 100, rng.randint(1, 300)])
                   for _ in range(rng.randint(2, 14))]  # fmt: skip
        sources, _ = Turns(weights).of(np.arange(2 * sum(weights) + 3))
        assert largest_error(sources, weights) <= 1 - 1 / (2 * len(weights) - 2)


def test_the_simple_rule_breaks_the_bound() -> None:
    weights = [3, 100, 3, 1, 100, 20, 1, 1, 3, 1, 1, 100]
    assert largest_error(one_by_one(weights, 334), weights) > 1.4


def test_two_sources_are_as_even_as_they_can_be() -> None:
    assert Turns([7, 3]).of(np.arange(10))[0].tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 1, 0]
    assert Turns([5]).of(np.arange(7))[0].tolist() == [0] * 7


@pytest.mark.parametrize("weights", [[7, 3], [2, 3, 5], [1, 10, 100, 1]])
def test_each_window_has_its_number_and_its_count(weights: list[int]) -> None:
    turns = Turns(weights)
    sources, numbers = turns.of(np.arange(1000))
    seen = [0] * len(weights)
    for t, (source, number) in enumerate(zip(sources.tolist(), numbers.tolist(), strict=True)):
        assert turns.counts(t) == seen
        assert number == seen[source]
        seen[source] += 1
    places = np.array([10**12, 3, 10**15])
    pairs = zip(places.tolist(), turns.of(places)[0], strict=True)
    expected = [turns.counts(place + 1)[source] - 1 for place, source in pairs]
    assert turns.of(places)[1].tolist() == expected
