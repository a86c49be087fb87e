"""Encode many documents into many token files, in bounded memory and in several processes.

These token files are called shards. The shards of a split form one stream: for each document, its
ids and then the separator's id. A shard ends after exactly `shard_tokens` ids, even inside a
document. So a document of many gigabytes makes shards of the usual size.

The encoder groups documents into items of about 1 MB. All documents of an item belong to one split.
A resumed run reads the items that are already in shards without encoding them, and then encodes the
later items. See `corpus_writer`.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from scratchlm.data.corpus_folder import SPLITS, CorpusInfo
from scratchlm.data.corpus_writer import CorpusSettings, Ids, Wants, write_corpus
from scratchlm.data.documents import Chunk, read_documents, rest_of_document
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import DEFAULT, Reading
from scratchlm.data.sources import find_files, num_bytes
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer
from scratchlm.tokenizer.workers import parallel_map, workers_for

ITEM_CHARACTERS = 1 << 20  # of text in an item
_DOCUMENT = 100  # extra characters that each document counts, to bound items of tiny documents


class Item(NamedTuple):
    """About 1 MB of documents of one split. Documents may begin before it, and end after it."""

    split: str
    texts: list[tuple[str, bool]]  # (text, whether the document ends with this text)

    @property
    def documents(self) -> int:
        """Return the number of documents that end in this item."""
        return sum(last for _, last in self.texts)


def encode_corpus(
    tokenizer: BPETokenizer,
    paths: StrPath | Sequence[StrPath],
    output: StrPath,
    *,
    reading: Reading = DEFAULT,
    rejects: Rejects | None = None,
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
    settings = CorpusSettings(
        **asdict(reading), val_fraction=val_fraction, seed=seed, shard_tokens=shard_tokens
    )
    files = find_files(paths)
    return encode_files(tokenizer, files, output, settings, num_workers, rejects, resume=resume)


def encode_files(
    tokenizer: BPETokenizer,
    files: list[Path],
    output: StrPath,
    settings: CorpusSettings,
    num_workers: int | None = None,
    rejects: Rejects | None = None,
    *,
    resume: bool = False,
) -> CorpusInfo:
    """Encode the documents of `files` as `encode_corpus` does. `settings` decides the content."""
    size = num_bytes(files)
    account = rejects or Rejects()
    workers = workers_for(size, num_workers)

    def encode(wants: Wants) -> Generator[tuple[str, Ids], None, None]:
        function = functools.partial(
            encode_item, tokenizer, tokenizer.token_to_id(settings.separator)
        )
        with tqdm(total=size, desc="encoding", unit="B", unit_scale=True, disable=None) as bar:
            chunks = read_documents(
                files,
                settings.reading,
                account,
                bar.update,
                max_documents=settings.max_documents,
            )
            items = items_of(chunks, tokenizer.pretokenizer("none"), settings)
            todo = (item for item in items if wants(item.split, item.documents))
            yield from parallel_map(function, todo, workers)

    return write_corpus(tokenizer, files, output, settings, encode, account, resume=resume)


def items_of(
    chunks: Iterator[Chunk], pretokenizer: Pretokenizer, settings: CorpusSettings
) -> Iterator[Item]:
    """Group documents into items."""
    texts: dict[str, list[tuple[str, bool]]] = {split: [] for split in SPLITS}
    sizes = dict.fromkeys(SPLITS, 0)
    for chunk in chunks:
        split = settings.split_of(chunk.document)
        for text, last in _parts(chunk, chunks, pretokenizer):
            texts[split].append((text, last))
            sizes[split] += len(text) + _DOCUMENT
            if sizes[split] >= ITEM_CHARACTERS:
                yield Item(split, texts[split])
                texts[split], sizes[split] = [], 0
    for split in SPLITS:
        if texts[split]:
            yield Item(split, texts[split])


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


def encode_item(tokenizer: BPETokenizer, separator: int, item: Item) -> tuple[str, Ids]:
    """Return the split and the ids of an item, with the separator's id after each document.

    Special tokens in the texts are plain text.
    """
    parts: list[Ids] = []
    end = np.array([separator], tokenizer.dtype)
    for text, last in item.texts:
        parts.append(tokenizer.encode_array(text, allowed_special="none", strict=True))
        if last:
            parts.append(end)
    return item.split, np.concatenate(parts)
