"""tokenizer.json, as Hugging Face tokenizers writes it and transformers reads it.

Ids are those of `tokenizers`' `encode(text, add_special_tokens=False)`: a post-processor that adds
tokens (Llama 3's puts <|begin_of_text|> first) is accepted and left out. Everything else in a file
that would make other ids than ours is refused: a prefix space, dropout, other normalizers and
pre-tokenizers, added tokens that take the spaces beside them, ids that `tokenizers` would change.
Layouts of GPT-2, Llama 3 and Qwen 2 to 3 are read; the rules of `parts` hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scratchlm.tokenizer.parts import (
    Normalization,
    StrPath,
    check,
    check_portable,
    checked,
    ids_by_name,
    names_of,
    parse_json,
    refuse,
    shown,
    to_bytes,
    to_merge,
)
from scratchlm.tokenizer.parts import TokenizerParts as TokenizerParts
from scratchlm.tokenizer.patterns import GPT2

_KEYS = {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
         "post_processor", "decoder", "model"}  # fmt: skip
_BYTES = frozenset(bytes([byte]) for byte in range(256))


def write_tokenizer_json(parts: TokenizerParts) -> str:
    """The text of tokenizer.json. ValueError for what it cannot hold.

    GPT-2's pattern is what the ByteLevel pre-tokenizer has built in; another goes before it as a
    Split. Special tokens stand in the model's vocabulary too: `tokenizers` numbers added tokens
    that do not by itself, whatever id they have in the file.
    """
    check(parts)
    check_portable(parts.pattern)
    ids = names_of(parts)
    _check_special_names(ids, parts)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split = {"type": "Split", "pattern": {"Regex": parts.pattern}, "behavior": "Isolated"}
    names = {parts.vocab[id]: name for name, id in ids.items()}
    pairs = [(names[a], names[b]) for a, b in parts.merges]
    merges: list[Any] = [f"{a} {b}" for a, b in pairs]
    if any(merge.startswith("#version") for merge in merges):
        merges = [list(pair) for pair in pairs]  # as strings `tokenizers` skips such merges
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": ids[special],
                "content": special,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for special in parts.special_tokens
        ],
        "normalizer": {"type": parts.normalization} if parts.normalization else None,
        "pre_tokenizer": byte_level | {"use_regex": True}
        if parts.pattern == GPT2
        else {
            "type": "Sequence",
            "pretokenizers": [split | {"invert": False}, byte_level | {"use_regex": False}],
        },
        "post_processor": None,
        "decoder": byte_level | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": parts.ignore_merges,
            "vocab": ids,
            "merges": merges,
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=2)


def read_tokenizer_json(text: str | bytes, path: StrPath) -> TokenizerParts:
    """What the text of a tokenizer.json holds. FileFormatError where it is broken, or where
    `tokenizers` would make other ids of it than ours."""
    content = parse_json(path, text)
    for key in content:
        if key not in _KEYS:
            refuse(path, f"an unknown key ({shown(key)})", "give a tokenizer.json")
    _only(path, content, "version", None, "1.0")
    _only(path, content, "truncation", None)
    _only(path, content, "padding", None)

    model = _get(path, content, "model", dict)
    if model.get("type", "BPE") != "BPE":
        what = f"the model must be BPE ({shown(model['type'])})"
        refuse(path, what, "use a byte-level BPE file")
    _only(path, model, "dropout", None, 0, 0.0)
    _only(path, model, "continuing_subword_prefix", None, "")
    _only(path, model, "end_of_word_suffix", None, "")
    _only(path, model, "byte_fallback", None, False)
    _only(path, model, "ignore_merges", None, False, True)
    _only(path, model, "fuse_unk", None, False, True)  # joins unknown tokens, if there are any

    normalization = _normalization_of(path, content.get("normalizer"))
    pattern = _pattern_of(path, content.get("pre_tokenizer"))
    _check_post_processor(path, content.get("post_processor"))
    if content.get("decoder") is not None:
        decoder = _get(path, content, "decoder", dict)
        if decoder.get("type") != "ByteLevel":
            refuse(path, f"decoder must be ByteLevel ({shown(decoder)})", "use a byte-level file")

    ids = ids_by_name(path, _get(path, model, "vocab", dict))
    specials = _added_tokens(path, _get(path, content, "added_tokens", list), ids, normalization)
    tokens = {name: to_bytes(path, name) for name in ids if name not in specials}
    vocab = {ids[name]: token for name, token in tokens.items()}
    vocab |= {id: special.encode() for special, id in specials.items()}
    if model.get("unk_token") is not None:
        unknown = _get(path, model, "unk_token", str)
        if not _BYTES.issubset(vocab.values()):
            what = f"unk_token must be null where a byte has no token ({shown(unknown)})"
            refuse(path, what, "give a file that has all 256 bytes")
    merges = []
    for i, merge in enumerate(_get(path, model, "merges", list)):
        if isinstance(merge, str):
            if merge.startswith("#version"):
                what = f"`tokenizers` skips a merge written like a header ({shown(merge)})"
                refuse(path, what, "write it as a list of two")
            merge = merge.split(" ")
        merges.append(to_merge(path, merge, "merge", i, tokens))

    ignore_merges = bool(model.get("ignore_merges"))
    parts = TokenizerParts(vocab, merges, list(specials), pattern, ignore_merges, normalization)
    checked(path, parts)
    try:
        check_portable(pattern)
        _check_special_names(ids, parts)
    except ValueError as error:
        what, remedy = str(error).rsplit("; ", 1)
        refuse(path, what, remedy)
    return parts


def _added_tokens(
    path: StrPath, tokens: Sequence[Any], ids: Mapping[str, int], normalization: str | None
) -> dict[str, int]:
    """Added tokens and their ids; all are special to us, for `tokenizers` cuts all of them out."""
    specials: dict[str, int] = {}
    normalized: list[str] = []
    new = 0
    for token in tokens:
        special = _get(path, token, "content", str)
        id = _get(path, token, "id", int)
        flags = {
            flag: _get(path, token, flag, bool)
            for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")
        }
        if special in specials:
            refuse(path, f"an added token is listed twice ({shown(special)})", "list it once")
        for flag in ("single_word", "lstrip", "rstrip"):
            if flags[flag]:
                what = f"{flag} is not supported (added token {shown(special)})"
                refuse(path, what, "set it to false")
        if flags["normalized"]:
            if normalization:
                what = f"a normalized added token with a normalizer ({shown(special)})"
                refuse(path, f"{what} is not supported", "set it to false")
            normalized.append(special)
        # Where the model does not have the token, `tokenizers` numbers it in this way.
        own = ids.get(special, len(ids) + new)
        if id != own:
            what = f"an added token's id must be what `tokenizers` makes it, {own} ({id} of "
            refuse(path, f"{what}{shown(special)})", "put it into model.vocab with that id")
        new += special not in ids
        specials[special] = id
    ids_by_name(path, {**ids, **specials})
    # Those that are not normalized are looked for first, in all of the text.
    for special in normalized:
        for other in specials.keys() - set(normalized):
            if _can_overlap(special, other):
                what = f"added tokens overlap of which one is normalized ({shown(special)} and "
                refuse(path, f"{what}{shown(other)})", "set normalized to false")
    return specials


def _can_overlap(a: str, b: str) -> bool:
    return (
        a in b
        or b in a
        or any(a.endswith(b[:n]) or b.endswith(a[:n]) for n in range(1, min(len(a), len(b))))
    )


def _check_special_names(ids: Mapping[str, int], parts: TokenizerParts) -> None:
    """A special token's name in the model's vocabulary must not be that of other bytes which
    `tokenizers` looks up there: one byte, or with `ignore_merges` a whole piece."""
    for special in parts.special_tokens:
        if special not in ids:
            continue
        try:
            other = to_bytes("", special)
        except ValueError:  # it is no name of bytes
            continue
        whole = parts.ignore_merges and other.decode(errors="replace").encode() == other
        if other != special.encode() and (len(other) == 1 or whole):
            raise ValueError(
                f"a special token is written as the bytes {other!r} are ({special!r}); "
                "choose another special token"
            )


def _normalization_of(path: StrPath, normalizer: Any) -> Normalization | None:
    form: Normalization | None = None
    match normalizer:
        case None | {"type": "Sequence", "normalizers": []}:
            pass
        case {"type": "Sequence", "normalizers": [only]}:
            form = _normalization_of(path, only)
        case {"type": "NFC" | "NFD" | "NFKC" | "NFKD"}:
            form = normalizer["type"]
        case _:
            what = f"normalizer must be NFC, NFD, NFKC, NFKD or null ({shown(normalizer)})"
            refuse(path, what, "use a file without it")
    return form


def _pattern_of(path: StrPath, pre_tokenizer: Any) -> str:
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": [only]}:
            return _pattern_of(path, only)
        case {"type": "ByteLevel"} if pre_tokenizer.get("use_regex", True) is True:
            byte_level, pattern = pre_tokenizer, GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": str(pattern)},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "use_regex": False} as byte_level,
            ],
        }:
            pass
        case _:
            what = (
                f"pre_tokenizer must be ByteLevel, or Split by a Regex, Isolated, not inverted, "
                f"and then ByteLevel without its own ({shown(pre_tokenizer)})"
            )
            refuse(path, what, "use a byte-level BPE file")
    _only(path, byte_level, "add_prefix_space", False)
    return pattern


def _check_post_processor(path: StrPath, processor: Any) -> None:
    """ByteLevel changes offsets, and a template adds tokens only when it is asked to."""
    match processor:
        case None | {"type": "ByteLevel" | "TemplateProcessing"}:
            pass
        case {"type": "Sequence", "processors": [*steps]} if None not in steps:
            for step in steps:
                _check_post_processor(path, step)
        case _:
            what = f"post_processor must be ByteLevel or TemplateProcessing ({shown(processor)})"
            refuse(path, what, "set it to null")


def _get(path: StrPath, content: Any, key: str, kind: type) -> Any:
    """`content[key]`, which must be of a kind."""
    value = content.get(key) if isinstance(content, dict) else None
    if type(value) is not kind:
        what = f"{key!r} must be a {kind.__name__} ({shown(value)})"
        refuse(path, what, "give a tokenizer.json")
    return value


def _only(path: StrPath, content: Mapping[str, Any], key: str, *allowed: Any) -> None:
    """The value must be one of these; a key that lacks counts as null."""
    value = content.get(key)
    if not any(type(value) is type(other) and value == other for other in allowed):
        known = ", ".join(json.dumps(other) for other in allowed)
        refuse(path, f"{key} must be {known} ({shown(value)})", "use a file that has that")
