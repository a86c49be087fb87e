"""Read documents from files: plain text split at a separator, JSON, JSON lines, Parquet.

    text             only the separator splits a text into documents
    JSON lines       one document per line: a string, or the string in `field` of an object
    JSON             a list of such strings or objects
    Parquet          one document per row, in column `field`

`sources` determines a file's format from its name. The reader unpacks `.gz` and `.zst`. It keeps a
newline next to a separator, so the documents, joined with the separator, equal the file. It drops a
byte order mark at the start of a file, and empty documents. It refuses content that is not text,
for any file name.

A plain text may be one document of many gigabytes, so the reader yields documents in chunks. Memory
contains at most a line of JSON, a few rows of Parquet, or a MiB of text. Only a JSON list must fit
into memory as a whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scratchlm.data.reading.json_texts import json_lines, json_list
from scratchlm.data.reading.parquet import parquet_rows
from scratchlm.data.reading.unpacked import Progress, check_kind, unpacked, without_mark
from scratchlm.data.sources import find_files, format_of
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer
from scratchlm.tokenizer.pieces.text_files import checked, decoded
from scratchlm.tokenizer.special_tokens import END_OF_TEXT


class Chunk(NamedTuple):
    """Store a part of document number `document`. `last` is true for the document's last part."""

    document: int
    text: str
    last: bool


def read_documents(
    paths: StrPath | Sequence[StrPath],
    field: str = "text",
    separator: str = END_OF_TEXT,
    progress: Progress = lambda size: None,
    *,
    max_documents: int | None = None,
) -> Iterator[Chunk]:
    """Yield the documents of all files in chunks. `find_files` finds the files.

    Document numbers start at 0. `max_documents` limits the number of documents that the reader
    takes from each file. This number includes empty documents.

    Raise ValueError for content that is not text or not UTF-8 (with its offset), for a line, item
    or row without a string in `field` (with its number), and for a missing optional package. Raise
    FileFormatError for a damaged Parquet, gz or zst file.
    """
    if not separator:
        raise ValueError("the separator must not be empty (''); specify the text between documents")
    if max_documents is not None and max_documents < 1:
        raise ValueError(f"max_documents must be at least 1 ({max_documents}); use e.g. 1000")
    document, started = 0, False
    for path in find_files(paths):
        for text, last in _first(path, field, separator, progress, max_documents):
            started = started or bool(text)
            if started and (text or last):
                yield Chunk(document, text, last)
            if started and last:
                document, started = document + 1, False


def read_texts(
    paths: StrPath | Sequence[StrPath],
    field: str = "text",
    separator: str = END_OF_TEXT,
    *,
    pattern: str,
    special_tokens: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the documents of `read_documents` as strings for BPE training, in bounded memory.

    It splits a document of several chunks only where the split does not change the pattern's
    pieces.
    """
    pretokenizer = Pretokenizer(pattern, special_tokens)
    chunks = read_documents(paths, field, separator)
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


def _first(
    path: Path, field: str, separator: str, progress: Progress, count: int | None
) -> Iterator[tuple[str, bool]]:
    """Yield the first `count` documents of a file as `_read` does. Count the rest as read."""
    size = path.stat().st_size

    def read(part: int) -> None:
        nonlocal size
        size -= part
        progress(part)

    for text, last in _read(path, field, separator, read):
        yield text, last
        if last and count is not None:
            count -= 1
            if count == 0:
                progress(size)
                return


def _read(path: Path, field: str, separator: str, progress: Progress) -> Iterator[tuple[str, bool]]:
    """Yield (text, whether the document ends with this text)."""
    kind, packed = format_of(path)
    if kind == "parquet":
        check_kind(path, "a Parquet file")
        return ((text, True) for text in parquet_rows(path, field, progress))
    chunks = checked(path, unpacked(path, packed, progress), html=kind == "text")
    if kind == "text":
        return _split(decoded(path, chunks), separator)
    is_list = False
    if kind == "json":
        first = b""
        while (len(first) < 4 or not without_mark(first)) and (data := next(chunks, b"")):
            first += data
        is_list = without_mark(first).startswith(b"[")
        chunks = itertools.chain([first], chunks)
    read = json_list if is_list else json_lines
    return ((text, True) for text in read(path, chunks, field))


def _split(texts: Iterable[str], separator: str) -> Iterator[tuple[str, bool]]:
    """Split a text that arrives in chunks, as `str.split` splits the whole text."""
    held = ""
    for text in texts:
        *documents, held = (held + text).split(separator)
        for document in documents:
            yield document, True
        keep = min(len(held), len(separator) - 1)
        yield held[: len(held) - keep], False
        held = held[len(held) - keep :]
    yield held, True
