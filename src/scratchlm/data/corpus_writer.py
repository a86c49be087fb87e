"""Write the ids of documents into a corpus: the shards of two splits, in order.

`write_corpus` receives ids item by item from a function `encode`. An item has the ids of some
documents of one split. Items must not depend on the number of workers or on the moment at which a
run was killed. A place in a split's stream is the number of an item and the position of an id in
that item. A resumed run needs only this place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

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
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import Reading
from scratchlm.data.resumable import check_unchanged, describe
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.special_tokens import END_OF_TEXT
from scratchlm.tokenizer.token_files import IdWriter, Maker

Ids = npt.NDArray[np.integer]


@dataclass(frozen=True)
class CorpusSettings:
    """Store what decides about the content of a corpus, besides its tokenizer and its files.

    `field`, `separator` and `join` are the fields of `Reading`. `max_documents` limits the number
    of documents of each file.
    """

    field: str = "text"
    separator: str = END_OF_TEXT
    join: str | None = None
    val_fraction: float = 0.0
    seed: int = 0
    shard_tokens: int = 100_000_000
    max_documents: int | None = None

    @property
    def reading(self) -> Reading:
        return Reading(self.field, self.separator, self.join)

    def check(self, tokenizer: BPETokenizer) -> None:
        """Raise ValueError for settings that no corpus of this tokenizer can have."""
        check_separator(tokenizer, self.separator)
        if not 0 <= self.val_fraction < 1:
            raise ValueError(
                f"val_fraction must be at least 0 and less than 1 ({self.val_fraction}); choose "
                "the fraction of documents to hold out, such as 0.01"
            )
        if self.shard_tokens < 1:
            raise ValueError(
                f"shard_tokens must be at least 1 ({self.shard_tokens}); use e.g. 100000000"
            )

    def split_of(self, document: int) -> str:
        """Return the split of document number `document`, which is the same on every machine."""
        digest = hashlib.sha256(f"{self.seed} {document}".encode()).digest()
        chance = int.from_bytes(digest[:6], "big") / (1 << 48)
        return "val" if chance < self.val_fraction else "train"


def check_separator(tokenizer: BPETokenizer, separator: str) -> None:
    """Raise ValueError if the separator is not a special token of the tokenizer."""
    if separator not in tokenizer.special_tokens:
        has = ", ".join(tokenizer.special_tokens) or "none"
        raise ValueError(
            f"the separator must be a special token of the tokenizer ({separator!r}, but the "
            f"tokenizer has {has}); choose a special token with --separator"
        )


Wants = Callable[[str, int], bool]  # `SplitStream.wants` of a split
Encode = Callable[[Wants], Generator[tuple[str, Ids], None, None]]


def write_corpus(
    tokenizer: BPETokenizer,
    files: list[Path],
    output: StrPath,
    settings: CorpusSettings,
    encode: Encode,
    account: Rejects | None = None,
    *,
    resume: bool,
) -> CorpusInfo:
    """Write a corpus of the documents of `files` into the folder `output`.

    `encode(wants)` must yield (split, ids) for each item, in order. For each item of a split, in
    order, it must call `wants(split, number of documents)`. If the result is false, the item is
    already in a shard, and `encode` must leave it out. If the corpus is finished, a run with
    `resume` only checks the corpus. `account` counts what `encode` reads: each record and each byte
    of text must be in the corpus, or be counted as dropped.

    Raise FileFormatError if a file changed meanwhile. Raise ValueError if there is no document.
    """
    settings.check(tokenizer)
    inputs = describe(files)
    recorded = asdict(settings) | {"tokenizer": tokenizer.hash}
    with corpus_folder(Path(output), tokenizer, recorded, inputs, resume=resume) as folder:
        if folder.finished:
            return folder.finished
        streams = {split: SplitStream(folder, split) for split in SPLITS}
        try:
            with closing(encode(lambda split, count: streams[split].wants(count))) as items:
                for split, ids in items:
                    streams[split].add(ids)
            train, val = (stream.end() for stream in streams.values())
        finally:
            for stream in streams.values():
                stream.abandon()
        if not train.documents + val.documents:
            raise ValueError(f"the files must have a document ({files[0]} …); choose other files")
        check_unchanged(files, inputs, WORDING)
        reading = {} if account is None else account.account()
        if reading:
            documents = reading["records"] - reading["empty"] - reading["rejected"]
            assert documents == train.documents + val.documents, "a record disappeared"
            assert reading["text_bytes"] == train.text_bytes + val.text_bytes, "a text changed"
        return folder.finish(train, val, reading)


class SplitStream:
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

    def wants(self, documents: int) -> bool:
        """Check whether to encode an item, in which this number of documents ends. Call this for
        every item of the split, in order."""
        self._documents += documents
        self._seen += 1
        return self._seen > self._first

    def add(self, ids: Ids) -> None:
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
