"""The names of other projects, and what they are called here: classes, functions and keywords.

docs/names.md shows all of them, and a test holds it equal to these tables.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

Thing = TypeVar("Thing", bound=Callable[..., Any])

# Names that people import from a package like this one.
PUBLIC = {
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

# Names that people look for in a tokenizer.
TOKENIZER = {
    "train": "train_bpe(paths, vocab_size)",
    "fit": "tokenizer = BPETokenizer.fit(texts, vocab_size)",
    "train_from_iterator": "BPETokenizer.fit(texts, vocab_size)",
    "encode_ordinary": 'encode(text, allowed_special="none")',
    "encode_batch": "[tokenizer.encode(text) for text in texts]",
    "batch_decode": "[tokenizer.decode(ids) for ids in batch]",
    "decode_batch": "[tokenizer.decode(ids) for ids in batch]",
    "n_vocab": "vocab_size",
    "get_vocab_size": "vocab_size",
    "get_vocab": "vocab",
    "id_to_token": "vocab[id]",
    "decode_single_token_bytes": "vocab[id]",
    "convert_tokens_to_ids": "token_to_id(token)",
    "eot_token": 'token_to_id("<|endoftext|>")',
    "eos_token_id": 'token_to_id("<|endoftext|>")',
    "save_pretrained": "save(path)",
}

# Names that people look for in a model.
MODEL = {
    "generate": "generate(model, ids, max_tokens)",
    "save": "save_checkpoint(path, model, optimizer, step)",
    "save_pretrained": "to_hf(model, folder)",
    "get_num_params": "num_parameters()",
    "crop_block_size": "dataclasses.replace(config, context_length=…)",
    "configure_optimizers": "adamw_groups(model.named_parameters(), weight_decay)",
}

# Names of one setting: a callable that has one of them takes the others for it.
SETTINGS = (
    ("d_model", "n_embd", "emb_dim", "hidden_size", "dim"),
    ("num_layers", "n_layer", "n_layers", "num_hidden_layers"),
    ("num_heads", "n_head", "n_heads", "num_attention_heads"),
    ("num_kv_heads", "n_kv_heads", "num_key_value_heads"),
    ("d_ff", "intermediate_size"),
    ("context_length", "block_size", "context_size", "max_seq_len", "n_positions"),
    ("d_head", "d_k"),
    ("norm_eps", "rms_norm_eps", "layer_norm_epsilon"),
    ("window", "sliding_window"),
    ("qkv_bias", "attention_bias"),
    ("num_experts", "num_local_experts"),
    ("num_active", "num_experts_per_tok"),
    ("balance_weight", "router_aux_loss_coef"),
    ("jitter", "router_jitter_noise"),
    ("tie_embeddings", "tie_word_embeddings"),
    ("dropout", "drop_rate"),
    ("lr", "learning_rate", "max_lr", "max_learning_rate"),
    ("min_lr", "min_learning_rate"),
    ("warmup_steps", "warmup_iters"),
    ("schedule", "lr_schedule", "lr_scheduler_type"),
    ("iterations", "max_iters", "max_steps"),
    ("total_steps", "max_iters", "max_steps", "lr_decay_iters", "cosine_cycle_iters"),
    ("epochs", "num_epochs"),
    ("max_grad_norm", "grad_clip"),
    ("accumulate", "gradient_accumulation_steps"),
    ("log_every", "log_interval", "logging_steps"),
    ("keep_last", "save_total_limit"),
    ("eval_every", "eval_interval"),
    ("eval_batches", "eval_iters"),
    ("out", "out_dir"),
    ("max_tokens", "max_new_tokens", "max_length"),
    ("prompt", "input_text"),
    ("model_path", "model"),
    ("num_samples", "num_return_sequences"),
    ("draft_model", "assistant_model"),
    ("num_draft", "num_assistant_tokens"),
    ("stop", "stop_strings"),
    ("tokens", "dataset"),
    ("paths", "input_path"),
    ("causal", "is_causal"),
    ("mask", "attn_mask"),
)  # fmt: skip

# Keywords whose value has another form or place here.
INSTEAD = {
    "vocab_size": "train_bpe(paths, vocab_size) makes a tokenizer",
    "do_sample": "temperature=0 is greedy",
    "seed": "pass generator=torch.Generator().manual_seed(seed)",
    "eos_token_id": "pass stop=[id], or stop_ids=[id] to a TextGenerator",
    "num_beams": "pass beams=Beams(num_beams) to TextGenerator.complete",
}

_GROUPS: dict[str, list[tuple[str, ...]]] = {}
for _group in SETTINGS:
    for _name in _group:
        _GROUPS.setdefault(_name, []).append(_group)


def meant(name: str, known: Collection[str]) -> str | None:
    """The name in `known` that is another name of the setting `name`."""
    same = [each for group in _GROUPS.get(name, ()) for each in group if each in known]
    return same[0] if same else None


def is_called(name: str, table: Mapping[str, str]) -> str:
    """The end of an error for an attribute that is not there: what it is called here, if known."""
    return f"; it is {table[name]} here (docs/names.md)" if name in table else ""


def knows_names(table: Mapping[str, str]) -> Callable[[Thing], Thing]:
    """Make a class say what a missing attribute is called here.

    A class method in `table` is missing in the class's objects: it would not change them.
    """

    def decorate(cls: Any) -> Any:
        before = getattr(cls, "__getattr__", None)  # torch's modules have one

        def missing(self: Any, name: str) -> Any:
            if before is not None and name not in table:
                return before(self, name)
            raise AttributeError(f"a {cls.__name__} has no {name}{is_called(name, table)}")

        cls.__getattr__ = missing
        for name in table.keys() & vars(cls).keys():
            setattr(cls, name, _ClassOnly(vars(cls)[name].__func__))
        return cls

    return decorate


class _ClassOnly(classmethod):  # type: ignore[type-arg]
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is not None:
            raise AttributeError  # `missing` then says what to write
        return super().__get__(instance, owner)


def takes_synonyms(more: Callable[..., Any] | None = None) -> Callable[[Thing], Thing]:
    """Make a function or a class accept the names in `SETTINGS` for its own keywords.

    more: what takes the function's `**keywords`. A function with `**keywords` and without `more`
    hands on what it does not know. Otherwise an unknown keyword is a TypeError that names the
    nearest. Two names of one setting with different values are a TypeError, too.
    """

    def decorate(thing: Thing) -> Thing:
        if isinstance(thing, type):
            thing.__init__ = _translating(thing.__init__, thing.__name__, more)  # type: ignore[misc]
            return thing
        return _translating(thing, thing.__name__, more)

    return decorate


def _translating(function: Any, name: str, more: Callable[..., Any] | None) -> Any:
    parameters = list(inspect.signature(function).parameters.values())
    open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters)
    if more is not None:
        parameters += inspect.signature(more).parameters.values()
    known = {
        each.name
        for each in parameters
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    known.discard("self")
    strict = more is not None or not open_ended

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        if not keywords.keys() <= known:
            keywords = _translated(keywords, known, name, strict)
        return function(*args, **keywords)

    return call


def _translated(
    keywords: Mapping[str, Any], known: set[str], name: str, strict: bool
) -> dict[str, Any]:
    ours: dict[str, Any] = {}
    typed: dict[str, str] = {}
    for key, value in keywords.items():
        own = key if key in known else meant(key, known)
        if own is None and strict:
            raise TypeError(f"{name}() has no argument {key}; {_advice(key, known)}")
        own = own or key
        if own in ours and ours[own] is not value and ours[own] != value:
            raise TypeError(
                f"two values for one argument of {name}() ({typed[own]}={ours[own]!r}, "
                f"{key}={value!r}); give one"
            )
        ours[own], typed[own] = value, key
    return ours


def _advice(key: str, known: set[str]) -> str:
    if key in INSTEAD:
        return INSTEAD[key]
    close = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"it takes {', '.join(sorted(known))}"
