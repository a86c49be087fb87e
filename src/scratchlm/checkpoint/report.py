"""Describe a checkpoint or a Hugging Face folder, as plain values and as text.

found = describe("runs/shakespeare")   # or a pointer, a checkpoint, a .pt, a Hugging Face folder
print(report(found))                   # for people
print(as_json(found))                  # for scripts
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scratchlm.checkpoint.directory import Payload, is_single_file, without_duplicates
from scratchlm.checkpoint.models import is_hf_folder
from scratchlm.checkpoint.payload import best_with_its_own
from scratchlm.checkpoint.pointers import find_checkpoint
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.config import flat
from scratchlm.convert.hf_folder import read_tensors, read_weights
from scratchlm.convert.hf_tokenizer import read_template, read_tokenizer
from scratchlm.errors import FileFormatError
from scratchlm.files.atomic import previous
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.inspection import CONTROLS, printable

WIDTH = 100  # characters in a line of text, if its words are not longer
_CHUNK = 1 << 18  # numbers per step: 2 MiB in float64, which fit in a cache
_DESCRIBED = {"model", "optimizer", "optimizer_name", "step", "best_val_loss", "best_step",
              "config", "recipe", "data_id", "validation", "cursor", "environment", "history",
              "tokenizer", "template", "pending"}  # fmt: skip


def describe(path: StrPath) -> dict[str, Any]:
    """Return a description of the checkpoint or Hugging Face folder at `path`.

    The function first checks every byte of a checkpoint directory. The description of a Hugging
    Face folder has the same keys, and its tensors keep the names in its files. `parameters` are all
    tensors of the model's state; tied tensors count once. Norms are Euclidean norms in float64.
    `nonfinite` counts NaN and infinities. A missing value is None. `also` lists the names of the
    other saved values.
    """
    if is_hf_folder(path):
        path = Path(path)
        config, _ = read_weights(path)  # raises an error if no model fits the folder
        payload: Payload = {"step": None, "optimizer": None, "model": read_tensors(path)}
        payload["config"] = dataclasses.asdict(config)
        tokenizer, verified = read_tokenizer(path), False
        payload["template"] = read_template(path, tokenizer)
    else:
        path = find_checkpoint(path)
        payload, verified = read_checkpoint(path), not is_single_file(path)
        text = payload.get("tokenizer")
        tokenizer = BPETokenizer.from_json(text, path) if isinstance(text, str) else None
    best_val_loss, best_step, _ = best_with_its_own(payload, path)
    return {
        "path": str(path),
        "verified": verified,
        "files": _file_sizes(path),
        "step": payload["step"],
        "best_val_loss": best_val_loss,
        "best_step": best_step,
        "config": payload.get("config"),
        "parameters": _parameters(payload["model"]),
        "optimizer": _optimizer(payload, path),
        "recipe": payload.get("recipe"),
        "data_id": payload.get("data_id"),
        "validation": payload.get("validation"),
        "cursor": payload.get("cursor"),
        "environment": payload.get("environment"),
        "history": payload.get("history"),
        "tokenizer": tokenizer and {"size": len(tokenizer), "hash": tokenizer.hash},
        "template": payload.get("template"),
        "also": sorted(str(key) for key in payload.keys() - _DESCRIBED),
    }


def _file_sizes(path: Path) -> dict[str, int]:
    if is_single_file(path):
        return {path.name: path.stat().st_size}
    folder = path if path.exists() else previous(path)
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}


def _parameters(state: dict[str, Tensor]) -> dict[str, Any]:
    weights, shared = without_duplicates(state)
    rows: list[dict[str, Any]] = []
    for name in sorted(weights, key=_numbered):
        tensor = weights[name]
        shape, dtype = list(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        rows.append({"name": name, "shape": shape, "dtype": dtype, **_statistics(tensor)})
    totals = _totals(list(weights.values()), rows)
    return {**totals, "tied": shared, "tensors": rows}


def _numbered(name: str) -> str:
    """Return a sort key that puts layer 10 after layer 9."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(9), name)


def _optimizer(payload: Payload, path: Path) -> dict[str, Any] | None:
    state = payload["optimizer"]
    if state is None:
        return None
    try:
        groups = [
            {
                "num_tensors": len(group["params"]),
                "settings": {key: _plain(group[key]) for key in group if key != "params"},
            }
            for group in state["param_groups"]
        ]
        moments: dict[str, list[Tensor]] = {}
        for of_one in state["state"].values():
            for name, value in of_one.items():
                if name != "step":  # a count; torch stores it as a tensor
                    moments.setdefault(str(name), []).extend(_tensors(value))
    except (KeyError, TypeError, AttributeError):
        raise FileFormatError(
            f"the optimizer's state must be a state_dict of torch ({path}); save the checkpoint "
            "again with save_checkpoint"
        ) from None
    return {
        "name": payload.get("optimizer_name"),
        "groups": groups,
        "moments": {
            name: _totals(tensors, [_statistics(tensor) for tensor in tensors])
            for name, tensors in moments.items()
            if tensors
        },
    }


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):  # LBFGS keeps lists of tensors
        for each in value:
            yield from _tensors(each)


def _plain(value: Any) -> Any:
    """Return a setting, with a number or a text in place of a tensor."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else f"tensor {tuple(value.shape)}"
    return value


def _totals(tensors: list[Tensor], statistics: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "num_tensors": len(tensors),
        "count": sum(tensor.numel() for tensor in tensors),
        "bytes": sum(tensor.nbytes for tensor in tensors),
        "norm": math.hypot(*(each["norm"] for each in statistics)),
        "nonfinite": sum(each["nonfinite"] for each in statistics),
    }


def _statistics(tensor: Tensor) -> dict[str, Any]:
    """Return norm, min, max, nonfinite of a tensor of any dtype.

    It converts one chunk at a time to float64, so it needs little memory.
    """
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    squares, nonfinite = 0.0, 0
    low, high = torch.tensor(math.inf).double(), torch.tensor(-math.inf).double()
    for chunk in tensor.detach().reshape(-1).split(_CHUNK):
        if chunk.numel():
            values = chunk.double()
            squares += values.square().sum().item()
            nonfinite += int((~values.isfinite()).sum())
            low, high = torch.minimum(low, values.min()), torch.maximum(high, values.max())
    bounds = (low.item(), high.item()) if tensor.numel() else (None, None)
    return {
        "norm": math.sqrt(squares),
        "min": bounds[0],
        "max": bounds[1],
        "nonfinite": nonfinite,
    }


def as_json(found: Mapping[str, Any]) -> str:
    """Return one line of JSON. NaN and infinities become null, because JSON lacks them."""
    return json.dumps(_finite(found), allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def report(found: Mapping[str, Any]) -> str:
    """Return the result of `describe` as text for a terminal."""
    sections = [_files_text(found), _parameters_text(found["parameters"])]
    if found["optimizer"] is not None:
        sections.append(_optimizer_text(found["optimizer"]))
    sections.append(_training_text(found))
    return printable("\n\n".join(filter(None, sections)), CONTROLS)


def _files_text(found: Mapping[str, Any]) -> str:
    files = found["files"]
    is_hub = found["step"] is None
    if found["verified"]:
        checked = "verified by manifest.json"
    else:
        checked = "a Hugging Face folder has no manifest" if is_hub else "a .pt has no checksums"
    loss, step = found["best_val_loss"], found["best_step"]
    lines = [
        _row("Hugging Face" if is_hub else "checkpoint", found["path"]),
        _row("files", f"{sum(files.values()):,} bytes, {checked}"),
        *(f"  {size:>14,}  {name}" for name, size in files.items()),
    ]
    if not is_hub:
        lines.append(_row("step", f"{found['step']:,}"))
    if isinstance(loss, float):
        shown = f"{loss:.4f}, at step {step}" if math.isfinite(loss) else "none yet"
        lines.append(_row("best_val_loss", shown))
    if isinstance(found["config"], dict):
        lines.append(_row("model", settings_text(found["config"])))
    return "\n".join(lines)


def _parameters_text(parameters: Mapping[str, Any]) -> str:
    rows = [["", "shape", "dtype", "norm", "min", "max", "not finite"]]
    for each in parameters["tensors"]:
        numbers = [
            "" if each[key] is None else f"{each[key]:.4g}" for key in ("norm", "min", "max")
        ]
        shape = " x ".join(map(str, each["shape"]))
        rows.append([each["name"], shape, each["dtype"], *numbers, f"{each['nonfinite']:,}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_row("parameters", _totals_text(parameters))]
    for name, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"  {name:<{widths[0]}}", *cells]))
    lines += [f"  {name} is tied to {other}" for name, other in parameters["tied"].items()]
    return "\n".join(lines)


def _optimizer_text(optimizer: Mapping[str, Any]) -> str:
    lines = [_row("optimizer", optimizer["name"] or "the optimizer's name was not saved")]
    for i, group in enumerate(optimizer["groups"]):
        settings = settings_text(group["settings"])
        lines.append(_row(f"  group {i}", f"{group['num_tensors']} tensors: {settings}"))
    lines += [_row(f"  {name}", _totals_text(each)) for name, each in optimizer["moments"].items()]
    return "\n".join(lines)


def _training_text(found: Mapping[str, Any]) -> str:
    lines = []
    recipe = found["recipe"] if isinstance(found["recipe"], dict) else {}
    for name in ("data", "optim", "train", "runtime"):
        if isinstance(recipe.get(name), dict):
            lines.append(_row(name, settings_text(recipe[name])))
    for name in ("data_id", "validation", "cursor", "environment"):
        if isinstance(found[name], dict) and found[name]:
            lines.append(_row(name, settings_text(found[name])))
    for each in found["history"] if isinstance(found["history"], list) else ():
        if isinstance(each, dict) and isinstance(each.get("changed"), dict):
            lines.append(_row(f"at step {each.get('step')}", _changed_text(each["changed"])))
    if found["tokenizer"]:
        size, hash = found["tokenizer"]["size"], found["tokenizer"]["hash"]
        lines.append(_row("tokenizer", f"{size:,} ids, hash {hash}"))
    if isinstance(found["template"], str):
        lines.append(_row("template", found["template"]))
    if found["also"]:
        lines.append(_row("also", ", ".join(found["also"])))
    return "\n".join(lines)


def _changed_text(changed: Mapping[Any, Any]) -> str:
    """Turn `{"optim.lr": [0.02, 0.001]}` into `optim.lr 0.02 -> 0.001`."""
    return ", ".join(
        f"{key} {' -> '.join(map(str, pair)) if isinstance(pair, list | tuple) else pair}"
        for key, pair in changed.items()
    )


def _totals_text(totals: Mapping[str, Any]) -> str:
    text = f"{totals['count']:,} in {totals['num_tensors']:,} tensors, {totals['bytes']:,} bytes"
    bad = f", {totals['nonfinite']:,} not finite" if totals["nonfinite"] else ""
    return f"{text}, norm {totals['norm']:.4g}{bad}"


def settings_text(tree: Mapping[Any, Any]) -> str:
    """Turn `{"lr": 1e-3, "moe": {"top": 2}}` into `lr 0.001, moe.top 2`. It leaves out None."""
    return ", ".join(f"{key} {value}" for key, value in flat(tree).items() if value is not None)


def _row(label: str, text: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"{label:<15} ",
        subsequent_indent=" " * 16,
        break_long_words=False,
        break_on_hyphens=False,
    )
