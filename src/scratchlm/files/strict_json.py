"""Strict JSON: what the standard allows, and no key twice in an object."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse_json(text: str | bytes) -> Any:
    """Return the content of JSON. ValueError if it is not JSON, nests too deeply, has a key twice
    in an object (`json.loads` keeps the last), or has NaN or Infinity, which JSON lacks."""
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
    raise ValueError(f"{name} is no JSON number")
