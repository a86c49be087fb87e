"""Text to ids, fast: the way from a text without special tokens to the bytes of an id array.

What it must equal is this:

    for piece in find_pieces(pattern)(text):
        ids += merge_word([byte_id[byte] for byte in piece.encode()], ranks, products)

It is fast by never touching a token twice in Python: ids stay little-endian bytes that are joined,
whole stretches between two spaces are looked up at once (`stretches`, `stretch_cache`), and what
was never met before is merged together with everything else that was not (`batch_merging`). Read
those first, or leave all four out: nothing else depends on how they work.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, get_args

import numpy as np

from scratchlm.errors import Notice
from scratchlm.tokenizer.encoding.batch_merging import BatchMerger, byte_starts, fit_together
from scratchlm.tokenizer.encoding.merge_table import MergeTable
from scratchlm.tokenizer.encoding.merging import Ranks, merge_long_word, merge_word
from scratchlm.tokenizer.encoding.stretch_cache import StretchCache
from scratchlm.tokenizer.formats.content import Normalization
from scratchlm.tokenizer.pieces.byte_strings import Array, between_spaces
from scratchlm.tokenizer.pieces.patterns import Pattern, find_pieces, is_known
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer
from scratchlm.tokenizer.pieces.stretches import (
    SEPARATOR,
    has_stretches,
    stretches_of,
    together,
)

LONG_WORD = 500  # bytes; from here on a heap is faster than looking through the word
SHORT_TEXT = 8_000  # characters; below, the fast paths cost more than they give
FEW_WORDS = 100  # below, merging them one by one is faster than together
MANY = 1 << 18  # stretches or pieces taken at a time: arrays of some MB, whatever the text's length
CACHED_WORDS = 1 << 16
MANY_WORDS = 64  # merged until now; from here on a dict of all pairs pays
LONGEST_CACHED = 64  # characters


class WordEncoder(dict[str, bytes]):
    """Piece to the bytes of its ids: `encoder[piece]`. The dict holds pieces met before.

    A byte that is not in the vocabulary becomes the id `unknown`, or is left out where there is
    none, as in `tokenizers`. UnicodeEncodeError for a lone surrogate.
    """

    def __init__(
        self,
        id_of: Mapping[bytes, int],
        merges: MergeTable,
        dtype: np.dtype[Any],
        whole: Mapping[bytes, int],
        unknown: int | None = None,
        fuse_unknown: bool = False,
        strict: bool = False,
    ) -> None:
        """`whole`: tokens that a piece is, whatever merges say. `fuse_unknown`: neighbours without
        a token become one `unknown`. `strict`: ValueError for a byte that would be left out."""
        super().__init__()
        self._unknown = unknown
        self._fuse_unknown = fuse_unknown
        self._strict = strict
        self._warned = False
        self._byte_ids = [id_of.get(bytes([byte]), -1) for byte in range(256)]
        self._merges = merges
        self._ranks: Ranks = merges
        self._words_merged = 0
        self._products = merges.products.tolist()
        self.dtype = dtype
        self._whole = whole

    def __missing__(self, piece: str) -> bytes:
        data = piece.encode()
        if data in self._whole:
            ids = [self._whole[data]]
        else:
            ids = [self._byte_ids[byte] for byte in data]
            if -1 in ids:
                ids = self._without_unknown(ids, data)
            self._words_merged += 1
            if self._words_merged == MANY_WORDS:
                self._ranks = self._merges.ranks
            merge = merge_word if len(ids) < LONG_WORD else merge_long_word
            ids = merge(ids, self._ranks, self._products)
        merged = np.array(ids, self.dtype).tobytes()
        if len(piece) <= LONGEST_CACHED:
            if len(self) >= CACHED_WORDS:
                self.clear()
            self[piece] = merged
        return merged

    def _without_unknown(self, ids: list[int], data: bytes) -> list[int]:
        """The ids of a piece's bytes, of which some are -1 for no token."""
        if self._unknown is not None:
            fused = self._fuse_unknown
            return [
                self._unknown if id < 0 else id
                for i, id in enumerate(ids)
                if not (fused and i and id < 0 and ids[i - 1] < 0)
            ]
        what = (
            f"the vocabulary has no token for a byte of the text (0x{data[ids.index(-1)]:02x} "
            f"in {data.decode()[:40]!r})"
        )
        if self._strict:
            raise ValueError(f"{what}; add all 256 bytes to it")
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{what}; such bytes are left out, as in `tokenizers`: add all 256 bytes to keep "
                "them",
                Notice,
                stacklevel=2,
            )
        return [id for id in ids if id >= 0]

    def _fit_together(self) -> bool:
        return fit_together(len(self._merges), max(*self._byte_ids, *self._products))

    def join(self, pieces: Iterable[str]) -> bytes:
        """The ids of pieces one after another."""
        return b"".join(map(self.__getitem__, pieces))

    @cached_property
    def merger(self) -> BatchMerger | None:
        """Merges many pieces together; None where what it gives would not be what `self` gives."""
        if -1 in self._byte_ids or not self._fit_together():
            return None
        merger = BatchMerger(
            self._byte_ids,
            self._merges.pairs,
            np.arange(len(self._merges)),
            self._merges.products,
        )
        if self._whole:
            # As a rule the merges make each token of itself, and looking it up changes nothing.
            data = np.frombuffer(b"".join(self._whole), np.uint8)
            lengths = np.fromiter(map(len, self._whole), np.int64, len(self._whole))
            starts = np.cumsum(lengths) - lengths
            ids = merger.merge(data, starts)
            tokens = np.fromiter(self._whole.values(), np.int64, len(self._whole))
            if not np.array_equal(ids[ids >= 0], tokens):
                return None
        return merger


def no_ids(ids: object, error: KeyError | TypeError, size: int) -> ValueError:
    """The error for what `decode` cannot read."""
    if isinstance(error, KeyError):
        return ValueError(f"no token has this id ({error.args[0]}); ids go from 0 to {size - 1}")
    return ValueError(
        f"ids are one row of whole numbers ({ids!r:.60}); give a list, an array or a tensor"
    )


def not_a_text(value: object) -> ValueError:
    """The error for anything but one string."""
    remedy = "write [tokenizer.encode(text) for text in texts]"
    if isinstance(value, bytes):
        remedy = "write tokenizer.encode(text.decode())"
    return ValueError(f"a text is one string ({type(value).__name__} {value!r:.40}); {remedy}")


def lone_surrogate(text: str, offset: int) -> ValueError:
    """The error for text that no UTF-8 can say; `offset` characters came before it."""
    place = next(i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff")
    return ValueError(
        f"the text has a lone surrogate (U+{ord(text[place]):04X} at character {offset + place}); "
        "replace it, for example with U+FFFD"
    )


class TextEncoder:
    """Text in which no special token is looked for -> the bytes of its ids, of type `dtype`."""

    def __init__(self, words: WordEncoder, pattern: Pattern, form: Any) -> None:
        if form not in (None, *get_args(Normalization)):
            raise ValueError(f"normalization is NFC, NFD, NFKC, NFKD or None ({form!r}); give one")
        self._words = words
        self._pieces = find_pieces(pattern)
        self._known = is_known(pattern)
        self._dtype = words.dtype
        self._form = form
        self._stretches = StretchCache()

    def __call__(self, text: str) -> bytes:
        """UnicodeEncodeError for a lone surrogate; ValueError as in `WordEncoder`."""
        if self._form:
            text = unicodedata.normalize(self._form, text)
        if len(text) < SHORT_TEXT:
            return self._words.join(self._pieces(text))
        if self._known and has_stretches(text):
            return self._by_stretches(text)
        return self._by_pieces(text)

    def _by_stretches(self, text: str) -> bytes:
        """Text with spaces: most of its stretches were met before."""
        first, middle, last = stretches_of(text)
        parts = [self._words.join(self._pieces(first + SEPARATOR)[:-1])]
        data, starts, lengths = between_spaces(middle)
        for i in range(0, len(starts), MANY):
            some = slice(i, i + MANY)
            ids = self._stretches.encode(data, starts[some], lengths[some], self._merge_stretches)
            parts.append(ids.tobytes())
        parts.append(self._words.join(self._pieces(last)))
        return b"".join(parts)

    def _merge_stretches(self, stretches: list[bytes]) -> tuple[Array, Array]:
        """Merge the short ones, which come first, together; a long one takes many rounds, and is
        merged by itself."""
        num_short = sum(len(stretch) < LONG_WORD // 4 for stretch in stretches)
        ids, counts = self._merge_batch(stretches[:num_short])
        long_ids, long_counts = self._one_by_one(stretches[num_short:])
        return np.append(ids, long_ids), np.append(counts, long_counts)

    def _merge_batch(self, stretches: list[bytes]) -> tuple[Array, Array]:
        if len(stretches) < FEW_WORDS or (merger := self._words.merger) is None:
            return self._one_by_one(stretches)
        text = together(stretches)
        data = np.frombuffer(text.encode(), np.uint8)
        ids = merger.merge(data, byte_starts(self._pieces.lengths(text), data))
        # Each separator is a piece, of two tokens at most; what it became is taken out.
        signs = np.flatnonzero(data == ord(SEPARATOR[-1]))
        ids[signs - 1] = ids[signs] = -1
        live = ids >= 0
        return ids[live].astype(self._dtype), np.diff(np.cumsum(live)[signs], prepend=0)

    def _one_by_one(self, stretches: list[bytes]) -> tuple[Array, Array]:
        merged = [self._words.join(self._pieces(together([s]))[:-1]) for s in stretches]
        counts = np.fromiter(map(len, merged), np.int64, len(merged)) // self._dtype.itemsize
        return np.frombuffer(b"".join(merged), self._dtype), counts

    def _by_pieces(self, text: str) -> bytes:
        """Text with few spaces, as Chinese. Its pieces hardly come again, so none is looked up: all
        are merged together, as they stand in the text. A long piece takes many rounds, and is
        merged by itself; so the text is cut there."""
        lengths = self._pieces.lengths(text)
        ends = np.cumsum(lengths)
        long = np.flatnonzero(lengths >= LONG_WORD // 4)
        merged = []
        done = start = 0
        for i in [*long.tolist(), len(lengths)]:
            end = int(ends[i - 1]) if i else 0
            merged.append(self._merge(text[start:end], lengths[done:i]))
            if i < len(lengths):
                done, start = i + 1, int(ends[i])
                merged.append(self._words[text[end:start]])
        return b"".join(merged)

    def _merge(self, text: str, lengths: Array) -> bytes:
        if len(lengths) > MANY:
            half = len(lengths) // 2
            at = int(lengths[:half].sum())
            return self._merge(text[:at], lengths[:half]) + self._merge(text[at:], lengths[half:])
        if len(lengths) < FEW_WORDS or (merger := self._words.merger) is None:
            ends = np.cumsum(lengths).tolist()
            return self._words.join([text[a:b] for a, b in zip([0, *ends], ends, strict=False)])
        data = np.frombuffer(text.encode(), np.uint8)
        ids = merger.merge(data, byte_starts(lengths, data))
        return ids[ids >= 0].astype(self._dtype).tobytes()


class BlockEncoder:
    """Blocks of a text, as `Pretokenizer.blocks` gives them -> the bytes of their ids."""

    def __init__(
        self, encode_ordinary: TextEncoder, special_ids: Mapping[str, int], dtype: np.dtype[Any]
    ) -> None:
        self._encode_ordinary = encode_ordinary
        self._special_bytes = {
            special: np.array(id, dtype).tobytes() for special, id in special_ids.items()
        }

    def encode(self, blocks: Iterable[str], pretokenizer: Pretokenizer) -> Iterator[bytes]:
        """ValueError for a lone surrogate, with its place in the text, and as in `WordEncoder`."""
        offset = 0
        for block in blocks:
            try:
                yield self._encode_block(block, pretokenizer)
            except UnicodeEncodeError:
                raise lone_surrogate(block, offset) from None
            offset += len(block)

    def _encode_block(self, block: str, pretokenizer: Pretokenizer) -> bytes:
        parts = []
        for i, part in enumerate(pretokenizer.split(block)):
            if i % 2:
                parts.append(self._special_bytes[part])
            elif part:
                parts.append(self._encode_ordinary(part))
        return b"".join(parts)
