"""Refuse settings before a run prepares its data, which may take hours."""

from __future__ import annotations

import torch

from scratchlm.data.config import DataConfig
from scratchlm.devices.ranks import ALONE, Ranks, Share
from scratchlm.devices.runtime import resolve_dtype
from scratchlm.devices.runtime_config import RuntimeConfig
from scratchlm.model.config import ModelConfig
from scratchlm.training.attention_choice import check_model, resolve_attention
from scratchlm.training.fp8_layers import check_layers, check_tokens
from scratchlm.training.trainer_config import TrainerConfig


def check_settings(
    model: ModelConfig,
    train: TrainerConfig,
    data: DataConfig,
    runtime: RuntimeConfig,
    ranks: Ranks = ALONE,
) -> None:
    """Raise ValueError for settings that no device supports.

    model: with the context of a row. With `data.fit_context` the data may still change the context.
    """
    check_model(runtime.attention, model.d_head, sinks=model.attention_sinks)
    if runtime.dtype != "fp8":
        return
    check_layers(model)
    if runtime.compile == "off":
        raise ValueError(
            "fp8 must be compiled (runtime.compile off), because uncompiled fp8 is slower than "
            "bfloat16; choose --compile on, or --dtype bfloat16"
        )
    if data.has_reference:
        raise ValueError(
            f"pairs of answers cannot use fp8 (data.kind {data.kind}), because the model "
            "and its reference would round in different ways; choose --dtype bfloat16"
        )
    if not data.fit_context:
        check_micro_batches(train, model.context_length, runtime, ranks)


def check_device(model: ModelConfig, runtime: RuntimeConfig, device: torch.device) -> None:
    """Raise ValueError for settings that this device does not support."""
    resolve_dtype(runtime.dtype, device)
    resolve_attention(runtime.attention, device, model.d_head)


def check_micro_batches(
    train: TrainerConfig,
    context_length: int,
    runtime: RuntimeConfig,
    ranks: Ranks,
    steps: int | None = None,
) -> None:
    """Raise ValueError if the ranks cannot divide a step of the run, or if FP8 cannot multiply the
    tokens of a rank. steps: the number of steps, None if it is not known."""
    until = 1 + (train.ramp_steps or 0)  # after the ramp the number is constant
    for number in sorted({train.micro_batches(step) for step in range(min(steps or until, until))}):
        parts = Share.of(ranks, number, train.batch_size).parts
        if runtime.dtype == "fp8":
            check_tokens(train.batch_size // parts, context_length)
