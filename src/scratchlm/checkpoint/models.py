"""Load a model, its tokenizer and its config from a path of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from scratchlm import config as configuration
from scratchlm.checkpoint.directory import MANIFEST, Payload
from scratchlm.checkpoint.pointers import find_checkpoint
from scratchlm.checkpoint.save_and_load import read_checkpoint, read_settings, restore
from scratchlm.config import takes_synonyms
from scratchlm.convert.hf_folder import from_hf, read_hf_config
from scratchlm.convert.hf_tokenizer import (
    has_other_template,
    read_end_ids,
    read_start_ids,
    read_template,
    read_tokenizer,
)
from scratchlm.devices.runtime import resolve_device
from scratchlm.errors import FileFormatError
from scratchlm.files.file_kinds import check_downloaded
from scratchlm.files.paths import StrPath
from scratchlm.model.config import ModelConfig
from scratchlm.model.lora import is_adapter
from scratchlm.model.transformer import Transformer
from scratchlm.model.weight_names import check_shapes, fitted
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.chat_template import FORMS, missing_markers
from scratchlm.tokenizer.start_and_end_ids import check_start_ids, default_end_ids, known_ids

_WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_TABLE_LIMIT = 1 << 30  # bytes; a model of any size may have a rotary table this large


def is_hf_folder(path: StrPath) -> bool:
    """Return whether `path` is a folder with a config.json, but not a checkpoint of scratchlm."""
    return (Path(path) / "config.json").is_file() and not (Path(path) / MANIFEST).exists()


@takes_synonyms()
def load_model(path: StrPath, device: str = "auto") -> Transformer:
    """Return the Transformer in a checkpoint, a `.pt`, a run's folder or a Hugging Face folder.

    From a run's folder, the function loads the best checkpoint, or the last if there is no best.
    """
    place = resolve_device(device)
    if is_hf_folder(path):
        return from_hf(path).to(place)
    found = find_checkpoint(path)
    return model_from(read_checkpoint(found), found).to(place)


def read_config(path: StrPath) -> ModelConfig:
    """Return the config of the model at `path` (see `load_model`), or of a TOML file."""
    if Path(path).suffix == ".toml":
        check_downloaded(path)
        model = configuration.read_toml(Path(path)).get("model", {})
        return configuration.build(ModelConfig, model, "model.")
    if is_hf_folder(path):
        return read_hf_config(path)
    found = find_checkpoint(path)
    return config_from(read_settings(found), found)


class Loaded(NamedTuple):
    """A model, its tokenizer, the ids that end a text, and the ids that begin a text.

    template: the name of the chat template that the model was trained with, or None.
    """

    model: Transformer
    tokenizer: BPETokenizer
    end_ids: list[int]
    start_ids: list[int]
    template: str | None


def load_with_tokenizer(path: StrPath, tokenizer_path: StrPath | None = None) -> Loaded:
    """Load a model on the CPU, with the tokenizer in `tokenizer_path` or its own.

    Raise ValueError if the two tokenizers differ, or if there is no tokenizer.
    """
    model, tokenizer, ends, starts, template = load_parts(path, tokenizer_path)
    if tokenizer is None:
        raise ValueError(f"the model has no tokenizer ({path}); add --tokenizer_path FILE")
    return Loaded(model, tokenizer, ends, starts, template)


def load_parts(
    path: StrPath, tokenizer_path: StrPath | None = None
) -> tuple[Transformer, BPETokenizer | None, list[int], list[int], str | None]:
    """Return the same as `load_with_tokenizer`, but with None if there is no tokenizer."""
    if is_hf_folder(path):
        model = from_hf(path)
        own, vocab_size = read_tokenizer(path), model.config.vocab_size
        tokenizer = _agreeing(own, tokenizer_path, vocab_size, path)
        ends, starts, template = _of_folder(path, tokenizer, vocab_size)
    else:
        name = find_checkpoint(path)
        payload = read_checkpoint(name)
        model = model_from(payload, name)
        own, vocab_size = _own_tokenizer(payload, name), model.config.vocab_size
        tokenizer = _agreeing(own, tokenizer_path, vocab_size, name)
        ends, starts, template = _stored(payload, tokenizer, name, vocab_size)
    if tokenizer is not None:
        ends = ends or default_end_ids(tokenizer)
    return model, tokenizer, ends, starts, template


def _of_folder(
    path: StrPath, tokenizer: BPETokenizer | None, vocab_size: int = 0
) -> tuple[list[int], list[int], str | None]:
    """Return the end ids, the start ids and the template of a Hugging Face folder."""
    known = range(vocab_size) if tokenizer is None else tokenizer.vocab
    ends, starts = read_end_ids(path, known), read_start_ids(path, known)
    return ends, starts, read_template(path, tokenizer)


def _stored(
    payload: Payload, tokenizer: BPETokenizer | None, path: Path, vocab_size: int = 0
) -> tuple[list[int], list[int], str | None]:
    """Return the end ids, the start ids and the template of a checkpoint."""
    known = range(vocab_size) if tokenizer is None else tokenizer.vocab
    ends, starts = (_ids(payload, key, path) for key in ("end_ids", "start_ids"))
    ends = known_ids(ends, known, "end_ids", path)
    check_start_ids(starts, known, path)
    return ends, starts, _template(payload, tokenizer, path)


def _ids(payload: Payload, key: str, path: Path) -> list[int]:
    ids = payload.get(key) or []
    if not isinstance(ids, list) or not all(type(each) is int and each >= 0 for each in ids):
        raise FileFormatError(
            f"{key} must be a list of ids ({path}: {ids!r:.40}); save the checkpoint again"
        )
    return ids


def _template(payload: Payload, tokenizer: BPETokenizer | None, path: Path) -> str | None:
    name = payload.get("template")
    if name is None:
        return None
    if not isinstance(name, str) or name not in FORMS:
        raise FileFormatError(
            f"template must be one of {', '.join(FORMS)} ({path}: {name!r:.40}); save the "
            "checkpoint again"
        )
    missing = [] if tokenizer is None else missing_markers(FORMS[name], tokenizer)
    if missing:
        raise FileFormatError(
            f"the checkpoint's template needs a special token that its tokenizer does not have "
            f"({path}: {name} needs {missing[0]}); save the checkpoint again with the tokenizer of "
            "its training"
        )
    return name


def model_from(payload: Payload, path: StrPath) -> Transformer:
    """Build the Transformer of a checkpoint in the dtype of its weights, in evaluation mode."""
    config, weights = config_from(payload, path), payload["model"]
    if config.num_layers > len(weights):  # check this before building the layers
        raise FileFormatError(
            f"the checkpoint has too few tensors for its config ({path}: {len(weights)} tensors, "
            f"num_layers {config.num_layers}); save the checkpoint again"
        )
    try:
        with torch.device("meta"):
            model = Transformer(config)
        weights = fitted(weights, model, path)
        dtype = weights["embedding.weight"].dtype if "embedding.weight" in weights else None
        if dtype in _WEIGHT_DTYPES:
            model = model.to(dtype)
        for name, parameter in model.named_parameters():
            if is_adapter(name) and name in weights:  # an adapter may have a wider dtype
                parameter.data = parameter.data.to(weights[name].dtype)
    except (OverflowError, RuntimeError, TypeError):  # no tensor can have these sizes
        raise FileFormatError(
            f"the checkpoint's model config has impossible sizes ({path}); "
            "save the checkpoint again"
        ) from None
    check_shapes(model, weights, str(path))  # do this before a wrong config allocates memory
    _check_table(config, weights, path)
    model.allocate("cpu")
    restore({**payload, "model": weights}, model, None, name=str(path))
    return model.eval()


def _check_table(config: ModelConfig, weights: dict[str, Tensor], path: StrPath) -> None:
    """Check the size of the rotary table, because no weight's shape limits it."""
    size = 8 * config.context_length * config.d_head if config.position == "rope" else 0
    if size > _TABLE_LIMIT + sum(weight.nbytes for weight in weights.values()):
        raise FileFormatError(
            f"context_length is too large for the model ({path}: {config.context_length}); "
            "correct the config, and save the checkpoint again"
        )


def config_from(payload: Payload, path: StrPath) -> ModelConfig:
    """Return a checkpoint's model config. Raise FileFormatError if it is missing or unknown."""
    config = payload.get("config")
    if not isinstance(config, dict):
        raise FileFormatError(
            f"the checkpoint has no model config ({path}); build the model yourself and use "
            "load_checkpoint, or save the checkpoint again with save_checkpoint(..., config={...})"
        )
    try:
        return configuration.build(ModelConfig, config)
    except (OverflowError, ValueError) as error:
        raise FileFormatError(
            f"this version cannot read the checkpoint's model config ({path}: {error}); "
            "save the checkpoint again with this version"
        ) from None


class OwnTexts(NamedTuple):
    """What the files of a model say about its texts (see `Loaded`)."""

    tokenizer: BPETokenizer
    end_ids: list[int]
    start_ids: list[int]
    template: str | None


def read_own_texts(path: StrPath) -> OwnTexts | None:
    """Return what `path` (see `load_model`) says about texts, or None if it has no tokenizer.

    It does not read the weights of a folder. `end_ids` may be empty.
    """
    if is_hf_folder(path):
        tokenizer = read_tokenizer(path)
        return None if tokenizer is None else OwnTexts(tokenizer, *_of_folder(path, tokenizer))
    found = find_checkpoint(path)
    payload = read_settings(found)
    tokenizer = _own_tokenizer(payload, found)
    return None if tokenizer is None else OwnTexts(tokenizer, *_stored(payload, tokenizer, found))


def other_template(path: StrPath) -> bool:
    """Return whether `path` is a Hugging Face folder with a chat template that is not ours."""
    return is_hf_folder(path) and has_other_template(path)


def _own_tokenizer(payload: Payload, path: StrPath) -> BPETokenizer | None:
    stored = payload.get("tokenizer")
    if isinstance(stored, str | None):
        return None if stored is None else BPETokenizer.from_json(stored, path)
    raise FileFormatError(
        f"the checkpoint's tokenizer must be text ({path}); save the checkpoint again"
    )


def _agreeing(
    own: BPETokenizer | None,
    given: StrPath | None,
    vocab_size: int | None,
    path: StrPath,
) -> BPETokenizer | None:
    """Return the tokenizer in `given`, or the model's own. Check that the two do not differ."""
    tokenizer = own if given is None else BPETokenizer.load(given)
    if tokenizer is None:
        return None
    if own is not None and own.hash != tokenizer.hash:
        raise FileFormatError(
            f"the model was trained with another tokenizer ({given}); leave out --tokenizer_path, "
            "because the checkpoint has its own tokenizer"
        )
    if vocab_size is not None and len(tokenizer) > vocab_size:
        raise FileFormatError(
            f"the tokenizer has more ids than the model ({given or path}: {len(tokenizer)} ids, "
            f"vocab_size {vocab_size}); use the tokenizer that the model was trained with"
        )
    return tokenizer
