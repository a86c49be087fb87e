from __future__ import annotations

import threading

import pytest

from scratchlm.data.prefetch import loaded_ahead


def test_the_next_step_is_loaded_while_this_one_is_used():
    loading = threading.Event()

    def load(step: int) -> int:
        if step == 1:
            loading.set()
        return step * step

    with loaded_ahead(load, last=lambda: 3) as get:
        assert get(0) == 0
        assert loading.wait(5), "step 1 is under way before it is asked for"
        assert [get(step) for step in (1, 2, 3)] == [1, 4, 9]


def test_nothing_is_loaded_past_the_last_or_twice():
    asked = []
    with loaded_ahead(lambda step: asked.append(step) or step, last=lambda: 2) as get:
        assert [get(step) for step in (0, 1, 2)] == [0, 1, 2]
    assert asked == [0, 1, 2]


def test_a_step_out_of_turn_is_right_all_the_same():
    with loaded_ahead(lambda step: step, last=lambda: 9) as get:
        assert [get(0), get(5), get(6), get(2)] == [0, 5, 6, 2]


def test_an_error_is_raised_where_its_step_is_asked_for():
    def load(step: int) -> int:
        if step == 1:
            raise ValueError("broken")
        return step

    with loaded_ahead(load, last=lambda: 3) as get:
        assert get(0) == 0
        with pytest.raises(ValueError, match="broken"):
            get(1)
