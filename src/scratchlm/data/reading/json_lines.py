"""Read the records of JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from scratchlm.data.reading.fields import check_characters, strings_in, text_in
from scratchlm.data.reading.json_values import parse, reason_of
from scratchlm.data.reading.long_lines import (
    LONG,
    LongString,
    check_utf8,
    parse_long,
    parts,
    release_memory,
)
from scratchlm.data.reading.record import Record
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import Reading
from scratchlm.data.sources import format_of
from scratchlm.tokenizer.pieces.text_files import BYTE_ORDER_MARK, not_utf8

_MARK = BYTE_ORDER_MARK.encode()


class _Line(NamedTuple):
    """Store a line without its newline. It begins at byte `start` of the file."""

    path: Path
    number: int
    start: int
    data: bytes | bytearray

    @property
    def place(self) -> str:
        return f"{self.path}:{self.number}"


def json_lines(
    path: Path, chunks: Iterable[bytes], reading: Reading, rejects: Rejects, *, whole: bool
) -> Iterator[Record]:
    """Yield the record of each line. Skip blank lines, because many files end with one.

    Without `whole`, the text of a long line is in `more`.
    """
    number, start = 0, 0
    remedy = "correct or remove the line"
    if format_of(path).kind == "json":
        remedy = "write a list of objects or strings, or an object or string on each line"
    for data in _lines(chunks):
        number += 1  # noqa: SIM113 (enumerate would keep the last line in memory)
        length = len(data) + 1
        if number == 1 and data.startswith(_MARK):
            data, start, length = data[len(_MARK) :], len(_MARK), length - len(_MARK)
        if data and not data.isspace():
            rejects.records += 1
            line = _Line(path, number, start, data)
            try:
                read = _record if whole or len(data) <= LONG else _long_record
                record = read(line, reading, remedy)
            except ValueError as error:
                rejects.add(error, path, number, bytes(data))
            else:
                remedy = "correct or remove the line"
                yield record
                del record
            del line
        start += length
        del data  # a long line must not stay in memory beside the next long line


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes | bytearray]:
    """Yield lines without their newlines. A long line grows in one place in memory."""
    held = bytearray()
    for data in chunks:
        first, *others = data.split(b"\n")
        held += first
        if others:
            yield held
            held = bytearray(others.pop())
            yield from others
    yield held


def _record(line: _Line, reading: Reading, remedy: str) -> Record:
    try:
        text = line.data.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(line.place, error, line.start) from None
    try:
        value = parse(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(line, error, remedy) from None
    found = text_in(value, reading, "a line", line.place)
    if not found.isascii() and rb"\u" in line.data:
        check_characters(found, line.place)
    raw = line.data if len(line.data) <= LONG else None
    return Record(found, line.path, line.number, len(line.data), value, raw=raw)


def _long_record(line: _Line, reading: Reading, remedy: str) -> Record:
    """Return a record whose text is in `more`, piece by piece."""
    release_memory()
    check_utf8(line.data, line.place, line.start)
    try:
        value = parse_long(line.data)
    except (ValueError, RecursionError) as error:
        raise _not_json(line, error, remedy) from None
    strings = strings_in(value, reading, "a line", line.place)
    if rb"\u" in line.data:
        for text in _pieces(line.data, strings):
            check_characters(text, line.place)
    more = _pieces(line.data, strings)
    release_memory()
    return Record("", line.path, line.number, len(line.data), value, more)


def _pieces(data: bytes | bytearray, strings: list[str]) -> Iterator[str]:
    for string in strings:
        if isinstance(string, LongString):
            yield from parts(data, string)
        else:
            yield string


def _not_json(line: _Line, error: ValueError | RecursionError, remedy: str) -> ValueError:
    return ValueError(f"each line must be JSON ({line.place}: {reason_of(error)}); {remedy}")
