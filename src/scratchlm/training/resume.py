"""Check and restore what a resumed run needs, beside the trainer's own state.

A run continues unchanged if its data, its batches and the machine are the same.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scratchlm.checkpoint.ranks_together import is_sharded
from scratchlm.checkpoint.save_and_load import restore
from scratchlm.devices.ranks import Ranks
from scratchlm.devices.runtime import rng_state, seed_everything, set_rng_state
from scratchlm.errors import FileFormatError, NumericalError
from scratchlm.files.paths import StrPath
from scratchlm.model.transformer import Transformer
from scratchlm.training.attention_choice import bits_depend_on
from scratchlm.training.fp8_layers import uses_fp8

KEYS = {"rng": list, "scaler": dict, "best_val_loss": float, "best_step": int,
        "smoothed": dict | None, "tokens": int, "cursor": dict, "optimizer_name": str,
        "data_id": dict, "environment": dict, "history": list}  # fmt: skip

_FLAGS = {"batch_size": "--train.batch_size {}", "accumulate": "--train.accumulate {}",
          "ramp_from": "--train.ramp_from {}", "ramp_steps": "--train.ramp_steps {}",
          "seed": "--train.seed {}", "context_length": "--model.context_length {}",
          "row_length": "the same --row_length",
          "documents": "--data.documents {}", "rows": "--data.rows {}",
          "reference": "the weights that the run began from"}  # fmt: skip
# Runs that ignore documents do not store these values.
_IGNORED_DOCUMENTS = {"documents": "ignore", "rows": "stream"}

# An older checkpoint does not store this choice, because there was no other.
_BEFORE = {"attention": "sdpa"}


def environment(
    model: nn.Module,
    dtype: torch.dtype,
    compiled: bool,
    recomputed: bool,
    ranks: Ranks,
    attention: str,
) -> dict[str, Any]:
    """Return what must stay the same so that a resumed run is bit-exact.

    recomputed: activation checkpointing, which changes the numbers only in compiled code.
    """
    device = next(model.parameters()).device
    cuda = device.type == "cuda"
    products = str(dtype).removeprefix("torch.")
    if cuda and dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        products = "tf32"
    d_head = model.config.d_head if isinstance(model, Transformer) else 0
    return {
        "torch": str(torch.__version__),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "dtype": "fp8" if uses_fp8(model) else products,
        "threads": torch.get_num_threads(),
        "compiled": compiled,
        "attention": attention,
        **bits_depend_on(attention, d_head, dtype, device),
        "recomputed": (compiled and recomputed) or None,
        "ranks": ranks.size,
        "parallel": None if ranks.size == 1 else "fsdp" if is_sharded(model) else "ddp",
    }


def differences(saved: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return the differences, such as `threads 2 -> 1`; "" if a resumed run is bit-exact."""
    saved = _BEFORE | dict(saved)
    return ", ".join(
        f"{key} {saved.get(key)} -> {here.get(key)}"
        for key in {**saved, **here}
        if saved.get(key) != here.get(key)
    )


def changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {dotted key: [was, is]} of two configurations.

    The result leaves out the run's folder, and the tokenizer's path: `data_id` contains the
    tokenizer's hash.
    """
    found: dict[str, Any] = {}
    for key in {**before, **now}:
        was, new, name = before.get(key), now.get(key), f"{prefix}{key}"
        if {type(was), type(new)} in ({dict}, {dict, type(None)}):
            found |= changes(was or {}, new or {}, f"{name}.")
        elif was != new and name not in ("train.out", "data.tokenizer"):
            found[name] = [was, new]
    return found


def check(
    payload: Mapping[str, Any],
    path: StrPath,
    *,
    data_id: Mapping[str, Any],
    recipe: Mapping[str, Any],
    cursor: Callable[[int], Mapping[str, int]],
    optimizer_name: str,
) -> None:
    """Raise a FileFormatError for a checkpoint that this run cannot continue from.

    recipe: the settings of this run. cursor: step -> the position of this run's stream of batches
    after that step.
    """
    for key, kind in KEYS.items():
        if key not in payload or not isinstance(payload[key], kind):
            raise FileFormatError(
                f"the checkpoint does not come from a trainer ({path} has no {key}); resume from a "
                "run's folder, or start a new run"
            )
    if not (isinstance(payload.get("recipe", {}), dict) and _is_average(payload["smoothed"])):
        raise FileFormatError(
            f"the checkpoint's recipe or smoothed loss is not valid ({path}); resume from an "
            "earlier checkpoint"
        )
    if not isinstance(payload.get("pending"), dict | None):
        raise FileFormatError(
            f"the checkpoint's log line is not valid ({path}); resume from an earlier checkpoint"
        )
    _check_rng(payload["rng"], path)
    here = {**_IGNORED_DOCUMENTS, **data_id, **cursor(payload["step"])}
    there = {**_IGNORED_DOCUMENTS, **payload["data_id"], **payload["cursor"]}
    for key in here | there:
        if here.get(key) != there.get(key):
            own = _FLAGS.get(key, "").format(there.get(key)) or "its own data"
            what = "reference model" if key == "reference" else "batches"
            told = f"{key} was {there.get(key)!s:.12}, is now {here.get(key)!s:.12}"
            if key == "dialogues":  # their settings tell a user more than their hash
                told = _changed_data(payload.get("recipe", {}), recipe) or told
            raise FileFormatError(
                f"a resumed run must have the same {what} ({path}: {told}); resume with {own}, or "
                "start a new run from these weights with --init_from"
            )
    if payload["optimizer_name"] != optimizer_name:
        raise FileFormatError(
            f"the checkpoint belongs to another optimizer ({path}: {payload['optimizer_name']}, "
            f"not {optimizer_name}); remove --optimizer, or start a new run with --init_from"
        )


def _changed_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the settings of the data that differ between two recipes."""
    changed = changes(before, now).items()
    data = [(key, was, new) for key, (was, new) in changed if key.startswith("data.")]
    return ", ".join(f"{key} was {was!s:.60}, is now {new!s:.60}" for key, was, new in data)


def restore_keeping_settings(
    payload: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, name: str
) -> None:
    """Restore weights and moments. Keep the learning rate and weight decay of `optimizer`.

    These settings equal the saved ones unless the user changed them.
    """
    chosen = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    try:
        restore(payload, model, optimizer, name=name)
    except FileFormatError as error:
        here = dataclasses.asdict(model.config) if isinstance(model, Transformer) else {}
        changed = changes(payload.get("config") or here, here, "model.")
        if changed:
            pairs = ", ".join(f"{key} {was} -> {now}" for key, (was, now) in changed.items())
            error.add_note(f"remove the flags that change the model ({pairs})")
        raise
    for group, settings in zip(optimizer.param_groups, chosen, strict=True):
        group.update(settings)


def _is_average(state: Mapping[str, Any] | None) -> bool:
    if state is None:
        return True
    numbers = [state.get("total"), state.get("weight")]
    return all(isinstance(number, float) for number in numbers) and state["weight"] >= 0


def _check_rng(states: list[Any], path: StrPath) -> None:
    """Check the states: set each of them. Skip GPU states, because the GPUs may have changed."""
    here = rng_state()
    try:
        for state in states:
            set_rng_state({key: state[key] for key in ("python", "numpy", "torch")})
    except Exception:  # a bad state raises many kinds of errors
        raise FileFormatError(
            f"the checkpoint's random state is not valid ({path}); resume from an earlier "
            "checkpoint"
        ) from None
    finally:
        set_rng_state(here)


def news_of(
    changed: Mapping[str, Any],
    otherwise: bool,
    there: Mapping[str, Any],
    here: Mapping[str, Any],
) -> list[str]:
    """Return the lines to print when a run continues from a checkpoint.

    changed: the `changes` of its settings. otherwise: whether its validation data changed. there,
    here: the environments of the checkpoint and of this run.
    """
    lines = [f"{key}: {was} -> {now}" for key, (was, now) in changed.items()]
    if otherwise:
        lines.append("the validation data changed: the best loss so far does not count")
    if differs := differences(there, here):
        lines.append(f"the run is not bit-exact: {differs}")
    return lines


def validated_otherwise(payload: Mapping[str, Any], extra: Mapping[str, Any]) -> bool:
    """Return whether the checkpoint and this run have different validation data."""
    there, here = payload.get("validation"), extra.get("validation")
    return there is not None and here is not None and there != here


def how_to_go_on(error: Exception, saved: Path, out: Path, optimizer: torch.optim.Optimizer) -> str:
    """Return the command that resumes the run in `out` after `error`.

    The last checkpoint `saved` may belong to another run, from which this run began. After a loss
    that is not finite the command halves the learning rate, because the error would come back.
    """
    again = f"scratchlm-train --resume {shlex.quote(str(out))}"
    if saved.parent.resolve() != (out / "checkpoints").resolve():
        again = f"scratchlm-train --resume {shlex.quote(str(saved))} --out {shlex.quote(str(out))}"
    if isinstance(error, NumericalError):
        again += f" --optim.lr {optimizer.param_groups[0]['initial_lr'] / 2:.2g}"
    return f"the last good checkpoint is {saved}; to continue from it, run: {again}"


def all_rng_states(ranks: Ranks) -> list[dict[str, Any]]:
    """Return the random states of all ranks, in rank order."""
    return ranks.gather(rng_state())


def set_own_rng_state(states: list[dict[str, Any]], ranks: Ranks, seed: int) -> None:
    """Set this rank's saved state. If the number of ranks changed, seed each rank by `seed`."""
    if len(states) == ranks.size:
        set_rng_state(states[ranks.rank])
    else:
        seed_everything(seed + ranks.rank)
