"""Convert a Hugging Face config.json to our ModelConfig and back. Each architecture has one table.

A key outside the table is allowed if it does not change the model (training, generation), or if it
has a value that our model supports. Any other key raises an error with the name of the key. The
conversion guesses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from scratchlm.convert.hf_layers import WITH_PATTERN, WITH_WINDOW, layers_from, layers_to
from scratchlm.convert.hf_rope import rope_from, rope_to
from scratchlm.errors import FileFormatError
from scratchlm.files.file_kinds import check_downloaded
from scratchlm.files.strict_json import parse_json
from scratchlm.model.config import ModelConfig, MoEConfig

Json = dict[str, Any]

# Our field -> the key in config.json. Both have the same value.
_GPT2 = {
    "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "d_model": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "d_ff": "n_inner",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
    "dropout": "resid_pdrop",
}
_LLAMA = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "d_model": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "d_ff": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}
# {model_type: {our field: the key in config.json}}
NAMES = {
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "mixtral": _LLAMA,
    "mistral": _LLAMA,
    "ministral": _LLAMA,
    "smollm3": _LLAMA,
    "mellum": _LLAMA,
}
# The fields that a Hugging Face architecture fixes, under our names.
_FIXED: dict[str, Json] = {
    "gpt2": {"norm": "layernorm", "position": "learned", "ffn": "gelu", "bias": True},
    "llama": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "mixtral": {},
    "mistral": {},
    "ministral": {},
    "smollm3": {},
    "mellum": {"qk_norm": True},
}
# The defaults of Hugging Face classes for keys that config.json lacks.
_DEFAULTS: dict[str, Json] = {
    "gpt2": {
        "n_inner": None,
        "resid_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    },
    "llama": {"rms_norm_eps": 1e-6, "rope_theta": 10_000.0},
    "qwen2": {
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "qwen3": {
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "head_dim": 128,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "mixtral": {"rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0},
    "mistral": {"rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "sliding_window": 4096},
    "ministral": {"rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "sliding_window": 4096},
    "smollm3": {
        "rms_norm_eps": 1e-6,
        "rope_theta": 2_000_000.0,
        "no_rope_layer_interval": 4,
        "tie_word_embeddings": True,
    },
    "mellum": {"rms_norm_eps": 1e-6, "head_dim": 128, "sliding_window": 1024},
}
_COMMON_DEFAULTS = {"tie_word_embeddings": False, "num_key_value_heads": None, "head_dim": None}
# Keys with the only values that our model supports.
_REQUIRED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "is_causal": (True,),
    "activation": ("swiglu",),
    "partial_rotary_factor": (1.0,),
}
# Keys that one architecture has, with the only values that our model supports.
_OWN_REQUIRED: dict[str, dict[str, tuple[Any, ...]]] = {
    "llama": {"use_sliding_window": (False,)},
    "smollm3": {"use_sliding_window": (False,)},
}
# Settings of experts, which have no effect in a model without experts.
_OWN_SILENT = {"mellum": {"moe_intermediate_size", "norm_topk_prob", "num_experts"}}
# Architectures of which our model lacks a part, and these parts.
_LACKED = {
    "gemma2": "norms after each branch, a soft-cap in attention, GeGLU",
    "gemma3_text": "norms after each branch, scaled embeddings, GeGLU",
    "gpt_oss": "experts with biases and a clamped activation",
}
# These keys do not change what a trained model computes. A key that is neither here nor above
# raises an error, unless it is off: null, false, 0 or empty.
_SILENT = {
    "_name_or_path", "architectures", "attention_dropout", "attn_pdrop", "bos_token_id",
    "chunk_size_feed_forward", "dtype", "embd_pdrop", "eos_token_id", "gradient_checkpointing",
    "id2label", "initializer_range", "label2id", "model_type", "n_ctx",
    "output_attentions", "output_hidden_states", "output_router_logits", "pad_token_id",
    "pretraining_tp", "problem_type", "reorder_and_upcast_attn", "return_dict",
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
    "summary_use_proj", "task_specific_params", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip
# Some of these keys are notes of other programs. The others are generation settings, which moved to
# generation_config.json.
_SILENT |= {
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_flash_attn_2_enabled",
    "_num_labels", "attn_implementation", "auto_map", "cache_implementation", "finetuning_task",
    "is_decoder", "is_llama_config", "max_sequence_length", "model_max_length",
    "neftune_noise_alpha", "num_labels", "output_past", "tokenizer_class",
    "transformers.js_config", "unsloth_fixed", "unsloth_version", "use_flash_attention",
    "use_flash_attn", "use_return_dict",
    "_attn_implementation_internal", "_experts_implementation_internal", "_output_attentions",
    "_post_init_done", "prefix", "sep_token_id", "tf_legacy_loss", "torchscript", "use_bfloat16",
    "_from_model_config", "assistant_confidence_threshold", "assistant_early_exit",
    "assistant_ensemble_weight", "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens",
    "cache_config", "compile_config", "constraints", "continuous_batching_config",
    "decoder_start_token_id", "disable_compile", "diversity_penalty", "do_sample", "dola_layers",
    "early_stopping", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty",
    "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty", "force_words_ids",
    "forced_bos_token_id", "forced_eos_token_id", "guidance_scale", "is_assistant",
    "length_penalty", "low_memory", "max_cache_len", "max_length", "max_matching_ngram_size",
    "max_new_tokens", "max_time", "min_length", "min_new_tokens", "min_p",
    "no_repeat_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_logits", "output_scores",
    "penalty_alpha", "prefill_chunk_size", "prompt_lookup_num_tokens", "remove_invalid_values",
    "renormalize_logits", "repetition_penalty", "return_dict_in_generate", "sequence_bias",
    "speculation_type", "stop_strings", "suppress_tokens", "target_lookbehind", "temperature",
    "token_healing", "top_h", "top_k", "top_p", "typical_p", "use_mtp", "watermarking_config",
}  # fmt: skip
# The functions below read these keys, in addition to the tables.
_READ = {
    "layer_types", "max_window_layers", "mlp_layer_types", "no_rope_layer_interval",
    "no_rope_layers", "num_experts_per_tok", "num_local_experts", "rope_parameters", "rope_scaling",
    "rope_theta", "router_aux_loss_coef", "router_jitter_noise", "sliding_window",
    "use_sliding_window",
}  # fmt: skip
_LARGEST = 2**31 - 1
_MOST_LAYERS = 10_000
# The export raises an error if Hugging Face cannot express a non-default value of these fields.
_VARIANTS = (
    *("norm", "position", "ffn", "bias", "qkv_bias", "qk_norm", "qk_norm_gain"),
    *("gated_attention", "rope_interleaved", "logit_softcap", "attention_sinks"),
)


def config_from_hub(hub: Mapping[str, Any], path: Path) -> ModelConfig:
    """Return the model config of a config.json. Raise FileFormatError for an unsupported one."""
    architecture = architecture_of(hub, path)
    for key, possible in (_REQUIRED | _OWN_REQUIRED.get(architecture, {})).items():
        if key in hub and hub[key] not in possible:
            raise FileFormatError(
                f"this kind of {architecture} is not supported ({path}: {key} {hub[key]!r}); use a "
                f"model with {key} {possible[0]!r}"
            )
    known = _SILENT | _READ | _REQUIRED.keys() | set(NAMES[architecture].values())
    for key in hub.keys() - known - _OWN_SILENT.get(architecture, set()):
        if hub[key]:
            raise FileFormatError(
                f"config.json has an unknown key ({path}: {key} {hub[key]!r}); "
                "remove the key if it does not change what the model computes"
            )
    try:
        return _model_config(architecture, hub, path)
    except FileFormatError:
        raise
    except KeyError as error:
        raise FileFormatError(
            f"config.json has no {error} ({path}); download the file again"
        ) from None
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise FileFormatError(
            f"config.json does not describe a valid model ({path}: {error}); "
            "download the file again"
        ) from None


def _model_config(architecture: str, hub: Mapping[str, Any], path: Path) -> ModelConfig:
    known = _COMMON_DEFAULTS | _DEFAULTS[architecture] | dict(hub)
    values: Json = dict(_FIXED[architecture])
    for ours, theirs in NAMES[architecture].items():
        value = known[theirs]
        if value is None and theirs not in ("n_inner", "head_dim", "num_key_value_heads"):
            raise ValueError(f"{theirs} is null")
        if isinstance(value, int) and value > _LARGEST:
            raise ValueError(f"{theirs} {value} is too large")
        values[ours] = value
    if values["num_layers"] > _MOST_LAYERS:
        raise ValueError(f"{values['num_layers']} layers are too many")
    if architecture == "gpt2":
        values["d_ff"] = values["d_ff"] or 4 * values["d_model"]
    else:
        values |= layers_from(architecture, known, path)
        kinds = set(known.get("layer_types") or ()) if architecture == "mellum" else set()
        values |= rope_from(known, kinds, path)
    if architecture == "mixtral":
        values["moe"] = MoEConfig(
            num_experts=known["num_local_experts"],
            num_active=known["num_experts_per_tok"],
            balance_weight=known.get("router_aux_loss_coef", 0.001),
            z_weight=0.0,
            jitter=known.get("router_jitter_noise") or 0.0,
        )
    if values.get("head_dim") == values["d_model"] // values["num_heads"]:
        values["head_dim"] = None
    return ModelConfig(**values)


def architecture_of(hub: Mapping[str, Any], path: Path) -> str:
    """Return the `model_type` of a config.json. Raise FileFormatError if it is unknown."""
    architecture = hub.get("model_type")
    if isinstance(architecture, str) and architecture in _LACKED:
        raise FileFormatError(
            f"a model of {architecture} has parts that are not supported ({path}: "
            f"{_LACKED[architecture]}); use one of {', '.join(NAMES)}"
        )
    if not isinstance(architecture, str) or architecture not in NAMES:
        raise FileFormatError(
            f"this architecture is not supported ({path}: model_type {architecture!r}); "
            f"use one of {', '.join(NAMES)}"
        )
    return architecture


def is_base_model(hub: Mapping[str, Any]) -> bool:
    """Return whether a config.json describes a base model, which has no head."""
    base = re.sub("(LMHead|ForCausalLM)(Model)?", "Model", _CLASSES[hub["model_type"]])
    return bool(hub.get("architectures") == [base])


def config_to_hub(config: ModelConfig) -> Json:
    """Return the config.json of a model. Raise ValueError if no architecture fits the model."""
    architecture = hub_architecture(config)
    hub: Json = {"model_type": architecture, "architectures": [_CLASSES[architecture]]}
    for ours, theirs in NAMES[architecture].items():
        hub[theirs] = getattr(config, ours)
    if architecture == "gpt2":
        hub |= {"activation_function": "gelu_new"}
        return hub | {"embd_pdrop": config.dropout, "attn_pdrop": 0.0}
    hub["hidden_act"] = "silu"
    if "head_dim" in hub:
        hub["head_dim"] = config.d_head
    hub |= rope_to(config) | layers_to(architecture, config)
    if architecture in ("llama", "qwen3", "smollm3", "mellum"):
        hub["attention_bias"] = False
    if config.moe is not None:
        hub |= {
            "num_local_experts": config.moe.num_experts,
            "num_experts_per_tok": config.moe.num_active,
            "router_aux_loss_coef": config.moe.balance_weight,
            "router_jitter_noise": config.moe.jitter,
        }
    if architecture == "smollm3":
        hub["pad_token_id"] = None  # the default is an id of SmolLM3's own tokenizer
    return hub


_CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "mistral": "MistralForCausalLM",
    "ministral": "MinistralForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "mellum": "MellumForCausalLM",
}


def hub_architecture(config: ModelConfig) -> str:
    """Return the Hugging Face architecture for a model. Raise ValueError if none fits."""
    kin = [name for name in _FIXED if (name == "mixtral") == (config.moe is not None)]
    nearest = min(kin, key=lambda name: len(_lacking(name, config)))  # the first of equals
    if lacking := _lacking(nearest, config):
        raise ValueError(
            f"no Hugging Face architecture fits this model (the nearest is {nearest}, without "
            f"{', '.join(lacking)}); train a model without these settings, or keep this model as a "
            "checkpoint"
        )
    return nearest


def _lacking(architecture: str, config: ModelConfig) -> list[str]:
    """Return the settings of a model that the architecture lacks, as `name value`."""
    plain = {field.name: field.default for field in fields(ModelConfig)}
    wanted = {name: plain[name] for name in _VARIANTS} | _FIXED[architecture]
    found = [f"{n} {getattr(config, n)}" for n in wanted if getattr(config, n) != wanted[n]]
    if config.moe is not None and config.moe.num_shared:
        found.append(f"moe.num_shared {config.moe.num_shared}")
    if config.window is not None and architecture not in WITH_WINDOW:
        found.append(f"window {config.window}")
    if config.window_pattern is not None and architecture not in WITH_PATTERN:
        found.append(f"window_pattern {config.window_pattern}")
    if config.nope_every is not None and architecture != "smollm3":
        found.append(f"nope_every {config.nope_every}")
    if config.local_rope_theta is not None and architecture != "mellum":
        found.append(f"local_rope_theta {config.local_rope_theta}")
    if config.head_dim is not None and architecture == "gpt2":
        found.append(f"head_dim {config.head_dim}")
    if config.num_kv_heads != config.num_heads and architecture == "gpt2":
        found.append(f"num_kv_heads {config.num_kv_heads}")
    return found


def read_json(path: Path) -> Json:
    """Return the object in a JSON file of a Hugging Face folder."""
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise FileFormatError(
            f"the folder has no Hugging Face model ({path} is missing); specify another folder"
        ) from None
    except ValueError as error:
        check_downloaded(path)
        raise FileFormatError(
            f"the file is not valid JSON ({path}: {error}); download the file again"
        ) from None
    if not isinstance(content, dict):
        raise FileFormatError(f"the file must be a JSON object ({path}); download the file again")
    return content
