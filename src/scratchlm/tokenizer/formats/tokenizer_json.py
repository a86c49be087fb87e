"""tokenizer.json, the file that Hugging Face tokenizers writes and transformers reads.

Our ids equal the ids of `encode(text, add_special_tokens=False)` in `tokenizers`. So the reader
accepts a post-processor that adds tokens (Llama 3's puts <|begin_of_text|> first), and ignores it.
The reader refuses all other settings that would lead to different ids: a prefix space, dropout,
other normalizers and pre-tokenizers, added tokens that strip the spaces beside them, and ids that
`tokenizers` would change. It reads the layouts of GPT-2, GPT-NeoX, GPT-4, SmolLM 2, Command R,
Llama 3, Qwen 2 to 3 and DeepSeek V3. The content must also follow the rules of `content.check`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from scratchlm.errors import FileFormatError
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.formats.content import (
    AFTER_LAST_CHARACTER,
    LARGEST_ID,
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
from scratchlm.tokenizer.formats.json_content import (
    field,
    in_file,
    no_collection,
    only,
    parse_object,
    refuse,
    shown,
)
from scratchlm.tokenizer.formats.pre_tokenizer_json import (
    BYTE_LEVEL,
    read_pre_tokenizer,
    write_pre_tokenizer,
)
from scratchlm.tokenizer.merge_table import BYTES, MergeTable
from scratchlm.tokenizer.parts import Normalization, TokenizerParts

_KEYS = {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
         "post_processor", "decoder", "model"}  # fmt: skip


def write_tokenizer_json(parts: TokenizerParts) -> str:
    """Return the text of tokenizer.json. Raise ValueError if the file cannot store the tokenizer.

    In the file, `model.vocab` includes the special tokens. Otherwise `tokenizers` would ignore
    their ids and assign new ids.
    """
    check(parts)
    check_portable(parts.pattern)
    ids = names_of(parts)
    _check_special_names(ids, parts)
    # If a special and an ordinary token have the same bytes, merges refer to the ordinary token,
    # which has the smaller id.
    names = {parts.vocab[id]: name for name, id in reversed(ids.items())}
    pairs = [(names[a], names[b]) for a, b in parts.merges]
    merges: list[Any] = [f"{a} {b}" for a, b in pairs]
    if any(merge.startswith("#version") for merge in merges):
        merges = [list(pair) for pair in pairs]  # `tokenizers` would skip such a string
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
                # Decoding may drop special tokens, but white space is text and must stay.
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
    """Parse the text of a tokenizer.json. Raise FileFormatError if the text is broken, or if
    `tokenizers` would return other ids than our encoder."""
    content = parse_object(path, text)
    for key in content:
        if key not in _KEYS:
            refuse(
                path, f"the file has an unknown key ({shown(key)})", "choose a tokenizer.json file"
            )
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
            what = f"decoder must be ByteLevel ({shown(decoder)})"
            refuse(path, what, "choose a byte-level BPE file")

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
        raise FileFormatError(in_file(path, str(error))) from None
    return parts


def _model_of(path: StrPath, content: dict[str, Any]) -> dict[str, Any]:
    """Return the section `model`, after a check that it is a byte-level BPE without settings that
    change ids."""
    model = field(path, content, "model", dict)
    if model.get("type", "BPE") != "BPE":
        what = f"the model must be BPE ({shown(model['type'])})"
        refuse(path, what, "choose a byte-level BPE file")
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
                what = f"`tokenizers` skips a merge that begins like a header ({shown(merge)})"
                refuse(path, what, "write the merge as a list of two tokens")
            merge = merge.split(" ")
        merges.append(to_merge(path, merge, "merge", i))
    return merges


def _added_tokens(
    path: StrPath, tokens: Sequence[Any], ids: Mapping[str, int], normalization: Any
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the added tokens with their ids, and the tokens to find in normalized text.

    We treat all added tokens as special, because `tokenizers` cuts all of them out of the text.
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
                what = f"{flag} must be false (added token {shown(special)})"
                refuse(path, what, f"set {flag} to false")
        if flags["normalized"]:
            if normalization and not unicodedata.is_normalized(normalization, special):
                what = f"{normalization} must not change a normalized token ({shown(special)})"
                refuse(path, what, "set normalized to false")
            normalized.append(special)
        # `tokenizers` numbers the tokens that the model does not have in this way.
        own = ids.get(special, len(ids) + new)
        if id != own:
            what = f"the id of an added token must be {own}, as in `tokenizers` ({id} of "
            remedy = f"add the token to model.vocab with the id {id}"
            refuse(path, f"{what}{shown(special)})", remedy)
        new += special not in ids
        specials[special] = id
    new_ids = set(specials.values()) - {ids[special] for special in specials if special in ids}
    if (
        not new_ids.isdisjoint(ids.values())
        or "" in specials
        or max(new_ids, default=0) > LARGEST_ID
    ):
        ids_by_name(path, {**ids, **specials})
    # `tokenizers` first finds the tokens that are not `normalized`, in the whole text. This order
    # matters only if a normalizer runs, or if two tokens of different kinds can overlap.
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
    """Return whether the name is one character that represents no byte (Command R has hundreds of
    emoji). Encoding never returns such a token, so its id has no token in our vocabulary."""
    return len(name) == 1 and name >= AFTER_LAST_CHARACTER


def _unknown_token(path: StrPath, model: Mapping[str, Any], ids: Mapping[str, int]) -> str | None:
    """Return the token for bytes without a token, or None if the encoder drops them."""
    unknown: str | None = model.get("unk_token")
    if unknown is not None and unknown not in ids:
        what = f"unk_token must be in the vocabulary ({shown(unknown)})"
        refuse(path, what, "set unk_token to null")
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
    """Raise ValueError if a special token has the name of other bytes that `tokenizers` looks up in
    the model's vocabulary: one byte, or with `ignore_merges` a whole piece."""
    for special in parts.special_tokens:
        if special not in ids:
            continue
        try:
            other = to_bytes("", special)
        except ValueError:  # not a name of bytes
            continue
        whole = parts.ignore_merges and other.decode(errors="replace").encode() == other
        if other != special.encode() and (len(other) == 1 or whole):
            raise ValueError(
                f"a special token is also the name of other bytes ({special!r} of {other!r}); "
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
            refuse(path, what, "choose a file without this normalizer")
    return form


def _check_post_processor(path: StrPath, processor: Any) -> None:
    """Check that the post-processor keeps the ids. ByteLevel changes only offsets, and a template
    adds tokens only on request (`add_special_tokens`)."""
    match processor:
        case None | {"type": "ByteLevel" | "TemplateProcessing" | "RobertaProcessing"}:
            pass
        case {"type": "Sequence", "processors": [*steps]} if None not in steps:
            for step in steps:
                _check_post_processor(path, step)
        case _:
            what = f"post_processor must be ByteLevel or TemplateProcessing ({shown(processor)})"
            refuse(path, what, "set post_processor to null")
