"""`--minutes`: the number of steps that fit, the same steps as in a run with `--iterations`, and an
end in time even if the machine becomes slower."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from helpers import exact_runs as exactness
from helpers import forked
from scratchlm.checkpoint.pointers import find_checkpoint
from scratchlm.checkpoint.save_and_load import read_checkpoint, read_settings
from scratchlm.cli.train import main
from scratchlm.config import read_toml
from scratchlm.devices.ranks import ALONE
from scratchlm.training import recipe, run_config, time_limit
from scratchlm.training.time_limit import TimeLimit


def by_minutes(folder, out, minutes, **changes):
    given = exactness.flags(folder, out, **changes) | {"train.minutes": minutes}
    return {key: value for key, value in given.items() if key != "train.epochs"}


def built(given, ranks=ALONE, resume="auto", **more):
    config, checkpoint = run_config.resolve(None, given, resume, say=exactness.quiet)
    return recipe.build(config, resume=checkpoint, ranks=ranks, say=exactness.quiet, **more)


def first_steps(trainer):
    trainer.iterations = 12
    trainer.fit()


def test_a_run_of_minutes_equals_one_of_as_many_iterations(tmp_path):
    """To the bit: weights, optimizer, random states and log. The timed steps leave no trace."""
    changes = {"optim.schedule": "cosine", "optim.warmup_steps": None, "train.eval_every": 4}
    timed = built(by_minutes(tmp_path, "timed", 0.2, **changes))
    timed.limit = None  # how fast this machine is just now does not matter
    steps = timed.iterations
    assert timed.step == 0
    assert read_toml(tmp_path / "timed/config.toml")["train"]["iterations"] == steps > 12
    first_steps(timed)
    given = exactness.flags(tmp_path, "counted", **changes, **{"train.iterations": steps})
    first_steps(built({key: value for key, value in given.items() if key != "train.epochs"}))
    exactness.assert_equal_runs(tmp_path, "timed", "counted")


def test_a_resumed_run_keeps_the_number_that_was_fixed(tmp_path):
    trainer = built(by_minutes(tmp_path, "run", 0.2))
    steps, trainer.limit = trainer.iterations, None
    trainer.iterations = 5  # as where it was stopped
    trainer.fit()
    recorded = read_settings(find_checkpoint(tmp_path / "run", "last"))["recipe"]["train"]
    assert (recorded["iterations"], recorded["minutes"]) == (steps, None)
    file = tmp_path / "recipe.toml"
    file.write_text("[train]\nminutes = 9\n")
    again, _ = run_config.resolve(file, {}, str(tmp_path / "run"), say=pytest.fail)
    assert (again.train.iterations, again.train.minutes) == (steps, None)
    longer = built({"train.minutes": 0.2}, resume=str(tmp_path / "run"))  # typed: so long again
    assert longer.iterations > longer.step == 5


def test_too_little_time_is_refused(tmp_path, capsys):
    given = by_minutes(tmp_path, "run", 0.01)
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    assert main(words) == 2
    assert "no step fits into 1 seconds (" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("file", "flags", "expected"),
    [
        ("minutes = 9", {}, (None, None, 9.0)),
        ("minutes = 9", {"train.iterations": "5"}, (5, None, None)),
        ("minutes = 9", {"train.epochs": "2"}, (None, 2.0, None)),
        ("iterations = 5", {"train.minutes": "9"}, (None, None, 9.0)),
        ("epochs = 2", {"train.minutes": "9"}, (None, None, 9.0)),
    ],
)
def test_the_length_that_is_typed_wins(tmp_path, file, flags, expected):
    (tmp_path / "recipe.toml").write_text(f"[train]\n{file}\n")
    np.save(tmp_path / "ids.npy", np.zeros(99, np.uint16))
    given = {"data.train": str(tmp_path / "ids.npy"), "model.vocab_size": "96"} | flags
    config, _ = run_config.resolve(tmp_path / "recipe.toml", given, say=exactness.quiet)
    assert (config.train.iterations, config.train.epochs, config.train.minutes) == expected
    for other in ("train.iterations", "train.epochs"):
        with pytest.raises(ValueError, match="exclude each other"):
            run_config.resolve(None, given | {"train.minutes": "1", other: "2"})


class Clock:
    """A machine whose steps take `pace` seconds, by a clock that only they move."""

    def __init__(self, monkeypatch, pace):
        self.now, self.pace = 0.0, pace
        monkeypatch.setattr(time_limit.time, "monotonic", lambda: self.now)


@pytest.mark.parametrize(
    ("slower", "from_step"),
    [(1.0, 0), (1.02, 0), (1.3, 0), (2.0, 300), (3.0, 500), (2.0, 700), (1.5, 780)],
)
def test_a_machine_that_becomes_slower_ends_in_time(monkeypatch, slower, from_step):
    clock = Clock(monkeypatch, 0.7)
    limit = TimeLimit(600.0, 0.0)
    limit.costs = time_limit.Costs(0.7, 0.0, 5.0)
    limit.restart_clock(0)
    planned = total = int((limit.left() - limit.margin - limit.costs.end) / 0.7)
    step, seen = 0, []
    while step < total:
        step += 1
        clock.now += 0.7 * (slower if step > from_step else 1.0)
        total = limit.total(step, total)
        seen.append(total)
    assert step == total
    assert clock.now + limit.costs.end <= 600
    assert (total < planned) == (slower > 1.02)
    # It is no more cautious than that, and shortens gradually.
    assert clock.now >= 600 - 2 * limit.margin - 0.7 * slower
    assert seen == sorted(seen, reverse=True)


def test_a_machine_that_was_busy_while_it_was_timed_uses_its_time(monkeypatch):
    clock = Clock(monkeypatch, 0.33)
    limit = TimeLimit(600.0, 0.0)
    limit.costs = time_limit.Costs(2.8, 0.0, 5.0)
    clock.now = 40.0  # of which the process had other things to do
    limit.restart_clock(0)
    step, total = 0, 200
    while step < total:
        step += 1
        clock.now += 0.33
        total = limit.total(step, total)
        assert total == 200 or step * 0.33 >= 6  # 1% of the time is enough
    assert 600 - 2 * limit.margin <= clock.now + limit.costs.end <= 600


def test_a_burst_of_other_work_changes_nothing(monkeypatch):
    clock = Clock(monkeypatch, 0.7)
    limit = TimeLimit(600.0, 0.0)
    limit.restart_clock(0)
    total = int((limit.left() - limit.margin) / 0.7)
    for step in range(1, total + 1):
        clock.now += 1.4 if 200 < step <= 214 else 0.7  # twice as slow for 20 seconds
        assert limit.total(step, total) == total
    assert clock.now < 600


def test_a_shortened_run_is_recorded_and_resumed_as_that(tmp_path):
    trainer = built(by_minutes(tmp_path, "run", 0.2, **{"train.save_every": 2}))
    planned = trainer.iterations
    assert trainer.limit is not None
    ends = trainer.limit
    ends.total = lambda step, total: total if step < 4 else min(total, 7)  # type: ignore[method-assign]
    trainer.fit()
    assert trainer.step == trainer.iterations == 7 < planned
    last = read_checkpoint(find_checkpoint(tmp_path / "run", "last"))
    assert last["recipe"]["train"]["iterations"] == 7
    assert last["history"] == [{"step": 4, "changed": {"train.iterations": [planned, 7]}}]
    assert read_toml(tmp_path / "run/config.toml")["train"]["iterations"] == 7
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert "val_loss" in log[-1]
    resumed = exactness.flags(tmp_path, "again", **{"train.iterations": 7})
    del resumed["train.epochs"], resumed["optim.warmup_steps"]
    again = built(resumed, resume=str(tmp_path / "run/checkpoints/step-00000004"))
    again.fit()
    assert exactness.difference(
        exactness.final(tmp_path / "again")["model"], last["model"]
    ) is None  # fmt: skip


@pytest.mark.parametrize(("schedule", "step"), [("wsd", 3), ("wsd", 5), ("cosine", 3)])
def test_a_run_is_longer_only_as_long_as_its_rate_is_the_same(tmp_path, schedule, step):
    changes = {"optim.schedule": schedule, "optim.warmup_steps": 2}
    changes |= {"optim.decay_fraction": 0.5} if schedule == "wsd" else {}
    trainer = built(by_minutes(tmp_path, "run", 0.2, **changes))
    assert trainer.limit is not None
    trainer.limit.replanned(8)  # the decay of wsd begins after step 4
    trainer.limit.total = lambda done, total: 12 if done == step else total  # type: ignore[method-assign]
    trainer.fit()
    longer = schedule == "wsd" and step == 3
    assert trainer.step == trainer.iterations == (12 if longer else 8)
    counted = exactness.flags(tmp_path, "counted", **changes) | {"train.iterations": trainer.step}
    built({key: value for key, value in counted.items() if key != "train.epochs"}).fit()
    ours, theirs = (exactness.final(tmp_path / name)["model"] for name in ("run", "counted"))
    assert exactness.difference(ours, theirs) is None


def _iterations(ranks, given):
    slow = replace(ranks)  # each rank has its own clock
    return built(given, slow, began=time.monotonic() - ranks.rank).iterations


@pytest.mark.slow
def test_all_ranks_take_one_number(tmp_path):
    given = by_minutes(tmp_path, "run", 0.2)
    one, other = forked.run_ranks(tmp_path, 2, partial(_iterations, given=given))
    assert one == other > 1
