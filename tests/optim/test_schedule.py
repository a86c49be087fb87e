"""The schedules against arithmetic done by hand."""

from __future__ import annotations

import math

import pytest

from scratchlm.optim.schedule import cosine_schedule, linear_schedule, wsd_schedule

RATES = {"max_lr": 1.0, "min_lr": 0.1}


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 0.0),
        (1, 0.25),
        (3, 0.75),
        (4, 1.0),  # end of warm-up
        (6, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2),  # a quarter of the way: cos 45°
        (8, 0.55),  # half-way
        (12, 0.1),  # total_steps counts the warm-up
        (13, 0.1),
        (10**9, 0.1),
    ],
)
def test_cosine_by_hand(step: int, lr: float) -> None:
    got = cosine_schedule(step, **RATES, warmup_steps=4, total_steps=12)
    assert got == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "lr"),
    [(0, 0.0), (1, 0.5), (2, 1.0), (5, 1.0), (6, 1.0), (7, 0.775), (8, 0.55), (10, 0.1), (99, 0.1)],
)
def test_wsd_by_hand(step: int, lr: float) -> None:
    got = wsd_schedule(step, **RATES, warmup_steps=2, decay_steps=4, total_steps=10)
    assert got == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "lr"),
    [(0, 0.0), (2, 1.0), (6, 1.0), (7, 0.55), (8, 0.1 + 0.9 * (1 - math.sqrt(0.5))), (10, 0.1)],
)
def test_wsd_along_the_root_by_hand(step: int, lr: float) -> None:
    settings = {"warmup_steps": 2, "decay_steps": 4, "total_steps": 10}
    got = wsd_schedule(step, **RATES, **settings, decay_shape="sqrt")
    assert got == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "lr"), [(0, 0.0), (1, 0.5), (2, 1.0), (3, 0.8875), (6, 0.55), (10, 0.1), (11, 0.1)]
)
def test_linear_by_hand(step: int, lr: float) -> None:
    got = linear_schedule(step, **RATES, warmup_steps=2, total_steps=10)
    assert got == pytest.approx(lr, rel=1e-12)


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    assert cosine_schedule(0, **RATES, warmup_steps=0, total_steps=10) == 1.0
    assert linear_schedule(0, **RATES, warmup_steps=0, total_steps=10) == 1.0
    assert wsd_schedule(0, **RATES, warmup_steps=0, decay_steps=0, total_steps=10) == 1.0


def test_warmup_alone() -> None:
    """With nothing left to decay over, the rate drops at the end."""
    for schedule in (cosine_schedule, linear_schedule):
        rates = [schedule(step, **RATES, warmup_steps=4, total_steps=4) for step in range(6)]
        assert rates == [0.0, 0.25, 0.5, 0.75, 0.1, 0.1]


def test_wsd_without_decay_is_stable_to_the_end() -> None:
    assert wsd_schedule(9, **RATES, warmup_steps=0, decay_steps=0, total_steps=10) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": -1}, r"step must be at least 0 \(-1\); "),
        ({"warmup_steps": -1}, r"warmup_steps \(-1\) must be from 0 to total_steps \(10\); "),
        ({"warmup_steps": 11}, r"warmup_steps \(11\) must be from 0 to total_steps \(10\); "),
        ({"min_lr": 2.0}, r"rates must satisfy .*\(min_lr 2.0, max_lr 1.0\); "),
        ({"min_lr": -0.1}, r"rates must satisfy .*\(min_lr -0.1, max_lr 1.0\); "),
        ({"max_lr": math.nan}, r"rates must satisfy .*max_lr nan\); "),
    ],
)
def test_refuses_contradictions(settings: dict[str, float], message: str) -> None:
    asked = {"step": 0, **RATES, "warmup_steps": 2, "total_steps": 10, **settings}
    for schedule in (cosine_schedule, linear_schedule):
        with pytest.raises(ValueError, match=message):
            schedule(**asked)
    with pytest.raises(ValueError, match=message):
        wsd_schedule(**asked, decay_steps=0)


def test_wsd_refuses_a_decay_that_reaches_into_the_warmup() -> None:
    with pytest.raises(ValueError, match=r"decay_steps \(9\) .*\(10 - 2\); shorten"):
        wsd_schedule(0, **RATES, warmup_steps=2, decay_steps=9, total_steps=10)
