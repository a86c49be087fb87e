"""Check the content of a checkpoint of either form, before writing and after reading."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from scratchlm.checkpoint.directory import Payload
from scratchlm.files import plain_values


def check_order(path_or_file: object, model: object, call: str) -> None:
    """Raise ValueError if the arguments are not in the order of `call`."""
    if isinstance(path_or_file, nn.Module) or not isinstance(model, nn.Module):
        kinds = f"{type(path_or_file).__name__}, {type(model).__name__}"
        raise ValueError(f"the first arguments must be a path and a model ({kinds}); write {call}")


def checked_payload(payload: Payload, *, elsewhere: bool = False) -> Payload:
    """Return the payload with copies of its containers.

    elsewhere: see `plain_values.checked`. Raise ValueError for content that a checkpoint must not
    contain.
    """
    payload = {
        key: plain_values.checked(value, str(key), elsewhere=elsewhere)
        for key, value in payload.items()
    }
    if type(payload["step"]) is not int:
        raise ValueError(f"step must be an int ({payload['step']!r}); count optimizer steps")
    if payload["step"] < 0:
        raise ValueError(f"step must be 0 or more ({payload['step']}); count optimizer steps")
    for key, value in payload["model"].items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"the model's state must contain only tensors (model.{key}); pass this value to "
                "save_checkpoint as a separate argument"
            )
    for key, kind in (("tokenizer", str), ("config", dict)):
        if not isinstance(payload.get(key), kind | None):
            raise ValueError(
                f"{key} must be a {kind.__name__} ({type(payload[key]).__name__}); see "
                "the docstring of save_checkpoint"
            )
    try:
        json.dumps(payload.get("config"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"config must contain only JSON values ({error}); leave out tensors, NaN and infinity"
        ) from None
    return payload


def best_with_its_own(
    payload: Mapping[str, Any], path: Path
) -> tuple[Any, Any, dict[str, Any] | None]:
    """Return a run's best validation loss up to a checkpoint, the step of this loss, and `pending`.

    A run writes a checkpoint before it validates the step. Later the run's log contains the loss of
    that step. Until then, `pending` is the step's log line without the loss. Otherwise it is None.
    """
    best, best_step, pending = map(payload.get, ("best_val_loss", "best_step", "pending"))
    if not (isinstance(pending, dict) and pending and isinstance(best, float)):
        return best, best_step, None
    mark = f'"step": {payload["step"]},'.encode()
    log = path.absolute().parent.parent / "log.jsonl"
    with contextlib.suppress(OSError, ValueError), log.open("rb") as lines:
        for text in lines:
            line = json.loads(text) if mark in text else None
            if isinstance(line, dict) and line.items() >= pending.items():
                loss = line.get("val_loss")
                better = isinstance(loss, float) and loss < best
                return (loss, payload["step"], None) if better else (best, best_step, None)
    return best, best_step, pending
