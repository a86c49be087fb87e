"""Read the records of a JSON list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from scratchlm.data.reading.fields import check_characters, text_in
from scratchlm.data.reading.json_values import DECODER, reason_of
from scratchlm.data.reading.record import Record
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import Reading
from scratchlm.tokenizer.pieces.text_files import BYTE_ORDER_MARK, not_utf8

_SPACE = re.compile(r"[ \t\n\r]*")


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
            found = text_in(value, reading, "an item", place)
            if escaped:
                check_characters(found, place)
        except ValueError as error:
            rejects.add(error, path, number, text[start:end].encode())
            continue
        size = len(text[start:end].encode())
        yield Record(found, path, number, size, value, unit="item")


def _items(path: Path, text: str) -> Iterator[tuple[int, int, Any]]:
    """Yield (start, end, value) for each item of a JSON list, which begins with `[`."""
    try:
        end = _after_space(text, text.index("[") + 1)
        is_more = text[end : end + 1] != "]"
        while is_more:
            value, after = DECODER.raw_decode(text, end)
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
        raise ValueError(
            f"the file must be a JSON list ({path}: {reason_of(error)}); correct the file"
        ) from None


def _after_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    assert match is not None
    return match.end()
