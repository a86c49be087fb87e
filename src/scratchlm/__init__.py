"""Language models from scratch: the code of every part is here, readable and tested.

Python imports the public names below at their first use, so `import scratchlm` takes milliseconds
and `scratchlm-train --help` does not wait for torch.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any

# This is the only list of the public names. Type checkers and `_homes` read this list.
if TYPE_CHECKING:
    from scratchlm.checkpoint.models import load_model as load_model
    from scratchlm.checkpoint.save_and_load import load_checkpoint as load_checkpoint
    from scratchlm.checkpoint.save_and_load import save_checkpoint as save_checkpoint
    from scratchlm.convert.hf_folder import from_hf as from_hf
    from scratchlm.convert.hf_folder import to_hf as to_hf
    from scratchlm.data.batches import get_batch as get_batch
    from scratchlm.functional import cross_entropy as cross_entropy
    from scratchlm.functional import scaled_dot_product_attention as scaled_dot_product_attention
    from scratchlm.functional import silu as silu
    from scratchlm.functional import softmax as softmax
    from scratchlm.generation.beam import Beams as Beams
    from scratchlm.generation.decoder import Decoder as Decoder
    from scratchlm.generation.generator import TextGenerator as TextGenerator
    from scratchlm.generation.generator import stream as stream
    from scratchlm.generation.sampling import decode as decode
    from scratchlm.generation.sampling import generate as generate
    from scratchlm.generation.strategies import Strategy as Strategy
    from scratchlm.model.attention import MultiHeadAttention as MultiHeadAttention
    from scratchlm.model.config import ModelConfig as ModelConfig
    from scratchlm.model.feed_forward import SwiGLU as SwiGLU
    from scratchlm.model.kv_cache import KVCache as KVCache
    from scratchlm.model.layers import Embedding as Embedding
    from scratchlm.model.layers import LayerNorm as LayerNorm
    from scratchlm.model.layers import Linear as Linear
    from scratchlm.model.layers import RMSNorm as RMSNorm
    from scratchlm.model.rope import RotaryEmbedding as RotaryEmbedding
    from scratchlm.model.transformer import Transformer as Transformer
    from scratchlm.model.transformer import TransformerBlock as TransformerBlock
    from scratchlm.optim.adamw import AdamW as AdamW
    from scratchlm.optim.clip import clip_grad_norm as clip_grad_norm
    from scratchlm.optim.groups import adamw_groups as adamw_groups
    from scratchlm.optim.groups import muon_groups as muon_groups
    from scratchlm.optim.muon import Muon as Muon
    from scratchlm.optim.schedule import cosine_schedule as cosine_schedule
    from scratchlm.optim.schedule import linear_schedule as linear_schedule
    from scratchlm.optim.schedule import wsd_schedule as wsd_schedule
    from scratchlm.optim.sgd import SGD as SGD
    from scratchlm.optim.sgd import SGDDecay as SGDDecay
    from scratchlm.tokenizer.bpe import BPETokenizer as BPETokenizer
    from scratchlm.tokenizer.train import train_bpe as train_bpe
    from scratchlm.tokenizer.train import train_bpe_from_texts as train_bpe_from_texts
    from scratchlm.training.trainer import Trainer as Trainer

__version__ = "0.1.0"

# {a name in other projects: our name}. docs/names.md shows this table.
FOREIGN = {
    "RmsNorm": "RMSNorm",
    "LlamaRMSNorm": "RMSNorm",
    "SiLu": "silu",
    "SiLU": "silu",
    "FFN": "SwiGLU",
    "SwiGLUFFN": "SwiGLU",
    "MLP": "SwiGLU",
    "LlamaMLP": "SwiGLU",
    "RoPE": "RotaryEmbedding",
    "RotaryPositionalEmbedding": "RotaryEmbedding",
    "LlamaRotaryEmbedding": "RotaryEmbedding",
    "CausalSelfAttention": "MultiHeadAttention",
    "MultiHeadSelfAttention": "MultiHeadAttention",
    "LlamaAttention": "MultiHeadAttention",
    "Block": "TransformerBlock",
    "LlamaDecoderLayer": "TransformerBlock",
    "GPT": "Transformer",
    "GPTModel": "Transformer",
    "TransformerLM": "Transformer",
    "LlamaForCausalLM": "Transformer",
    "GPTConfig": "ModelConfig",
    "LlamaConfig": "ModelConfig",
    "DynamicCache": "KVCache",
    "StaticCache": "KVCache",
    "BpeTokenizer": "BPETokenizer",
    "Tokenizer": "BPETokenizer",
    "PreTrainedTokenizerFast": "BPETokenizer",
    "get_tokenizer": "BPETokenizer",
    "BpeTrainer": "train_bpe",
    "run_train_bpe": "train_bpe",
    "pipeline": "TextGenerator",
    "TextIteratorStreamer": "stream",
    "cross_entropy_loss": "cross_entropy",
    "get_lr": "cosine_schedule",
    "get_lr_cosine_schedule": "cosine_schedule",
    "cos_lr_scheduler": "cosine_schedule",
    "get_wsd_schedule": "wsd_schedule",
    "gradient_clip": "clip_grad_norm",
    "gradient_clipping": "clip_grad_norm",
    "clip_grad_norm_": "clip_grad_norm",
    "configure_optimizers": "adamw_groups or muon_groups",
    "data_loading": "get_batch",
    "from_pretrained": "load_model",
    "save_pretrained": "to_hf",
}


@functools.cache
def _homes() -> dict[str, str]:
    """Return {public name: the module that defines this name}, from the imports above."""
    import ast
    import pkgutil

    tree = ast.parse(pkgutil.get_data(__name__, "__init__.py") or b"")
    [listed] = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        alias.name: node.module or ""
        for node in listed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(_homes())
    if name.startswith("__"):  # `_homes` needs some names like this
        raise AttributeError(f"module 'scratchlm' has no attribute {name!r}")
    if name in _homes():
        value = getattr(importlib.import_module(_homes()[name]), name)
        globals()[name] = value
        return value
    from scratchlm.errors import is_called

    message = f"module 'scratchlm' has no attribute {name!r}{is_called(name, FOREIGN)}"
    # `from scratchlm import GPT` drops the text of an AttributeError.
    if name in FOREIGN and sys._getframe(1).f_code.co_name == "_handle_fromlist":
        raise ImportError(message, name=name)
    raise AttributeError(message)


def __dir__() -> list[str]:
    return [*__getattr__("__all__"), "__version__"]
