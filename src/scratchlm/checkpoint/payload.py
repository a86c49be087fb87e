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
        raise ValueError(f"the path comes first, and the model next ({kinds}); write {call}")


def checked_payload(payload: Payload, *, elsewhere: bool = False) -> Payload:
    """Return the payload with its containers copied.

    elsewhere: see `plain_values.checked`. Raise ValueError for content that no checkpoint may have.
    """
    payload = {
        key: plain_values.checked(value, str(key), elsewhere=elsewhere)
        for key, value in payload.items()
    }
    if type(payload["step"]) is not int:
        raise ValueError(f"step is an int ({payload['step']!r}); count optimizer steps")
    if payload["step"] < 0:
        raise ValueError(f"step is 0 or more ({payload['step']}); count optimizer steps")
    for key, value in payload["model"].items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"the model's state holds more than tensors (model.{key}); pass it "
                "to save_checkpoint as a value of its own"
            )
    for key, kind in (("tokenizer", str), ("config", dict)):
        if not isinstance(payload.get(key), kind | None):
            raise ValueError(
                f"{key} is a {kind.__name__} ({type(payload[key]).__name__}); see "
                "the docstring of save_checkpoint"
            )
    try:
        json.dumps(payload.get("config"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"config must fit into JSON ({error}); leave tensors, NaN and infinity out of it"
        ) from None
    return payload


def best_with_its_own(
    payload: Mapping[str, Any], path: Path
) -> tuple[Any, Any, dict[str, Any] | None]:
    """Return the best validation loss of a run up to a checkpoint, its step, and `pending`.

    A checkpoint is written before its step is validated. Later the run's log has the loss of that
    step. Until then, the third value is the step's `pending` line of the log, otherwise None.
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
