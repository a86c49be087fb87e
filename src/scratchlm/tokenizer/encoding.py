"""Text to ids, fast: the way from a text without special tokens to the bytes of an id array.

What it must equal is two lines: cut the text into pieces, merge each piece (`merging.merge_word`).
It is fast by never touching a token twice in Python: ids stay little-endian bytes that are joined,
whole stretches between two spaces are looked up at once, and what was never met before is merged
together with everything else that was not (`batch_merging`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from scratchlm.tokenizer.batch_merging import BatchMerger, byte_starts
from scratchlm.tokenizer.merging import Pair, merge_long_word, merge_word
from scratchlm.tokenizer.patterns import WHITE_SPACE, find_pieces, is_known

LONG_WORD = 500  # bytes; from here on a heap is faster than looking through the word
SHORT_TEXT = 4_000  # characters; below, the fast paths cost more than they give
FEW_WORDS = 100  # below, merging them one by one is faster than together
CACHED_WORDS = 1 << 16
CACHED_STRETCHES = 1 << 17
LONGEST_CACHED = 64  # characters

# In the known patterns a piece that reaches a space from something else ends before it, whatever
# follows, and a piece that starts at a space with something else behind it starts anew. So the only
# space that is no border stands between two white spaces, or in white space that ends the text.
# There it is replaced by a mark, a character that no text can have.
_NO_BORDER = re.compile(f"(?<=[{WHITE_SPACE}]) (?=[{WHITE_SPACE}]|\\Z)")
_MARK = "\udfff"


class WordEncoder(dict[str, bytes]):
    """Piece to the bytes of its ids: `encoder[piece]`. The dict holds pieces met before.

    ValueError for a byte that is not in the vocabulary, UnicodeEncodeError for a lone surrogate.
    """

    def __init__(
        self,
        id_of: Mapping[bytes, int],
        ranks: Mapping[Pair, int],
        products: Sequence[int],
        dtype: np.dtype[Any],
        *,
        ignore_merges: bool,
    ) -> None:
        super().__init__()
        self._byte_ids = [id_of.get(bytes([byte]), -1) for byte in range(256)]
        self._ranks = ranks
        self._products = products
        self._dtype = dtype
        self._whole = id_of if ignore_merges else {}

    def __missing__(self, piece: str) -> bytes:
        data = piece.encode()
        if data in self._whole:
            ids = [self._whole[data]]
        else:
            ids = [self._byte_ids[byte] for byte in data]
            if -1 in ids:
                raise ValueError(
                    f"the vocabulary has no token for a byte of the text "
                    f"(0x{data[ids.index(-1)]:02x} in {piece[:40]!r}); add all 256 bytes to it"
                )
            merge = merge_word if len(ids) < LONG_WORD else merge_long_word
            ids = merge(ids, self._ranks, self._products)
        merged = np.array(ids, self._dtype).tobytes()
        if len(piece) <= LONGEST_CACHED:
            if len(self) >= CACHED_WORDS:
                self.clear()
            self[piece] = merged
        return merged

    def join(self, pieces: Iterable[str]) -> bytes:
        """The ids of pieces one after another."""
        return b"".join(map(self.__getitem__, pieces))

    def learn(self, pieces: set[str]) -> None:
        """Take in those of the pieces that are not in the dict, merged together if they are many.

        Few of them, and long ones, are left to `__missing__`.
        """
        new = pieces.difference(self)
        if len(self) + len(new) > CACHED_WORDS:
            self.clear()
            new = pieces
        words = [piece for piece in new if len(piece) < LONG_WORD // 4]
        if self._whole:
            words = [word for word in words if word.encode() not in self._whole]
        if len(words) < FEW_WORDS or -1 in self._byte_ids:
            return
        data = np.frombuffer("".join(words).encode(), np.uint8)
        starts = byte_starts(words, data)
        ids = self.together.merge(data, starts)
        live = ids >= 0
        lengths = np.add.reduceat(live, starts, dtype=np.int64) * self._dtype.itemsize
        ends = np.cumsum(lengths)
        merged = ids[live].astype(self._dtype).tobytes()
        for word, start, end in zip(words, (ends - lengths).tolist(), ends.tolist(), strict=True):
            self[word] = merged[start:end]

    @cached_property
    def together(self) -> BatchMerger:
        return BatchMerger(self._byte_ids, self._ranks, self._products)

    @property
    def can_merge_all(self) -> bool:
        """Whether any text can be merged as it stands, with nothing looked up first."""
        return not self._whole and -1 not in self._byte_ids


class TextEncoder:
    """Text in which no special token is looked for -> the bytes of its ids."""

    def __init__(self, words: WordEncoder, pattern: str, dtype: np.dtype[Any], form: Any) -> None:
        self._words = words
        self._pieces = find_pieces(pattern)
        self._known = is_known(pattern)
        self._dtype = dtype
        self._form = form
        self._stretches: dict[str, bytes] = {}

    def __call__(self, text: str) -> bytes:
        """UnicodeEncodeError for a lone surrogate; ValueError as in `WordEncoder`."""
        if self._form:
            text = unicodedata.normalize(self._form, text)
        if len(text) < SHORT_TEXT:
            return self._words.join(self._pieces(text))
        if self._known and text.count(" ") * 16 > len(text):
            return self._by_stretches(text)
        return self._by_pieces(self._pieces(text), text)

    def _by_stretches(self, text: str) -> bytes:
        """Text with spaces: a stretch is what stands between two of them, with the one before it.

        Stretches come again and again, so most of a text is one dict look-up each.
        """
        text.encode()  # a lone surrogate could be taken for the mark
        first, *stretches = _NO_BORDER.sub(_MARK, text).split(" ")
        start = self._words.join(self._pieces(first.replace(_MARK, " ")))
        known = self._stretches
        new = set(stretches).difference(known)
        if len(known) + len(new) > CACHED_STRETCHES:
            known.clear()
            new = set(stretches)
        pieces = [self._pieces(" " + stretch.replace(_MARK, " ")) for stretch in new]
        self._words.learn(set(chain.from_iterable(pieces)))
        join = self._words.join
        known.update(zip(new, map(join, pieces), strict=True))
        merged = start + b"".join(map(known.__getitem__, stretches))
        for stretch in new:
            if len(stretch) > LONGEST_CACHED:
                del known[stretch]
        return merged

    def _by_pieces(self, pieces: list[str], text: str) -> bytes:
        """Text with few spaces, as Chinese: its pieces hardly come again, and all are merged as
        they stand in the text."""
        if not self._words.can_merge_all or max(map(len, pieces)) > LONG_WORD // 4:
            self._words.learn(set(pieces))
            return self._words.join(pieces)
        data = np.frombuffer(text.encode(), np.uint8)
        ids = self._words.together.merge(data, byte_starts(pieces, data))
        return ids[ids >= 0].astype(self._dtype).tobytes()
