"""Change the model config in a checkpoint, if the weights allow the change.

The weights do not depend on the rotary base, the context length, the window or dropout. New values
of these settings change how the model runs. The weights stay the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scratchlm import config as configuration
from scratchlm.checkpoint.directory import write_payload
from scratchlm.checkpoint.models import config_from
from scratchlm.checkpoint.pointers import find_checkpoint
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.files.lock import locked
from scratchlm.files.paths import StrPath
from scratchlm.model.config import ModelConfig
from scratchlm.model.transformer import Transformer
from scratchlm.model.weight_names import fitted
from scratchlm.tokenizer.bpe import BPETokenizer

# These settings change no weight's shape, but the weights compute nonsense with another value.
_FIXED = {"num_heads", "norm", "position", "ffn", "qk_norm", "rope_interleaved"}


def set_config(path: StrPath, changes: Mapping[str, str]) -> dict[str, tuple[Any, Any]]:
    """Write `changes` ({dotted key: text of the value}) into the config of the checkpoint `path`.

    Return {key: (old value, new value)}. If nothing changes, nothing is written. The weights stay
    the same, bit for bit. The `model` of a recipe gets the same changes. If the process is killed
    at any moment, the old checkpoint or the new checkpoint remains.

    Raise ValueError in three cases: a key is unknown or its value is wrong; the config needs
    weights with other names, shapes or another meaning; or a process trains this run now.
    """
    path = find_checkpoint(path)
    with _run_locked(path.resolve()):
        return _set_config(path, changes)


def _run_locked(path: Path) -> contextlib.AbstractContextManager[None]:
    """Return the lock of the run that this checkpoint belongs to."""
    if path.parent.name == "checkpoints":
        return locked(path.parent.parent)
    return contextlib.nullcontext()


def _set_config(path: Path, changes: Mapping[str, str]) -> dict[str, tuple[Any, Any]]:
    payload = read_checkpoint(path)
    old = dataclasses.asdict(config_from(payload, path))
    tree = configuration.merge(old, configuration.nest(changes))
    config = configuration.build(ModelConfig, tree)
    new = dataclasses.asdict(config)
    before, after = configuration.flat(old), configuration.flat(new)
    changed = {
        key: (before.get(key), after.get(key))
        for key in before | after
        if before.get(key) != after.get(key)
    }
    if not changed:
        return {}
    for key in sorted(_FIXED & changed.keys()):
        was, now = changed[key]
        raise ValueError(
            f"the weights were trained with another {key} ({was}, not {now}); do not change {key}"
        )
    _check_weights(config, payload["model"], path)
    if isinstance(tokenizer := payload.get("tokenizer"), str):
        _check_vocabulary(config, BPETokenizer.from_json(tokenizer, path))
    payload["config"] = new
    recipe = payload.get("recipe")
    if isinstance(recipe, dict) and "model" in recipe:
        recipe["model"] = new
    write_payload(path.resolve(), payload)  # replace the target of a link, not the link
    return changed


def _check_weights(config: ModelConfig, weights: dict[str, Tensor], path: Path) -> None:
    if config.num_layers > len(weights):  # check this before building the layers
        raise ValueError(
            f"the checkpoint has too few tensors for num_layers ({len(weights)} tensors, "
            f"num_layers {config.num_layers}); do not change num_layers"
        )
    with torch.device("meta"):
        model = Transformer(config)
    expected, weights = model.state_dict(), fitted(weights, model, path)
    for name in [*expected, *weights]:
        here, there = (
            tuple(state[name].shape) if name in state else "absent" for state in (expected, weights)
        )
        if here != there:
            raise ValueError(
                f"the weights do not fit this config ({name} is {there} in the checkpoint and "
                f"{here} in the config); change only settings that no weight's shape depends on"
            )
    if config.tie_embeddings and not torch.equal(
        weights["lm_head.weight"], weights["embedding.weight"]
    ):
        raise ValueError(
            "tied embeddings must be one matrix (lm_head.weight and embedding.weight differ in the "
            "checkpoint); keep tie_embeddings false"
        )


def _check_vocabulary(config: ModelConfig, tokenizer: BPETokenizer) -> None:
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"the checkpoint's tokenizer has more ids than the model ({len(tokenizer)} > "
            f"vocab_size {config.vocab_size}); set vocab_size to {len(tokenizer)} or more"
        )


def changes_text(path: Path, changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Return the changes of `set_config` in the checkpoint `path` as text, one change per line."""
    if not changed:
        return f"{path} has these values already"
    width = max(map(len, changed))
    lines = [f"{key:<{width}}  {old} -> {new}" for key, (old, new) in changed.items()]
    return "\n".join([f"written: {path}", *lines])
