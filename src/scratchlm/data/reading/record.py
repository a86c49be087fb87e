"""`Record`: one record of a file, with its text, its place and its whole input object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Record(NamedTuple):
    """Store a record. `records` explains the fields.

    `more` yields the rest of a text that is too long for memory, in pieces. Only readers that do
    not need whole records receive such a record. `raw` contains the bytes of a JSON line, unless
    the line is long. `unit` says what `line` counts: an item of a JSON list, a row of Parquet, or
    lines if `unit` is empty.
    """

    text: str
    path: Path
    line: int
    num_bytes: int
    value: Any
    more: Iterator[str] | None = None
    raw: bytes | bytearray | None = None
    unit: str = ""


def place(record: Record) -> str:
    """Return the place of a record for a message."""
    if record.unit:
        return f"{record.path}, {record.unit} {record.line}"
    return f"{record.path}:{record.line}"


def pieces(record: Record) -> Iterator[tuple[str, bool]]:
    """Yield (text, whether the text ends with it) for the text of a record and `more`."""
    yield record.text, record.more is None
    if record.more is not None:
        for text in record.more:
            yield text, False
        yield "", True
