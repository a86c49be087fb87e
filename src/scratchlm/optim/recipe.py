"""`OptimConfig`, and the optimizer and the schedule that it describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from scratchlm.optim.adamw import AdamW
from scratchlm.optim.groups import adamw_groups, muon_groups
from scratchlm.optim.muon import Muon
from scratchlm.optim.schedule import (
    DecayShape,
    cosine_schedule,
    linear_schedule,
    wsd_schedule,
)
from scratchlm.optim.sgd import SGD

# float32 ends at 3.4e38, and a rate is multiplied: by Muon with the root of a matrix's proportions.
_LARGEST = 1e36


@dataclass(frozen=True)
class OptimConfig:
    """`lr` is the peak; with muon it is that of the blocks' matrices, and `adamw_lr` that of the
    rest. None is the optimizer's own default. `warmup_steps` (None: a tenth of the run, 100 at
    most), then `schedule` down to `min_lr` (in proportion for every group). wsd decays in the last
    `decay_steps`, or in `decay_fraction` of all (0.2), along `decay_shape`: to begin it from a
    checkpoint, resume that with --iterations its step + decay_steps."""

    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    lr: float = 1e-3
    adamw_lr: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: float = 0.1
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_steps: int | None = None
    min_lr: float = 0.0
    decay_fraction: float | None = None
    decay_steps: int | None = None
    decay_shape: DecayShape | None = None

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"optim.lr is above 0 ({self.lr}); 1e-3 is a good start")
        for name in ("lr", "adamw_lr", "eps", "momentum", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not value <= _LARGEST:
                raise ValueError(
                    f"optim.{name} is at most {_LARGEST:g}, for float32 ({value}); lower it"
                )
        if not 0 <= self.min_lr <= self.lr:
            raise ValueError(
                f"optim.min_lr is from 0 to lr ({self.min_lr}, lr {self.lr}); lower it"
            )
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ValueError(f"optim.warmup_steps is at least 0 ({self.warmup_steps}); raise it")
        if self.decay_fraction is not None and not 0 <= self.decay_fraction <= 1:
            share = self.decay_fraction
            raise ValueError(f"optim.decay_fraction is from 0 to 1 ({share}); give a share of 1")
        users = {
            "adamw_lr": ("muon",),
            "betas": ("adamw", "muon"),
            "eps": ("adamw", "muon"),
            "momentum": ("muon", "sgd"),
            "nesterov": ("muon", "sgd"),
        }
        for name, optimizers in users.items():
            if getattr(self, name) is not None and self.optimizer not in optimizers:
                raise ValueError(
                    f"optim.{name} has no effect on {self.optimizer} ({getattr(self, name)}); "
                    f"unset it (--optim.{name} none), or choose optim.optimizer "
                    f"{' or '.join(optimizers)}"
                )
        for name in ("decay_fraction", "decay_steps", "decay_shape"):
            if getattr(self, name) is not None and self.schedule != "wsd":
                raise ValueError(
                    f"optim.{name} has no effect on {self.schedule} ({getattr(self, name)}); "
                    f"unset it (--optim.{name} none), or choose optim.schedule wsd"
                )
        if self.decay_fraction is not None and self.decay_steps is not None:
            raise ValueError(
                f"optim.decay_fraction and decay_steps exclude each other ({self.decay_fraction}, "
                f"{self.decay_steps}); give one of them"
            )
        if self.decay_steps is not None and self.decay_steps < 0:
            raise ValueError(f"optim.decay_steps is at least 0 ({self.decay_steps}); raise it")


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Decay on matrices only; with muon, AdamW for all but the blocks' matrices."""
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
        case "constant":
            return lambda step: wsd_schedule(step, decay_steps=0, **shape)
