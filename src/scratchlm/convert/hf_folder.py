"""Read and write Hugging Face folders: config.json, *.safetensors and tokenizer.json.

    model = from_hf("Qwen3-0.6B")                  GPT-2, Llama, Qwen 2 and 3 (dense), Mixtral
    to_hf(model, "for-transformers", tokenizer)    AutoModelForCausalLM.from_pretrained reads it

Weights keep their dtype and every bit. After conversion to a Hugging Face folder and back, the
bytes are the same.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scratchlm.config import takes_synonyms
from scratchlm.convert.folder_files import write_folder
from scratchlm.convert.hf_config import (
    architecture_of,
    config_from_hub,
    config_to_hub,
    is_base_model,
    read_json,
)
from scratchlm.convert.hf_names import EMBEDDINGS, HEAD, Rule, rules, split_experts
from scratchlm.convert.hf_tokenizer import special_ids, tokenizer_files
from scratchlm.errors import FileFormatError, Notice
from scratchlm.files import plain_values
from scratchlm.files.atomic import is_taken
from scratchlm.files.file_kinds import check_downloaded, check_folder_name
from scratchlm.files.paths import StrPath
from scratchlm.files.tensor_file import mmap_tensors
from scratchlm.model.config import ModelConfig
from scratchlm.model.lora import merged_state
from scratchlm.model.transformer import Transformer
from scratchlm.model.weight_names import plain_state, unwrapped, without_wrappers
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.start_and_end_ids import check_ids

# Some files also store tensors that are not weights: causal masks, rotary tables.
_NO_WEIGHTS = re.compile(r"(.*\.)?(attn\.(masked_)?bias|rotary_emb\.inv_freq)")


@takes_synonyms()
def from_hf(folder: StrPath) -> Transformer:
    """Return the model of a Hugging Face folder, in evaluation mode.

    The weights are mapped from the files. If you change a weight, its file stays the same. GPT-2's
    transposed matrices and stacked experts are copies. If the files have several dtypes, all
    weights get the dtype in config.json.

    Raise FileFormatError for an unknown architecture, a missing weight, or a weight without a place
    in the model. The error contains the weight's name.
    """
    config, weights = read_weights(Path(folder))
    with torch.device("meta"):
        model = Transformer(config)
    model.adopt(weights)
    return model.eval()


def read_hf_config(folder: StrPath) -> ModelConfig:
    """Return the model config that a folder's config.json describes."""
    path = Path(folder) / "config.json"
    return config_from_hub(read_json(path), path)


def read_weights(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the config, and the weights under our names, mapped from the files."""
    path = folder / "config.json"
    hub = read_json(path)
    config = config_from_hub(hub, path)
    architecture = architecture_of(hub, path)
    table = rules(architecture, config)
    wanted = [name for rule in table for name in rule.theirs]
    theirs = without_wrappers(read_tensors(folder), folder)
    theirs = _under_full_names(split_experts(theirs), {*wanted, HEAD}, architecture, folder)
    embedding = EMBEDDINGS[architecture]
    if config.tie_embeddings:
        _take_tied_head(theirs, embedding, folder)
    elif is_base_model(hub) and HEAD not in theirs and embedding in theirs:
        theirs[HEAD] = _new_head(theirs[embedding], folder)
    if missing := [name for name in wanted if name not in theirs]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        remedy = "download the folder again"
        if missing == [HEAD]:
            remedy += ", or, for a tied head, set tie_word_embeddings to true in config.json"
        raise FileFormatError(
            f"weights are missing ({folder}: {', '.join(missing[:3])}{more}); {remedy}"
        )
    ours = _as_ours(table, theirs, config, folder)
    if leftover := sorted(theirs.keys() - set(wanted)):
        raise FileFormatError(
            f"a weight has no place in the model ({folder}: {', '.join(leftover[:3])}); "
            "use a model of a supported architecture"
        )
    if len({weight.dtype for weight in ours.values()}) > 1:  # as transformers does
        dtype = getattr(torch, str(hub.get("dtype") or hub.get("torch_dtype")), torch.float32)
        ours = {name: weight.to(dtype) for name, weight in ours.items()}
    return config, ours


def _under_full_names(
    theirs: dict[str, Tensor], wanted: set[str], architecture: str, folder: Path
) -> dict[str, Tensor]:
    """Rename the weights to the names of the full model.

    The names of a base model have no prefix (`h.0` instead of `transformer.h.0`). A module around
    the model adds a prefix (`model.transformer.h.0`).
    """
    base = EMBEDDINGS[architecture].split(".")[0]
    full: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        bare = [name, *(name.removeprefix(outer) for outer in ("model.", "transformer."))]
        possible = [each for rest in bare for each in (rest, f"{base}.{rest}")]
        found = next((each for each in possible if each in wanted), name)
        if found in full:
            raise FileFormatError(
                f"two weights have the same name ({folder}: {found}); save the model again with "
                "save_pretrained"
            )
        full[found] = tensor
    return full


def _take_tied_head(theirs: dict[str, Tensor], embedding: str, folder: Path) -> None:
    """Keep only the embedding of a tied pair. Files store it under one or both of the names."""
    if HEAD in theirs and embedding not in theirs:
        theirs[embedding] = theirs.pop(HEAD)
    elif HEAD in theirs and not _same(theirs.pop(HEAD), theirs[embedding]):
        raise FileFormatError(
            f"config.json ties lm_head.weight to the embedding, but the two differ ({folder}); set "
            "tie_word_embeddings to false in config.json"
        )


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two matrices are equal in the narrower of their dtypes. NaN equals NaN."""
    dtype = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    if one.shape != other.shape:
        return False
    return torch.allclose(one.to(dtype), other.to(dtype), rtol=0, atol=0, equal_nan=True)


def _new_head(embedding: Tensor, folder: Path) -> Tensor:
    """Return a random head for a base model, as transformers does, but the same at each load."""
    warnings.warn(
        f"a base model has no head ({folder}); lm_head.weight gets random numbers, so train the "
        "model before you generate text",
        Notice,
        stacklevel=2,
    )
    head = torch.empty(embedding.shape, dtype=embedding.dtype)
    return head.normal_(std=0.02, generator=torch.Generator().manual_seed(0))


def _as_ours(
    table: list[Rule], theirs: dict[str, Tensor], config: ModelConfig, folder: Path
) -> dict[str, Tensor]:
    """Return the weights under our names. Check that each has the shape of the config."""
    with torch.device("meta"):
        empty = Transformer(config).state_dict()
    ours: dict[str, Tensor] = {}
    for rule in table:
        parts = [theirs[name] for name in rule.theirs]
        wanted = [tuple(empty[name].shape) for name in rule.ours]
        try:
            found = rule.to_ours(parts)
        except (IndexError, RuntimeError):  # too few axes, or experts of different shapes
            found = []
        if (shapes := [tuple(each.shape) for each in found or parts]) != wanted:
            raise FileFormatError(
                f"a weight's shape does not fit config.json ({folder}: "
                f"{', '.join(rule.theirs)} makes {', '.join(map(str, shapes))}, not "
                f"{', '.join(map(str, wanted))}); download the folder again"
            )
        for name, weight in zip(rule.ours, found, strict=True):
            if not weight.is_floating_point():
                raise FileFormatError(
                    f"weights must be floating-point numbers ({folder}: {', '.join(rule.theirs)} "
                    f"has {weight.dtype}); download a model that is not quantized"
                )
            ours[name] = weight
    return ours


@takes_synonyms()
def to_hf(
    model: Transformer,
    folder: StrPath,
    tokenizer: BPETokenizer | None = None,
    end_ids: Sequence[int] = (),
    start_ids: Sequence[int] = (),
    template: str | None = None,
) -> None:
    """Write a folder that `transformers` can load. After an error or a kill, no folder remains.

    `end_ids` end a text; the default is <|endoftext|> if the tokenizer has it. `start_ids` come
    before a text. `template` is the name of a chat template, which needs a tokenizer; the end of an
    answer then ends a text too. A model inside torch.compile or DDP is written as the plain model.
    Adapters are merged into the written weights. Rows that pad the vocabulary are not written.

    Raise ValueError if no Hugging Face architecture fits the model, or if the folder is not empty.
    """
    inner = unwrapped(model)
    if not isinstance(inner, Transformer):
        raise ValueError(
            f"to_hf needs a Transformer ({type(inner).__name__}); load one with load_model"
        )
    path, config = Path(folder), inner.config
    state = plain_state(model)
    if config.lora is not None:
        state = merged_state(state, config.lora)
    check_folder_name(path, "a Hugging Face model must be a folder")
    hub = config_to_hub(config)
    if is_taken(path):
        raise ValueError(f"the path already exists ({path}); choose another folder")
    check_ids(tokenizer, end_ids, start_ids, config.vocab_size)
    ends, begin = special_ids(tokenizer, end_ids, start_ids, template)
    ours = plain_values.checked(state, "model")
    for name in ("embedding.weight", "lm_head.weight"):
        ours[name] = ours[name][: config.vocab_size]
    hub["dtype"] = str(ours["embedding.weight"].dtype).removeprefix("torch.")
    theirs: dict[str, Tensor] = {}
    for rule in rules(hub["model_type"], config):
        found = rule.to_theirs([ours[name] for name in rule.ours])
        theirs.update(zip(rule.theirs, found, strict=True))
    # Without end ids, write null, because transformers invents ids that config.json lacks.
    hub["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    hub["bos_token_id"] = begin
    texts: dict[str, Any] = {"config.json": hub}
    if template is not None:
        settings = {key: hub[key] for key in ("bos_token_id", "eos_token_id")}
        texts["generation_config.json"] = settings
    if tokenizer is not None:
        texts |= tokenizer_files(tokenizer, config.context_length, end_ids, start_ids, template)
    write_folder(path, "model.safetensors", theirs, texts)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a folder, from one file or from the files that an index names."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
            raise FileFormatError(
                f"weight_map must map names to files ({index}); download the file again"
            )
        files = set(places.values())
    else:
        files = {"model.safetensors"}
    tensors: dict[str, Tensor] = {}
    for name in sorted(files):
        if Path(name).name != name or not (folder / name).is_file():
            check_downloaded(folder / "pytorch_model.bin")
            raise FileFormatError(
                f"a file of weights is missing ({folder / name}); download the *.safetensors "
                "files, because scratchlm does not read pytorch_model.bin"
            )
        tensors |= mmap_tensors(folder / name)
    return {name: t for name, t in tensors.items() if not _NO_WEIGHTS.fullmatch(name)}
