"""Read a long line of JSON in bounded memory, because a line may be a whole book collection.

`json.loads` needs several times the memory of a line: one character outside Latin-1 doubles the
memory of the text, and an emoji makes it four times as large. `parse_long` parses a line without
its long strings. A long string stays in the bytes of the line, and `parts` decodes it piece by
piece. A long key is parsed with the line.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import re
from collections.abc import Iterator
from typing import Any

from scratchlm.data.reading.json_values import unique
from scratchlm.tokenizer.pieces.text_files import decoded

LONG = 1 << 23  # bytes of a line that is read piece by piece
PART = 1 << 18  # bytes of a piece, and of a string that is long

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_COLON = re.compile(rb"[ \t\r]*:")
# Whole characters of a string. The two halves of a surrogate pair are one character.
_CHARACTERS = re.compile(
    rb"(?:[^\\]++|\\u[dD][89abAB]..\\u....|\\u(?![dD][89abAB])....|\\[^u])*+", re.DOTALL
)
_ESCAPE = 12  # bytes of the longest character: a surrogate pair


class LongString(str):
    """Stand for a long string of the line. As a str, it is empty."""

    __slots__ = ("end", "start")
    start: int
    end: int


def release_memory() -> None:
    """Return unused memory to the system. On Linux, malloc keeps the freed buffers of a growing
    line, which would stay in memory beside the line."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # another system
        ctypes.CDLL(None).malloc_trim(0)


def check_utf8(line: bytes | bytearray, place: str, offset: int) -> None:
    """Raise ValueError if the line, which begins at byte `offset` of its file, is not UTF-8."""
    for _ in decoded(
        place, (bytes(line[at : at + PART]) for at in range(0, len(line), PART)), offset
    ):
        pass


def parse_long(line: bytes | bytearray) -> Any:
    """Return the value of a line, with `LongString` for each long string.

    Raise ValueError if the line is not JSON. The check includes the long strings.
    """
    strings = list(_long_strings(line))
    rest, end = [], 0
    for string in strings:
        rest.append(bytes(line[end : string.start - 1]))
        end = string.end + 1
    rest.append(bytes(line[end:]))
    mark = b"0.1"  # a number that is not in the line stands for each long string
    while any(mark in part for part in rest):
        mark += b"1"
    short = b"".join(part + b" %be%d " % (mark, i) for i, part in enumerate(rest[:-1])) + rest[-1]
    start = f"{mark.decode()}e"

    def number(text: str) -> float | LongString:
        return strings[int(text.removeprefix(start))] if text.startswith(start) else float(text)

    value = json.loads(short.decode(), parse_float=number, object_pairs_hook=unique)
    for string in strings:
        for _ in parts(line, string):
            pass
    return value


def _long_strings(line: bytes | bytearray) -> Iterator[LongString]:
    end = 0
    while (start := line.find(b'"', end)) >= 0:
        match = _STRING.match(line, start)
        if match is None:
            raise ValueError(f"Unterminated string starting at byte {start}")
        end = match.end()
        is_key = _COLON.match(line, end)
        if end - start > PART and not is_key:
            string = LongString()
            string.start, string.end = start + 1, end - 1
            yield string


def parts(line: bytes | bytearray, string: LongString) -> Iterator[str]:
    """Yield a string of the line piece by piece. Raise ValueError for a wrong escape."""
    start = string.start
    while start < string.end:
        stop = _end_of_part(line, start, string.end)
        try:
            yield json.loads(f'"{line[start:stop].decode()}"')
        except json.JSONDecodeError as error:
            raise ValueError(f"{error.msg} after byte {start} of the line") from None
        start = stop


def _end_of_part(line: bytes | bytearray, start: int, end: int) -> int:
    """Return the end of a piece that does not end inside a character."""
    window = min(start + PART, end)
    match = _CHARACTERS.match(line, start, window)
    assert match is not None
    stop = match.end()
    if stop < window - _ESCAPE or stop == start:
        stop = min(stop + 6, end)  # half of a surrogate pair alone
    while stop < end and line[stop] & 0xC0 == 0x80:  # inside a character of UTF-8
        stop -= 1
    return stop
