"""The optimizer and the schedule that an `OptimConfig` describes."""

from __future__ import annotations

from collections.abc import Callable
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
    """Decay on matrices only; with muon, AdamW for all but the blocks' matrices."""
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


def build_schedule(config: OptimConfig, steps: int) -> Callable[[int], float]:
    """step -> factor on every group's peak learning rate."""
    warmup = config.warmup_steps or 0
    if warmup > steps:
        raise ValueError(
            f"the warm-up is longer than the run ({warmup} > {steps} steps); "
            "lower optim.warmup_steps"
        )
    shape: dict[str, Any] = {
        "max_lr": 1.0,
        "min_lr": config.min_lr / config.lr,
        "warmup_steps": warmup,
        "total_steps": steps + 1,  # where the rate is min_lr: the last step still learns
    }
    match config.schedule:
        case "cosine":
            return lambda step: cosine_schedule(step, **shape)
        case "linear":
            return lambda step: linear_schedule(step, **shape)
        case "wsd":
            fraction = 0.2 if config.decay_fraction is None else config.decay_fraction
            wanted = round(fraction * steps) if config.decay_steps is None else config.decay_steps
            shape["decay_steps"] = min(wanted, steps - warmup) + 1
            shape["decay_shape"] = config.decay_shape or "linear"
            return lambda step: wsd_schedule(step, **shape)
        case _:
            return lambda step: wsd_schedule(step, decay_steps=0, **shape)
