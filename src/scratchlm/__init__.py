"""Language models from scratch: every part written here, readable, and proven.

The public names below are imported on first use, so that `import scratchlm` takes milliseconds
and `scratchlm-train --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scratchlm.checkpoint import load_checkpoint, load_model, save_checkpoint
    from scratchlm.data.batches import get_batch
    from scratchlm.functional import cross_entropy, scaled_dot_product_attention, silu, softmax
    from scratchlm.generator import TextGenerator, stream
    from scratchlm.model.attention import MultiHeadAttention
    from scratchlm.model.feed_forward import SwiGLU
    from scratchlm.model.kv_cache import KVCache
    from scratchlm.model.layers import Embedding, LayerNorm, Linear, RMSNorm
    from scratchlm.model.rope import RotaryEmbedding
    from scratchlm.model.transformer import ModelConfig, Transformer, TransformerBlock
    from scratchlm.optim.adamw import AdamW
    from scratchlm.optim.clip import clip_grad_norm
    from scratchlm.optim.muon import Muon
    from scratchlm.optim.schedule import cosine_schedule, linear_schedule, wsd_schedule
    from scratchlm.optim.sgd import SGD, SGDDecay
    from scratchlm.sampling import generate
    from scratchlm.tokenizer.bpe import BPETokenizer
    from scratchlm.tokenizer.training import train_bpe, train_bpe_from_texts
    from scratchlm.trainer import Trainer

__version__ = "0.1.0"

_HOME = {  # module -> the public names it defines
    "tokenizer.bpe": ("BPETokenizer",),
    "tokenizer.training": ("train_bpe", "train_bpe_from_texts"),
    "functional": ("softmax", "silu", "cross_entropy", "scaled_dot_product_attention"),
    "model.layers": ("Linear", "Embedding", "RMSNorm", "LayerNorm"),
    "model.feed_forward": ("SwiGLU",),
    "model.rope": ("RotaryEmbedding",),
    "model.attention": ("MultiHeadAttention",),
    "model.kv_cache": ("KVCache",),
    "model.transformer": ("ModelConfig", "Transformer", "TransformerBlock"),
    "optim.sgd": ("SGD", "SGDDecay"),
    "optim.adamw": ("AdamW",),
    "optim.muon": ("Muon",),
    "optim.schedule": ("cosine_schedule", "linear_schedule", "wsd_schedule"),
    "optim.clip": ("clip_grad_norm",),
    "data.batches": ("get_batch",),
    "checkpoint": ("save_checkpoint", "load_checkpoint", "load_model"),
    "trainer": ("Trainer",),
    "sampling": ("generate",),
    "generator": ("TextGenerator", "stream"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "SGD",
    "AdamW",
    "BPETokenizer",
    "Embedding",
    "KVCache",
    "LayerNorm",
    "Linear",
    "ModelConfig",
    "MultiHeadAttention",
    "Muon",
    "RMSNorm",
    "RotaryEmbedding",
    "SGDDecay",
    "SwiGLU",
    "TextGenerator",
    "Trainer",
    "Transformer",
    "TransformerBlock",
    "clip_grad_norm",
    "cosine_schedule",
    "cross_entropy",
    "generate",
    "get_batch",
    "linear_schedule",
    "load_checkpoint",
    "load_model",
    "save_checkpoint",
    "scaled_dot_product_attention",
    "silu",
    "softmax",
    "stream",
    "train_bpe",
    "train_bpe_from_texts",
    "wsd_schedule",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'scratchlm' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"scratchlm.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
