"""Convert the settings of rotary positions, as transformers 5 and earlier versions write them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scratchlm.errors import FileFormatError
from scratchlm.model.config import ModelConfig, RopeScaling

Json = dict[str, Any]


def rope_from(hub: Mapping[str, Any], kinds: set[str], path: Path) -> Json:
    """Read `rope_parameters`, or `rope_theta` and `rope_scaling` of transformers before 5.

    `kinds` are the kinds of the layers, if each kind has its own `rope_parameters`.
    """
    rope, scaling = hub.get("rope_parameters") or {}, dict(hub.get("rope_scaling") or {})
    scaling["rope_type"] = scaling.pop("type", scaling.get("rope_type", "default"))
    if kinds:
        return _rope_by_kind(rope or _MELLUM, kinds, path)
    if rope and hub.get("rope_scaling") and scaling.items() - rope.items():
        raise ValueError(f"rope_parameters {rope} and rope_scaling {scaling} differ")
    rope = rope or scaling
    return {
        "rope_theta": float(rope.get("rope_theta", hub["rope_theta"])),
        "rope_scaling": _scaling_from(rope, path),
    }


_MELLUM = {
    "full_attention": {"rope_type": "default", "rope_theta": 500_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}


def _rope_by_kind(rope: Mapping[str, Any], kinds: set[str], path: Path) -> Json:
    if len(kinds) == 1:
        own = rope[kinds.pop()]
        return {"rope_theta": float(own["rope_theta"]), "rope_scaling": _scaling_from(own, path)}
    local, full = rope["sliding_attention"], rope["full_attention"]
    if _scaling_from(local, path) is not None:
        raise FileFormatError(
            f"scaled rotary positions in layers with a window are not supported ({path}: "
            f"rope_parameters {local}); use a model with rope_type default in these layers"
        )
    return {
        "rope_theta": float(full["rope_theta"]),
        "rope_scaling": _scaling_from(full, path),
        "local_rope_theta": float(local["rope_theta"]),
    }


def _scaling_from(rope: Mapping[str, Any], path: Path) -> RopeScaling | None:
    match rope.get("rope_type", "default"):
        case "default":
            return None
        case "linear":
            return RopeScaling("linear", rope["factor"])
        case "llama3":
            return RopeScaling(
                "llama3",
                rope["factor"],
                rope["low_freq_factor"],
                rope["high_freq_factor"],
                rope["original_max_position_embeddings"],
            )
        case "yarn":
            return RopeScaling(
                "yarn",
                rope["factor"],
                original_context_length=rope["original_max_position_embeddings"],
                beta_fast=rope.get("beta_fast") or None,
                beta_slow=rope.get("beta_slow") or None,
                attention_factor=_attention_factor(rope),
                truncate=rope.get("truncate", True),
            )
        case other:
            raise FileFormatError(
                f"these rotary positions are not supported ({path}: rope_type {other!r}); "
                "use a model with rope_type default, linear, llama3 or yarn"
            )


def _attention_factor(rope: Mapping[str, Any]) -> float | None:
    """Return the factor of YaRN, which DeepSeek writes as two numbers."""
    given: float | None = rope.get("attention_factor")
    one, other = rope.get("mscale"), rope.get("mscale_all_dim")
    if given is not None or not one or not other:
        return given
    growth = 0.1 * math.log(max(rope["factor"], 1))
    return (one * growth + 1) / (other * growth + 1)


def rope_to(config: ModelConfig) -> Json:
    """Return the rotary settings for transformers 5 and for earlier versions."""
    rope: Json = {"rope_type": "default", "rope_theta": config.rope_theta}
    if (scaling := config.rope_scaling) is not None:
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_context_length,
            }
        if scaling.kind == "yarn":
            rope |= {
                "original_max_position_embeddings": scaling.original_context_length,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "attention_factor": scaling.attention_factor,
                "truncate": scaling.truncate,
            }
    if config.local_rope_theta is not None:
        local = {"rope_type": "default", "rope_theta": config.local_rope_theta}
        return {"rope_parameters": {"full_attention": rope, "sliding_attention": local}}
    before = {key: value for key, value in rope.items() if key != "rope_theta"}
    return {
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "rope_scaling": before if config.rope_scaling else None,
    }
