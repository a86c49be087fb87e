"""Convert the settings of single layers: windows, and layers without rotary positions.

Hugging Face lists a kind for each layer (`layer_types`, `no_rope_layers`). Our model repeats a
pattern. The conversion refuses a list that no pattern describes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scratchlm.errors import FileFormatError
from scratchlm.model.config import ModelConfig

Json = dict[str, Any]

_LETTERS = {"sliding_attention": "S", "full_attention": "L"}
_KINDS = {letter: kind for kind, letter in _LETTERS.items()}
# Architectures whose layers can have a window; `WITH_PATTERN` can mix layers with and without.
WITH_WINDOW = ("mixtral", "mistral", "ministral", "qwen2", "qwen3", "mellum")
WITH_PATTERN = ("ministral", "qwen2", "qwen3", "mellum")


def layers_from(architecture: str, hub: Mapping[str, Any], path: Path) -> Json:
    """Return our settings of single layers. `hub` includes the defaults of the architecture."""
    num_layers, values = hub["num_hidden_layers"], {}
    window = hub.get("sliding_window") if architecture in WITH_WINDOW else None
    if architecture in ("qwen2", "qwen3") and not hub.get("use_sliding_window"):
        window = None
    kinds = _kinds(architecture, hub, window)
    if architecture not in WITH_PATTERN and set(hub.get("layer_types") or ()) - {"full_attention"}:
        raise ValueError(f"layer_types must all be full_attention, not {hub['layer_types']}")
    if unknown := set(kinds) - _LETTERS.keys():
        raise ValueError(f"layer_types has the unknown kinds {sorted(unknown)}")
    if len(kinds) != num_layers or (window is None and "sliding_attention" in kinds):
        raise ValueError(f"layer_types {kinds} do not fit num_hidden_layers and sliding_window")
    pattern = _shortest("".join(_LETTERS[kind] for kind in kinds))
    if "S" in pattern:
        values["window"] = window
        values["window_pattern"] = pattern if "L" in pattern else None
    if architecture == "smollm3":
        values["nope_every"] = _nope_from(hub, path)
    if architecture == "mellum" and hub.get("mlp_layer_types") != ["dense"] * num_layers:
        raise FileFormatError(
            f"a mellum with experts is not supported ({path}: mlp_layer_types "
            f"{hub.get('mlp_layer_types')}); use a model whose layers are all dense"
        )
    return values


def _kinds(architecture: str, hub: Mapping[str, Any], window: int | None) -> list[str]:
    """Return the kind of each layer."""
    num_layers = hub["num_hidden_layers"]
    if architecture in WITH_PATTERN and hub.get("layer_types") is not None:
        return list(hub["layer_types"])
    if window is None:
        return ["full_attention"] * num_layers
    full = hub["max_window_layers"] if architecture in ("qwen2", "qwen3") else 0
    full = num_layers if architecture == "mellum" else min(full, num_layers)
    return ["full_attention"] * full + ["sliding_attention"] * (num_layers - full)


def _shortest(letters: str) -> str:
    """Return the shortest pattern that repeats to `letters`."""
    for size in range(1, len(letters)):
        if all(letters[at] == letters[at % size] for at in range(len(letters))):
            return letters[:size]
    return letters


def _nope_from(hub: Mapping[str, Any], path: Path) -> int | None:
    every, num_layers = hub["no_rope_layer_interval"], hub["num_hidden_layers"]
    rotary = hub.get("no_rope_layers")
    if rotary is None:
        return int(every)
    rotary = [bool(each) for each in rotary[:num_layers]]
    every = rotary.index(False) + 1 if False in rotary else None
    if rotary != _rotary(every, num_layers):
        raise FileFormatError(
            f"these layers without rotary positions are not supported ({path}: no_rope_layers "
            f"{hub['no_rope_layers']}); use a model with a 0 at every nth layer"
        )
    return every


def _rotary(every: int | None, num_layers: int) -> Sequence[bool]:
    return [every is None or layer % every != 0 for layer in range(1, num_layers + 1)]


def layers_to(architecture: str, config: ModelConfig) -> Json:
    """Return the keys of config.json for the settings of single layers."""
    hub: Json = {}
    kinds = [_KINDS["L" if window is None else "S"] for window in config.windows]
    if architecture in WITH_WINDOW and (
        config.window is not None or architecture not in ("qwen2", "qwen3")
    ):
        hub["sliding_window"] = config.window
        if architecture in WITH_PATTERN:
            hub["layer_types"] = kinds
        if architecture in ("qwen2", "qwen3"):
            hub["use_sliding_window"] = True
    if architecture == "mellum":
        hub["mlp_layer_types"] = ["dense"] * config.num_layers
    if architecture == "smollm3":
        hub["no_rope_layer_interval"] = config.nope_every
        hub["no_rope_layers"] = [int(rotary) for rotary in config.rotary]
    return hub
