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
    """Store all settings of a run. The constructor raises ValueError for settings that exclude
    each other, or that have no effect on this kind of data."""

    model: ModelConfig
    data: DataConfig
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    runtime: RuntimeConfig = dataclasses.field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        kind, train = self.data.kind, self.train
        if kind == "dpo" and train.init_from is None:
            raise ValueError(
                "training on pairs of answers must begin from a model (train.init_from is unset); "
                "fine-tune a model with --kind sft first, and set --init_from MODEL"
            )
        if kind != "text" and train.sample_every and not train.sample_prompt.strip():
            raise ValueError(
                "a sample of a dialogue must answer the text of a user (train.sample_prompt "
                f"{train.sample_prompt!r}); set --sample_prompt TEXT, or --sample_every 0"
            )
        name, default = ("z_loss", 0.0) if kind == "dpo" else ("dpo_beta", 0.1)
        if (value := getattr(train, name)) != default:
            raise ValueError(
                f"train.{name} ({value}) has no effect on data of the kind {kind}; remove "
                f"train.{name}"
            )
        with_rows(self.model, self.data.row_length)

    @property
    def rows_model(self) -> ModelConfig:
        """The model with the context of a row. A step costs as much as a step of this model."""
        return with_rows(self.model, self.data.row_length)


def with_rows(model: ModelConfig, row_length: int | None) -> ModelConfig:
    """Return the model with a context of `row_length` tokens, if it is not None.

    Raise ValueError if a row is longer than the context.
    """
    if row_length is None:
        return model
    if row_length > model.context_length:
        raise ValueError(
            f"data.row_length must be at most the model's context_length ({row_length}, context "
            f"{model.context_length}); decrease --row_length, or increase --context_length"
        )
    return dataclasses.replace(model, context_length=row_length)


# A laptop trains this model in minutes. Its `vocab_size` comes from the tokenizer.
DEFAULT_MODEL = {"context_length": 256, "d_model": 256, "num_layers": 4, "num_heads": 8}
DEFAULT_ITERATIONS = 1000
