"""What every tokenizer file holds, the rules that it must keep, and how JSON writes bytes as text.

JSON holds text, not bytes, so these files write each byte as one printable character, by a table
that GPT-2 brought (`bytes_to_unicode` in openai/gpt-2): printable bytes stand for themselves, the
others for the characters from U+0100 on. A space is `Ġ`. A special token is written as it is.

What is read is checked whole before any of it is used. Readers raise FileFormatError with the file
(`path`, which only names the text's origin), the rule that is broken, and what to do. Writers raise
ValueError by the same rules, so that no file is written that could not be read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.json_content import StrPath as StrPath
from scratchlm.tokenizer.json_content import refuse, shown
from scratchlm.tokenizer.patterns import GPT2, Pattern, find_pieces

Merges = list[tuple[bytes, bytes]]
Normalization = Literal["NFC", "NFD", "NFKC", "NFKD"]

LARGEST_ID = 2**22 - 1  # sixteen times the largest vocabularies; arrays are made of that length

_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
# Tables for str.translate, between bytes read as Latin-1 and the characters that stand for them.
_TO_CHARACTERS = {byte: 256 + i for i, byte in enumerate(_OTHERS)}
LAST_CHARACTER = chr(255 + len(_OTHERS))
_TO_LATIN_1 = dict.fromkeys(_OTHERS, 0xFFFF) | {256 + i: byte for i, byte in enumerate(_OTHERS)}

_SURROGATE = re.compile("[\ud800-\udfff]")

# What Python and Oniguruma, with which `tokenizers` searches, read alike. Not among it: `{1,3}+`,
# there no possessive repeat; `^` and `$`, there at every line; `\w` and `\b`, which know other
# letters there; sets in sets.
_ESCAPE = r"\\(?:[pP]\{\^?\w+\}|[sSdDnrtfv]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^\w])"
_PORTABLE = re.compile(
    rf"(?:{_ESCAPE}"
    rf"|\[\^?(?:{_ESCAPE}|(?!&&|--|\|\||~~)[^\]\[\\])+\]"
    r"|\((?:\?(?:[:=!>]|<[=!]|i:)|(?!\?))"
    r"|\{(?:[0-9]+,?[0-9]*|,[0-9]+)\}(?![+?])"
    r"|[^\\\[\]{}(^$])*",
    re.ASCII,
)


@dataclass(frozen=True)
class TokenizerParts:
    """The arguments of BPETokenizer, as files hold them; `vocab` has the special tokens too."""

    vocab: Mapping[int, bytes]
    merges: Merges
    special_tokens: list[str]
    pattern: Pattern = GPT2
    ignore_merges: bool = False
    normalization: Normalization | None = None
    normalized_tokens: tuple[str, ...] = ()
    unk_token: bytes | None = None
    fuse_unk: bool = False


def check(parts: TokenizerParts) -> None:
    """ValueError with the first rule that is broken."""
    seen: dict[bytes, int] = {}
    for id, token in parts.vocab.items():
        if not 0 <= id <= LARGEST_ID:
            raise ValueError(
                f"an id must be from 0 to {LARGEST_ID} ({id} of {token!r}); renumber it"
            )
        if not token:
            raise ValueError(f"a token is empty (id {id}); remove it")
        if token in seen:
            raise ValueError(f"two ids have the same bytes ({token!r}, {seen[token]} and {id}); "
                             "give each token one id")  # fmt: skip
        seen[token] = id
    for special in parts.special_tokens:
        if not special:
            raise ValueError("a special token is empty (''); give it at least one character")
        if _SURROGATE.search(special):
            raise ValueError(f"a special token has a lone surrogate ({special!r}); replace it")
    _check_merges(parts, seen)
    find_pieces(parts.pattern)


def content_hash(parts: TokenizerParts) -> str:
    """SHA-256 in hex over vocabulary, merges, special tokens, pattern, and what is not default.

    It does not depend on the file they came from, nor on the order of special tokens.
    """
    known = (parts.vocab.get(id) for id in range(max(parts.vocab, default=-1) + 1))
    tokens = [None if token is None else token.decode("latin-1") for token in known]
    merges = [[a.decode("latin-1"), b.decode("latin-1")] for a, b in parts.merges]
    cuts = parts.pattern
    pattern = cuts if isinstance(cuts, str) or len(cuts) > 1 else cuts[0]
    content: list[Any] = [tokens, merges, sorted(parts.special_tokens), pattern]
    if parts.ignore_merges:
        content.append("ignore_merges")
    if parts.normalization:
        content.append(parts.normalization)
    if parts.normalized_tokens:
        content.append(sorted(parts.normalized_tokens))
    if parts.unk_token is not None:
        content.append([parts.unk_token.decode("latin-1"), parts.fuse_unk])
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _check_merges(parts: TokenizerParts, tokens: Collection[bytes]) -> None:
    """Merges must join tokens to tokens, each pair once, and every product be reached in order.

    A file made from tiktoken's ranks (Llama 3's) lists every split of a token at the token's place,
    also into parts that are made later. So a merge may come before its parts, if another merge
    makes its product in order. With `ignore_merges` tokens may be out of reach of all merges: a
    piece that is such a token is found whole, and merges that need it as a part are without effect.
    """
    products = [a + b for a, b in parts.merges]
    joined = {*chain.from_iterable(parts.merges), *products}
    if missing := joined.difference(tokens):
        rank, token = _first_of(missing, parts.merges)
        raise ValueError(
            f"merge {rank} needs a token that is not in the vocabulary ({token!r}); "
            "give vocabulary and merges of the same tokenizer"
        )
    if len(set(parts.merges)) < len(parts.merges):
        pair, times = Counter(parts.merges).most_common(1)[0]
        raise ValueError(f"a merge is listed {times} times ({pair!r}); list it once")
    if cut_out := joined.intersection(special.encode() for special in parts.special_tokens):
        rank, token = _first_of(cut_out, parts.merges)
        raise ValueError(
            f"merge {rank} has a special token in it ({token.decode()!r}), and those are cut out "
            "before merging; remove the merge or choose another special token"
        )
    if parts.ignore_merges:
        return
    made = {token for token in tokens if len(token) == 1}
    early: dict[bytes, tuple[bytes, bytes]] = {}  # product -> parts that were not both made yet
    for product, pair in zip(products, parts.merges, strict=True):
        if pair[0] in made and pair[1] in made:
            made.add(product)
        else:
            early.setdefault(product, pair)
    for product, pair in early.items():
        if product not in made:
            raise ValueError(
                f"merge {parts.merges.index(pair)} joins a token that no merge before it makes "
                f"({pair[0]!r} + {pair[1]!r}); list merges in the order they were learned"
            )


def _first_of(tokens: Collection[bytes], merges: Merges) -> tuple[int, bytes]:
    """The first merge that one of the tokens is in, and which."""
    return next(
        (rank, token)
        for rank, (a, b) in enumerate(merges)
        for token in (a, b, a + b)
        if token in tokens
    )


def check_portable(pattern: Pattern) -> None:
    r"""ValueError for a pattern that `tokenizers` reads otherwise, such as `\p{N}{1,3}+` or `$`.

    There the first matches any number of digits, and the second before every line feed.
    """
    if not isinstance(pattern, str):
        for cut in pattern:
            check_portable(cut)
        return
    match = _PORTABLE.match(pattern)
    assert match is not None  # it may match nothing
    if match.end() < len(pattern):
        raise ValueError(
            f"`tokenizers` would read the pattern in another way from character {match.end()} on "
            f"({shown(pattern[match.end() :])}); write it with classes such as \\p{{L}}, and "
            "without anchors"
        )


def checked(path: StrPath, parts: TokenizerParts) -> TokenizerParts:
    """The parts, if they keep the rules; FileFormatError otherwise."""
    try:
        check(parts)
    except ValueError as error:
        raise FileFormatError(f"{os.fspath(path)}: {error}") from None
    return parts


def ids_by_name(path: StrPath, ids: Mapping[str, Any]) -> dict[str, int]:
    """The `vocab` of a file, whose values must be ids, each given once."""
    name_of: dict[int, str] = {}
    for name, id in ids.items():
        if type(id) is not int or not 0 <= id <= LARGEST_ID:
            what = f"an id must be an int from 0 to {LARGEST_ID} ({shown(id)} of {shown(name)})"
            refuse(path, what, "renumber it")
        if id in name_of:
            what = f"two tokens have the same id ({id}, {shown(name_of[id])} and {shown(name)})"
            refuse(path, what, "give each its own")
        if not name:
            refuse(path, f"a token is empty (id {id})", "remove it")
        name_of[id] = name
    return dict(ids)


def names_of(parts: TokenizerParts) -> dict[str, int]:
    """How a file names the tokens, in the order of their ids. ValueError where it could not tell
    two of them apart."""
    specials = {special.encode(): special for special in parts.special_tokens}
    ids: dict[str, int] = {}
    for id in sorted(parts.vocab):
        token = parts.vocab[id]
        name = specials.get(token) or to_characters(token)
        if name in ids:
            raise ValueError(
                f"these files write two tokens alike ({name!r}, ids {ids[name]} and {id}); "
                "choose another special token"
            )
        ids[name] = id
    return ids


def to_merge(
    path: StrPath, parts: Any, place: str, number: int, tokens: Mapping[str, bytes]
) -> tuple[bytes, bytes]:
    """A merge from the names of its two tokens; `tokens` holds what names are known already."""
    a, b = parts if type(parts) is list and len(parts) == 2 else ("", "")
    if not (type(a) is str and type(b) is str and a and b):
        what = f"a merge must be two tokens ({place} {number}: {shown(parts)})"
        refuse(path, what, "save or download it anew")
    return (
        tokens.get(a) or to_bytes(path, a, f"{place} {number}"),
        tokens.get(b) or to_bytes(path, b, f"{place} {number}"),
    )


def to_bytes(path: StrPath, name: str, place: str = "vocab") -> bytes:
    """The bytes that a token's name stands for; `place` says where it stands."""
    try:
        return name.translate(_TO_LATIN_1).encode("latin-1")
    except UnicodeEncodeError as error:
        what = (
            f"a token has a character that stands for no byte "
            f"({place}: {name[error.start]!r} in {shown(name)})"
        )
        refuse(path, what, "use a byte-level BPE file")


def to_characters(token: bytes) -> str:
    """The name of a token that is not special."""
    return token.decode("latin-1").translate(_TO_CHARACTERS)
