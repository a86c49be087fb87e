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
same content as one `torch.save` file, read with `weights_only=True` and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scratchlm import config as configuration
from scratchlm import plain
from scratchlm.atomic import previous, replacing_file
from scratchlm.checkpoint_files import (
    MANIFEST,
    PathOrFile,
    Payload,
    is_single_file,
    read_directory,
    read_single,
    write_payload,
)
from scratchlm.errors import FileFormatError
from scratchlm.hf import (
    default_end_ids,
    from_hf,
    is_hf_folder,
    read_end_ids,
    read_hf_config,
    read_start_ids,
    read_tokenizer,
)
from scratchlm.model.transformer import ModelConfig, Transformer
from scratchlm.runtime import resolve_device
from scratchlm.tokenizer.bpe import BPETokenizer


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
    write_payload(path_or_file, payload_of(model, optimizer, step, **more))


def payload_of(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, step: int, **more: Any
) -> Payload:
    """What `save_checkpoint` writes, checked; its tensors are the model's own, not copies."""
    if isinstance(model, Transformer):
        more.setdefault("config", dataclasses.asdict(model.config))
    payload = {
        "model": dict(model.state_dict()),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "step": step,
        **more,
    }
    for key, value in payload.items():
        payload[key] = plain.checked(value, key)
    _check_payload(payload)
    return payload


def _check_payload(payload: Payload) -> None:
    if type(payload["step"]) is not int:
        raise ValueError(f"step is an int ({payload['step']!r}); count optimizer steps")
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
        json.dumps(payload.get("config"))
    except TypeError as error:
        raise ValueError(f"config is for JSON ({error}); leave tensors out of it") from None


def load_checkpoint(
    path_or_file: PathOrFile, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> int:
    """Put a checkpoint's state into `model` and `optimizer`; returns its step."""
    payload = read_checkpoint(path_or_file)
    restore(payload, model, optimizer, name=str(path_or_file))
    return int(payload["step"])


def load_model(path: str | os.PathLike[str], device: str = "auto") -> Transformer:
    """The Transformer in a checkpoint, a `.pt`, a run's folder (its best, else its last), or a
    folder of the Hugging Face hub."""
    place = resolve_device(device)
    if is_hf_folder(path):
        return from_hf(path).to(place)
    found = find_checkpoint(path)
    return model_from(read_checkpoint(found), found).to(place)


def read_config(path: str | os.PathLike[str]) -> ModelConfig:
    """The config of the model that `load_model` would give, or of a TOML file."""
    if Path(path).suffix == ".toml":
        model = configuration.read_toml(Path(path)).get("model", {})
        return configuration.build(ModelConfig, model, "model.")
    if is_hf_folder(path):
        return read_hf_config(path)
    found = find_checkpoint(path)
    return config_from(read_checkpoint(found), found)


class Loaded(NamedTuple):
    """A model, its tokenizer, and the ids that end a text and that come before one."""

    model: Transformer
    tokenizer: BPETokenizer
    end_ids: list[int]
    start_ids: list[int]


def load_with_tokenizer(
    path: str | os.PathLike[str], tokenizer_path: str | os.PathLike[str] | None = None
) -> Loaded:
    """`load_model` on the CPU, with the tokenizer that lies there, or the one given, which must be
    the same. ValueError where there is none."""
    if is_hf_folder(path):
        model = from_hf(path)
        own, vocab_size = read_tokenizer(path), model.config.vocab_size
        tokenizer = _agreeing(own, tokenizer_path, vocab_size, path)
        ends, starts = read_end_ids(path), read_start_ids(path)
    else:
        name = find_checkpoint(path)
        payload = read_checkpoint(name)
        model = model_from(payload, name)
        tokenizer = tokenizer_from(payload, name, tokenizer_path)
        ends, starts = payload.get("end_ids") or [], payload.get("start_ids") or []
    return Loaded(model, tokenizer, ends or default_end_ids(tokenizer), starts)


def model_from(payload: Payload, path: str | os.PathLike[str]) -> Transformer:
    """The Transformer that a checkpoint's content describes, in its dtype and evaluation mode."""
    weight = payload["model"].get("embedding.weight")
    dtype = None if weight is None else weight.dtype
    model = Transformer(config_from(payload, path), device="meta", dtype=dtype)
    model.allocate("cpu")
    restore(payload, model, None, name=str(path))
    return model.eval()


def config_from(payload: Payload, path: str | os.PathLike[str]) -> ModelConfig:
    """The config of a checkpoint's model; FileFormatError where there is none, or not ours."""
    config = payload.get("config")
    if not isinstance(config, dict):
        raise FileFormatError(
            f"the checkpoint has no model config ({path}); build the model yourself and use "
            "load_checkpoint, or save it again with save_checkpoint(..., config={...})"
        )
    try:
        return configuration.build(ModelConfig, config)
    except ValueError as error:
        raise FileFormatError(
            f"the checkpoint's model config is not ours ({path}: {error}); "
            "save it again with this version"
        ) from None


def tokenizer_from(
    payload: Payload, path: str | os.PathLike[str], given: str | os.PathLike[str] | None = None
) -> BPETokenizer:
    """The tokenizer in a checkpoint, or the file `given`, which must be the same one."""
    stored = payload.get("tokenizer")
    if not isinstance(stored, str | None):
        raise FileFormatError(
            f"the checkpoint's tokenizer is no text ({path}); save it again with save_checkpoint"
        )
    own = None if stored is None else BPETokenizer.from_json(stored, path)
    return _agreeing(own, given, payload.get("config", {}).get("vocab_size"), path)


def _agreeing(
    own: BPETokenizer | None,
    given: str | os.PathLike[str] | None,
    vocab_size: int | None,
    path: str | os.PathLike[str],
) -> BPETokenizer:
    """The model's own tokenizer, or the file `given`, which must be the same one."""
    if given is None:
        if own is None:
            raise ValueError(
                f"the checkpoint has no tokenizer ({path}); give --tokenizer_path FILE"
            )
        given, tokenizer = path, own
    else:
        tokenizer = BPETokenizer.load(given)
    if own is not None and own.hash != tokenizer.hash:
        raise FileFormatError(
            f"the model was trained with another tokenizer ({given}); leave out --tokenizer_path: "
            "the checkpoint has its own"
        )
    if vocab_size is not None and len(tokenizer) > vocab_size:
        raise FileFormatError(
            f"the tokenizer is of another model ({given}: {len(tokenizer)} ids, the model knows "
            f"{vocab_size}); give the one it was trained with"
        )
    return tokenizer


def restore(
    payload: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    *,
    name: str,
) -> None:
    """Load what `read_checkpoint` gave; a state of other names or shapes is a FileFormatError."""
    ours, theirs = model.state_dict(), payload["model"]
    for key in [*ours, *theirs]:
        here, there = (tuple(d[key].shape) if key in d else "absent" for d in (ours, theirs))
        if here != there:
            raise FileFormatError(
                f"the checkpoint is of another model ({name}: {key} is {there} there, {here} in "
                "the model); use the config it was trained with"
            )
    model.load_state_dict(theirs)
    if optimizer is not None:
        if payload["optimizer"] is None:
            raise FileFormatError(f"the checkpoint has no optimizer ({name}); load only the model")
        try:
            optimizer.load_state_dict(payload["optimizer"])
        except (ValueError, KeyError) as error:
            raise FileFormatError(
                f"the checkpoint is of another optimizer ({name}: {error}); "
                "use the config it was trained with"
            ) from None


def read_checkpoint(path_or_file: PathOrFile) -> Payload:
    """All that was saved: `model`, `optimizer`, `step`, and the further keys; on the CPU.

    Every byte of a directory is checked against its manifest first; FileFormatError names the file.
    """
    if isinstance(path_or_file, str | os.PathLike):
        path = Path(path_or_file)
        payload = read_single(path, path) if is_single_file(path) else read_directory(path)
    else:
        payload = read_single(path_or_file, path_or_file)
    if not isinstance(payload, dict) or not isinstance(payload.get("model"), dict):
        raise FileFormatError(f"not a checkpoint ({path_or_file}); it has no weights under 'model'")
    if not all(isinstance(value, Tensor) for value in payload["model"].values()):
        raise FileFormatError(f"not a checkpoint ({path_or_file}); its 'model' is not all tensors")
    if type(payload.get("step")) is not int:
        raise FileFormatError(f"not a checkpoint ({path_or_file}); it has no 'step'")
    payload.setdefault("optimizer", None)
    return payload


def find_checkpoint(path: str | os.PathLike[str], prefer: str = "best") -> Path:
    """The checkpoint that `path` names: itself, a pointer file, or one of a run's folder.

    `prefer` is "best" or "last", for a folder that has both.
    """
    path = Path(path)
    if is_single_file(path) or (path / MANIFEST).is_file() or not path.exists():
        if not path.exists() and not previous(path).exists():
            raise FileNotFoundError(
                f"no such checkpoint ({path}); give a checkpoint, a run's folder, or a folder of "
                "the hub that is on this disk"
            )
        return path
    if path.is_file():
        return _follow(path)
    for folder in (path, path / "checkpoints"):
        for name in (prefer, "last"):
            if (folder / name).is_file():
                return _follow(folder / name)
    raise FileFormatError(
        f"no checkpoint in this folder, nor a config.json of the hub ({path}); give a checkpoint, "
        "a run's folder, or one of the hub"
    )


def write_pointer(path: str | os.PathLike[str], name: str) -> None:
    """Let the text file `path` name a sibling, replacing it atomically."""
    with replacing_file(Path(path)) as file:
        file.write(f"{name}\n".encode())


def _follow(pointer: Path) -> Path:
    with pointer.open("rb") as file:
        name = file.read(256).decode("utf-8", "replace").strip()
    if len(name) not in range(1, 100) or Path(name).name != name:
        raise FileFormatError(
            f"not a checkpoint, nor a pointer to one ({pointer}); give a "
            "checkpoint's directory, a .pt, or a run's folder"
        )
    target = pointer.parent / name
    if target.is_file() and not is_single_file(target):
        raise FileFormatError(f"a pointer leads to no checkpoint ({pointer}: {name}); give another")
    return find_checkpoint(target)
