"""`Record`: one record of a file, with its text, its place and its whole input object."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple


class Record(NamedTuple):
    """Store a record. `records` explains the fields."""

    text: str
    path: Path
    line: int
    num_bytes: int
    value: Any


def place(record: Record) -> str:
    """Return the place of a record for a message."""
    return f"{record.path}:{record.line}"
