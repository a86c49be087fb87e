"""The optimizer and the schedule that an `OptimConfig` describes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import nn

from scratchlm.optim.adamw import AdamW
from scratchlm.optim.config import OptimConfig
from scratchlm.optim.groups import adamw_groups, muon_groups
from scratchlm.optim.muon import Muon
from scratchlm.optim.schedule import cosine_schedule, linear_schedule, wsd_schedule
from scratchlm.optim.sgd import SGD, SGDDecay


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer. Only matrices get weight decay. `muon_groups` explains Muon."""
    if config.optimizer == "sgddecay":
        return SGDDecay(model.parameters(), lr=config.lr)
    assert config.weight_decay is not None
    names = ("betas", "eps", "momentum", "nesterov")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    match config.optimizer:
        case "adamw":
            groups = adamw_groups(model.named_parameters(), config.weight_decay)
            return AdamW(groups, lr=config.lr, **given)
        case "sgd":
            groups = adamw_groups(model.named_parameters(), config.weight_decay)
            return SGD(groups, lr=config.lr, **given)
        case "muon":
            adamw = {name: given.pop(name) for name in ("betas", "eps") if name in given}
            groups = muon_groups(
                model.named_parameters(),
                lr=config.lr,
                adamw_lr=config.adamw_lr if config.adamw_lr is not None else config.lr / 10,
                weight_decay=config.weight_decay,
                **adamw,
            )
            return Muon(groups, lr=config.lr, **given)


def fitting(config: OptimConfig, steps: int, typed: Container[str]) -> OptimConfig:
    """Return `config` for a run of `steps` steps.

    If `warmup_steps` is None, use a tenth of the run, at most 100 steps. Shorten a warm-up or
    a decay that is too long for the run, unless the user typed its number of steps. `typed`
    contains the keys that the user typed, such as "optim.warmup_steps".
    """
    warmup, decay = config.warmup_steps, config.decay_steps
    kept = (decay or 0) if "optim.decay_steps" in typed else 0
    if warmup is None or (warmup > steps and "optim.warmup_steps" not in typed):
        warmup = max(0, min(100, steps // 10, steps - kept))
    if decay is not None and not kept:
        decay = min(decay, max(0, steps - warmup))
    return dataclasses.replace(config, warmup_steps=warmup, decay_steps=decay)


def build_schedule(config: OptimConfig, steps: int) -> Callable[[int], float]:
    """Return a function: step -> the factor that multiplies the peak learning rate of every group.

    Raise ValueError if the warm-up or the decay does not fit in `steps`.
    """
    warmup = config.warmup_steps or 0
    for name, longest in (("warmup_steps", steps), ("decay_steps", steps - warmup)):
        value = getattr(config, name) or 0
        if value > longest:
            raise ValueError(
                f"optim.{name} must fit in the run ({value} > {longest} of {steps} steps); "
                f"use at most {longest}, or remove this setting"
            )
    shape: dict[str, Any] = {
        "max_lr": 1.0,
        "min_lr": config.min_lr / config.lr,
        "warmup_steps": warmup,
        "total_steps": steps + 1,  # the last step still learns, and the rate is min_lr after it
    }
    match config.schedule:
        case "cosine":
            return lambda step: cosine_schedule(step, **shape)
        case "linear":
            return lambda step: linear_schedule(step, **shape)
        case "wsd":
            fraction = 0.2 if config.decay_fraction is None else config.decay_fraction
            part = min(round(fraction * steps), steps - warmup)
            shape["decay_steps"] = 1 + (part if config.decay_steps is None else config.decay_steps)
            shape["decay_shape"] = config.decay_shape or "linear"
            return lambda step: wsd_schedule(step, **shape)
        case _:
            return lambda step: wsd_schedule(step, decay_steps=0, **shape)
