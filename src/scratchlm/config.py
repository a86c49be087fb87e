"""Configuration: defaults < TOML file < flags -> frozen dataclasses.

A configuration is a tree of frozen dataclasses. Each dataclass is beside the code that it
configures, and this module imports none of them. Before `build`, each layer is a nested dict:

    tree = merge(DEFAULTS, read_toml("configs/tiny.toml"), nest({"optim.lr": "3e-4"}))
    config = build(TrainConfig, tree)      # checks types, refuses unknown keys
    print(to_toml(config))                 # a run prints it and saves it in its folder
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING as MISSING
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

T = TypeVar("T")
Thing = TypeVar("Thing", bound=Callable[..., Any])
Tree = dict[str, Any]


def read_toml(path: str | os.PathLike[str], lists: Collection[str] = ()) -> Tree:
    """Return the sections of a TOML file. Raise ValueError, with the line, if it is not TOML.

    `lists`: the names of sections that are lists of tables, such as `[[step]]`.
    """
    try:
        # utf-8-sig drops the byte order mark that some editors write.
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"a config must be TOML ({path}: {error}); correct the file") from None
    for name, value in tree.items():
        if name in lists:
            if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
                raise ValueError(
                    f"{name} must be a list of tables ({path}: {value!r:.60}); write [[{name}]]"
                )
        elif not isinstance(value, dict) and lists:
            raise ValueError(
                f"a key must be below a table ({path}: {name}); write the key below "
                f"[[{next(iter(lists))}]]"
            )
        elif not isinstance(value, dict):
            raise ValueError(
                f"{name} must be a section ({path}: {value!r}); if it is a key, write it below its "
                "section, such as [optim]"
            )
    return tree


def nest(settings: Mapping[str, Any]) -> Tree:
    """Turn `{"optim.lr": 1}` into `{"optim": {"lr": 1}}`."""
    tree: Tree = {}
    for dotted, value in settings.items():
        *parents, leaf = dotted.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise ValueError(
                    f"a setting must be a value or a section, not both ({parent} and {dotted}); "
                    "remove one of the two"
                )
        if isinstance(branch.get(leaf), dict):
            raise ValueError(
                f"{dotted} must be a section ({value}); remove this value, because one of its keys "
                "is set too"
            )
        branch[leaf] = value
    return tree


def flat(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Turn a nested dict into a flat dict with dotted keys. `nest` is the inverse."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def merge(*layers: Mapping[str, Any]) -> Tree:
    """Merge the layers key by key at every depth. Later layers override earlier layers."""
    merged: Tree = {}
    for layer in layers:
        for key, value in layer.items():
            old = merged.get(key)
            if isinstance(value, Mapping):
                merged[key] = merge(old if isinstance(old, Mapping) else {}, value)
            else:
                merged[key] = value
    return merged


def build(cls: type[T], tree: Mapping[str, Any], prefix: str = "") -> T:
    """Build the frozen dataclass `cls` from its tree. Convert a flag's string to its field's type.

    Raise ValueError for an unknown key (the error lists the valid keys), a missing key or a wrong
    type.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in tree:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {prefix}{close[0]}? " if close else ""
            valid = ", ".join(prefix + name for name in fields)
            raise ValueError(f"unknown config key ({prefix}{key}); {hint}valid keys: {valid}")
    values = {}
    for name, field in fields.items():
        if name in tree:
            values[name] = _convert(tree[name], hints[name], prefix + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if dataclasses.is_dataclass(hints[name]):  # the user left out this section
                values[name] = build(typing.cast(Any, hints[name]), {}, f"{prefix}{name}.")
                continue
            raise ValueError(f"a config value is missing ({prefix}{name}); set this value")
    return cls(**values)


def _convert(value: Any, hint: Any, name: str) -> Any:
    """Convert `value` to the type `hint`, or raise a ValueError that contains `name`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            key = f"{name}.{dataclasses.fields(hint)[0].name}"
            raise ValueError(
                f"{name} must be a section ({value!r}); set one of its keys, such as {key}"
            )
        return build(typing.cast(Any, hint), value, name + ".")
    if origin in (typing.Union, types.UnionType):  # the only union that configs use is `X | None`
        (inner,) = (argument for argument in arguments if argument is not type(None))
        if value is None or (value == "none" and inner is not str):
            return None
        return _convert(value, inner, name)
    if origin is Literal:
        if value not in arguments:
            choices = ", ".join(map(str, arguments))
            raise ValueError(f"{name} must be a valid choice ({value}); choose one of: {choices}")
        return value
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if isinstance(parts, list | tuple) and arguments[-1] is Ellipsis:  # any number of values
            arguments = (arguments[0],) * len(parts)
        if not isinstance(parts, list | tuple) or len(parts) != len(arguments):
            raise ValueError(
                f"{name} must have {len(arguments)} values ({value}); separate them with commas"
            )
        return tuple(
            _convert(part, argument, name) for part, argument in zip(parts, arguments, strict=True)
        )
    return _convert_plain(value, hint, name)


def _convert_plain(value: Any, hint: type, name: str) -> Any:
    if hint is bool:
        words = {"true": True, "false": False, "1": True, "0": False}
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        if isinstance(value, bool):
            return value
        raise ValueError(f"{name} must be true or false ({value}); write true or false")
    if hint is str:
        if isinstance(value, str):
            return value
        raise ValueError(f"{name} must be a string ({value}); put the value in quotes")
    kind = "a whole number" if hint is int else "a number"
    if hint is int and not isinstance(value, bool | float):
        with contextlib.suppress(TypeError, ValueError):
            return int(value)  # exact; a float has only 53 bits
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if hint is float and not math.isnan(number):
        return number
    if hint is int and number.is_integer():  # "1e6"
        return int(number)
    raise ValueError(f"{name} must be {kind} ({value}); use e.g. {1 if hint is int else 0.1}")


class Key(NamedTuple):
    """One value that `build` accepts: its dotted name, its type without None, and its default. The
    default is MISSING if the user must set the value."""

    name: str
    type: Any
    default: Any


def keys(cls: Any, prefix: str = "") -> list[Key]:
    """Return the keys of a dataclass and of its sections, in order."""
    found: list[Key] = []
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kinds = [each for each in typing.get_args(hints[field.name]) if each is not type(None)]
        optional = len(kinds) < len(typing.get_args(hints[field.name]))
        kind = kinds[0] if optional else hints[field.name]
        if dataclasses.is_dataclass(kind):
            found += keys(kind, f"{prefix}{field.name}.")
        else:
            found.append(Key(f"{prefix}{field.name}", kind, field.default))
    return found


def to_tree(config: Any) -> Tree:
    """Turn a dataclass into nested dicts of plain values, without the fields that are None."""
    return _without_none(dataclasses.asdict(config))


def _without_none(tree: Tree) -> Tree:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if value is not None
    }


def to_toml(config: Any, derived: Collection[str] = ()) -> str:
    """Write the resolved configuration as TOML text, one section for each nested dataclass.

    derived: dotted keys that become comments, because their values follow from other keys.
    """
    lines: list[str] = []

    def write(tree: Tree, section: str) -> None:
        plain = {key: value for key, value in tree.items() if not isinstance(value, dict)}
        if section:
            lines.extend(["", f"[{section}]"] if lines else [f"[{section}]"])
        for key, value in plain.items():
            line = f"{key} = {_toml_value(value)}"
            is_derived = f"{section}.{key}" in derived
            lines.append(f"# {line}, from the other settings" if is_derived else line)
        for key, value in tree.items():
            if isinstance(value, dict):
                write(value, f"{section}.{key}" if section else key)

    write(to_tree(config), "")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    # TOML reads JSON's strings, numbers, true and false, except a DEL that is not escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


# --- the names of settings in other projects -----------------------------------------------------

# Each row holds the names of one setting. A callable that has one of them accepts the others.
SETTINGS = (
    ("d_model", "n_embd", "emb_dim", "hidden_size", "dim"),
    ("num_layers", "n_layer", "n_layers", "num_hidden_layers"),
    ("num_heads", "n_head", "n_heads", "num_attention_heads"),
    ("num_kv_heads", "n_kv_heads", "num_key_value_heads"),
    ("d_ff", "intermediate_size", "n_inner"),
    ("context_length", "block_size", "context_size", "max_seq_len", "n_positions", "n_ctx",
     "max_position_embeddings"),
    ("d_head", "d_k"),
    ("norm_eps", "eps", "rms_norm_eps", "layer_norm_epsilon"),
    ("rope_theta", "theta"),
    ("in_features", "d_in"),
    ("out_features", "d_out"),
    ("window", "sliding_window"),
    ("nope_every", "no_rope_layer_interval"),
    ("local_rope_theta", "rope_local_base_freq"),
    ("logit_softcap", "final_logit_softcapping"),
    ("qkv_bias", "attention_bias"),
    ("num_experts", "num_local_experts"),
    ("num_active", "num_experts_per_tok"),
    ("balance_weight", "router_aux_loss_coef"),
    ("jitter", "router_jitter_noise"),
    ("tie_embeddings", "tie_word_embeddings"),
    ("dropout", "drop_rate", "resid_pdrop"),
    ("lr", "learning_rate", "max_lr", "max_learning_rate"),
    ("min_lr", "min_learning_rate"),
    ("warmup_steps", "warmup_iters"),
    ("schedule", "lr_schedule", "lr_scheduler_type"),
    ("iterations", "max_iters", "max_steps"),
    ("total_steps", "max_iters", "max_steps", "lr_decay_iters", "cosine_cycle_iters"),
    ("epochs", "num_epochs"),
    ("max_grad_norm", "grad_clip"),
    ("max_norm", "max_l2_norm"),
    ("accumulate", "gradient_accumulation_steps"),
    ("log_every", "log_interval", "logging_steps"),
    ("keep_last", "save_total_limit"),
    ("eval_every", "eval_interval"),
    ("eval_batches", "eval_iters"),
    ("out", "out_dir"),
    ("max_tokens", "max_new_tokens", "max_length"),
    ("prompt", "input_text"),
    ("ids", "input_ids"),
    ("model_path", "model"),
    ("num_samples", "num_return_sequences"),
    ("draft_model", "assistant_model"),
    ("num_draft", "num_assistant_tokens"),
    ("stop", "stop_strings"),
    ("tokens", "dataset"),
    ("paths", "input_path"),
    ("alpha", "lora_alpha"),
    ("targets", "target_modules"),
    ("full", "modules_to_save"),
    ("causal", "is_causal"),
    ("mask", "attn_mask"),
)  # fmt: skip

# {our name: wrong guesses}. A guess may mean two settings, so an error suggests our names.
GUESSES = {
    "num_layers": ("n_blocks", "num_blocks", "layers", "depth"),
    "d_model": ("n_embed", "embed_dim", "embedding_dim", "hidden_dim", "model_dim", "width"),
    "num_heads": ("heads",),
    "d_ff": ("d_hidden", "hidden_dim", "ff_dim", "ffn_dim", "mlp_dim"),
    "context_length": ("context", "seq_len", "seq_length", "max_seq_length", "max_length",
                       "sequence_length"),
    "dropout": ("embd_pdrop", "attn_pdrop"),
    "iterations": ("steps", "num_steps", "train_steps", "iters", "num_iters", "num_iterations"),
    "batch_size": ("batch", "per_device_train_batch_size", "per_device_eval_batch_size",
                   "train_batch_size", "micro_batch_size"),
    "warmup_steps": ("warmup", "lr_warmup_steps"),
    "weight_decay": ("wd",),
    "max_grad_norm": ("max_norm", "max_l2_norm", "grad_norm_clip"),
    "max_tokens": ("n", "length", "num_tokens", "n_tokens", "tokens", "predict", "n_predict"),
    "temperature": ("temp", "t"),
    "top_k": ("k",),
    "top_p": ("nucleus",),
    "typical_p": ("typical",),
    "repetition_penalty": ("repeat_penalty",),
    "num_samples": ("num_texts", "n_samples"),
    "num_beams": ("beam", "beams", "beam_size", "beam_width", "n_beams"),
}  # fmt: skip

# {a keyword of other projects: (our keyword, what to write in a call that accepts our keyword)}.
INSTEAD = {
    "vocab_size": ("merges", "create a tokenizer with train_bpe(paths, vocab_size)"),
    "do_sample": ("temperature", "pass temperature=0 for greedy sampling"),
    "seed": ("generator", "pass generator=torch.Generator().manual_seed(seed)"),
    "eos_token_id": ("stop", "pass stop=[id], or stop_ids=[id] to a TextGenerator"),
    "num_beams": ("temperature", "pass beams=Beams(num_beams) to TextGenerator.complete"),
}

_GROUPS: dict[str, list[tuple[str, ...]]] = {}
for _group in SETTINGS:
    for _name in _group:
        _GROUPS.setdefault(_name, []).append(_group)


def meant(name: str, known: Collection[str]) -> str | None:
    """Return the name in `known` for the setting that other projects call `name`."""
    same = [each for group in _GROUPS.get(name, ()) for each in group if each in known]
    return same[0] if same else None


def takes_synonyms(more: Callable[..., Any] | None = None) -> Callable[[Thing], Thing]:
    """Make a function or a class accept the names in `SETTINGS` for its own keywords.

    more: the callable that gets the function's `**keywords`. A function with `**keywords` and
    without `more` passes an unknown keyword on. Any other function raises a TypeError that contains
    the nearest keyword. Two names of one setting with different values cause a TypeError too.
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
        if own in ours and not _are_same(ours[own], value):
            raise TypeError(
                f"two values for one argument of {name}() ({typed[own]}={ours[own]!r:.40}, "
                f"{key}={value!r:.40}); pass only one"
            )
        ours[own], typed[own] = value, key
    return ours


def _are_same(one: Any, other: Any) -> bool:
    plain = bool | int | float | str  # == of tensors and arrays is not True or False
    return one is other or (isinstance(one, plain) and isinstance(other, plain) and one == other)


def _advice(key: str, known: set[str]) -> str:
    needed, remedy = INSTEAD.get(key, ("", ""))
    if needed in known:
        return remedy
    guessed = [ours for ours, names in GUESSES.items() if key in names]
    close = [own for ours in guessed if (own := ours if ours in known else meant(ours, known))]
    close = close or difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.7)
    names = ", ".join(sorted(known))
    return f"did you mean {' or '.join(close)}?" if close else f"the arguments are: {names}"
