"""Encode many documents into many token files, in bounded memory and in several processes.

These token files are called shards. The shards of a split form one stream: for each document, its
ids and then the separator's id. A shard ends after exactly `shard_tokens` ids, even inside a
document. So a document of many gigabytes makes shards of the usual size.

The encoder groups documents into items of about 1 MB. All documents of an item belong to one split.
Items do not depend on the number of workers or on the moment at which a run was killed. A place in
a split's stream is the number of an item and the position of an id in that item. A resumed run
needs only this place. The run reads the earlier items without encoding them, and then encodes the
later items.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from scratchlm.data.corpus_folder import (
    SPLITS,
    TOKENIZER,
    WORDING,
    CorpusFolder,
    CorpusInfo,
    Place,
    SplitInfo,
    corpus_folder,
)
from scratchlm.data.documents import Chunk, read_documents, rest_of_document
from scratchlm.data.resumable import check_unchanged, describe
from scratchlm.data.sources import find_files
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer
from scratchlm.tokenizer.special_tokens import END_OF_TEXT
from scratchlm.tokenizer.token_files import IdWriter, Maker
from scratchlm.tokenizer.workers import parallel_map, workers_for

ITEM_CHARACTERS = 1 << 20  # of text in an item
_DOCUMENT = 100  # extra characters that each document counts, to bound items of tiny documents


class _Item(NamedTuple):
    split: str
    texts: list[tuple[str, bool]]  # (text, whether the document ends with this text)


def encode_corpus(
    tokenizer: BPETokenizer,
    paths: StrPath | Sequence[StrPath],
    output: StrPath,
    *,
    field: str = "text",
    separator: str = END_OF_TEXT,
    val_fraction: float = 0.0,
    seed: int = 0,
    shard_tokens: int = 100_000_000,
    num_workers: int | None = None,
    resume: bool = False,
) -> CorpusInfo:
    """Encode the documents of `paths` (see `read_documents`) into shards in the folder `output`.

    Special tokens inside a document are plain text. The separator's id follows each document. With
    probability `val_fraction`, a document goes to the validation split; a hash of `seed` and of the
    document's number decides. The output is the same for any `num_workers`. A killed run leaves
    only complete shards. With `resume`, a new run continues after these shards, and writes the same
    bytes as an uninterrupted run. If the corpus is finished, a run with `resume` only checks it.

    Raise ValueError if the separator is not a special token, if the folder already contains a
    corpus, if `resume` finds no corpus, and for input that `read_documents` refuses. Raise
    FileFormatError if a run with `resume` has other settings, another tokenizer or other inputs.
    """
    _check(tokenizer, separator, val_fraction, shard_tokens)
    files = find_files(paths)
    inputs = describe(files)
    settings = {
        "field": field,
        "separator": separator,
        "val_fraction": val_fraction,
        "seed": seed,
        "shard_tokens": shard_tokens,
        "tokenizer": tokenizer.hash,
    }
    size = sum(entry["size"] for entry in inputs)
    workers = workers_for(size, num_workers)
    with (
        corpus_folder(Path(output), tokenizer, settings, inputs, resume=resume) as folder,
        tqdm(total=size, desc="encoding", unit="B", unit_scale=True, disable=None) as bar,
    ):
        if folder.finished:
            return folder.finished
        streams = {split: _Stream(folder, split) for split in SPLITS}
        chunks = read_documents(files, field, separator, bar.update)
        items = _items(chunks, tokenizer.pretokenizer("none"), val_fraction, seed)
        todo = (item for item in items if streams[item.split].wants(item))
        encode = functools.partial(_encode, tokenizer, tokenizer.token_to_id(separator))
        try:
            for split, ids in parallel_map(encode, todo, workers):
                streams[split].add(ids)
            train, val = (stream.end() for stream in streams.values())
        finally:
            for stream in streams.values():
                stream.abandon()
        if not train.documents + val.documents:
            raise ValueError(f"the files must have a document ({files[0]} …); choose other files")
        check_unchanged(files, inputs, WORDING)
        return folder.finish(train, val)


def _check(tokenizer: BPETokenizer, separator: str, val_fraction: float, shard_tokens: int) -> None:
    if separator not in tokenizer.special_tokens:
        has = ", ".join(tokenizer.special_tokens) or "none"
        raise ValueError(
            f"the separator must be a special token of the tokenizer ({separator!r}, but the "
            f"tokenizer has {has}); choose a special token with --separator"
        )
    if not 0 <= val_fraction < 1:
        raise ValueError(
            f"val_fraction must be at least 0 and less than 1 ({val_fraction}); choose the "
            "fraction of documents to hold out, such as 0.01"
        )
    if shard_tokens < 1:
        raise ValueError(f"shard_tokens must be at least 1 ({shard_tokens}); use e.g. 100000000")


def _items(
    chunks: Iterator[Chunk], pretokenizer: Pretokenizer, val_fraction: float, seed: int
) -> Iterator[_Item]:
    texts: dict[str, list[tuple[str, bool]]] = {split: [] for split in SPLITS}
    sizes = dict.fromkeys(SPLITS, 0)
    for chunk in chunks:
        split = "val" if _chance(seed, chunk.document) < val_fraction else "train"
        for text, last in _parts(chunk, chunks, pretokenizer):
            texts[split].append((text, last))
            sizes[split] += len(text) + _DOCUMENT
            if sizes[split] >= ITEM_CHARACTERS:
                yield _Item(split, texts[split])
                texts[split], sizes[split] = [], 0
    for split in SPLITS:
        if texts[split]:
            yield _Item(split, texts[split])


def _chance(seed: int, document: int) -> float:
    """Return a number in [0, 1), which is the same on every machine."""
    digest = hashlib.sha256(f"{seed} {document}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def _parts(
    first: Chunk, chunks: Iterator[Chunk], pretokenizer: Pretokenizer
) -> Iterator[tuple[str, bool]]:
    """Yield (text, last) for each block of a document.

    The blocks of a long document encode to the same ids as the whole document.
    """
    if first.last and len(first.text) <= ITEM_CHARACTERS:
        yield first.text, True
        return
    blocks = pretokenizer.blocks(rest_of_document(first, chunks))
    block = next(blocks)
    for following in blocks:
        yield block, False
        block = following
    yield block, True


def _encode(
    tokenizer: BPETokenizer, separator: int, item: _Item
) -> tuple[str, npt.NDArray[np.integer]]:
    parts: list[npt.NDArray[np.integer]] = []
    end = np.array([separator], tokenizer.dtype)
    for text, last in item.texts:
        parts.append(tokenizer.encode_array(text, allowed_special="none", strict=True))
        if last:
            parts.append(end)
    return item.split, np.concatenate(parts)


class _Stream:
    """Write the ids of one split to its shards in order. Start at the folder's saved place."""

    def __init__(self, folder: CorpusFolder, split: str) -> None:
        self._folder, self._split = folder, split
        self._infos = folder.shard_infos(split)
        place = folder.places[split]
        self._first = self._next = place.item  # first item to encode, next item to add
        self._skip = place.id  # ids of this item that are already in a shard
        self._documents = self._seen = 0
        self._maker = Maker.of(folder.tokenizer.parts, TOKENIZER)
        self._shard: IdWriter | None = None

    def wants(self, item: _Item) -> bool:
        """Check whether to encode the item. Call this for every item of the split, in order."""
        self._documents += sum(last for _, last in item.texts)
        self._seen += 1
        return self._seen > self._first

    def add(self, ids: npt.NDArray[np.integer]) -> None:
        """Write the ids of the next item of this split."""
        start, self._skip = self._skip, 0
        while start < len(ids):
            if self._shard is None:
                path = self._folder.shard_path(self._split, len(self._infos))
                self._shard = IdWriter(path, self._maker)
            room = self._folder.settings["shard_tokens"] - self._shard.count
            part = ids[start : start + room]
            self._shard.write(part)
            start += len(part)
            if len(part) == room:
                self._close(Place(len(self._infos) + 1, self._next, start))
        self._next += 1

    def _close(self, place: Place) -> None:
        assert self._shard is not None
        self._infos.append(self._shard.close())
        self._shard = None
        self._folder.save(self._split, place)

    def end(self) -> SplitInfo:
        """Close the last shard and return the totals of the split."""
        if self._shard is not None:
            self._close(Place(len(self._infos) + 1, self._next))
        return SplitInfo(
            documents=self._documents,
            text_bytes=sum(info.text_bytes for info in self._infos),
            tokens=sum(info.count for info in self._infos),
            shards=[path.name for path in self._folder.shard_paths(self._split)],
        )

    def abandon(self) -> None:
        """Remove the unfinished shard, if there is one."""
        if self._shard is not None:
            self._shard.abandon()
