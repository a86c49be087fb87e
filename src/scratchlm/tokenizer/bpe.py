"""Byte-level BPE tokenizer: text to ids and back (Sennrich et al. 2016, arXiv 1508.07909; GPT-2).

A text is split at its special tokens, the rest is cut into pieces by a pattern, and each piece is
encoded apart: it starts as one token a byte, and as long as two neighbours form a pair that was
learned, the pair learned first is merged, the leftmost where it stands several times.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from scratchlm.atomic import replacing_file
from scratchlm.errors import FileFormatError
from scratchlm.tokenizer import formats
from scratchlm.tokenizer.encoding import TextEncoder, WordEncoder
from scratchlm.tokenizer.merging import Pair
from scratchlm.tokenizer.patterns import GPT2
from scratchlm.tokenizer.pretokenize import (
    BLOCK_CHARACTERS,
    Pretokenizer,
    StrPath,
    check_special_tokens,
    read_text,
)
from scratchlm.tokenizer.workers import parallel_map, workers_for

Normalization = Literal["NFC", "NFD", "NFKC", "NFKD"]


class BPETokenizer:
    """Byte-level BPE from a vocabulary and its merges, in the order of their rank.

    `vocab` gives each id its bytes; special tokens that are not in it get the next ids, in their
    order. Text outside special tokens is cut by `pattern` and every piece merged by itself.
    `ignore_merges`: a piece that is a token of `vocab` is that token, whatever its merges say (as
    in Llama 3's file). `normalization`: a Unicode form that text is brought to first ("NFC" in
    Qwen's file); decoding then gives back the normalized text. All of these can be read back as
    attributes, `vocab` with the special tokens, and must not be changed.

    `len()` is the largest id + 1, the size that a model's vocabulary must have.

    ValueError where an id is negative, two ids have the same bytes, a merge is listed twice or its
    parts or product are not in the vocabulary, or a special token is empty or repeated.

    >>> tokens = [b"t", b"h", b"e", b" ", b"c", b"a", b"th", b"the", b" c"]
    >>> merges = [(b"t", b"h"), (b" ", b"c"), (b"th", b"e")]
    >>> tokenizer = BPETokenizer(dict(enumerate(tokens)), merges, ["<|end|>"])
    >>> tokenizer.encode("the cat<|end|>")  # pieces: the, ⎵cat, <|end|>
    [7, 8, 5, 0, 9]
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | None = None,
        pattern: str = GPT2,
        *,
        ignore_merges: bool = False,
        normalization: Normalization | None = None,
    ) -> None:
        self.vocab = dict(vocab)
        self.merges = list(merges)
        self.special_tokens = check_special_tokens(special_tokens or [])
        self.pattern = pattern
        self.ignore_merges = ignore_merges
        if normalization not in (None, *get_args(Normalization)):
            raise ValueError(
                f"normalization is NFC, NFD, NFKC, NFKD or None ({normalization!r}); give one"
            )
        self.normalization = normalization

        id_of = {token: id for id, token in self.vocab.items()}
        if len(id_of) < len(self.vocab):
            twice = next(token for id, token in self.vocab.items() if id_of[token] != id)
            raise ValueError(f"two ids have the same bytes ({twice!r}); give each token one id")
        if self.vocab and min(self.vocab) < 0:
            raise ValueError(f"an id is negative ({min(self.vocab)}); count ids from 0")
        self._size = max(self.vocab, default=-1) + 1
        for special in self.special_tokens:
            token = special.encode()
            if token not in id_of:
                id_of[token] = self._size
                self.vocab[self._size] = token
                self._size += 1

        ranks: dict[Pair, int] = {}
        products: list[int] = []  # rank -> id of the merged token
        for rank, (a, b) in enumerate(self.merges):
            try:
                ranks[id_of[a], id_of[b]] = rank
                products.append(id_of[a + b])
            except KeyError as error:
                raise ValueError(
                    f"merge {rank} needs a token that is not in the vocabulary "
                    f"({error.args[0]!r}); give vocabulary and merges of the same tokenizer"
                ) from None
            if len(ranks) <= rank:
                raise ValueError(f"merge {rank} was listed before ({(a, b)!r}); list it once")

        self._id_of = id_of
        self._special_ids = {special: id_of[special.encode()] for special in self.special_tokens}
        self._special_bytes = {
            special: np.array(id, self.dtype).tobytes() for special, id in self._special_ids.items()
        }
        words = WordEncoder(id_of, ranks, products, self.dtype, ignore_merges=ignore_merges)
        self._encode_ordinary = TextEncoder(words, pattern, self.dtype, normalization)
        self._plain = Pretokenizer(pattern)
        self._all_special = Pretokenizer(pattern, self.special_tokens)

    def __len__(self) -> int:
        return self._size

    def __reduce__(self) -> tuple[Any, ...]:
        again = partial(
            type(self), ignore_merges=self.ignore_merges, normalization=self.normalization
        )
        return again, (self.vocab, self.merges, self.special_tokens, self.pattern)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The little-endian type of ids in arrays and files: uint16 for up to 65,536 of them."""
        return np.dtype("<u2" if len(self) <= 1 << 16 else "<u4")

    @property
    def hash(self) -> str:
        """SHA-256 in hex over vocabulary, merges, special tokens, pattern, and what is not default.

        It does not depend on the file the tokenizer came from, nor on the order of special tokens.
        """
        known = (self.vocab.get(id) for id in range(len(self)))
        tokens = [None if token is None else token.decode("latin-1") for token in known]
        merges = [[a.decode("latin-1"), b.decode("latin-1")] for a, b in self.merges]
        content: list[Any] = [tokens, merges, sorted(self.special_tokens), self.pattern]
        if self.ignore_merges:
            content.append("ignore_merges")
        if self.normalization:
            content.append(self.normalization)
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

    def token_to_id(self, token: str) -> int:
        """The id of a token, special or not, by its text; ValueError where there is none."""
        try:
            return self._id_of[token.encode()]
        except KeyError:
            raise ValueError(
                f"no token has this text ({token!r}); its special tokens are {self.special_tokens}"
            ) from None

    # Encoding

    def encode(self, text: str, allowed_special: str | Collection[str] = "all") -> list[int]:
        """The ids of a text.

        `allowed_special`: "all", "none", or the special tokens that are to become their id; the
        others, and in text from an untrusted source all, are read as plain text. ValueError for
        any other string, an unknown special token, a lone surrogate in the text (with its place),
        or a byte that an incomplete vocabulary does not have.
        """
        return self.encode_array(text, allowed_special).tolist()

    def encode_array(
        self, text: str, allowed_special: str | Collection[str] = "all"
    ) -> npt.NDArray[Any]:
        """The ids of a text as an array `(ids,)` of `dtype`; errors as in `encode`."""
        pretokenizer = self._pretokenizer(allowed_special)
        blocks = [text] if len(text) <= BLOCK_CHARACTERS else pretokenizer.blocks([text])
        return np.frombuffer(b"".join(self._encode_blocks(blocks, pretokenizer)), self.dtype)

    def encode_iterable(
        self, texts: Iterable[str], allowed_special: str | Collection[str] = "all"
    ) -> Iterator[int]:
        """The ids of one text given in chunks, such as an open file's lines.

        They are those of the joined text, each given as soon as no later chunk can change it, in
        memory bounded by the longest chunk and the longest piece (see `Pretokenizer.blocks`).
        Errors as in `encode`.
        """
        pretokenizer = self._pretokenizer(allowed_special)
        blocks = pretokenizer.blocks(texts)
        # A block's ids are made as they are taken: an array's iterator keeps no list of them.
        return chain.from_iterable(
            map(int, np.frombuffer(ids, self.dtype))
            for ids in self._encode_blocks(blocks, pretokenizer)
        )

    def encode_file(self, src: StrPath, dst: StrPath, num_workers: int | None = None) -> int:
        """Write the ids of a UTF-8 file to `dst`, raw numbers of `dtype`, and return how many.

        The special tokens in the file become their ids. It is read in bounded blocks, encoded by
        up to `num_workers` processes (default one a core; a file below 4 MB by this one), and
        `dst` is replaced only once all of it is written. ValueError where it is not UTF-8.
        """
        size = os.path.getsize(src)
        workers = workers_for(size, num_workers)
        written = 0
        with (
            replacing_file(Path(dst)) as file,
            tqdm(total=size, desc="encoding", unit="B", unit_scale=True, disable=None) as bar,
        ):
            blocks = self._all_special.blocks(read_text(src, bar))
            encode = partial(self._encode_block, pretokenizer=self._all_special)
            for ids in parallel_map(encode, blocks, workers):
                written += file.write(ids)
        return written // self.dtype.itemsize

    def _pretokenizer(self, allowed_special: str | Collection[str]) -> Pretokenizer:
        if allowed_special == "all":
            return self._all_special
        if allowed_special == "none":
            return self._plain
        if isinstance(allowed_special, str):
            raise ValueError(
                f'allowed_special must be "all", "none" or a set ({allowed_special!r}); '
                f"to allow one token give {{{allowed_special!r}}}"
            )
        unknown = set(allowed_special) - self._special_ids.keys()
        if unknown:
            raise ValueError(
                f"allowed_special holds an unknown special token ({min(unknown)!r}); "
                f"the tokenizer has {self.special_tokens}"
            )
        return Pretokenizer(self.pattern, set(allowed_special))

    def _encode_blocks(self, blocks: Iterable[str], pretokenizer: Pretokenizer) -> Iterator[bytes]:
        offset = 0
        for block in blocks:
            try:
                yield self._encode_block(block, pretokenizer)
            except UnicodeEncodeError:
                place = next(i for i, c in enumerate(block) if "\ud800" <= c <= "\udfff")
                raise ValueError(
                    f"the text has a lone surrogate (U+{ord(block[place]):04X} at character "
                    f"{offset + place}); replace it, for example with U+FFFD"
                ) from None
            offset += len(block)

    def _encode_block(self, block: str, pretokenizer: Pretokenizer) -> bytes:
        """The bytes of the ids of a block."""
        parts = []
        for i, part in enumerate(pretokenizer.split(block)):
            if i % 2:
                parts.append(self._special_bytes[part])
            elif part:
                parts.append(self._encode_ordinary(part))
        return b"".join(parts)

    # Decoding

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the ids (a list, array or tensor `(ids,)`); ValueError for an unknown id."""
        try:
            return b"".join([self.vocab[operator.index(id)] for id in ids])
        except KeyError as error:
            raise ValueError(
                f"no token has this id ({error.args[0]}); ids go from 0 to {len(self) - 1}"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids. A character cut by the ends of the ids becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    # Files

    def save(self, path: StrPath) -> None:
        """Write tokenizer.json, which Hugging Face tokenizers and transformers read too."""
        text = self.to_json()
        with replacing_file(Path(path)) as file:
            file.write(text.encode())

    def to_json(self) -> str:
        """The text of tokenizer.json."""
        return formats.to_tokenizer_json(self.vocab, self.merges, self.special_tokens, self.pattern)

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """Read tokenizer.json. FileFormatError where it is broken or is no byte-level BPE."""
        return cls.from_json(Path(path).read_bytes(), path)

    @classmethod
    def from_json(cls, text: str | bytes, path: StrPath = "tokenizer.json") -> Self:
        """The same from the text itself; errors name it by `path`."""
        return cls._from_file(path, *formats.from_tokenizer_json(text, path))

    @classmethod
    def from_gpt2(cls, vocab_json: StrPath, merges_txt: StrPath) -> Self:
        """GPT-2's tokenizer from its two files, with `<|endoftext|>` special."""
        vocab = formats.read_gpt2_vocab(vocab_json)
        merges = formats.read_gpt2_merges(merges_txt)
        files = f"{os.fspath(vocab_json)} with {os.fspath(merges_txt)}"
        return cls._from_file(files, vocab, merges, ["<|endoftext|>"], GPT2)

    @classmethod
    def _from_file(
        cls,
        path: StrPath,
        vocab: dict[int, bytes],
        merges: list[tuple[bytes, bytes]],
        special_tokens: list[str],
        pattern: str,
    ) -> Self:
        try:
            return cls(vocab, merges, special_tokens, pattern)
        except ValueError as error:
            raise FileFormatError(f"{os.fspath(path)}: {error}") from None

    @classmethod
    def from_tiktoken(
        cls,
        ranks: Mapping[bytes, int],
        special_tokens: Sequence[str] | Mapping[str, int] = (),
        pattern: str = GPT2,
    ) -> Self:
        """A tiktoken vocabulary, `mergeable_ranks`; its special tokens with their ids, or without.

        tiktoken keeps no merges: each token's is what BPE with the lower ranks leaves of it.
        ValueError where that is not two tokens.
        """
        vocab = {rank: token for token, rank in ranks.items()}
        if isinstance(special_tokens, Mapping):
            vocab |= {id: special.encode() for special, id in special_tokens.items()}
        return cls(vocab, formats.merges_of_ranks(ranks), list(special_tokens), pattern)
