"""Read the records of files in order: each with its text, its place, and its whole input object.

    for record in read_records("web/*.jsonl.zst", Reading(field="meta.body")):
        record.text         the text of the document
        record.path         the input file
        record.line         JSON lines: the line, from 1. JSON list: the item, from 0. Parquet: the
                            row, from 0. Plain text: the document in the file, from 0.
        record.num_bytes    its bytes in the unpacked input: the line without its newline, the item,
                            or the text of a plain text. Parquet: the bytes of the text in UTF-8; of
                            a rejected row, the bytes of the row as JSON.
        record.value        the input object: a dict, or a string. A row of Parquet is a dict, with
                            strings for dates, times and decimals. A duration becomes the string of
                            its number, in the unit of the column.

A record may be bad: a line that is not JSON, or an item without a text. The reader gives it to
`rejects`. Without `rejects`, a bad record is an error. A problem of a whole file is always an
error: a truncated file, a missing column, a JSON list with a syntax error, or a plain text that is
not UTF-8. No record disappears: a record is yielded, rejected, or an error.

`sources` determines a file's format from its name. The reader unpacks `.gz` and `.zst`. It drops a
byte order mark at the start of a file, and skips blank lines of JSON lines. It refuses content that
is not text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from scratchlm.data.reading.json_lines import json_lines
from scratchlm.data.reading.json_lists import json_list
from scratchlm.data.reading.parquet import parquet_rows
from scratchlm.data.reading.plain_text import documents
from scratchlm.data.reading.record import Record
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import DEFAULT, Reading
from scratchlm.data.reading.unpacked import Progress, check_kind, unpacked, without_mark
from scratchlm.data.sources import find_files, format_of
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.pieces.text_files import checked


def read_records(
    paths: StrPath | Sequence[StrPath],
    reading: Reading = DEFAULT,
    rejects: Rejects | None = None,
    progress: Progress = lambda size: None,
) -> Iterator[Record]:
    """Yield the records of all files in order, each with its whole text. `find_files` finds the
    files.

    The text of a record of JSON or Parquet may be empty. Empty documents of a plain text have no
    bytes and are no records. Raise ValueError for a file that is not text or not UTF-8, for a bad
    record that `rejects` does not accept, and for a missing optional package. Raise FileFormatError
    for a damaged Parquet, gz or zst file.
    """
    rejects = rejects or Rejects()
    for path in find_files(paths):
        if format_of(path).kind != "text":
            yield from records_of(path, reading, rejects, progress, whole=True)
            continue
        parts: list[str] = []
        number = 0
        for part, last in documents(path, reading.boundary, progress):
            parts.append(part)
            if last and (text := "".join(parts)):
                rejects.records += 1
                yield Record(text, path, number, len(text.encode()), text)
                number += 1
            if last:
                parts.clear()


def records_of(
    path: Path, reading: Reading, rejects: Rejects, progress: Progress, *, whole: bool
) -> Iterator[Record]:
    """Yield the records of a file of JSON or Parquet.

    Without `whole`, a record may have only a part of `value`, and the text of a long line is in
    `more`.
    """
    kind, packed = format_of(path)
    if kind == "parquet":
        check_kind(path, "a Parquet file")
        return parquet_rows(path, reading, rejects, progress, whole=whole)
    chunks = checked(path, unpacked(path, packed, progress), html=False)
    if kind == "json":
        first = b""
        while (len(first) < 4 or not without_mark(first)) and (data := next(chunks, b"")):
            first += data
        chunks = itertools.chain([first], chunks)
        if without_mark(first).startswith(b"["):
            return json_list(path, chunks, reading, rejects)
    return json_lines(path, chunks, reading, rejects, whole=whole)
