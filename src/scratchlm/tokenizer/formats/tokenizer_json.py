"""tokenizer.json, as Hugging Face tokenizers writes it and transformers reads it.

Ids are those of `tokenizers`' `encode(text, add_special_tokens=False)`: a post-processor that adds
tokens (Llama 3's puts <|begin_of_text|> first) is accepted and left out. Everything else in a file
that would make other ids than ours is refused: a prefix space, dropout, other normalizers and
pre-tokenizers, added tokens that take the spaces beside them, ids that `tokenizers` would change.
Layouts of GPT-2, GPT-NeoX, GPT-4, SmolLM 2, Command R, Llama 3, Qwen 2 to 3 and DeepSeek V3 are
read; the rules of `parts` hold.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from scratchlm.tokenizer.encoding.merge_table import BYTES, MergeTable
from scratchlm.tokenizer.formats.content import (
    AFTER_LAST_CHARACTER,
    LARGEST_ID,
    Normalization,
    all_to_bytes,
    check,
    check_portable,
    checked,
    ids_by_name,
    names_of,
    to_bytes,
    to_characters,
    to_merge,
)
from scratchlm.tokenizer.formats.content import TokenizerParts as TokenizerParts
from scratchlm.tokenizer.formats.json_content import (
    StrPath,
    field,
    no_collection,
    only,
    parse_json,
    refuse,
    shown,
)
from scratchlm.tokenizer.formats.pre_tokenizer_json import (
    BYTE_LEVEL,
    read_pre_tokenizer,
    write_pre_tokenizer,
)

_KEYS = {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
         "post_processor", "decoder", "model"}  # fmt: skip


def write_tokenizer_json(parts: TokenizerParts) -> str:
    """The text of tokenizer.json. ValueError for what it cannot hold.

    Special tokens stand in the model's vocabulary too: `tokenizers` numbers added tokens
    that do not by itself, whatever id they have in the file.
    """
    check(parts)
    check_portable(parts.pattern)
    ids = names_of(parts)
    _check_special_names(ids, parts)
    # Of two with the same bytes the special token has the greater id; merges mean the other.
    names = {parts.vocab[id]: name for name, id in reversed(ids.items())}
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
                "normalized": special in parts.normalized_tokens,
                # White space is no sign to the model, which a reader may leave out.
                "special": not special.isspace(),
            }
            for special in parts.special_tokens
        ],
        "normalizer": {"type": parts.normalization} if parts.normalization else None,
        "pre_tokenizer": write_pre_tokenizer(parts.pattern),
        "post_processor": None,
        "decoder": BYTE_LEVEL | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": _name_of_unknown(parts),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": parts.fuse_unk,
            "byte_fallback": False,
            "ignore_merges": parts.ignore_merges,
            "vocab": ids,
            "merges": merges,
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=2)


@no_collection()
def read_tokenizer_json(text: str | bytes, path: StrPath) -> TokenizerParts:
    """What the text of a tokenizer.json holds. FileFormatError where it is broken, or where
    `tokenizers` would make other ids of it than ours."""
    content = parse_json(path, text)
    for key in content:
        if key not in _KEYS:
            refuse(path, f"an unknown key ({shown(key)})", "give a tokenizer.json")
    only(path, content, "version", None, "1.0")
    only(path, content, "truncation", None)
    only(path, content, "padding", None)

    model = _model_of(path, content)
    normalization = _normalization_of(path, content.get("normalizer"))
    pattern = read_pre_tokenizer(path, content.get("pre_tokenizer"))
    _check_post_processor(path, content.get("post_processor"))
    if content.get("decoder") is not None:
        decoder = field(path, content, "decoder", dict)
        if decoder.get("type") != "ByteLevel":
            refuse(path, f"decoder must be ByteLevel ({shown(decoder)})", "use a byte-level file")

    ids = ids_by_name(path, field(path, model, "vocab", dict))
    added = field(path, content, "added_tokens", list)
    specials, normalized = _added_tokens(path, added, ids, normalization)
    ordinary = dict(ids)
    for name in specials:
        ordinary.pop(name, None)
    if max(ordinary, default="") >= AFTER_LAST_CHARACTER:
        ordinary = {name: id for name, id in ordinary.items() if not _is_no_byte(name)}
    tokens = all_to_bytes(path, list(ordinary))
    vocab = dict(zip(ordinary.values(), tokens, strict=True))
    vocab |= {id: special.encode() for special, id in specials.items()}
    complete = all(to_characters(byte) in ids for byte in BYTES)
    unknown = None if complete else _unknown_token(path, model, ids)
    pairs = field(path, model, "merges", list)
    merges = MergeTable.of_names(vocab, ordinary, pairs) or _merges_one_by_one(path, pairs)
    ignore_merges = bool(model.get("ignore_merges"))
    parts = TokenizerParts(
        vocab,
        merges,
        list(specials),
        pattern,
        ignore_merges,
        normalization,
        normalized,
        None if unknown is None else vocab[ids[unknown]],
        fuse_unk=unknown is not None and bool(model.get("fuse_unk")),
    )
    checked(path, parts)
    try:
        check_portable(pattern)
        _check_special_names(ids, parts)
    except ValueError as error:
        what, remedy = str(error).rsplit("; ", 1)
        refuse(path, what, remedy)
    return parts


def _model_of(path: StrPath, content: dict[str, Any]) -> dict[str, Any]:
    """The section `model`, if it is a byte-level BPE without what changes ids."""
    model = field(path, content, "model", dict)
    if model.get("type", "BPE") != "BPE":
        what = f"the model must be BPE ({shown(model['type'])})"
        refuse(path, what, "use a byte-level BPE file")
    only(path, model, "dropout", None, 0, 0.0)
    only(path, model, "continuing_subword_prefix", None, "")
    only(path, model, "end_of_word_suffix", None, "")
    only(path, model, "byte_fallback", None, False)
    only(path, model, "ignore_merges", None, False, True)
    only(path, model, "fuse_unk", None, False, True)
    if model.get("unk_token") is not None:
        field(path, model, "unk_token", str)
    return model


def _merges_one_by_one(path: StrPath, pairs: Sequence[Any]) -> list[tuple[bytes, bytes]]:
    merges = []
    for i, merge in enumerate(pairs):
        if isinstance(merge, str):
            if merge.startswith("#version"):
                what = f"`tokenizers` skips a merge written like a header ({shown(merge)})"
                refuse(path, what, "write it as a list of two")
            merge = merge.split(" ")
        merges.append(to_merge(path, merge, "merge", i))
    return merges


def _added_tokens(
    path: StrPath, tokens: Sequence[Any], ids: Mapping[str, int], normalization: Any
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Added tokens and their ids, and which of them are looked for in normalized text.

    All are special to us, because `tokenizers` cuts all of them out.
    """
    specials: dict[str, int] = {}
    normalized: list[str] = []
    new = 0
    for token in tokens:
        special = field(path, token, "content", str)
        id = field(path, token, "id", int)
        flags = {
            flag: field(path, token, flag, bool)
            for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")
        }
        if special in specials:
            refuse(path, f"an added token is listed twice ({shown(special)})", "list it once")
        for flag in ("single_word", "lstrip", "rstrip"):
            if flags[flag]:
                what = f"{flag} is not supported (added token {shown(special)})"
                refuse(path, what, "set it to false")
        if flags["normalized"]:
            if normalization and not unicodedata.is_normalized(normalization, special):
                what = f"a normalized added token that {normalization} changes ({shown(special)})"
                refuse(path, what, "set normalized to false")
            normalized.append(special)
        # Where the model does not have the token, `tokenizers` numbers it in this way.
        own = ids.get(special, len(ids) + new)
        if id != own:
            what = f"an added token's id must be what `tokenizers` makes it, {own} ({id} of "
            refuse(path, f"{what}{shown(special)})", "put it into model.vocab with that id")
        new += special not in ids
        specials[special] = id
    new_ids = set(specials.values()) - {ids[special] for special in specials if special in ids}
    if (
        not new_ids.isdisjoint(ids.values())
        or "" in specials
        or max(new_ids, default=0) > LARGEST_ID
    ):
        ids_by_name(path, {**ids, **specials})
    # Those that are not normalized are looked for first, in all of the text. Where no text is
    # normalized and no two overlap, that makes no difference.
    others = specials.keys() - set(normalized)
    if normalization or any(_can_overlap(a, b) for a in normalized for b in others):
        return specials, tuple(normalized)
    return specials, ()


def _name_of_unknown(parts: TokenizerParts) -> str | None:
    if parts.unk_token is None:
        return None
    specials = {special.encode(): special for special in parts.special_tokens}
    return specials.get(parts.unk_token) or to_characters(parts.unk_token)


def _is_no_byte(name: str) -> bool:
    """Whether it is one character that stands for no byte (Command R has hundreds of emoji): no
    text has it, so its id has no token."""
    return len(name) == 1 and name >= AFTER_LAST_CHARACTER


def _unknown_token(path: StrPath, model: Mapping[str, Any], ids: Mapping[str, int]) -> str | None:
    """The token that stands for a byte without one; None where such a byte is left out."""
    unknown: str | None = model.get("unk_token")
    if unknown is not None and unknown not in ids:
        refuse(path, f"unk_token is not in the vocabulary ({shown(unknown)})", "set it to null")
    return unknown


def _can_overlap(a: str, b: str) -> bool:
    if b[0] not in a[1:] and a[0] not in b[1:]:
        return a.startswith(b) or b.startswith(a)
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


def _check_post_processor(path: StrPath, processor: Any) -> None:
    """ByteLevel changes offsets, and a template adds tokens only when it is asked to."""
    match processor:
        case None | {"type": "ByteLevel" | "TemplateProcessing" | "RobertaProcessing"}:
            pass
        case {"type": "Sequence", "processors": [*steps]} if None not in steps:
            for step in steps:
                _check_post_processor(path, step)
        case _:
            what = f"post_processor must be ByteLevel or TemplateProcessing ({shown(processor)})"
            refuse(path, what, "set it to null")
