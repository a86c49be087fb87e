"""Checkpoints: atomic, verified, exact.

    step-00000100/
      model.safetensors   the weights, under the model's own names
      state.safetensors   every other tensor: optimizer moments, random states
      state.json          every other value, with a reference where a tensor stood
      config.json         the model's configuration   (where it has one)
      tokenizer.json      the tokenizer               (where one was given)
      manifest.json       size and SHA-256 of each file above; written last

The directory is written beside its final name, synced, and renamed: at every moment the name
holds a whole checkpoint or nothing. A path that ends in `.pt` or `.pth`, or an open file, takes the
same content as one `torch.save` file, read with `weights_only=True` and nothing else, its checksums
compared first. Whatever is read, from either, is what `save_checkpoint` takes, or is refused.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scratchlm.checkpoint.directory import (
    PathOrFile,
    Payload,
    is_single_file,
    read_directory,
    read_directory_settings,
    write_payload,
)
from scratchlm.checkpoint.payload import check_order, checked_payload
from scratchlm.checkpoint.ranks_together import spread_state
from scratchlm.checkpoint.single_file import read_single
from scratchlm.config import takes_synonyms
from scratchlm.devices.shards import spread
from scratchlm.errors import FileFormatError
from scratchlm.model.transformer import Transformer
from scratchlm.model.weight_names import check_shapes, check_tied, fitted, plain_state, unwrapped


def save_checkpoint(
    path_or_file: PathOrFile,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    step: int,
    **more: Any,
) -> None:
    """Save any module and optimizer, the step, and `more` (tensors and plain Python values).

    A scratchlm `Transformer` has its config stored as a dict under `config`; `tokenizer` is the
    text of a tokenizer.json. A value outside tensors and plain types is a ValueError that names
    its key, before anything is written.
    """
    check_order(path_or_file, model, "save_checkpoint(path, model, optimizer, step)")
    write_payload(path_or_file, checked_payload(state_of(model, optimizer, step, **more)))


def state_of(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, step: int, **more: Any
) -> Payload:
    """What `save_checkpoint` writes; its tensors are the model's own, not copies."""
    inner = unwrapped(model)
    if isinstance(inner, Transformer):
        more.setdefault("config", dataclasses.asdict(inner.config))
    return {
        "model": plain_state(model),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "step": step,
        **more,
    }


@takes_synonyms()
def load_checkpoint(
    path_or_file: PathOrFile, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> int:
    """Put a checkpoint's state into `model` and `optimizer`; returns its step."""
    check_order(path_or_file, model, "load_checkpoint(path, model, optimizer)")
    payload = read_checkpoint(path_or_file)
    restore(payload, model, optimizer, name=str(path_or_file))
    return int(payload["step"])


def restore(
    payload: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    *,
    name: str,
) -> None:
    """Load what `read_checkpoint` gave. A state of other names, shapes or kinds is a
    FileFormatError, and changes nothing. A sharded model takes its shards of it. Wrappers around
    the model, then or now, change nothing, and one name of a tied weight is enough."""
    weights = fitted(payload["model"], model, name)
    check_shapes(model, weights, name)
    check_tied(weights, model, name)
    if optimizer is not None:
        if payload["optimizer"] is None:
            raise FileFormatError(f"the checkpoint has no optimizer ({name}); load only the model")
        try:
            optimizer.load_state_dict(spread_state(payload["optimizer"], optimizer))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"the checkpoint is of another optimizer ({name}: {error}); "
                "use the config it was trained with"
            ) from None
    ours = model.state_dict()
    model.load_state_dict({name: spread(t, ours[name]) for name, t in weights.items()})


def read_checkpoint(path_or_file: PathOrFile, *, mapped: bool = False) -> Payload:
    """All that was saved: `model`, `optimizer`, `step`, and the further keys; on the CPU.

    Every byte of a directory is checked against its manifest first; FileFormatError names the file.
    mapped: a directory's tensors are read when looked at, for a rank needs but a part of each.
    """
    if isinstance(path_or_file, str | os.PathLike):
        path = Path(path_or_file)
        single = is_single_file(path)
        payload = read_single(path, path) if single else read_directory(path, mapped=mapped)
    else:
        payload = read_single(path_or_file, path_or_file)
    if not isinstance(payload, dict) or not isinstance(payload.get("model"), dict):
        raise FileFormatError(f"not a checkpoint ({path_or_file}); it has no weights under 'model'")
    if not all(isinstance(value, Tensor) for value in payload["model"].values()):
        raise FileFormatError(f"not a checkpoint ({path_or_file}); its 'model' is not all tensors")
    if type(payload.get("step")) is not int:
        raise FileFormatError(f"not a checkpoint ({path_or_file}); it has no 'step'")
    payload.setdefault("optimizer", None)
    try:
        return checked_payload(payload)
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise FileFormatError(
            f"not a checkpoint ({path_or_file}: {reason}); save it again with save_checkpoint"
        ) from None


def read_settings(path: Path) -> Payload:
    """The `step`, `recipe`, `config` and `tokenizer` in a checkpoint. The tensors of a directory
    are not read."""
    return read_checkpoint(path) if is_single_file(path) else read_directory_settings(path)
