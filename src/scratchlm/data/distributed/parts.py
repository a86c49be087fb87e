"""Write the ids of one input file, on any machine: a part.

    parts/00012.bin, .bin.json   the ids of input file number 12, each document with the separator
    parts/00012.json             the description of a finished part, written last

A part's number is the number of its input file. The number depends neither on the machines nor on
the order in which they finish. A part without documents has no `.bin`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scratchlm.data import resumable
from scratchlm.data.corpora import encode_item, items_of
from scratchlm.data.corpus_writer import CorpusSettings, Ids
from scratchlm.data.documents import Chunk
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.shards import open_shard
from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.token_files import writing_ids

BLOCK = 1 << 22  # ids to merge at a time
WORDING = resumable.Wording(
    "the part", "the merge", "", "encode the files into another folder of parts"
)


@dataclass(frozen=True)
class Part:
    """Store the content of parts/NUMBER.json: what the part was made from, and its counts.

    `reading` is the account of the reader, in the form of `Rejects.account`.
    """

    input: dict[str, Any]
    settings: dict[str, Any]
    reading: dict[str, int]
    documents: int
    tokens: int
    text_bytes: int

    @property
    def is_as_read(self) -> bool:
        """Return whether no step between the reader and the encoder changed a document."""
        read = self.reading
        kept = read["records"] - read["empty"] - read["rejected"]
        return (kept, read["text_bytes"]) == (self.documents, self.text_bytes)


def write_part(
    tokenizer: BPETokenizer,
    texts: Iterable[str],
    account: Rejects,
    file: Path,
    number: int,
    folder: Path,
    settings: CorpusSettings,
) -> Part:
    """Encode the documents `texts` of input file number `number` into the folder of parts.

    When all texts are read, `account` must contain what the reader counted in this file. A killed
    call leaves no description, so a second call writes the part again.
    """
    settings.check(tokenizer)
    [described] = resumable.describe([file])
    path, description = paths_of(folder, number)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (description, path, path.with_name(f"{path.name}.json")):
        old.unlink(missing_ok=True)
    chunks = (Chunk(i, text, True) for i, text in enumerate(filter(None, texts)))
    items = items_of(chunks, tokenizer.pretokenizer("none"), replace(settings, val_fraction=0.0))
    documents = tokens = text_bytes = 0
    if first := next(items, None):
        end = tokenizer.token_to_id(settings.separator)
        with writing_ids(tokenizer.parts, path) as writer:
            for item in (first, *items):
                writer.write(encode_item(tokenizer, end, item)[1])
                documents += item.documents
        assert writer.info is not None
        tokens, text_bytes = writer.count, writer.info.text_bytes
    part = Part(
        described,
        _settings(tokenizer, settings),
        account.account(),
        documents,
        tokens,
        text_bytes,
    )
    resumable.write_hashed(description, asdict(part))
    return part


def _settings(tokenizer: BPETokenizer, settings: CorpusSettings) -> dict[str, Any]:
    """Return what decides about a part. The other settings decide about the merge."""
    merge = ("val_fraction", "seed", "shard_tokens")
    own = {name: value for name, value in asdict(settings).items() if name not in merge}
    return own | {"tokenizer": tokenizer.hash}


def paths_of(folder: Path, number: int) -> tuple[Path, Path]:
    """Return the paths of a part's ids and of its description."""
    return folder / f"{number:05}.bin", folder / f"{number:05}.json"


def read_part(
    tokenizer: BPETokenizer,
    input: dict[str, Any],
    number: int,
    folder: Path,
    settings: CorpusSettings,
) -> Part:
    """Return the description of a finished part.

    Raise FileFormatError if it is missing, or has another tokenizer, other settings or another
    input.
    """
    _, description = paths_of(folder, number)
    if not description.exists():
        raise FileFormatError(
            f"a part is missing ({description}, of {input['path']}); run the tasks again"
        )
    with resumable.reading_hashed(description, WORDING):
        part = Part(**resumable.read_hashed(description))
        resumable.check_settings(
            description, part.settings, _settings(tokenizer, settings), WORDING
        )
        resumable.check_inputs(description, [part.input], [input], WORDING)
    return part


def blocks_of(folder: Path, number: int, part: Part) -> Iterator[Ids]:
    """Yield the ids of a part, block by block. Raise FileFormatError for a damaged part."""
    path, _ = paths_of(folder, number)
    if not part.tokens:
        return
    tokens = open_shard(path).tokens
    if len(tokens) != part.tokens:
        raise FileFormatError(
            f"the part differs from its description ({path}: {len(tokens)} ids, not "
            f"{part.tokens}); {WORDING.restart}"
        )
    for start in range(0, len(tokens), BLOCK):
        yield np.asarray(tokens[start : start + BLOCK])
