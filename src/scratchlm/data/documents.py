"""Read the documents of files in chunks: plain text split at a separator, JSON, Parquet.

    text             only the separator splits a text into documents
    JSON lines       one document per line: a string, or the text in a field of an object
    JSON             a list of such strings or objects
    Parquet          one document per row, in one column

It keeps a newline next to a separator, so the documents, joined with the separator, equal the file.
It drops empty documents. `reading.records` explains what it reads and what it refuses.

A plain text may be one document of many gigabytes, so the reader yields documents in chunks. Memory
contains at most the bytes of a line of JSON, a few rows of Parquet, or a MiB of text. Only a JSON
list must fit into memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scratchlm.data.reading.plain_text import documents
from scratchlm.data.reading.record import pieces
from scratchlm.data.reading.records import records_of
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import DEFAULT, Reading
from scratchlm.data.reading.unpacked import Progress
from scratchlm.data.sources import find_files, format_of
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer


class Chunk(NamedTuple):
    """Store a part of document number `document`. `last` is true for the document's last part."""

    document: int
    text: str
    last: bool


def read_documents(
    paths: StrPath | Sequence[StrPath],
    reading: Reading = DEFAULT,
    rejects: Rejects | None = None,
    progress: Progress = lambda size: None,
    *,
    max_documents: int | None = None,
) -> Iterator[Chunk]:
    """Yield the documents of all files in chunks. `find_files` finds the files.

    Document numbers start at 0, without rejected and empty documents, which `rejects` counts.
    `max_documents` limits the number of documents that the reader takes from each file. This number
    includes empty documents. Raise the errors of `read_records`.
    """
    if max_documents is not None and max_documents < 1:
        raise ValueError(f"max_documents must be at least 1 ({max_documents}); use e.g. 1000")
    rejects = rejects or Rejects()
    document, started = 0, False
    for path in find_files(paths):
        is_text = format_of(path).kind == "text"
        for text, last in _first(path, reading, rejects, progress, max_documents):
            started = started or bool(text)
            rejects.text_bytes += len(text.encode())
            if started and (text or last):
                yield Chunk(document, text, last)
            if last and started:
                document, started = document + 1, False
                rejects.records += is_text
            elif last:
                rejects.empty += not is_text  # a plain text has no record between two separators


def _first(
    path: Path, reading: Reading, rejects: Rejects, progress: Progress, count: int | None
) -> Iterator[tuple[str, bool]]:
    """Yield the first `count` documents of a file as `_read` does. Count the rest as read."""
    size = path.stat().st_size

    def read(part: int) -> None:
        nonlocal size
        size -= part
        progress(part)

    for text, last in _read(path, reading, rejects, read):
        yield text, last
        if last and count is not None:
            count -= 1
            if count == 0:
                progress(size)
                return


def _read(
    path: Path, reading: Reading, rejects: Rejects, progress: Progress
) -> Iterator[tuple[str, bool]]:
    """Yield (text, whether the document ends with this text)."""
    if format_of(path).kind == "text":
        yield from documents(path, reading.boundary, progress)
        return
    for record in records_of(path, reading, rejects, progress, whole=False):
        yield from pieces(record)


def read_texts(
    paths: StrPath | Sequence[StrPath],
    reading: Reading = DEFAULT,
    rejects: Rejects | None = None,
    *,
    pattern: str,
    special_tokens: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the documents of `read_documents` as strings for BPE training, in bounded memory.

    It splits a document of several chunks only where the split does not change the pattern's
    pieces.
    """
    pretokenizer = Pretokenizer(pattern, special_tokens)
    chunks = read_documents(paths, reading, rejects)
    for chunk in chunks:
        if chunk.last:
            yield chunk.text
        else:
            yield from pretokenizer.blocks(rest_of_document(chunk, chunks))


def rest_of_document(first: Chunk, chunks: Iterator[Chunk]) -> Iterator[str]:
    """Yield the text of a document, chunk by chunk, starting with its first chunk."""
    yield first.text
    while not first.last:
        first = next(chunks)
        yield first.text
