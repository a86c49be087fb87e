"""The rules of every tokenizer file, and the method by which JSON stores bytes.

JSON stores text, not bytes. So these files write each byte as one printable character, by GPT-2's
table (`bytes_to_unicode` in openai/gpt-2): a printable byte becomes its own character, and the
others become the characters from U+0100 on. A space becomes `Ġ`. A special token stays plain text.

Readers check the whole content before they return it. They raise FileFormatError with the file
(`path`, used only in messages), the broken rule, and what to do. Writers check the same rules and
raise ValueError, so they never write a file that the readers refuse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from scratchlm.errors import FileFormatError
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.formats.json_content import in_file, refuse, shown
from scratchlm.tokenizer.parts import TokenizerParts, ids_of, merge_table
from scratchlm.tokenizer.pieces.patterns import Pattern, find_pieces

LARGEST_ID = 2**22 - 1  # sixteen times the largest vocabularies; it limits the length of arrays

_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
# Tables for str.translate, between bytes read as Latin-1 and their characters in a file.
_TO_CHARACTERS = {byte: 256 + i for i, byte in enumerate(_OTHERS)}
AFTER_LAST_CHARACTER = chr(256 + len(_OTHERS))
_TO_LATIN_1 = dict.fromkeys(_OTHERS, 0xFFFF) | {256 + i: byte for i, byte in enumerate(_OTHERS)}

# Character -> its byte; 256 if it represents no byte. The last entry is for all later characters.
_BYTE_OF = np.full(ord(AFTER_LAST_CHARACTER) + 1, 256, np.uint16)
_BYTE_OF[_PRINTABLE] = _PRINTABLE
_BYTE_OF[256 : 256 + len(_OTHERS)] = _OTHERS

_SURROGATE = re.compile("[\ud800-\udfff]")

# The syntax with the same meaning in Python and in Oniguruma, the engine of `tokenizers`. Oniguruma
# reads other syntax differently: `{1,3}+` is not a possessive repeat, `^` and `$` match at every
# line, `\w` and `\b` include other letters, and sets nest.
_ESCAPE = r"\\(?:[pP]\{\^?\w+\}|[sSdDnrtfv]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^\w])"
_PORTABLE = re.compile(
    rf"(?:{_ESCAPE}"
    rf"|\[\^?(?:{_ESCAPE}|(?!&&|--|\|\||~~)[^\]\[\\])+\]"
    r"|\((?:\?(?:[:=!>]|<[=!]|i:)|(?!\?))"
    r"|\{(?:[0-9]+,?[0-9]*|,[0-9]+)\}(?![+?])"
    r"|[^\\\[\]{}(^$])*",
    re.ASCII,
)


def check(parts: TokenizerParts) -> None:
    """Check the rules of the parts. Raise ValueError for the first broken rule."""
    vocab = parts.vocab
    if vocab and (min(vocab) < 0 or max(vocab) > LARGEST_ID):
        id = next(id for id in vocab if not 0 <= id <= LARGEST_ID)
        raise ValueError(
            f"an id must be from 0 to {LARGEST_ID} ({id} of {vocab[id]!r}); change the id"
        )
    for special in parts.special_tokens:
        if not special:
            raise ValueError("a special token must not be empty (''); remove the empty token")
        if _SURROGATE.search(special):
            raise ValueError(
                f"a special token has a lone surrogate ({special!r}); replace the surrogate"
            )
    id_of, special_ids = ids_of(vocab, parts.special_tokens)
    if b"" in id_of:
        raise ValueError(f"a token must not be empty (id {id_of[b'']}); remove the token")
    table = merge_table(parts.vocab, parts.merges, id_of, special_ids)
    table.check_once()
    table.check_without(special_ids)
    # With `ignore_merges`, merges need not reach every token: the encoder finds a piece that is a
    # token by lookup. A merge with an unreachable part has no effect.
    if not parts.ignore_merges:
        table.check_order(id_of)
    find_pieces(parts.pattern)


def check_portable(pattern: Pattern) -> None:
    r"""Raise ValueError if `tokenizers` would read the pattern differently.

    In `tokenizers`, `\p{N}{1,3}+` matches any number of digits, and `$` also
    matches before every line feed.
    """
    if not isinstance(pattern, str):
        for cut in pattern:
            check_portable(cut)
        return
    match = _PORTABLE.match(pattern)
    assert match is not None  # it also matches the empty string
    if match.end() < len(pattern):
        raise ValueError(
            f"`tokenizers` would read the pattern differently from character {match.end()} on "
            f"({shown(pattern[match.end() :])}); write the pattern with classes such as \\p{{L}}, "
            "and without anchors"
        )


def checked(path: StrPath, parts: TokenizerParts) -> TokenizerParts:
    """Return the parts. Raise FileFormatError if they break a rule."""
    try:
        check(parts)
    except ValueError as error:
        raise FileFormatError(in_file(path, str(error))) from None
    return parts


def ids_by_name(path: StrPath, ids: Mapping[str, Any]) -> Mapping[str, int]:
    """Return the `vocab` of a file, after a check that its values are distinct ids."""
    values = ids.values()
    if (
        set(map(type, values)) == {int}
        and min(values) >= 0
        and max(values) <= LARGEST_ID
        and len(set(values)) == len(ids)
        and "" not in ids
    ):
        return ids
    name_of: dict[int, str] = {}
    for name, id in ids.items():
        if type(id) is not int or not 0 <= id <= LARGEST_ID:
            what = f"an id must be an int from 0 to {LARGEST_ID} ({shown(id)} of {shown(name)})"
            refuse(path, what, "change the id")
        if id in name_of:
            what = f"two tokens have the same id ({id}, {shown(name_of[id])} and {shown(name)})"
            refuse(path, what, "change one of the ids")
        if not name:
            refuse(path, f"a token must not be empty (id {id})", "remove the token")
        name_of[id] = name
    return ids


def names_of(parts: TokenizerParts) -> dict[str, int]:
    """Return the names of the tokens in a file, in the order of ids. Raise ValueError if two
    tokens have the same name."""
    _, special_ids = ids_of(parts.vocab, parts.special_tokens)
    specials = {id: special for special, id in special_ids.items()}
    ids: dict[str, int] = {}
    for id in sorted(parts.vocab):
        name = specials.get(id) or to_characters(parts.vocab[id])
        if name in ids:
            raise ValueError(
                f"two tokens have the same name in the file ({name!r}, ids {ids[name]} and {id}); "
                "choose another special token"
            )
        ids[name] = id
    return ids


def to_merge(path: StrPath, parts: Any, place: str, number: int) -> tuple[bytes, bytes]:
    """Return the merge whose two tokens have these names."""
    a, b = parts if type(parts) is list and len(parts) == 2 else ("", "")
    if not (type(a) is str and type(b) is str and a and b):
        what = f"a merge must be two tokens ({place} {number}: {shown(parts)})"
        refuse(path, what, "save or download the file again")
    return to_bytes(path, a, f"{place} {number}"), to_bytes(path, b, f"{place} {number}")


def all_to_bytes(path: StrPath, names: Sequence[str]) -> list[bytes]:
    """Return the results of `to_bytes` for many names, all at once."""
    characters = np.frombuffer("".join(names).encode("utf-32-le", "surrogatepass"), np.uint32)
    values = _BYTE_OF[np.minimum(characters, len(_BYTE_OF) - 1)]
    if (values > 0xFF).any():
        return [to_bytes(path, name) for name in names]
    data = values.astype(np.uint8).tobytes()
    ends = list(accumulate(map(len, names)))
    return list(map(data.__getitem__, map(slice, [0, *ends], ends)))


def to_bytes(path: StrPath, name: str, place: str = "vocab") -> bytes:
    """Return the bytes of a token's name. The error contains the `place` in the file."""
    try:
        return name.translate(_TO_LATIN_1).encode("latin-1")
    except UnicodeEncodeError as error:
        what = (
            f"a token has a character that represents no byte "
            f"({place}: {name[error.start]!r} in {shown(name)})"
        )
        refuse(path, what, "choose a byte-level BPE file")


def to_characters(token: bytes) -> str:
    """Return the name of an ordinary token."""
    return token.decode("latin-1").translate(_TO_CHARACTERS)
