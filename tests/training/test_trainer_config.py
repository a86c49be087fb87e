from __future__ import annotations

import pytest

from scratchlm.training.trainer_config import TrainerConfig


@pytest.mark.parametrize("ramp", [{}, {"ramp_from": 1, "ramp_steps": 4},
                                  {"ramp_from": 3, "ramp_steps": 9}])  # fmt: skip
def test_the_cursor_counts_the_micro_batches_of_all_steps_before(ramp):
    config = TrainerConfig(accumulate=5, **ramp)
    for step in range(20):
        assert config.first_micro_batch(step) == sum(map(config.micro_batches, range(step)))


def test_a_ramp_by_hand():
    config = TrainerConfig(accumulate=4, ramp_from=1, ramp_steps=6)
    assert [config.micro_batches(step) for step in range(8)] == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("ramp", [{}, {"ramp_from": 1, "ramp_steps": 6}])
@pytest.mark.parametrize("wanted", [0.5, 1, 1.5, 4, 9, 12, 12.5, 13, 100])
def test_steps_for_are_the_fewest_that_hold_so_many(ramp, wanted):
    config = TrainerConfig(accumulate=4, **ramp)
    steps = config.steps_for(wanted)
    assert config.first_micro_batch(steps) >= wanted
    assert steps == 1 or config.first_micro_batch(steps - 1) < wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ramp_from": 1}, r"need each other \(1, None\)"),
        ({"ramp_from": 5, "ramp_steps": 3, "accumulate": 4}, r"at most accumulate \(5, 4"),
        ({"z_loss": -1.0}, r"z_loss must be finite and 0 or more \(-1.0\)"),
        ({"log_every": 0}, r"log_every must be at least 1 \(0\)"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**changes)


@pytest.mark.parametrize(
    "name",
    """iterations batch_size accumulate eval_every eval_batches save_every keep_last log_every
    sample_every sample_tokens seed epochs minutes""".split(),  # noqa: SIM905
)
def test_the_example_for_a_value_out_of_its_range_works(name):
    for value in (-1, 1e300):
        if (name, value) == ("epochs", 1e300):  # finite, so it is a length
            continue
        with pytest.raises(ValueError, match=rf"train\.{name} must be .*; use e\.g\. ") as caught:
            TrainerConfig(**{name: value})
        example = float(str(caught.value).rsplit(" ", 1)[1])
        assert getattr(TrainerConfig(**{name: example}), name) == example
