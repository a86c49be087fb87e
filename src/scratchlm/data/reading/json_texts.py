"""Read the records of JSON lines and of JSON lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from scratchlm.data.reading.fields import check_characters, text_in
from scratchlm.data.reading.record import Record
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import Reading
from scratchlm.data.sources import format_of
from scratchlm.tokenizer.pieces.text_files import BYTE_ORDER_MARK, not_utf8

_MARK = BYTE_ORDER_MARK.encode()
_SPACE = re.compile(r"[ \t\n\r]*")


def json_lines(
    path: Path, chunks: Iterable[bytes], reading: Reading, rejects: Rejects
) -> Iterator[Record]:
    """Yield the record of each line. Skip blank lines, because many files end with one."""
    end, started = 0, False
    for number, line in enumerate(_lines(chunks), 1):
        start, end = end, end + len(line) + 1
        if not (line.removeprefix(_MARK) if number == 1 else line).strip():
            continue
        rejects.records += 1
        try:
            value = _parsed(path, number, line, start, started)
            text = _text_of(value, reading, "a line", f"{path}:{number}", escaped=rb"\u" in line)
        except ValueError as error:
            rejects.add(error, path, number, line)
            continue
        started = True
        yield Record(text, path, number, len(line), value)


def _parsed(path: Path, number: int, line: bytes, start: int, started: bool) -> Any:
    """Return the value of a line that begins at byte `start` of the file."""
    try:
        text = line.decode()
        # Other programs write NaN in keys that we do not read, so this is not `strict_json`.
        return json.loads(text.removeprefix(BYTE_ORDER_MARK) if number == 1 else text)
    except UnicodeDecodeError as error:
        raise not_utf8(f"{path}:{number}", error, start) from None
    except (ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        remedy = "correct or remove the line"
        if not started and format_of(path).kind == "json":
            remedy = "write a list of objects or strings, or an object or string on each line"
        raise ValueError(f"each line must be JSON ({path}:{number}: {reason}); {remedy}") from None


def json_list(
    path: Path, chunks: Iterable[bytes], reading: Reading, rejects: Rejects
) -> Iterator[Record]:
    """Yield the record of each item of a list. Memory contains the whole text of the file."""
    data = b"".join(chunks)
    try:
        text = data.decode().removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise not_utf8(path, error, 0) from None
    escaped = rb"\u" in data
    del data
    for number, (start, end, value) in enumerate(_items(path, text)):
        rejects.records += 1
        place = f"{path}, item {number}"
        try:
            found = _text_of(value, reading, "an item", place, escaped=escaped)
        except ValueError as error:
            rejects.add(error, path, number, text[start:end].encode())
            continue
        yield Record(found, path, number, len(text[start:end].encode()), value)


def _items(path: Path, text: str) -> Iterator[tuple[int, int, Any]]:
    """Yield (start, end, value) for each item of a JSON list, which begins with `[`."""
    decoder = json.JSONDecoder()
    try:
        end = _after_space(text, text.index("[") + 1)
        is_more = text[end : end + 1] != "]"
        while is_more:
            value, after = decoder.raw_decode(text, end)
            yield end, after, value
            end = _after_space(text, after)
            if is_more := text[end : end + 1] == ",":
                end = _after_space(text, end + 1)
        if text[end : end + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, end)
        end = _after_space(text, end + 1)
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except (ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"the file must be a JSON list ({path}: {reason}); correct the file"
        ) from None


def _after_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    assert match is not None
    return match.end()


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines without their newlines. Join the parts of a long line only once."""
    parts: list[bytes] = []
    for data in chunks:
        *lines, rest = data.split(b"\n")
        for line in lines:
            yield b"".join([*parts, line])
            parts.clear()
        parts.append(rest)
    yield b"".join(parts)


def _text_of(value: Any, reading: Reading, what: str, place: str, *, escaped: bool) -> str:
    text = text_in(value, reading, what, place)
    if escaped:
        check_characters(text, place)
    return text
