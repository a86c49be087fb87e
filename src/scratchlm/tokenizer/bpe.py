"""Byte-level BPE tokenizer: text to ids and back (Sennrich et al. 2016, arXiv 1508.07909; GPT-2).

The tokenizer splits a text at its special tokens, and a pattern cuts the rest into pieces. The
tokenizer encodes each piece separately. At first, each byte of the piece is one token. Then the
tokenizer merges the adjacent pair of lowest rank (the pair learned first), the leftmost one if the
pair occurs several times. It repeats this until no adjacent pair is a learned merge.
"""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from scratchlm.config import takes_synonyms
from scratchlm.errors import knows_names
from scratchlm.files.atomic import write_file
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.encoding.encoder import (
    BlockEncoder,
    TextEncoder,
    WordEncoder,
    no_ids,
    not_a_text,
)
from scratchlm.tokenizer.formats import tokenizer_json
from scratchlm.tokenizer.formats.gpt2_files import read_gpt2, write_gpt2_merges, write_gpt2_vocab
from scratchlm.tokenizer.formats.json_content import read_file
from scratchlm.tokenizer.formats.tiktoken_files import (
    parts_of_ranks,
    read_tiktoken,
    tiktoken_ranks,
    write_tiktoken,
)
from scratchlm.tokenizer.learning.training import Training
from scratchlm.tokenizer.merge_table import BYTES
from scratchlm.tokenizer.parts import (
    Normalization,
    TokenizerParts,
    content_hash,
    ids_of,
    merge_table,
)
from scratchlm.tokenizer.pieces.patterns import GPT2, Pattern, canonical
from scratchlm.tokenizer.pieces.pretokenize import (
    BLOCK_CHARACTERS,
    Pretokenizer,
    check_special_tokens,
)
from scratchlm.tokenizer.special_tokens import END_OF_TEXT
from scratchlm.tokenizer.token_files import dtype_of, encoded_ranges, writing_ids

# Names that people look for in a tokenizer.
FOREIGN = {
    "train": "train_bpe(paths, vocab_size)",
    "fit": "tokenizer = BPETokenizer.fit(texts, vocab_size)",
    "train_from_iterator": "BPETokenizer.fit(texts, vocab_size)",
    "encode_ordinary": 'encode(text, allowed_special="none")',
    "encode_batch": "[tokenizer.encode(text) for text in texts]",
    "batch_decode": "[tokenizer.decode(ids) for ids in batch]",
    "decode_batch": "[tokenizer.decode(ids) for ids in batch]",
    "n_vocab": "vocab_size",
    "get_vocab_size": "vocab_size",
    "get_vocab": "vocab",
    "id_to_token": "vocab[id]",
    "decode_single_token_bytes": "vocab[id]",
    "convert_tokens_to_ids": "token_to_id(token)",
    "eot_token": 'token_to_id("<|endoftext|>")',
    "eos_token_id": 'token_to_id("<|endoftext|>")',
    "save_pretrained": "save(path)",
}


@knows_names(FOREIGN)
@takes_synonyms()
class BPETokenizer:
    """Byte-level BPE from a vocabulary and its merges, listed by rank.

    vocab: the bytes of each id. Special tokens that are not in `vocab` get the next ids, in order.
    pattern: cuts the text outside special tokens into pieces: one expression, or a tuple of
        expressions that cut one after another (see `patterns`). Merges stay inside a piece.
    ignore_merges: a piece that is in `vocab` becomes that token without merging (Llama 3's file).
    normalization: the Unicode form that text is converted to first ("NFC" in Qwen's file), with
        this Python's Unicode version. Decoding returns the normalized text.
    normalized_tokens: the special tokens to find after normalization (GPT-NeoX's runs of spaces).
    unk_token: replaces a byte that is not in `vocab`. If `unk_token` is None, encoding drops such a
        byte and warns once.
    fuse_unk: one `unk_token` replaces several unknown bytes in a row.

    Each argument is also an attribute (`vocab` includes the special tokens). Do not change these
    attributes. `len()` is the largest id + 1: the vocabulary size that a model needs.

    Raise ValueError if an id is negative, two ids have the same bytes, or a special token is empty
    or repeated. Also raise ValueError if a merge is listed twice, or if its parts or its product
    are not in the vocabulary.

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
        pattern: Pattern = GPT2,
        *,
        ignore_merges: bool = False,
        normalization: Normalization | None = None,
        normalized_tokens: Collection[str] = (),
        unk_token: bytes | None = None,
        fuse_unk: bool = False,
    ) -> None:
        self.vocab = dict(vocab)
        self.special_tokens = check_special_tokens(special_tokens or [])
        self.pattern = canonical(pattern)
        self.ignore_merges = ignore_merges
        self.normalization = normalization
        self.normalized_tokens = tuple(normalized_tokens)
        self.unk_token, self.fuse_unk = unk_token, fuse_unk

        id_of, special_ids = ids_of(self.vocab, self.special_tokens)
        if self.vocab and min(self.vocab) < 0:
            raise ValueError(f"an id must be at least 0 ({min(self.vocab)}); number the ids from 0")
        self._size = max(self.vocab, default=-1) + 1
        for special in self.special_tokens:
            if special not in special_ids:
                special_ids[special] = self._size
                self.vocab[self._size] = special.encode()
                self._size += 1

        self._merges = merge_table(vocab, merges, id_of, special_ids).with_vocab(self.vocab)
        self._merges.check_once()
        self._id_of, self._special_ids = id_of, special_ids
        token = unk_token or b""
        unknown = special_ids.get(token.decode(errors="replace"), id_of.get(token))
        whole = id_of if ignore_merges else {}

        def encoder(strict: bool) -> BlockEncoder:
            words = WordEncoder(id_of, self._merges, self.dtype, whole, unknown, fuse_unk, strict)
            text = TextEncoder(words, self.pattern, normalization)
            return BlockEncoder(text, special_ids, self.dtype)

        self._encoder = self._strict_encoder = encoder(strict=False)
        if unknown is None and not all(byte in id_of for byte in BYTES):
            self._strict_encoder = encoder(strict=True)
        self._plain = Pretokenizer(self.pattern, (), normalization)
        self._all_special = self._pretokenizer(self.special_tokens)

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Train a tokenizer on texts in memory. `train_bpe_from_texts` has more options."""
        training = Training(vocab_size, (END_OF_TEXT,), GPT2, 0, None)
        return cls.from_parts(training.learn_from_texts(texts, None))

    def __len__(self) -> int:
        return self._size

    vocab_size = property(__len__, doc="The same as `len()`.")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_parts, (self.parts,)

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The merges by rank: the first was learned first."""
        return self._merges.as_bytes

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of stored ids: little-endian uint16 for up to 65,536 ids, else uint32."""
        return dtype_of(len(self))

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the content. The file format does not change it; see `content_hash`."""
        return content_hash(self.parts)

    def token_to_id(self, token: str) -> int:
        """Return the id of the token, ordinary or special, with this text.

        Raise ValueError if no token has this text.
        """
        try:
            special = self._special_ids.get(token)
            return self._id_of[token.encode()] if special is None else special
        except KeyError:
            raise ValueError(
                f"no token has this text ({token!r}); use the text of a token, such as one of the "
                f"special tokens {self.special_tokens}"
            ) from None

    # Encoding

    def encode(self, text: str, allowed_special: str | Collection[str] = "all") -> list[int]:
        """Return the ids of a text.

        allowed_special: "all", "none", or a collection of the special tokens that become their id.
            The tokenizer reads other special tokens as plain text. Pass "none" for untrusted text.

        Raise ValueError for any other string, an unknown special token, or a lone surrogate in the
        text. The message contains the surrogate's position.
        """
        return self.encode_array(text, allowed_special).tolist()

    def encode_array(
        self, text: str, allowed_special: str | Collection[str] = "all", *, strict: bool = False
    ) -> npt.NDArray[Any]:
        """Return the ids of a text as an array `(ids,)` of `dtype`.

        Raise the same errors as `encode`. If `strict` is True, also raise ValueError for a byte
        that encoding would otherwise drop.
        """
        if not isinstance(text, str):
            raise not_a_text(text)
        pretokenizer = self.pretokenizer(allowed_special)
        blocks = [text] if len(text) <= BLOCK_CHARACTERS else pretokenizer.blocks([text])
        encoder = self._strict_encoder if strict else self._encoder
        encoded = encoder.encode(blocks, pretokenizer)
        return np.frombuffer(b"".join(encoded), self.dtype)

    def encode_iterable(
        self, texts: Iterable[str], allowed_special: str | Collection[str] = "all"
    ) -> Iterator[int]:
        """Yield the ids of one text that comes in chunks, such as the lines of an open file.

        The ids are the ids of the joined text. The method yields an id when no later chunk can
        change the id. The longest chunk and the longest piece limit the memory that the method
        needs (see `Pretokenizer.blocks`). Raise the same errors as `encode`.
        """
        pretokenizer = self.pretokenizer(allowed_special)
        blocks = pretokenizer.blocks(texts)
        # `map` makes Python ints one by one, so a block's ids are never in a list.
        encoded = self._encoder.encode(blocks, pretokenizer)
        return chain.from_iterable(map(int, np.frombuffer(ids, self.dtype)) for ids in encoded)

    def encode_file(self, src: StrPath, dst: StrPath, num_workers: int | None = None) -> int:
        """Write the ids of a UTF-8 file to `dst` as raw numbers of `dtype`; return their count.

        Special tokens in the file become their ids. The sidecar `dst` + ".json" describes the
        numbers (see `token_files`). Up to `num_workers` processes read and encode ranges of the
        file. By default, the method uses one process per core, and only this process for a file
        below 4 MB. The new file replaces `dst` only when the new file is complete. Raise ValueError
        if the source is not UTF-8, or has a byte that encoding would drop.
        """
        with writing_ids(self.parts, Path(dst)) as writer:
            for ids in self.encode_ranges(src, num_workers):
                writer.write(ids)
        return writer.count

    def encode_ranges(
        self, src: StrPath, num_workers: int | None = None
    ) -> Iterator[npt.NDArray[Any]]:
        """Yield the ids of a UTF-8 file, range by range, as arrays of `dtype`.

        The arguments and the errors are the same as in `encode_file`.
        """
        encode = functools.partial(self.encode_array, strict=True)
        return encoded_ranges(encode, self._all_special, src, num_workers)

    def pretokenizer(self, allowed_special: str | Collection[str]) -> Pretokenizer:
        """Return the pretokenizer that `encode` uses. Raise the same errors as `encode`."""
        if allowed_special == "all":
            return self._all_special
        if allowed_special == "none":
            return self._plain
        if isinstance(allowed_special, str):
            raise ValueError(
                f'allowed_special must be "all", "none" or a set ({allowed_special!r}); '
                f"write {{{allowed_special!r}}} to allow this token"
            )
        unknown = set(allowed_special) - self._special_ids.keys()
        if unknown:
            raise ValueError(
                f"allowed_special contains an unknown special token ({min(unknown)!r}); "
                f"choose from the tokenizer's special tokens {self.special_tokens}"
            )
        return self._pretokenizer(set(allowed_special))

    def _pretokenizer(self, specials: Collection[str]) -> Pretokenizer:
        return Pretokenizer(self.pattern, specials, self.normalization, self.normalized_tokens)

    # Decoding

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of a list, array or tensor of ids (ids,).

        Raise ValueError for an unknown id.
        """
        try:
            return b"".join([self.vocab[operator.index(id)] for id in ids])
        except (KeyError, TypeError) as error:
            raise no_ids(ids, error, len(self)) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids. Bytes that are not valid UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    # Files

    def save(self, path: StrPath) -> None:
        """Write tokenizer.json. Hugging Face tokenizers and transformers can read it too."""
        write_file(path, self.to_json().encode())

    def to_json(self) -> str:
        """Return the text of tokenizer.json.

        Raise ValueError if `load` could not restore this tokenizer from the text.
        """
        return tokenizer_json.write_tokenizer_json(self.parts)

    def save_gpt2(self, vocab_json: StrPath, merges_txt: StrPath) -> None:
        """Write GPT-2's two files.

        Raise ValueError if the files cannot store the tokenizer, such as one with another pattern.
        """
        vocab, merges = write_gpt2_vocab(self.parts), write_gpt2_merges(self.parts)
        write_file(vocab_json, vocab.encode())
        write_file(merges_txt, merges.encode())

    def save_tiktoken(self, path: StrPath) -> None:
        """Write tiktoken's rank file, without special tokens.

        Raise ValueError if tiktoken would return other ids.
        """
        write_file(path, write_tiktoken(tiktoken_ranks(self.parts)))

    @property
    def parts(self) -> TokenizerParts:
        """The content that the file formats store."""
        return TokenizerParts(
            self.vocab,
            self._merges,
            self.special_tokens,
            self.pattern,
            self.ignore_merges,
            self.normalization,
            self.normalized_tokens,
            self.unk_token,
            self.fuse_unk,
        )

    @classmethod
    def from_parts(cls, parts: TokenizerParts) -> Self:
        return cls(**vars(parts))

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """Read tokenizer.json. Raise FileFormatError if the file is not a valid byte-level BPE."""
        return cls.from_json(read_file(path), path)

    @classmethod
    def from_json(cls, text: str | bytes, path: StrPath = "tokenizer.json") -> Self:
        """Read the text of a tokenizer.json. Error messages contain `path`."""
        return cls.from_parts(tokenizer_json.read_tokenizer_json(text, path))

    @classmethod
    def from_gpt2(cls, vocab_json: StrPath, merges_txt: StrPath) -> Self:
        """Read GPT-2's two files. `<|endoftext|>` becomes a special token."""
        return cls.from_parts(read_gpt2(vocab_json, merges_txt))

    @classmethod
    def from_tiktoken(
        cls,
        ranks: Mapping[bytes, int] | StrPath,
        special_tokens: Sequence[str] | Mapping[str, int] = (),
        pattern: Pattern = GPT2,
    ) -> Self:
        """Convert tiktoken's `mergeable_ranks`, or read them from a file.

        The file contains neither the special tokens nor the pattern, so pass both. The special
        tokens may have ids. tiktoken stores no merges. BPE with the lower ranks splits each token
        into parts. If there are two parts, they are the token's merge. If there are more parts, the
        tokenizer merges any two neighbours that together are a token, as tiktoken does.
        """
        if isinstance(ranks, str | os.PathLike):
            ranks = read_tiktoken(ranks)
        return cls.from_parts(parts_of_ranks(ranks, special_tokens, pattern))
