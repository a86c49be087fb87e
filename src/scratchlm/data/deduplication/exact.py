"""Find documents with the same text, except for white space and the composition of characters."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scratchlm.data.deduplication.equal_records import BLOCK_RECORDS, Columns, equal_pairs
from scratchlm.data.deduplication.signatures import count_signatures, signature_blocks
from scratchlm.files.paths import StrPath

DIGEST_BYTES = 16
_PIECE = 1 << 16  # characters: the list of all words of a long text would fill the memory
_WHITE_SPACE = re.compile(r"\s")
_WIDE_SPACE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_BETWEEN = b"\xff"  # UTF-8 has no such byte
_SPACES = bytes(ord(" ") if chr(code).isspace() and code < 128 else code for code in range(256))


def folded(text: str) -> str:
    """Return the text in Unicode's normal form C, with one space for each run of white space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def digest(text: str) -> bytes:
    """Return the 128-bit BLAKE2b hash of the folded text in UTF-8."""
    hashed = hashlib.blake2b(digest_size=DIGEST_BYTES)
    between = ""
    for piece in _cut_at_white_space(unicodedata.normalize("NFC", text)):
        if words := " ".join(piece.split()):
            hashed.update((between + words).encode("utf-8"))
            between = " "
    return hashed.digest()


def digests(texts: Sequence[str]) -> bytes:
    """Return the digests of all texts, one after the other. This is `digest`, but faster."""
    short = iter(_fold_together([text for text in texts if len(text) <= _PIECE]))
    return b"".join(
        digest(text)
        if len(text) > _PIECE
        else hashlib.blake2b(next(short), digest_size=DIGEST_BYTES).digest()
        for text in texts
    )


def _fold_together(texts: Sequence[str]) -> list[bytes]:
    """Return `folded` of each text in UTF-8. All texts become one array, with _BETWEEN."""
    normal = (unicodedata.normalize("NFC", text) for text in texts)
    plain = (text if text.isascii() else _WIDE_SPACE.sub(" ", text) for text in normal)
    joined = _BETWEEN.join(text.encode() for text in plain)
    codes = np.frombuffer(joined.translate(_SPACES), np.uint8)
    is_space = codes == ord(" ")
    is_kept = np.ones(len(codes), bool)
    is_kept[1:] = ~(is_space[1:] & is_space[:-1])
    return [text.strip(b" ") for text in codes[is_kept].tobytes().split(_BETWEEN)]


def _cut_at_white_space(text: str) -> Iterator[str]:
    """Cut a long text at white space."""
    start = 0
    while len(text) - start > _PIECE:
        space = _WHITE_SPACE.search(text, start + _PIECE)
        end = space.start() if space else len(text)
        yield text[start:end]
        start = end
    yield text[start:]


def equal_documents(paths: Sequence[StrPath], scratch: Path) -> npt.NDArray[np.int64]:
    """Return the numbers of the documents that are equal to an earlier document, in order.

    The files contain the digests of all documents.
    """
    is_repeated = np.zeros(count_signatures(paths, 2), bool)

    def blocks() -> Iterator[Columns]:
        for first, digests in signature_blocks(paths, 2, BLOCK_RECORDS):
            documents = np.arange(first, first + len(digests), dtype=np.uint64)
            yield np.stack([*digests.T, documents])

    for _, later in equal_pairs(blocks(), scratch):
        is_repeated[later] = True
    return np.flatnonzero(is_repeated)
