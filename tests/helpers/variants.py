"""Small models of every variant."""

from __future__ import annotations

from typing import Any

from scratchlm import ModelConfig, Transformer
from scratchlm.model.config import MoEConfig, RopeScaling

SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "context_length": 24,
    "d_model": 32,
    "num_layers": 2,
    "num_heads": 4,
}

VARIANTS: list[dict[str, Any]] = [
    {},
    {"num_kv_heads": 2, "rope_interleaved": True},
    {"num_kv_heads": 1, "qk_norm": True, "tie_embeddings": True},
    {"norm": "layernorm", "ffn": "relu2", "bias": True, "position": "none"},
    {"norm": "layernorm", "ffn": "gelu", "bias": True, "position": "learned", "init": "gpt2",
     "tie_embeddings": True, "vocab_multiple": 16},
    {"gated_attention": "elementwise", "qk_norm": True, "qk_norm_gain": False, "ffn": "silu"},
    {"gated_attention": "headwise", "num_kv_heads": 2, "qkv_bias": True, "head_dim": 16},
    {"window": 5, "rope_scaling": RopeScaling("linear", 2.0)},
    {"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 12), "init": "xavier"},
    {"moe": MoEConfig(4, 2, num_shared=1), "d_ff": 32, "init": "kaiming"},
    {"window": 3, "window_pattern": "SL", "local_rope_theta": 100.0, "num_kv_heads": 2,
     "attention_sinks": True},
    {"nope_every": 2, "tie_embeddings": True, "logit_softcap": 10.0, "vocab_multiple": 16,
     "rope_scaling": RopeScaling("yarn", 4.0, original_context_length=12)},
]  # fmt: skip


def small(**changes: Any) -> Transformer:
    return Transformer(ModelConfig(**SMALL | changes))
