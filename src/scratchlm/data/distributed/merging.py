"""Merge the parts of all input files into one corpus.

The corpus has the bytes that `encode_corpus` writes in one process from the same documents: the
same shards, the same held-out documents, the same corpus.json. A merge only copies ids. Training
can also read the parts themselves: `--train_data 'parts/*.bin'` gives the same batches.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scratchlm.data.corpus_folder import SPLITS, CorpusInfo
from scratchlm.data.corpus_writer import CorpusSettings, Ids, Wants, write_corpus
from scratchlm.data.distributed.parts import Part, blocks_of, read_part
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.resumable import describe
from scratchlm.data.sources import find_files
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.bpe import BPETokenizer


def merge_parts(
    tokenizer: BPETokenizer,
    paths: StrPath | Sequence[StrPath],
    parts: StrPath,
    output: StrPath,
    settings: CorpusSettings,
    *,
    resume: bool = False,
) -> CorpusInfo:
    """Merge the parts of the files `paths` into the corpus that `encode_corpus` writes.

    If steps changed or dropped documents, corpus.json does not say what became of the records. With
    `resume`, continue a killed merge. Raise FileFormatError for a part that is missing or
    damaged, or that has another tokenizer, separator or input file.
    """
    files, folder = find_files(paths), Path(parts)
    found = [
        read_part(tokenizer, input, number, folder, settings)
        for number, input in enumerate(describe(files))
    ]

    def encode(wants: Wants) -> Generator[tuple[str, Ids], None, None]:
        end, document = tokenizer.token_to_id(settings.separator), 0
        for number, part in enumerate(found):
            for ids in blocks_of(folder, number, part):
                for split, own in _splits(ids, ids == end, document, settings):
                    if wants(split, int(np.count_nonzero(own == end))):
                        yield split, own
                document += int(np.count_nonzero(ids == end))

    account = _summed(found) if all(part.is_as_read for part in found) else None
    return write_corpus(tokenizer, files, output, settings, encode, account, resume=resume)


def _summed(parts: list[Part]) -> Rejects:
    total = Rejects()
    for reading in (part.reading for part in parts):
        total.records += reading["records"]
        total.empty += reading["empty"]
        total.text_bytes += reading["text_bytes"]
        total.count += reading["rejected"]
        total.num_bytes += reading["rejected_bytes"]
    return total


def _splits(
    ids: Ids, ends: npt.NDArray[np.bool_], document: int, settings: CorpusSettings
) -> Iterator[tuple[str, Ids]]:
    """Yield (split, ids of this split). `ends` is true at separators, and `document` is the number
    of the first id's document."""
    if not settings.val_fraction:
        yield "train", ids
        return
    after = np.cumsum(ends)
    chosen = [settings.split_of(document + i) for i in range(int(after[-1]) + 1)]
    held_out = np.array([split == "val" for split in chosen])[after - ends]
    for split in SPLITS:
        yield split, ids[held_out == (split == "val")]
