"""Read and write adapters as `peft` does: adapter_config.json and adapter_model.safetensors.

    to_peft(model, "adapter")     PeftModel.from_pretrained(base, "adapter") reads it
    from_peft(model, "adapter")   adds the adapters of such a folder to a model without adapters

GPT-2 of transformers stores query, key and value as one matrix, `c_attn`. There, the adapters of
q_proj, k_proj and v_proj are one adapter, whose rank is the sum of their ranks:

    A = (A_q over A_k over A_v),  B = blockdiag(B_q, B_k, B_v)

A projection without an adapter has rows of zeros in B. In the other direction, each of the three
gets the whole A and its own rows of B. Neither direction changes what the model computes. `peft`
supports other ranks and scales per layer; here all layers get the largest rank, with zeros, and one
scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scratchlm.config import takes_synonyms
from scratchlm.convert.folder_files import write_folder
from scratchlm.convert.hf_config import hub_architecture, read_json
from scratchlm.convert.hf_names import Rule, rules
from scratchlm.errors import FileFormatError
from scratchlm.files import plain_values
from scratchlm.files.atomic import is_taken
from scratchlm.files.file_kinds import check_downloaded, check_folder_name
from scratchlm.files.paths import StrPath
from scratchlm.files.tensor_file import mmap_tensors
from scratchlm.model.config import LoRAConfig
from scratchlm.model.layers import Linear
from scratchlm.model.lora import adapted_layers, check_without_adapters
from scratchlm.model.transformer import Transformer
from scratchlm.model.weight_names import plain_state, unwrapped

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAME = re.compile(rf"{re.escape(_PREFIX)}(.+)\.lora_([AB])\.weight")

# Keys with the only values that scratchlm supports.
_REQUIRED = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
# `from_peft` reads these keys, or they change nothing in a trained adapter. Any other key raises an
# error, unless it is off: null, false, 0 or empty.
_KNOWN = {
    "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora",
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_ga_config", "megatron_config", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules",
    "task_type",
}  # fmt: skip


class _Adapter(NamedTuple):
    """The matrices A (r, in) and B (out, r) of one layer, and the factor of B A."""

    a: Tensor
    b: Tensor
    factor: float


def to_peft(model: Transformer, folder: StrPath, texts: Mapping[str, Any] | None = None) -> None:
    """Write the adapters of a model to a folder for `peft`. After an error, no folder remains.

    texts: {name: content} of other JSON files for the folder, such as `tokenizer_files`.

    Raise ValueError if the model has no adapters, if `peft` cannot express one of them, if no
    Hugging Face architecture fits the model, or if the folder is not empty.
    """
    inner = unwrapped(model)
    lora = inner.config.lora if isinstance(inner, Transformer) else None
    if lora is None or not isinstance(inner, Transformer):
        raise ValueError(
            "only a model with adapters can be written as an adapter (it has none); train one with "
            "--lora_r 8, or write the whole model"
        )
    if lora.full:
        raise ValueError(
            f"an adapter's folder must have no weights that trained fully (lora.full: "
            f"{', '.join(lora.full)}); write the whole merged model (without --adapter_only), or "
            "train without --lora_full"
        )
    path = Path(folder)
    check_folder_name(path, "an adapter must be a folder")
    architecture = hub_architecture(inner.config)
    if is_taken(path):
        raise ValueError(f"the path already exists ({path}); choose another folder")
    state = plain_values.checked(plain_state(model), "model")
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for module, parts in _modules(rules(architecture, inner.config)):
        if any(f"{part}.lora_A" in state for part in parts):
            if module.endswith(".gate"):  # no linear layer in transformers 5
                raise ValueError(
                    f"peft has no adapters for a router ({parts[0]}); merge the adapters instead"
                )
            if architecture == "mellum" and ".mlp." in module:
                raise ValueError(
                    "peft takes the feed-forward layers of Mellum, whose layers the model has, for "
                    f"experts ({parts[0]}); merge the adapters instead"
                )
            a, b = _joined(parts, state)
            if module == "lm_head":
                b = b[: inner.config.vocab_size]  # without the padding rows
            tensors[f"{_PREFIX}{module}.lora_A.weight"] = a
            tensors[f"{_PREFIX}{module}.lora_B.weight"] = b.contiguous()
            ranks[re.sub(r"^.+\.\d+\.", "", module)] = len(a)
    config = _config_to_peft(lora, ranks, fused=architecture == "gpt2")
    write_folder(path, WEIGHTS, tensors, {**(texts or {}), CONFIG: config})


def _config_to_peft(lora: LoRAConfig, ranks: dict[str, int], *, fused: bool) -> dict[str, Any]:
    """Return the content of adapter_config.json. ranks: {end of a module's name: its rank}."""
    other = {name: rank for name, rank in ranks.items() if rank != lora.r}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": lora.r,
        "lora_alpha": _plain(lora.alpha),
        "lora_dropout": lora.dropout,
        "target_modules": list(ranks),
        "rank_pattern": other,
        "alpha_pattern": {name: _plain(lora.scale * rank) for name, rank in other.items()},
        "bias": "none",
        "fan_in_fan_out": fused,
        "init_lora_weights": True,
    }


def _plain(number: float) -> float:
    return int(number) if float(number).is_integer() else number


def _modules(table: list[Rule]) -> Iterator[tuple[str, list[str]]]:
    """Yield (their module, our layers) for each matrix whose module may have an adapter."""
    for rule in table:
        if rule.kind != "stacked" and rule.theirs[0].endswith(".weight"):
            yield (
                rule.theirs[0].removesuffix(".weight"),
                [name.removesuffix(".weight") for name in rule.ours],
            )


def _joined(parts: list[str], state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return A and B of one adapter for the rows of all `parts`. Some may have no adapter."""
    a, b = [], []
    for part in parts:
        if f"{part}.lora_A" in state:
            a.append(state[f"{part}.lora_A"])
            b.append(state[f"{part}.lora_B"])
        else:
            b.append(torch.zeros(len(state[f"{part}.weight"]), 0))  # rows, but no columns
    return torch.cat(a), torch.block_diag(*b)


@takes_synonyms()
def from_peft(model: Transformer, folder: StrPath) -> None:
    """Add the adapters in a folder of `peft` to a model without adapters, and freeze the model.

    Raise FileFormatError for a kind of adapter that scratchlm does not support, and for adapters of
    another model. All layers must have the same kinds of adapters.
    """
    path = Path(folder)
    check_without_adapters(model)
    content = read_json(path / CONFIG)
    _check_config(content, path / CONFIG)
    found = _as_ours(_read_adapters(path, content), model, path)
    r = max(len(each.a) for each in found.values())
    scale = next(each.factor for each in found.values() if len(each.a) == r)
    targets = tuple(dict.fromkeys(re.sub(r"^layers\.\d+\.", "", name) for name in found))
    try:
        config = LoRAConfig(r, scale * r, content.get("lora_dropout") or 0.0, targets)
    except ValueError as error:
        raise FileFormatError(
            f"{CONFIG} has a wrong value ({path}: {error}); save the adapter again"
        ) from None
    model.add_lora(config)
    layers = dict(adapted_layers(model))
    if missing := sorted(layers.keys() - found.keys()):
        model.merge_lora()  # the new adapters are still 0
        raise FileFormatError(
            f"all layers must have the same adapters ({path}: {missing[0]} has none, but another "
            "layer has one); train the adapters without layers_to_transform"
        )
    with torch.no_grad():
        for name, each in found.items():
            rank = len(each.a)
            layers[name].lora_A.zero_()[:rank] = each.a
            layers[name].lora_B.zero_()[:, :rank] = each.b * (each.factor / scale)


def _check_config(content: dict[str, Any], path: Path) -> None:
    for key, possible in _REQUIRED.items():
        if content.get(key, possible[0]) not in possible:
            raise FileFormatError(
                f"this kind of adapter is not supported ({path}: {key} {content[key]!r}); use an "
                f"adapter with {key} {possible[0]!r}"
            )
    for key in sorted(content.keys() - _KNOWN - _REQUIRED.keys()):
        if content[key]:
            raise FileFormatError(
                f"{CONFIG} has a key that is not supported ({path}: {key} {content[key]!r:.60}); "
                "use a plain LoRA adapter"
            )


def _read_adapters(folder: Path, content: dict[str, Any]) -> dict[str, _Adapter]:
    """Return {module: adapter} from the files."""
    path = folder / WEIGHTS
    if not path.is_file():
        check_downloaded(folder / "adapter_model.bin")
        raise FileFormatError(
            f"the adapter's weights are missing ({path}); save the adapter with safetensors, "
            "because scratchlm does not read adapter_model.bin"
        )
    matrices: dict[str, dict[str, Tensor]] = {}
    for name, tensor in mmap_tensors(path).items():
        if (match := _NAME.fullmatch(name)) is None or tensor.ndim != 2:
            raise FileFormatError(
                f"a tensor is not a matrix of a LoRA adapter ({path}: {name}); use an adapter for "
                "linear layers, without modules_to_save and embeddings"
            )
        matrices.setdefault(match[1], {})[match[2]] = tensor
    found = {}
    for module, pair in matrices.items():
        if pair.keys() != {"A", "B"} or len(pair["A"]) != pair["B"].shape[1]:
            raise FileFormatError(
                f"an adapter must have A (r, in) and B (out, r) ({path}: {module}); save the "
                "adapter again"
            )
        r, factor = _rank_and_factor(content, module, folder / CONFIG)
        if len(pair["A"]) != r:
            raise FileFormatError(
                f"an adapter must have the rank r of {CONFIG} ({path}: {module} has "
                f"{len(pair['A'])}, r is {r:g}); save the adapter again"
            )
        found[module] = _Adapter(pair["A"], pair["B"], factor)
    if not found:
        raise FileFormatError(f"the file has no adapters ({path}); save the adapter again")
    return found


def _rank_and_factor(content: dict[str, Any], module: str, path: Path) -> tuple[float, float]:
    """Return the rank and the factor of an adapter: alpha / r, or alpha / √r with `use_rslora`."""

    def value(plain: str, pattern: str) -> float:
        for key, special in (content.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):  # as in peft
                return float(special)
        return float(content[plain])

    try:
        r, alpha = value("r", "rank_pattern"), value("lora_alpha", "alpha_pattern")
        return r, alpha / (math.sqrt(r) if content.get("use_rslora") else r)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, re.error):
        raise FileFormatError(
            f"r and lora_alpha must be positive numbers ({path}); save the adapter again"
        ) from None


def _as_ours(theirs: dict[str, _Adapter], model: Transformer, folder: Path) -> dict[str, _Adapter]:
    """Return the adapters under our names. Check that each fits its layer."""
    ours: dict[str, _Adapter] = {}
    known = set()
    for module, parts in _modules(rules(hub_architecture(model.config), model.config)):
        layers = [model.get_submodule(part) for part in parts]
        weights = [layer.weight for layer in layers if isinstance(layer, Linear)]
        if module not in theirs or len(weights) < len(layers):
            continue
        known.add(module)
        a, b, factor = theirs[module]
        if module == "lm_head":  # the rows that pad the vocabulary
            b = F.pad(b, (0, 0, 0, model.config.padded_vocab_size - model.config.vocab_size))
        rows, columns = [len(weight) for weight in weights], weights[0].shape[1]
        if (len(b), a.shape[1]) != (sum(rows), columns):
            raise FileFormatError(
                f"an adapter must fit its layer ({folder}: {module} has an adapter for "
                f"{(len(b), a.shape[1])}, and the layer is {(sum(rows), columns)}); use the model "
                "that the adapter was trained with"
            )
        for part, own_rows in zip(parts, b.split(rows), strict=True):
            ours[part] = _Adapter(a, own_rows, factor)
    if unknown := sorted(theirs.keys() - known):
        raise FileFormatError(
            f"an adapter has no place in the model ({folder}: {unknown[0]}); use the model that "
            "the adapter was trained with"
        )
    return ours
