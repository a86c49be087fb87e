"""`TrainConfig`: the five sections of a run's settings, with their defaults.

This module does not import torch, so `scratchlm-train --help` shows every key at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from scratchlm.data.config import DataConfig
from scratchlm.devices.runtime_config import RuntimeConfig
from scratchlm.model.config import ModelConfig
from scratchlm.optim.config import OptimConfig
from scratchlm.training.trainer_config import TrainerConfig


@dataclass(frozen=True)
class TrainConfig:
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    runtime: RuntimeConfig = dataclasses.field(default_factory=RuntimeConfig)


# A laptop trains this model in minutes. Its `vocab_size` comes from the tokenizer.
DEFAULT_MODEL = {"context_length": 256, "d_model": 256, "num_layers": 4, "num_heads": 8}
DEFAULT_ITERATIONS = 1000
