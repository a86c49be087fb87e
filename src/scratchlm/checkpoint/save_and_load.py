"""Save and load checkpoints: atomic, verified, exact.

    step-00000100/
      model.safetensors   the weights, under the model's own names
      state.safetensors   every other tensor: optimizer moments, random states
      state.json          every other value, with a reference in place of a tensor
      config.json         the model's configuration   (if it has one)
      tokenizer.json      the tokenizer               (if you pass one)
      manifest.json       size and SHA-256 of each file above; written last

`save_checkpoint` writes the directory under a temporary name, syncs the files, and renames the
directory. So at every moment, the final name has a complete checkpoint or nothing. If the path ends
in `.pt` or `.pth`, or is an open file, the same content is written as one `torch.save` file. The
reader of such a file compares the checksums first, and always uses `weights_only=True`. The readers
of both forms reject all content that `save_checkpoint` would reject.
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

    The config of a scratchlm `Transformer` is stored as a dict under `config`. `tokenizer` must be
    the text of a tokenizer.json. Programs that generate text also use `template` (the name of a
    chat template), `end_ids` and `start_ids` (lists of ids that end and begin a text).

    Raise ValueError for a value that is neither a tensor nor of a plain type. The error contains
    the key, and nothing is written.
    """
    check_order(path_or_file, model, "save_checkpoint(path, model, optimizer, step)")
    write_payload(path_or_file, checked_payload(state_of(model, optimizer, step, **more)))


def state_of(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, step: int, **more: Any
) -> Payload:
    """Return the content that `save_checkpoint` writes. The tensors are not copies."""
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
    """Load a checkpoint into `model` and `optimizer`, and return the checkpoint's step."""
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
    """Load the result of `read_checkpoint` into `model` and `optimizer`.

    Raise FileFormatError if names, shapes or kinds of dtypes differ; then nothing changes. A
    sharded model loads only its shards. Wrappers around the saved model or around `model` do not
    matter. A tied weight needs only one of its names.
    """
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
                f"the checkpoint has the state of another optimizer ({name}: {error}); "
                "use the config that the model was trained with"
            ) from None
    ours = model.state_dict()
    model.load_state_dict({name: spread(t, ours[name]) for name, t in weights.items()})


def read_checkpoint(path_or_file: PathOrFile, *, mapped: bool = False) -> Payload:
    """Return all saved values on the CPU: `model`, `optimizer`, `step`, and the other keys.

    The function first checks every byte of a directory against the manifest. Raise FileFormatError
    with the file's name if the check fails. mapped: True maps a directory's tensors; a rank needs
    only a part of each tensor.
    """
    if isinstance(path_or_file, str | os.PathLike):
        path = Path(path_or_file)
        single = is_single_file(path)
        payload = read_single(path, path) if single else read_directory(path, mapped=mapped)
    else:
        payload = read_single(path_or_file, path_or_file)
    if not isinstance(payload, dict) or not isinstance(payload.get("model"), dict):
        raise FileFormatError(
            f"the content is not a checkpoint ({path_or_file}: it has no weights under 'model'); "
            "use another checkpoint"
        )
    if not all(isinstance(value, Tensor) for value in payload["model"].values()):
        raise FileFormatError(
            f"the content is not a checkpoint ({path_or_file}: 'model' has a value that is not a "
            "tensor); use another checkpoint"
        )
    if type(payload.get("step")) is not int:
        raise FileFormatError(
            f"the content is not a checkpoint ({path_or_file}: it has no 'step'); use another "
            "checkpoint"
        )
    payload.setdefault("optimizer", None)
    try:
        return checked_payload(payload)
    except (RecursionError, ValueError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise FileFormatError(
            f"the content is not a checkpoint ({path_or_file}: {reason}); save the checkpoint "
            "again with save_checkpoint"
        ) from None


def read_settings(path: Path) -> Payload:
    """Return `step`, `recipe`, `template`, `end_ids`, `start_ids`, `config` and `tokenizer` of a
    checkpoint.

    It does not read the tensors of a directory.
    """
    return read_checkpoint(path) if is_single_file(path) else read_directory_settings(path)
