"""`TrainConfig`: all that a run is, in five sections, and the defaults, without torch.

So `scratchlm-train --help` can show every key with its default at once.
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


# A model that a laptop trains in minutes; `vocab_size` comes from the tokenizer.
DEFAULT_MODEL = {"context_length": 256, "d_model": 256, "num_layers": 4, "num_heads": 8}
DEFAULT_ITERATIONS = 1000
