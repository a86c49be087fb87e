"""Tokenizer files: tokenizer.json as Hugging Face tokenizers writes it, GPT-2's two, tiktoken's.

JSON holds text, not bytes, so these files write each byte as one printable character, by a table
that GPT-2 brought (`bytes_to_unicode` in openai/gpt-2): printable bytes stand for themselves, the
others for the characters from U+0100 on. A space is `Ġ`.

Readers raise FileFormatError with the file (`path`, which only names the text's origin), the rule
that is broken, and what to do; a file that cannot be opened is the OSError.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.merging import Pair, merge_word
from scratchlm.tokenizer.pretokenize import GPT2, StrPath

_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
# Tables for str.translate, between bytes read as Latin-1 and the characters that stand for them.
_TO_CHARACTERS = {byte: 256 + i for i, byte in enumerate(_OTHERS)}
_TO_LATIN_1 = dict.fromkeys(_OTHERS, 0xFFFF) | {256 + i: byte for i, byte in enumerate(_OTHERS)}

Merges = list[tuple[bytes, bytes]]


def to_tokenizer_json(
    vocab: Mapping[int, bytes],
    merges: Sequence[tuple[bytes, bytes]],
    special_tokens: Sequence[str],
    pattern: str,
) -> str:
    """The text of tokenizer.json.

    GPT-2's pattern is what the ByteLevel pre-tokenizer has built in; another goes before it as a
    Split. ValueError for a special token whose text is how the file writes some other token, or
    that is a token of some merge under another name.
    """
    specials = {special.encode(): special for special in special_tokens}
    ids: dict[str, int] = {}
    for id in sorted(vocab):
        name = specials.get(vocab[id]) or _to_characters(vocab[id])
        if name in ids:
            raise ValueError(
                f"tokenizer.json writes two tokens alike ({name!r}, ids {ids[name]} and {id}); "
                "choose another special token"
            )
        ids[name] = id
    pairs = [(_to_characters(a), _to_characters(b)) for a, b in merges]
    for name in chain.from_iterable((a, b, a + b) for a, b in pairs):
        if name not in ids:
            raise ValueError(
                f"tokenizer.json cannot write a token that is both special and merged ({name!r}); "
                "choose another special token"
            )
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
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
            for special in special_tokens
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level | {"use_regex": True}
        if pattern == GPT2
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
            "ignore_merges": False,
            "vocab": ids,
            "merges": [f"{a} {b}" for a, b in pairs],
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=2)


def from_tokenizer_json(
    text: str | bytes, path: StrPath
) -> tuple[dict[int, bytes], Merges, list[str], str]:
    """Vocabulary, merges, special tokens and pattern in the text of a tokenizer.json.

    Whatever would give other ids than ours is refused: a normalizer, a template that adds tokens,
    dropout, special tokens that strip spaces.
    """
    content = _parse(text, path)
    model = _get(path, content, "model", dict)
    if model.get("type", "BPE") != "BPE":
        _refuse(path, f"the model must be BPE ({model['type']!r})", "use a byte-level BPE file")
    for place, name in (
        (content, "truncation"),
        (content, "padding"),
        (content, "normalizer"),
        (model, "dropout"),
        (model, "continuing_subword_prefix"),
        (model, "end_of_word_suffix"),
        (model, "byte_fallback"),
        (model, "ignore_merges"),
    ):
        if place.get(name):
            _refuse(path, f"{name} is not supported ({place[name]!r})", "use a file without it")
    match content.get("post_processor"):
        case None | {"type": "ByteLevel"}:  # these change offsets, not ids
            pass
        case other:
            _refuse(path, f"post_processor must add no tokens ({other!r:.60})", "set it to null")

    specials: dict[str, int] = {}
    for token in _get(path, content, "added_tokens", list):
        special = _get(path, token, "content", str)
        if special in specials:
            _refuse(path, f"an added token is listed twice ({special!r})", "list it once")
        for flag in ("single_word", "lstrip", "rstrip"):
            if token.get(flag):
                _refuse(path, f"{flag} is not supported (added token {special!r})", "unset it")
        specials[special] = _get(path, token, "id", int)

    vocab = _invert(path, _get(path, model, "vocab", dict) | specials, specials)
    merges = [
        _to_merge(path, merge.split(" ") if isinstance(merge, str) else merge)
        for merge in _get(path, model, "merges", list)
    ]
    return vocab, merges, list(specials), _pattern_of(path, content.get("pre_tokenizer"))


def _pattern_of(path: StrPath, pre_tokenizer: Any) -> str:
    match pre_tokenizer:
        case {"type": "ByteLevel"} if pre_tokenizer.get("use_regex", True):
            steps, pattern = [pre_tokenizer], GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"},
                {"type": "ByteLevel", "use_regex": False},
            ],
        } if not pre_tokenizer["pretokenizers"][0].get("invert"):
            steps = pre_tokenizer["pretokenizers"]
        case _:
            _refuse(
                path,
                f"pre_tokenizer must be ByteLevel, or Split by a Regex, Isolated, and then "
                f"ByteLevel without its own ({json.dumps(pre_tokenizer)[:60]})",
                "use a byte-level BPE file",
            )
    # `tokenizers` takes true where the key is missing.
    if steps[-1].get("add_prefix_space", True):
        _refuse(path, "add_prefix_space is not supported (true)", "set it to false")
    return pattern


def read_gpt2_vocab(path: StrPath) -> dict[int, bytes]:
    """Id to bytes from GPT-2's vocab.json, also called encoder.json."""
    return _invert(path, _parse(Path(path).read_bytes(), path), {})


def read_gpt2_merges(path: StrPath) -> Merges:
    """The merges from GPT-2's merges.txt, also called vocab.bpe; its `#version` line may lack."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        _refuse(path, f"it is not UTF-8 ({error.reason} at byte {error.start})", "download it anew")
    if lines[0].startswith("#version"):
        lines = lines[1:]
    return [_to_merge(path, line.split(" ")) for line in lines if line]


def merges_of_ranks(ranks: Mapping[bytes, int]) -> Merges:
    """The merges behind tiktoken's ranks: the two tokens BPE with lower ranks leaves of each.

    ValueError for a token that lower ranks do not leave as two, which BPE can never reach.
    """
    merges: Merges = []
    pairs: dict[Pair, int] = {}
    products: list[int] = []
    token_of = {rank: token for token, rank in ranks.items()}
    for rank, token in sorted(token_of.items()):
        if len(token) == 1:
            continue
        parts = merge_word([ranks.get(bytes([byte]), -1) for byte in token], pairs, products)
        if len(parts) != 2 or -1 in parts:
            raise ValueError(
                f"a token is no merge of two tokens of lower rank ({token!r}, rank {rank}); "
                "give all of tiktoken's mergeable_ranks"
            )
        merges.append((token_of[parts[0]], token_of[parts[1]]))
        pairs[parts[0], parts[1]] = len(products)
        products.append(rank)
    return merges


def _parse(text: str | bytes, path: StrPath) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, absurd nesting
        _refuse(path, f"it is not JSON ({error})", "save or download it anew")
    if not isinstance(content, dict):
        _refuse(path, f"it must be a JSON object ({type(content).__name__})", "give another file")
    return content


def _get(path: StrPath, content: Any, key: str, kind: type) -> Any:
    """`content[key]`, which must be of a kind."""
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        _refuse(path, f"{key!r} must be a {kind.__name__} ({value!r:.60})", "give a tokenizer.json")
    return value


def _invert(path: StrPath, ids: Mapping[str, Any], specials: Mapping[str, int]) -> dict[int, bytes]:
    """Id to bytes from the names of tokens to ids; special tokens are named by their own text."""
    vocab: dict[int, bytes] = {}
    for name, id in ids.items():
        if not isinstance(id, int) or isinstance(id, bool) or id < 0:
            _refuse(path, f"an id must be an int from 0 on ({id!r:.60} of {name!r})", "renumber it")
        if id in vocab:
            _refuse(path, f"two tokens have the same id ({id}, {name!r})", "give each its own")
        vocab[id] = (
            name.encode("utf-8", "surrogatepass") if name in specials else _to_bytes(path, name)
        )
    return vocab


def _to_merge(path: StrPath, parts: Any) -> tuple[bytes, bytes]:
    if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(p, str) for p in parts)):
        _refuse(path, f"a merge must be two tokens ({parts!r:.60})", "save or download it anew")
    return _to_bytes(path, parts[0]), _to_bytes(path, parts[1])


def _to_bytes(path: StrPath, name: str) -> bytes:
    try:
        return name.translate(_TO_LATIN_1).encode("latin-1")
    except UnicodeEncodeError as error:
        _refuse(
            path,
            f"a token has a character that stands for no byte ({name[error.start]!r} in {name!r})",
            "use a byte-level BPE file",
        )


def _to_characters(token: bytes) -> str:
    return token.decode("latin-1").translate(_TO_CHARACTERS)


def _refuse(path: StrPath, what: str, remedy: str) -> NoReturn:
    raise FileFormatError(f"{os.fspath(path)}: {what}; {remedy}")
