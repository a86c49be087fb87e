"""Small models of transformers."""

from __future__ import annotations

from typing import Any

import torch

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.3,  # far from zero, so that no branch hides behind the residual
    "bos_token_id": None,
    "eos_token_id": None,
}

GPT2_SIZES = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96,
              "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None}  # fmt: skip

LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip

LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}

YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0,
             "original_max_position_embeddings": 24, "beta_fast": 6.0, "beta_slow": 0.5,
             "attention_factor": 1.3, "truncate": False}  # fmt: skip

# name -> architecture, and its sizes
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2_SIZES),
    "gpt2-untied": ("GPT2", GPT2_SIZES | {"tie_word_embeddings": False, "n_inner": 40}),
    "llama2": ("Llama", SIZES | {"num_key_value_heads": 4}),
    "llama-grouped": ("Llama", SIZES | {"tie_word_embeddings": True, "rms_norm_eps": 1e-4}),
    "llama3": ("Llama", SIZES | {"rope_parameters": LLAMA3_ROPE, "head_dim": 16}),
    "llama-interpolated": ("Llama", SIZES | {"rope_parameters": LINEAR_ROPE}),
    "qwen2": ("Qwen2", SIZES),
    "qwen3": ("Qwen3", SIZES | {"head_dim": 16}),
    "mixtral": ("Mixtral", SIZES | {"num_local_experts": 4}),
    "mixtral-window": ("Mixtral", SIZES | {"num_local_experts": 4, "sliding_window": 8}),
}


def kinds(letters: str) -> list[str]:
    """The `layer_types` of a pattern of S and L."""
    return [{"S": "sliding_attention", "L": "full_attention"}[letter] for letter in letters]


# Layers of several kinds: six of Gemma 3's, with its two rotary bases, and others
MODELS |= {
    "smollm3": ("SmolLM3", SIZES | {"num_hidden_layers": 5, "tie_word_embeddings": True,
                                    "pad_token_id": None}),
    "mistral": ("Mistral", SIZES | {"sliding_window": 8, "head_dim": 16}),
    "ministral": ("Ministral", SIZES | {"sliding_window": 8, "layer_types": kinds("SL"),
                                        "head_dim": 8}),
    "qwen3-window": ("Qwen3", SIZES | {"use_sliding_window": True, "sliding_window": 8,
                                       "head_dim": 32, "layer_types": kinds("SL"),
                                       "rope_parameters": YARN_ROPE}),
    "gemma3-layers": ("Mellum", SIZES | {
        "num_hidden_layers": 6, "head_dim": 16, "sliding_window": 8, "initializer_range": 0.15,
        "layer_types": kinds("SSSSSL"), "mlp_layer_types": ["dense"] * 6,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 8.0},
        }}),
}  # fmt: skip


def theirs_of(name: str) -> Any:
    """A model of `transformers` with random weights: biases and gains too."""
    import transformers

    kind, sizes = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**sizes)
    name = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = getattr(transformers, name)._from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        if parameter.ndim < 2:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    return model
