"""The content of a tokenizer: its parts, their ids, and their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scratchlm.tokenizer.merge_table import MergeTable
from scratchlm.tokenizer.pieces.patterns import GPT2, Pattern

Merges = Sequence[tuple[bytes, bytes]]
Normalization = Literal["NFC", "NFD", "NFKC", "NFKD"]


@dataclass(frozen=True)
class TokenizerParts:
    """The arguments of BPETokenizer, as files store them. `vocab` includes the special tokens."""

    vocab: Mapping[int, bytes]
    merges: Merges
    special_tokens: list[str]
    pattern: Pattern = GPT2
    ignore_merges: bool = False
    normalization: Normalization | None = None
    normalized_tokens: tuple[str, ...] = ()
    unk_token: bytes | None = None
    fuse_unk: bool = False


def num_ids(parts: TokenizerParts) -> int:
    """Return the largest id + 1, which is the vocabulary size that a model needs."""
    return max(parts.vocab, default=-1) + 1


def ids_of(
    vocab: Mapping[int, bytes], special_tokens: Collection[str]
) -> tuple[dict[bytes, int], dict[str, int]]:
    """Return the ids of ordinary tokens by their bytes, and the ids of the special tokens in
    `vocab`.

    A special token may have the same bytes as an ordinary one, as GPT-NeoX's runs of spaces do;
    then the special token has the greater id. A special token of one byte is also that byte's
    token. Any other two ids with the same bytes raise ValueError.
    """
    id_of = dict(zip(vocab.values(), vocab, strict=True))
    special_ids = {
        special: id_of[token] for special in special_tokens if (token := special.encode()) in id_of
    }
    ordinary: set[bytes] = set()  # ordinary tokens with the bytes of a special token
    if len(id_of) < len(vocab):
        specials = {special.encode(): special for special in special_tokens}
        for other in sorted(vocab.keys() - id_of.values()):  # ids that `id_of` lost
            token = vocab[other]
            id = id_of[token]
            if token not in specials or token in ordinary or other > id:
                raise ValueError(
                    f"two ids must not have the same bytes ({token!r}, ids {other} and {id}); "
                    "remove one of the ids"
                )
            ordinary.add(token)
            id_of[token], special_ids[specials[token]] = other, id
    for special in special_ids:
        if len(token := special.encode()) > 1 and token not in ordinary:
            del id_of[token]
    return id_of, special_ids


def merge_table(
    vocab: Mapping[int, bytes],
    merges: Sequence[tuple[bytes, bytes]],
    id_of: Mapping[bytes, int],
    special_ids: Mapping[str, int],
) -> MergeTable:
    """Return the table of merges by ids. A special token may be a part. Raise ValueError if a merge
    needs a token without an id."""
    if isinstance(merges, MergeTable) and merges.vocab is vocab:
        return merges
    specials = {special.encode(): id for special, id in special_ids.items()}
    return MergeTable.of(vocab, {**specials, **id_of}, merges)


def content_hash(parts: TokenizerParts) -> str:
    """Return the SHA-256 of the content, in hex.

    The content is the vocabulary, the merges, the special tokens, the pattern, and the settings
    that are not the default. The hash depends neither on the kind of file nor on the order of the
    special tokens.
    """
    known = (parts.vocab.get(id) for id in range(num_ids(parts)))
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
