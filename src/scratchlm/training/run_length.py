"""The length of a run: a number of steps, passes over the data, or a time limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container
from pathlib import Path

from scratchlm import config as configuration
from scratchlm.checkpoint.save_and_load import read_settings
from scratchlm.files.atomic import write_file
from scratchlm.optim.recipe import build_schedule, fitting
from scratchlm.training.micro_batches import EpochBatches
from scratchlm.training.time_limit import TimeLimit
from scratchlm.training.timing import steps_that_fit
from scratchlm.training.train_config import TrainConfig
from scratchlm.training.trainer import Trainer
from scratchlm.training.trainer_config import TrainerConfig


def given_steps(train: TrainerConfig, batches: EpochBatches) -> int | None:
    """Return the number of steps of the run, or None if its time limit decides."""
    if train.iterations is not None or train.minutes is not None:
        return train.iterations
    if train.epochs is None:
        raise ValueError("a run needs a length (iterations is none); set --iterations N")
    return train.steps_for(train.epochs * batches.windows_per_epoch / train.batch_size)


def of_length(
    config: TrainConfig,
    steps: int,
    typed: Container[str],
    say: Callable[[str], None] = lambda line: None,
) -> TrainConfig:
    """Return the configuration of a run of `steps` steps. The keys in `typed` do not change."""
    train = dataclasses.replace(config.train, iterations=steps, epochs=None, minutes=None)
    optim = fitting(config.optim, steps, typed)
    for name in ("warmup_steps", "decay_steps"):
        was, now = getattr(config.optim, name), getattr(optim, name)
        if was not in (None, now):
            say(f"optim.{name}: {was} -> {now}, because the run has {steps} steps")
    return dataclasses.replace(config, train=train, optim=optim)


def counted(train: TrainerConfig) -> TrainerConfig:
    """Return the config. Set 1 iteration if the number is not known: some parts need a number."""
    if train.iterations is not None:
        return train
    return dataclasses.replace(train, iterations=1, minutes=None)


def steps_in_time(
    trainer: Trainer, limit: TimeLimit, resume: Path | None, say: Callable[[str], None]
) -> int:
    """Return the number of the last step that ends in time. A resumed run gets the whole time."""
    say(f"timing a few steps, so that the run ends within {limit.seconds / 60:g} minutes")
    steps = steps_that_fit(trainer, limit)
    seconds = limit.costs.step + limit.costs.beside
    say(f"{steps} iterations fit ({seconds:.3g} s each, {limit.left():.0f} s remain)")
    return steps if resume is None else read_settings(resume)["step"] + steps


def set_length(trainer: Trainer, config: TrainConfig) -> None:
    """Set a trainer's number of steps and its schedule from `config`."""
    assert config.train.iterations is not None
    trainer.config, trainer.iterations = config.train, config.train.iterations
    trainer.schedule = build_schedule(config.optim, trainer.iterations)
    trainer.extra["recipe"] = dataclasses.asdict(config)


def let_it_be_replanned(trainer: Trainer, limit: TimeLimit, config: TrainConfig) -> None:
    """Let a run change its length with its pace. Record the new length and use its schedule."""

    def replanned(steps: int) -> bool:
        new = of_length(config, steps, ())
        schedule = build_schedule(new.optim, steps)
        # A run may become longer only if its learning rates so far stay the same: before the decay.
        if steps > trainer.iterations and schedule(trainer.step) != trainer.schedule(trainer.step):
            return False
        set_length(trainer, new)
        if trainer.ranks.first and trainer.out:
            write_config(new, trainer.out)
        return True

    limit.replanned = replanned
    limit.restart_clock(trainer.step)


def write_config(config: TrainConfig, out: Path) -> None:
    write_file(out / "config.toml", told(config).encode())


def told(config: TrainConfig) -> str:
    """Return the settings as TOML. Derived settings are comments, so another run derives its own.

    Otherwise, a run with this file and another `num_heads` would keep this `num_kv_heads`.
    """
    return configuration.to_toml(config, {f"model.{name}" for name in config.model.derived})
