"""Encode text without special tokens into the bytes of an id array, fast.

The result must equal this loop:

    for piece in find_pieces(pattern)(text):
        ids += merge_word([byte_id[byte] for byte in piece.encode()], ranks, products)

Three things make this module fast. Ids stay little-endian bytes, which Python only joins.
`stretch_cache` looks up the stretches between spaces (`stretches`), all at once. `batch_merging`
merges the new stretches, all together. A reader who wants only the algorithm may skip this module
and these three modules, because no other module depends on how they work.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, get_args

import numpy as np

from scratchlm.errors import Notice
from scratchlm.tokenizer.encoding.batch_merging import BatchMerger, fit_together
from scratchlm.tokenizer.encoding.merging import Ranks, merge_long_word, merge_word
from scratchlm.tokenizer.encoding.stretch_cache import StretchCache
from scratchlm.tokenizer.merge_table import MergeTable
from scratchlm.tokenizer.parts import Normalization
from scratchlm.tokenizer.pieces.byte_strings import Array, between_spaces, byte_starts
from scratchlm.tokenizer.pieces.patterns import Pattern, find_pieces, is_known
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer
from scratchlm.tokenizer.pieces.stretches import (
    SEPARATOR,
    has_stretches,
    stretches_of,
    together,
)

LONG_WORD = 500  # bytes; from this length on, a heap is faster than a scan of the word
SHORT_TEXT = 8_000  # characters; for shorter texts the fast paths cost more than they save
FEW_WORDS = 100  # for fewer words, one by one is faster than a batch
MANY = 1 << 18  # stretches or pieces per batch, so that a long text needs arrays of only some MB
CACHED_WORDS = 1 << 16
MANY_WORDS = 64  # after so many merged words, a dict of all pairs saves time
LONGEST_CACHED = 64  # characters


class WordEncoder(dict[str, bytes]):
    """A dict from a piece to the bytes of its ids: `encoder[piece]`. It caches short pieces.

    A byte without a token becomes the id `unknown`. If `unknown` is None, the encoder drops the
    byte, as `tokenizers` does. A lone surrogate raises UnicodeEncodeError.
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
        """`whole`: a piece equal to one of these tokens gets its id, without merging.
        `fuse_unknown`: consecutive bytes without a token become one `unknown`. `strict`: raise
        ValueError instead of dropping a byte."""
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
        """Replace or drop the ids -1, which mark bytes without a token."""
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
            raise ValueError(f"{what}; add all 256 bytes to the vocabulary")
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{what}, so the encoder drops such bytes, as `tokenizers` does; add all 256 "
                "bytes to the vocabulary",
                Notice,
                stacklevel=2,
            )
        return [id for id in ids if id >= 0]

    def _fit_together(self) -> bool:
        return fit_together(len(self._merges), max(*self._byte_ids, *self._products))

    def join(self, pieces: Iterable[str]) -> bytes:
        """Return the bytes of the ids of all pieces, joined."""
        return b"".join(map(self.__getitem__, pieces))

    @cached_property
    def merger(self) -> BatchMerger | None:
        """The merger of many pieces at once; None if its ids could differ from this encoder's."""
        if -1 in self._byte_ids or not self._fit_together():
            return None
        merger = BatchMerger(
            self._byte_ids,
            self._merges.pairs,
            np.arange(len(self._merges)),
            self._merges.products,
        )
        if self._whole:
            # Usually merging the bytes of each whole token gives that token. Only then may the
            # merger skip the lookup of whole tokens.
            data = np.frombuffer(b"".join(self._whole), np.uint8)
            lengths = np.fromiter(map(len, self._whole), np.int64, len(self._whole))
            starts = np.cumsum(lengths) - lengths
            ids = merger.merge(data, starts)
            tokens = np.fromiter(self._whole.values(), np.int64, len(self._whole))
            if not np.array_equal(ids[ids >= 0], tokens):
                return None
        return merger


def no_ids(ids: object, error: KeyError | TypeError, size: int) -> ValueError:
    """Return the error for ids that `decode` cannot read."""
    if isinstance(error, KeyError):
        return ValueError(f"no token has this id ({error.args[0]}); use ids from 0 to {size - 1}")
    return ValueError(
        f"ids must be one row of whole numbers ({ids!r:.60}); pass a list, an array or a tensor"
    )


def not_a_text(value: object) -> ValueError:
    """Return the error for a value that is not a string."""
    remedy = "write [tokenizer.encode(text) for text in texts]"
    if isinstance(value, bytes):
        remedy = "write tokenizer.encode(text.decode())"
    return ValueError(f"a text must be one string ({type(value).__name__} {value!r:.40}); {remedy}")


def lone_surrogate(text: str, offset: int) -> ValueError:
    """Return the error for text that UTF-8 cannot encode; `offset` characters precede the text."""
    place = next(i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff")
    return ValueError(
        f"the text has a lone surrogate (U+{ord(text[place]):04X} at character {offset + place}); "
        "replace it, for example with U+FFFD"
    )


class TextEncoder:
    """Encode text without special tokens into the bytes of its ids, of type `dtype`."""

    def __init__(self, words: WordEncoder, pattern: Pattern, form: Any) -> None:
        if form not in (None, *get_args(Normalization)):
            raise ValueError(
                f"normalization must be NFC, NFD, NFKC, NFKD or None ({form!r}); use None to keep "
                "the text unchanged"
            )
        self._words = words
        self._pieces = find_pieces(pattern)
        self._known = is_known(pattern)
        self._dtype = words.dtype
        self._form = form
        self._stretches = StretchCache()

    def __call__(self, text: str) -> bytes:
        """Encode the text. Raise the same errors as `WordEncoder`."""
        if self._form:
            text = unicodedata.normalize(self._form, text)
        if len(text) < SHORT_TEXT:
            return self._words.join(self._pieces(text))
        if self._known and has_stretches(text):
            return self._by_stretches(text)
        return self._by_pieces(text)

    def _by_stretches(self, text: str) -> bytes:
        """Encode text with spaces through the cache, which already has most stretches."""
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
        """Merge the short stretches, which come first, in a batch. Merge each long one alone,
        because it needs many rounds."""
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
        # Each separator is a piece of at most two tokens: remove them.
        signs = np.flatnonzero(data == ord(SEPARATOR[-1]))
        ids[signs - 1] = ids[signs] = -1
        live = ids >= 0
        return ids[live].astype(self._dtype), np.diff(np.cumsum(live)[signs], prepend=0)

    def _one_by_one(self, stretches: list[bytes]) -> tuple[Array, Array]:
        merged = [self._words.join(self._pieces(together([s]))[:-1]) for s in stretches]
        counts = np.fromiter(map(len, merged), np.int64, len(merged)) // self._dtype.itemsize
        return np.frombuffer(b"".join(merged), self._dtype), counts

    def _by_pieces(self, text: str) -> bytes:
        """Encode text with few spaces, such as Chinese.

        Its pieces rarely repeat, so this method merges them in batches without a cache. It cuts the
        text at each long piece and merges this piece alone, because a long piece needs many rounds.
        """
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
    """Encode the blocks of a text, which `Pretokenizer.blocks` yields, into the bytes of ids."""

    def __init__(
        self, encode_ordinary: TextEncoder, special_ids: Mapping[str, int], dtype: np.dtype[Any]
    ) -> None:
        self._encode_ordinary = encode_ordinary
        self._special_bytes = {
            special: np.array(id, dtype).tobytes() for special, id in special_ids.items()
        }

    def encode(self, blocks: Iterable[str], pretokenizer: Pretokenizer) -> Iterator[bytes]:
        """Yield the bytes of each block's ids.

        Raise ValueError for a lone surrogate, with its position in the text. Otherwise raise the
        same errors as `WordEncoder`.
        """
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
