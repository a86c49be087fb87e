"""Save and load checkpoints: atomic, verified, exact.

    step-00000100/
      model.safetensors   the weights, under the model's own names
      state.safetensors   every other tensor: optimizer moments, random states
      state.json          every other value, with a reference in place of a tensor
      config.json         the model's configuration   (if it has one)
      tokenizer.json      the tokenizer               (if one was given)
      manifest.json       size and SHA-256 of each file above; written last

The directory is written under a temporary name, synced, and renamed. So its name holds a complete
checkpoint or nothing at every moment. A path that ends in `.pt` or `.pth`, or an open file, gets
the same content as one `torch.save` file. Reading it compares the checksums first, and always uses
`weights_only=True`. Reading either form refuses any content that `save_checkpoint` would refuse.
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

    The config of a scratchlm `Transformer` is stored as a dict under `config`. `tokenizer` is the
    text of a tokenizer.json. ValueError for a value that is no tensor or plain type; it names the
    key, and nothing is written.
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
    """Load a checkpoint into `model` and `optimizer`, and return its step."""
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

    FileFormatError for other names, shapes or kinds; then nothing changes. A sharded model takes
    its shards. Wrappers around the saved or the present model do not matter. A tied weight needs
    only one of its names.
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
                f"the checkpoint is of another optimizer ({name}: {error}); "
                "use the config it was trained with"
            ) from None
    ours = model.state_dict()
    model.load_state_dict({name: spread(t, ours[name]) for name, t in weights.items()})


def read_checkpoint(path_or_file: PathOrFile, *, mapped: bool = False) -> Payload:
    """Return all saved values on the CPU: `model`, `optimizer`, `step`, and the further keys.

    Every byte of a directory is checked against its manifest first. FileFormatError names the file.
    mapped: map a directory's tensors, because a rank needs only a part of each.
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
    """Return `step`, `recipe`, `config` and `tokenizer` of a checkpoint.

    The tensors of a directory are not read.
    """
    return read_checkpoint(path) if is_single_file(path) else read_directory_settings(path)
