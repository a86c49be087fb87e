"""tiktoken's files: one token a line, `<base64 of its bytes> <rank>`. The rank is the id.

The files contain no merges: tiktoken merges the two neighbours whose joined bytes have the lowest
rank. So such a file can store a tokenizer only if its merges are in the order of the ids that they
make. The files contain neither the pattern nor the special tokens.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.encoding.merging import merge_word
from scratchlm.tokenizer.formats.content import LARGEST_ID, check
from scratchlm.tokenizer.formats.json_content import (
    no_collection,
    read_file,
    refuse,
    shown,
)
from scratchlm.tokenizer.formats.rank_merges import in_order, known_splits, merged_pairs
from scratchlm.tokenizer.merge_table import BYTES, MergeTable
from scratchlm.tokenizer.parts import TokenizerParts
from scratchlm.tokenizer.pieces.patterns import Pattern


class UnreachableToken(ValueError):  # noqa: N818 (valid ranks may have such a token)
    """Merging in the order of ranks never makes a token."""


_LINE = re.compile(rb"(\S+) ([0-9]{1,10})")


@no_collection()
def read_tiktoken(path: StrPath) -> dict[bytes, int]:
    """Return the rank of each token. Every byte must have a rank, because tiktoken starts from
    bytes. Ranks may have gaps (p50k_base has one)."""
    data = read_file(path).removeprefix(codecs.BOM_UTF8)
    return _all_lines(data) or _line_by_line(path, data)


def _all_lines(data: bytes) -> dict[bytes, int] | None:
    """Parse all lines at once. Return None for a file with a broken line or another layout, which
    needs `_line_by_line`."""
    fields = data.split()
    try:
        tokens = list(map(binascii.a2b_base64, fields[::2]))
        values = list(map(int, fields[1::2]))
    except ValueError:
        return None
    ranks = dict(zip(tokens, values, strict=False))
    if (
        not len(ranks) == len(set(values)) == len(values) == len(tokens)
        or min(values, default=0) < 0
        or max(values, default=0) > LARGEST_ID
        or not all(byte in ranks for byte in BYTES)
        or _lines(tokens, values) != data
    ):
        return None
    return ranks


def _lines(tokens: Iterable[bytes], ranks: Iterable[int]) -> bytes:
    names = map(functools.partial(binascii.b2a_base64, newline=False), tokens)
    return b"".join(map(b"%b %d\n".__mod__, zip(names, ranks, strict=False)))


def _line_by_line(path: StrPath, data: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    lines: dict[int, int] = {}
    for i, line in enumerate(data.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if not match:
            what = f"line {i} must be a token in base64, a space and a rank ({shown(line)})"
            refuse(path, what, "save or download the file again")
        token, rank = _from_base64(match[1]), int(match[2])
        if not token:
            what = f"the token in line {i} must be base64 ({shown(match[1])})"
            refuse(path, what, "save or download the file again")
        if rank > LARGEST_ID:
            refuse(path, f"line {i} has a rank above {LARGEST_ID} ({rank})", "change the rank")
        if token in ranks:
            what = f"line {i} repeats a token ({shown(token)})"
            refuse(path, what, "list each token once")
        if rank in lines:
            what = f"line {i} repeats the rank of line {lines[rank]} ({rank})"
            refuse(path, what, "change one of the ranks")
        ranks[token] = rank
        lines[rank] = i
    for byte in range(256):
        if bytes([byte]) not in ranks:
            what = f"the byte 0x{byte:02x} has no rank (the file has {len(ranks)} tokens)"
            refuse(path, what, "use the complete file")
    return ranks


def write_tiktoken(ranks: Mapping[bytes, int]) -> bytes:
    """Return the content of a .tiktoken file, with the lines in the order of ranks."""
    if len(set(ranks.values())) < len(ranks) or b"" in ranks:
        raise ValueError(
            "two tokens have the same rank, or a token is empty; change a rank or remove the token"
        )
    lines = sorted((rank, base64.b64encode(token)) for token, rank in ranks.items())
    return b"".join(b"%s %d\n" % (token, rank) for rank, token in lines)


def tiktoken_ranks(parts: TokenizerParts) -> dict[bytes, int]:
    """Return the ranks of the ordinary tokens. With these ranks, tiktoken returns the same ids.

    Raise ValueError if tiktoken cannot return the same ids: a byte has no token, the tokenizer
    normalizes text, or the ranks imply other merges.
    """
    check(parts)
    if parts.normalization:
        raise ValueError(
            f"tiktoken does not normalize text ({parts.normalization}); save a tokenizer.json file"
        )
    specials = {special.encode() for special in parts.special_tokens}
    ranks = {token: id for id, token in parts.vocab.items() if token not in specials}
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise ValueError(
                f"tiktoken needs a token for each byte (0x{byte:02x} has none); save a "
                "tokenizer.json file"
            )
    products = [ranks[a + b] for a, b in parts.merges]
    for i in range(1, len(products)):
        if products[i] < products[i - 1]:
            raise ValueError(
                f"tiktoken merges in the order of ids (merge {i} makes id {products[i]} after id "
                f"{products[i - 1]}); save a tokenizer.json file"
            )
    if parts.ignore_merges and set(parts.merges) == set(splits_of_ranks(ranks)):
        return ranks
    implied = merges_of_ranks(ranks)
    if parts.merges != implied:
        i = next(
            (i for i, (a, b) in enumerate(zip(parts.merges, implied, strict=False)) if a != b),
            min(len(parts.merges), len(implied)),
        )
        own, theirs = (shown(merges[i : i + 1]) for merges in (parts.merges, implied))
        raise ValueError(
            f"tiktoken's ranks imply other merges (merge {i}: {own}, by ranks {theirs}); "
            "save a tokenizer.json file"
        )
    return ranks


@no_collection()
def parts_of_ranks(
    ranks: Mapping[bytes, int], special_tokens: Sequence[str] | Mapping[str, int], pattern: Pattern
) -> TokenizerParts:
    """Return the parts of a tokenizer that returns tiktoken's ids. The special tokens may have ids.

    Raise ValueError if two tokens have the same rank.
    """
    vocab: dict[int, bytes] = {}
    with_ids = special_tokens.items() if isinstance(special_tokens, Mapping) else ()
    for token, id in chain(ranks.items(), ((text.encode(), id) for text, id in with_ids)):
        if vocab.setdefault(id, token) is not token:
            raise ValueError(
                f"two tokens have the same rank ({id}: {vocab[id]!r} and {token!r}); change one of "
                "the ranks"
            )
    specials = list(special_tokens)
    splits = known_splits(ranks) if b"" not in ranks and max(ranks.values()) <= LARGEST_ID else None
    if splits and all(byte in ranks for byte in BYTES):
        merges = merged_pairs(ranks, splits)
        table = MergeTable(vocab, *(merges or in_order(splits)))
        return TokenizerParts(vocab, table, specials, pattern, ignore_merges=merges is None)
    try:
        return TokenizerParts(vocab, merges_of_ranks(ranks), specials, pattern)
    except UnreachableToken:
        return TokenizerParts(vocab, splits_of_ranks(ranks), specials, pattern, ignore_merges=True)


def merges_of_ranks(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return the merges that tiktoken's ranks imply.

    The function merges the bytes of each token by the lower ranks. The two remaining parts are the
    token's merge. Raise UnreachableToken if the number of remaining parts is not two, because
    merging then never makes the token.
    """
    tokens = sorted(ranks, key=ranks.__getitem__)
    id_of = {token: id for id, token in enumerate(tokens)}  # like the ranks, but without gaps
    byte_ids = [id_of.get(byte, -1) for byte in BYTES]
    rank_of = {(id_of[a], id_of[b]): id_of[a + b] for a, b in splits_of_ranks(ranks)}
    merges: list[tuple[bytes, bytes]] = []
    for id, token in enumerate(tokens):
        if len(token) == 1:
            continue
        ids = [byte_ids[byte] for byte in token]
        parts = merge_word(ids, rank_of, range(len(tokens)), limit=id)
        if len(parts) != 2 or -1 in parts:
            raise UnreachableToken(
                f"merging by lower ranks never makes a token ({token!r}, rank {ranks[token]}); "
                "pass all of tiktoken's mergeable_ranks"
            )
        merges.append((tokens[parts[0]], tokens[parts[1]]))
    return merges


def splits_of_ranks(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return every pair of tokens whose concatenation is a token, in the order of this token's
    rank, as in Llama 3's tokenizer.json.

    With `ignore_merges`, encoding by these merges returns tiktoken's ids, even for a vocabulary
    with tokens that merging never makes. `merges_of_ranks` refuses such a vocabulary.
    """
    merges: list[tuple[bytes, bytes]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        known = [
            (a, b)
            for i in range(1, len(token))
            if (a := token[:i]) in ranks and (b := token[i:]) in ranks
        ]
        merges += sorted(known, key=lambda pair: ranks[pair[0]])  # it determines the second part
    return merges


def _from_base64(text: bytes) -> bytes:
    """Decode base64. Return b"" if the text is not the canonical base64 of any bytes."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
    return data if base64.b64encode(data) == text else b""
