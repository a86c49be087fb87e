"""Parse strict JSON: only what the standard allows, with each key only once in an object."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse_json(text: str | bytes) -> Any:
    """Return the content of JSON text. Raise ValueError if `text` is not JSON, or nests too deeply.
    Also raise ValueError if an object has a key twice (`json.loads` keeps the last value), or if
    `text` has NaN or Infinity, which JSON lacks."""
    try:
        return json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"an object has a key twice: {twice!r:.60}")
    return content


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
