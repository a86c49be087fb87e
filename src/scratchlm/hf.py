"""Models of the Hugging Face hub, both ways: a folder with config.json and *.safetensors.

    model = from_hf("Qwen3-0.6B")                  GPT-2, Llama, Qwen 2 and 3 (dense), Mixtral
    to_hf(model, "for-transformers", tokenizer)    AutoModelForCausalLM.from_pretrained reads it

Weights keep their dtype and every bit: there and back gives the same bytes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scratchlm.atomic import is_taken, replacing_directory, sync
from scratchlm.checkpoint_files import MANIFEST
from scratchlm.errors import FileFormatError
from scratchlm.file_kinds import check_downloaded
from scratchlm.hf_config import architecture_of, config_from_hub, config_to_hub
from scratchlm.hf_names import rules
from scratchlm.model.transformer import ModelConfig, Transformer
from scratchlm.tensor_file import map_tensors, write_tensors
from scratchlm.tokenizer.bpe import BPETokenizer

StrPath = str | os.PathLike[str]
SEPARATOR = "<|endoftext|>"

# Tensors in some files that are no weights: causal masks, rotary tables.
_NO_WEIGHTS = re.compile(r".*\.(attn\.(masked_)?bias|rotary_emb\.inv_freq)")


def from_hf(folder: StrPath) -> Transformer:
    """The model in a folder of the hub, in evaluation mode; its weights are mapped from the files,
    and change in memory only. GPT-2's transposed matrices and stacked experts are copies. Where the
    files mix dtypes, all are cast to the one that config.json names.

    FileFormatError for an unknown architecture, a missing or a leftover weight, naming it.
    """
    config, weights = read_weights(Path(folder))
    model = Transformer(config, device="meta")
    model.adopt(weights)
    return model.eval()


def is_hf_folder(path: StrPath) -> bool:
    """Whether a folder has a config.json, and is no checkpoint of ours."""
    return (Path(path) / "config.json").is_file() and not (Path(path) / MANIFEST).exists()


def read_hf_config(folder: StrPath) -> ModelConfig:
    """The model that a folder's config.json describes."""
    path = Path(folder) / "config.json"
    return config_from_hub(_read_json(path), path)


def read_weights(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The config, and the weights under our names, mapped from the files."""
    path = folder / "config.json"
    hub = _read_json(path)
    config = config_from_hub(hub, path)
    theirs = _read_tensors(folder)
    if config.tie_embeddings and "lm_head.weight" in theirs:  # some files hold the embedding twice
        embedding = (
            "transformer.wte" if "transformer.wte.weight" in theirs else "model.embed_tokens"
        )
        if not torch.equal(theirs.pop("lm_head.weight"), theirs[f"{embedding}.weight"]):
            raise FileFormatError(
                f"lm_head.weight is not the embedding that config.json says it is ({folder}); set "
                "tie_word_embeddings to false there"
            )
    empty = Transformer(config, device="meta").state_dict()
    shapes = {name: weight.shape for name, weight in empty.items()}
    ours: dict[str, Tensor] = {}
    for rule in rules(architecture_of(hub, path), config):
        for name in rule.theirs:
            if name not in theirs:
                raise FileFormatError(f"a weight is missing ({folder}: {name}); download it again")
        found = rule.to_ours([theirs.pop(name) for name in rule.theirs])
        for name, weight in zip(rule.ours, found, strict=True):
            if weight.shape != shapes[name]:
                raise FileFormatError(
                    f"a weight has another shape than config.json says ({folder}: "
                    f"{', '.join(rule.theirs)} makes {tuple(weight.shape)}, not "
                    f"{tuple(shapes[name])}); download both again"
                )
            if not weight.is_floating_point():
                raise FileFormatError(
                    f"a weight is of whole numbers ({folder}: {', '.join(rule.theirs)} has "
                    f"{weight.dtype}); download it again, not quantized"
                )
            ours[name] = weight
    if theirs:
        raise FileFormatError(
            f"a weight has no place in the model ({folder}: {', '.join(sorted(theirs)[:3])}); "
            "this architecture is not wholly known here"
        )
    if len({weight.dtype for weight in ours.values()}) > 1:  # as transformers, which casts all
        dtype = getattr(torch, str(hub.get("dtype") or hub.get("torch_dtype")), torch.float32)
        ours = {name: weight.to(dtype) for name, weight in ours.items()}
    return config, ours


def read_tokenizer(folder: StrPath) -> BPETokenizer | None:
    """The tokenizer.json in a folder, or vocab.json and merges.txt, or None."""
    folder = Path(folder)
    if (folder / "tokenizer.json").exists():
        return BPETokenizer.load(folder / "tokenizer.json")
    if (folder / "vocab.json").exists():
        return BPETokenizer.from_gpt2(folder / "vocab.json", folder / "merges.txt")
    return None


def read_end_ids(folder: StrPath) -> list[int]:
    """The ids that end a text, as the folder names them; empty where it does not."""
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        named = _read_json(path).get("eos_token_id") if path.exists() else None
        if named is None:
            continue
        ends = named if isinstance(named, list) else [named]
        if not all(type(end) is int and end >= 0 for end in ends):
            raise FileFormatError(f"eos_token_id is no id ({path}: {named!r}); download it again")
        return ends
    return []


def read_start_ids(folder: StrPath) -> list[int]:
    """The ids that the folder's tokenizer puts before a text, as Llama's does; mostly none."""
    path = Path(folder) / "tokenizer.json"
    processor = (_read_json(path).get("post_processor") if path.exists() else None) or {}
    ids: list[int] = []
    for step in processor.get("processors", [processor]):
        if step.get("type") != "TemplateProcessing":
            continue
        try:
            for part in step["single"]:
                if "SpecialToken" not in part:  # the text itself
                    break
                ids += step["special_tokens"][part["SpecialToken"]["id"]]["ids"]
        except (KeyError, TypeError):
            raise FileFormatError(
                f"the template names tokens that it does not list ({path}); download it again"
            ) from None
    return ids


def default_end_ids(tokenizer: BPETokenizer) -> list[int]:
    """<|endoftext|>'s, where there is one."""
    return [tokenizer.token_to_id(SEPARATOR)] if SEPARATOR in tokenizer.special_tokens else []


def to_hf(
    model: Transformer,
    folder: StrPath,
    tokenizer: BPETokenizer | None = None,
    end_ids: Sequence[int] = (),
    start_ids: Sequence[int] = (),
) -> None:
    """Write a folder that `transformers` loads, whole or not at all. `end_ids` end a text; by
    default <|endoftext|> does, where the tokenizer has it. `start_ids` are put before one.

    ValueError for a model that no architecture of the hub is, and for a folder with something in
    it. Rows that pad the vocabulary are left out.
    """
    path, config = Path(folder), model.config
    hub = config_to_hub(config)
    if is_taken(path):
        raise ValueError(f"something has this name already ({path}); give a new folder")
    ours = model.state_dict()
    for name in ("embedding.weight", "lm_head.weight"):
        ours[name] = ours[name][: config.vocab_size]
    hub["dtype"] = str(ours["embedding.weight"].dtype).removeprefix("torch.")
    theirs: dict[str, Tensor] = {}
    for rule in rules(hub["model_type"], config):
        found = rule.to_theirs([ours[name] for name in rule.ours])
        theirs.update(zip(rule.theirs, found, strict=True))
    separator = [] if tokenizer is None else default_end_ids(tokenizer)
    ends = list(end_ids) or separator
    # Said even where there is none: what config.json leaves out, transformers makes up.
    hub["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    starts = list(start_ids)
    hub["bos_token_id"] = next(iter(starts + separator), None)  # what stands between texts
    texts: dict[str, Any] = {"config.json": hub}
    if tokenizer is not None:
        texts["tokenizer.json"] = json.loads(tokenizer.to_json())
        if starts:
            texts["tokenizer.json"]["post_processor"] = _template(tokenizer, starts)
        texts["tokenizer_config.json"] = _tokenizer_config(
            tokenizer, ends, hub["bos_token_id"], config.context_length
        )
    with replacing_directory(path) as new:
        with (new / "model.safetensors").open("wb") as file:
            write_tensors(file, theirs, {"format": "pt"})
            sync(file)
        for name, content in texts.items():
            with (new / name).open("wb") as file:
                file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
                sync(file)


def _tokenizer_config(
    tokenizer: BPETokenizer, ends: list[int], start: int | None, context_length: int
) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    if ends:
        config["eos_token"] = tokenizer.vocab[ends[0]].decode("utf-8", "replace")
    if start is not None:
        config["bos_token"] = tokenizer.vocab[start].decode("utf-8", "replace")
    return config


def _template(tokenizer: BPETokenizer, starts: list[int]) -> dict[str, Any]:
    """The post_processor that puts these tokens before a text."""
    names = [tokenizer.vocab[start].decode("utf-8", "replace") for start in starts]
    before = [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]
    first, second = ({"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [*before, first],
        "pair": [*before, first, second],
        "special_tokens": {
            name: {"id": name, "ids": [start], "tokens": [name]}
            for name, start in zip(names, starts, strict=True)
        },
    }


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: of one file, or of those that an index names."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        places = _read_json(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
            raise FileFormatError(f"no weight_map of names to files ({index}); download it again")
        files = set(places.values())
    else:
        files = {"model.safetensors"}
    tensors: dict[str, Tensor] = {}
    for name in sorted(files):
        if Path(name).name != name or not (folder / name).is_file():
            check_downloaded(folder / "pytorch_model.bin")
            raise FileFormatError(
                f"no weights in this folder ({folder / name}); download the *.safetensors files "
                "(pytorch_model.bin is not read)"
            )
        tensors |= map_tensors(folder / name)
    tensors = {name: t for name, t in tensors.items() if not _NO_WEIGHTS.fullmatch(name)}
    if any(name.startswith("wte.") for name in tensors):  # as OpenAI's own GPT-2 has it
        tensors = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    return tensors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileFormatError(
            f"no model of the hub here ({path} is absent); give its folder"
        ) from None
    except (ValueError, RecursionError) as error:
        check_downloaded(path)
        raise FileFormatError(f"not JSON ({path}: {error}); download it again") from None
    if not isinstance(content, dict):
        raise FileFormatError(f"not an object ({path}); download it again")
    return content
