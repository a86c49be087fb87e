"""`OptimConfig`: the optimizer and the schedule of a run. This module needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scratchlm.config import takes_synonyms
from scratchlm.optim.schedule import DecayShape

# float32 ends at 3.4e38, and Muon multiplies the rate by √max(1, rows/cols) of a matrix.
_LARGEST = 1e36


@takes_synonyms()
@dataclass(frozen=True)
class OptimConfig:
    """`lr` is the peak learning rate. With muon, `lr` is the rate of the blocks' matrices, and
    `adamw_lr` (None: a tenth of `lr`) is the rate of all other weights. If `betas`, `eps`,
    `momentum` or `nesterov` is None, the optimizer uses its own default. `weight_decay=None` means
    0.1. sgddecay has no weight decay. It decreases the rate of step t to lr / √(t + 1) itself.

    The rate rises for `warmup_steps` (None: a tenth of the run, at most 100). Then it follows
    `schedule` (None: cosine, or constant for sgddecay) down to `min_lr`. The rates of all groups
    fall in proportion. wsd decays along `decay_shape`, in the last `decay_steps` or in the last
    `decay_fraction` (None: 0.2) of the run. To start the decay from a checkpoint, resume it with
    --iterations set to its step + decay_steps.

    The constructor raises ValueError for a value that is out of range or has no effect.
    """

    optimizer: Literal["adamw", "muon", "sgd", "sgddecay"] = "adamw"
    lr: float = 1e-3
    adamw_lr: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: float | None = None
    schedule: Literal["cosine", "linear", "wsd", "constant"] | None = None
    warmup_steps: int | None = None
    min_lr: float = 0.0
    decay_fraction: float | None = None
    decay_steps: int | None = None
    decay_shape: DecayShape | None = None

    def __post_init__(self) -> None:
        decays_itself = self.optimizer == "sgddecay"
        if self.weight_decay is None and not decays_itself:
            object.__setattr__(self, "weight_decay", 0.1)
        if self.schedule is None:
            object.__setattr__(self, "schedule", "constant" if decays_itself else "cosine")
        if not self.lr > 0:
            raise ValueError(f"optim.lr must be above 0 ({self.lr}); start with 1e-3")
        for name, example in (("lr", 1e-3), ("adamw_lr", 1e-3), ("eps", 1e-8), ("momentum", 0.9),
                              ("weight_decay", 0.1)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not value <= _LARGEST:
                raise ValueError(
                    f"optim.{name} must be at most {_LARGEST:g} ({value}), because float32 would "
                    f"overflow; use e.g. {example:g}"
                )
        if not 0 <= self.min_lr <= self.lr:
            raise ValueError(
                f"optim.min_lr ({self.min_lr}) must be from 0 to optim.lr ({self.lr}); "
                f"use e.g. {self.lr / 10:g}"
            )
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ValueError(
                f"optim.warmup_steps must be at least 0 ({self.warmup_steps}); use 0 for no warm-up"
            )
        if self.decay_fraction is not None and not 0 <= self.decay_fraction <= 1:
            raise ValueError(
                f"optim.decay_fraction must be from 0 to 1 ({self.decay_fraction}); "
                "use a fraction of the run, such as 0.2"
            )
        users = {
            "adamw_lr": ("muon",),
            "betas": ("adamw", "muon"),
            "eps": ("adamw", "muon"),
            "momentum": ("muon", "sgd"),
            "nesterov": ("muon", "sgd"),
            "weight_decay": ("adamw", "muon", "sgd"),
        }
        for name, optimizers in users.items():
            if getattr(self, name) is not None and self.optimizer not in optimizers:
                raise ValueError(
                    f"optim.{name} ({getattr(self, name)}) has no effect on {self.optimizer}; "
                    f"remove this setting with --optim.{name} none, or set optim.optimizer to "
                    f"{' or '.join(optimizers)}"
                )
        for name in ("decay_fraction", "decay_steps", "decay_shape"):
            if getattr(self, name) is not None and self.schedule != "wsd":
                raise ValueError(
                    f"optim.{name} ({getattr(self, name)}) has no effect on {self.schedule}; "
                    f"remove this setting with --optim.{name} none, or set optim.schedule to wsd"
                )
        if self.decay_fraction is not None and self.decay_steps is not None:
            raise ValueError(
                f"optim.decay_fraction ({self.decay_fraction}) and optim.decay_steps "
                f"({self.decay_steps}) must not both be set; set only one of them"
            )
        if self.decay_steps is not None and self.decay_steps < 0:
            raise ValueError(
                f"optim.decay_steps must be at least 0 ({self.decay_steps}); use 0 for no decay"
            )
