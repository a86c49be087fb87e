from __future__ import annotations

import json
import math
import random

import pytest

from scratchlm.training.smoothed import Smoothed


def test_smoothed_is_adams_corrected_average():
    rng = random.Random(0)
    smoothed, m, beta = Smoothed(0.9), 0.0, 0.9
    for t in range(1, 200):
        x = rng.gauss(5, 1)
        m = beta * m + (1 - beta) * x
        assert smoothed.update(x) == pytest.approx(m / (1 - beta**t), rel=1e-12)


def test_smoothed_starts_at_the_first_value_and_keeps_a_constant():
    smoothed = Smoothed(0.99)
    assert [smoothed.update(0.1) for _ in range(50)] == pytest.approx([0.1] * 50, rel=1e-14)
    assert Smoothed(0.99).update(6.25) == 6.25
    nothing = Smoothed(0)
    assert [nothing.update(x) for x in (3.0, 1.0, 2.0)] == [3.0, 1.0, 2.0]
    for beta in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="beta"):
            Smoothed(beta)


def test_smoothed_goes_on_from_its_state_to_the_bit():
    values = [random.Random(1).gauss(0, 1) for _ in range(20)]
    through = Smoothed(0.95)
    expected = [through.update(value) for value in values]
    first = Smoothed(0.95)
    for value in values[:7]:
        first.update(value)
    resumed = Smoothed(0.95, json.loads(json.dumps(first.state())))
    assert [resumed.update(value) for value in values[7:]] == expected[7:]
