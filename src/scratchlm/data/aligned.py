"""Rows that begin at the start of a document.

A document that is too long for a row fills rows of its own. Its remainder is a piece like a short
document, so no token is lost. `pack` then puts whole pieces into rows, and padding fills the room
that remains.
"""

from __future__ import annotations

import numpy as np

from scratchlm.data.joined import TokenArray
from scratchlm.data.packing import Packing, pack
from scratchlm.data.rows import PADDING, Numbers, Rows

_BLOCK = 1 << 24  # ids that the search for separators reads at once


class AlignedRows:
    """Rows of documents and of parts of long documents: at most T + 1 tokens for a context of T.

    Within a row, documents come before the remainders of long documents. A document without a
    separator at its end comes last. Each epoch has `count` rows: a document may move to another row
    only in exchange for a document of the same length.
    """

    def __init__(self, tokens: TokenArray, context_length: int, separator: int) -> None:
        self.tokens, self.size = tokens, context_length + 1
        ends = document_ends(tokens, separator)
        self.starts, self.lengths, self.inside = pieces_of(ends, context_length)
        if not len(self.starts):
            raise ValueError(
                f"aligned rows need a document of 2 tokens or more ({len(ends)} shorter "
                "documents); use other data, or set --data.rows stream"
            )
        is_open = (self.starts + self.lengths == len(tokens)) & (tokens[-1:] != separator)
        self._late = self.inside + 2 * is_open
        packing = pack(self.lengths, self.size)
        self.documents, self.count, self.padding = len(ends), len(packing), packing.wasted

    def shuffled(self, generator: np.random.Generator) -> Rows:
        """Return the rows of an epoch, each once, in random order."""
        packing = pack(self.lengths, self.size, seed=int(generator.integers(1 << 62)))
        return lambda places: np.stack([self._row(packing, place) for place in places.tolist()])

    def _row(self, packing: Packing, place: int) -> Numbers:
        pieces = packing[place]
        pieces = pieces[np.argsort(self._late[pieces], kind="stable")]
        spans = zip(self.starts[pieces].tolist(), self.lengths[pieces].tolist(), strict=True)
        found = np.concatenate([self.tokens[start : start + length] for start, length in spans])
        row = np.full(self.size, PADDING)
        row[: len(found)] = found
        return row

    def told(self) -> str:
        """Return a line about the rows: their documents, and the padding."""
        places = self.count * self.size
        return (
            f"{self.documents:,} documents, with {int(self.inside.sum()):,} further pieces of long "
            f"documents, fill {self.count:,} rows; padding is {self.padding:,} of {places:,} "
            f"places ({self.padding / places:.2%})"
        )


def document_ends(tokens: TokenArray, separator: int) -> Numbers:
    """Return the end of each document: the place after its separator, and the end of the tokens."""
    ends = [
        np.flatnonzero(np.asarray(tokens[start : start + _BLOCK]) == separator) + start + 1
        for start in range(0, len(tokens), _BLOCK)
    ]
    found = np.concatenate(ends)
    return found if len(found) and found[-1] == len(tokens) else np.append(found, len(tokens))


def pieces_of(ends: Numbers, context_length: int) -> tuple[Numbers, Numbers, Numbers]:
    """Cut each document into pieces of at most T + 1 tokens, where T is the context length.

    Return (piece,) the start of each piece, its length, and 1 if the piece begins inside of its
    document (else 0). Neighbours overlap by one token, so each token of a document but its first is
    a target once. A document of one token has no target, and no piece.
    """
    starts = np.concatenate([[0], ends[:-1]])
    lengths = ends - starts
    starts, lengths = starts[lengths > 1], lengths[lengths > 1]
    count = np.maximum(1, -(-(lengths - 1) // context_length))  # pieces of each document
    document = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(document)) - (count.cumsum() - count)[document]
    rest = lengths[document] - place * context_length
    return (
        starts[document] + place * context_length,
        np.minimum(rest, context_length + 1),
        (place > 0).astype(np.int64),
    )
