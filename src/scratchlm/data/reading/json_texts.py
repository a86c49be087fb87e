"""Read the texts of JSON lines and of JSON lists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from scratchlm.data.sources import format_of
from scratchlm.tokenizer.pieces.text_files import BYTE_ORDER_MARK, not_utf8


def json_lines(path: Path, chunks: Iterable[bytes], field: str) -> Iterator[str]:
    offset, started = 0, False
    for number, line in enumerate(_lines(chunks), 1):
        try:
            text = line.decode()
            text = text.removeprefix(BYTE_ORDER_MARK) if number == 1 else text
            # Skip blank lines: many files end with one. Other programs write NaN in keys that we do
            # not read, so this is not `strict_json`.
            value = json.loads(text) if text.strip() else None
        except UnicodeDecodeError as error:
            raise not_utf8(path, error, offset) from None
        except (ValueError, RecursionError) as error:
            reason = str(error) or type(error).__name__
            remedy = "correct or remove the line"
            if not started and format_of(path).kind == "json":
                remedy = "write a list of objects or strings, or an object or string on each line"
            raise ValueError(
                f"each line must be JSON ({path}:{number}: {reason}); {remedy}"
            ) from None
        offset += len(line) + 1
        if text.strip():
            started = True
            yield _string_in(value, field, "a line", f"{path}:{number}", escaped="\\u" in text)


def json_list(path: Path, chunks: Iterable[bytes], field: str) -> Iterator[str]:
    data = b"".join(chunks)
    try:
        text = data.decode().removeprefix(BYTE_ORDER_MARK)
        values = json.loads(text)
    except UnicodeDecodeError as error:
        raise not_utf8(path, error, 0) from None
    except (ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"the file must be a JSON list ({path}: {reason}); correct the file"
        ) from None
    del data
    escaped = "\\u" in text
    for number, value in enumerate(values):
        yield _string_in(value, field, "an item", f"{path}, item {number}", escaped=escaped)


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


def _string_in(value: Any, field: str, what: str, place: str, *, escaped: bool) -> str:
    if not isinstance(value, dict | str):
        kind = type(value).__name__
        raise ValueError(
            f'{what} must be an object or a string ({place}: {kind}); write {{"{field}": "text"}}'
        )
    if isinstance(value, dict) and field not in value:
        has = ", ".join(map(repr, list(value)[:8])) or "none"
        raise ValueError(
            f"there is no field {field!r} ({place} has {has}); choose a field with --field"
        )
    text = value[field] if isinstance(value, dict) else value
    if not isinstance(text, str):
        kind = type(text).__name__
        raise ValueError(
            f"field {field!r} must be a string ({place}: {kind}); choose another field with --field"
        )
    if escaped:  # JSON can contain half of a surrogate pair, which is not a character
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text has a lone surrogate ({place}: U+{ord(text[error.start]):04X} at "
                f"character {error.start}); replace the surrogate, for example with U+FFFD"
            ) from None
    return text
