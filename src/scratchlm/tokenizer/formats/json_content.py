"""Read a file, parse it as JSON, and check the types of its fields. A broken rule raises
FileFormatError with the file, the rule, and what to do."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from scratchlm.errors import FileFormatError
from scratchlm.files.file_kinds import check_downloaded
from scratchlm.files.paths import StrPath
from scratchlm.files.strict_json import parse_json

_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_file(path: StrPath) -> bytes:
    """Return a file's bytes. Raise FileFormatError for a directory or an empty file. Raise OSError
    if the file is missing or unreadable."""
    try:
        data = Path(path).read_bytes()
    except IsADirectoryError:
        refuse(path, "the path must be a file (a directory)", "choose a file in the directory")
    if not data:
        refuse(path, "the file is empty (0 bytes)", "save or download the file again")
    check_downloaded(path)
    return data


def decode(path: StrPath, data: bytes) -> str:
    """Decode UTF-8 bytes, and drop a byte order mark."""
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        what = f"the file is not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start})"
        refuse(path, what, "save or download the file again")


def parse_object(path: StrPath, data: str | bytes) -> dict[str, Any]:
    """Parse a JSON object. No key may repeat, and no string may have a lone surrogate."""
    text = decode(path, data) if isinstance(data, bytes) else data
    if not text:
        refuse(path, "the file is empty (0 bytes)", "save or download the file again")
    try:
        content = parse_json(text)
    except ValueError as error:
        refuse(path, f"the file is not JSON ({error})", "save or download the file again")
    if not isinstance(content, dict):
        what = f"the file must be a JSON object ({type(content).__name__})"
        refuse(path, what, "choose another file")
    # Text decoded from UTF-8 has a surrogate only through an escape.
    in_text = isinstance(data, str) and not text.isascii() and _SURROGATE.search(text)
    if in_text or ("\\u" in text and _SURROGATE_ESCAPE.search(text)):
        try:
            lone = _SURROGATE.search(json.dumps(content, ensure_ascii=False))
        except RecursionError:
            what = "the file is not JSON (nested too deeply)"
            refuse(path, what, "save or download the file again")
        if lone:
            what = f"a string has a lone surrogate (U+{ord(lone[0]):04X})"
            refuse(path, what, "replace the surrogate")
    return content


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Turn garbage collection off in a block or a function.

    A file may hold half a million merges. While Python creates their lists and tuples, the
    collector would traverse all of them many times, and find no garbage.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def field(path: StrPath, content: Any, key: str, kind: type) -> Any:
    """Return `content[key]`, after a check of its type."""
    value = content.get(key) if isinstance(content, dict) else None
    if type(value) is not kind:
        what = f"{key!r} must be of type {kind.__name__} ({shown(value)})"
        refuse(path, what, "choose a tokenizer.json file")
    return value


def only(path: StrPath, content: Mapping[str, Any], key: str, *allowed: Any) -> None:
    """Check that the value is one of `allowed`; a missing key counts as null."""
    value = content.get(key)
    if not any(type(value) is type(other) and value == other for other in allowed):
        known = " or ".join(json.dumps(other) for other in allowed)
        refuse(path, f"{key} must be {known} ({shown(value)})", "choose a file with such a value")


def shown(value: Any) -> str:
    """Return the start of a value's `repr`, for a message."""
    try:
        return f"{value!r:.60}"
    except RecursionError:
        return f"a {type(value).__name__} nested too deeply"


def refuse(path: StrPath, what: str, remedy: str) -> NoReturn:
    """Raise FileFormatError. `what` is the rule, then the value in parentheses."""
    raise FileFormatError(in_file(path, f"{what}; {remedy}"))


def in_file(path: StrPath, message: str) -> str:
    """Return `rule (value); remedy` as `rule (path: value); remedy`."""
    rule, value = message.split(" (", 1)
    return f"{rule} ({os.fspath(path)}: {value}"
