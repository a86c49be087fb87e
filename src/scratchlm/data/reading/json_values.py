"""Parse the JSON of records, and describe its values in messages."""

from __future__ import annotations

import json
from typing import Any

from scratchlm.tokenizer.pieces.text_files import BYTE_ORDER_MARK

LONGEST_NAME = 40  # characters of a key in a message
_SHOWN = 20  # characters of a number in a message
_KINDS = {dict: "an object", list: "a list", str: "a string"}


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object with these keys and values. Raise ValueError if a key occurs twice.

    `json.loads` would keep only the last value of such a key, and drop the others in silence.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:LONGEST_NAME]!r} occurs twice")
    return found


# Other programs write NaN in keys that we do not read, so the decoder accepts NaN.
DECODER = json.JSONDecoder(object_pairs_hook=unique)


def parse(text: str) -> Any:
    """Return the value of a JSON text. Raise ValueError if the text is not JSON or has a key twice,
    and RecursionError if its lists or objects are too deep."""
    if text.startswith(BYTE_ORDER_MARK):
        raise ValueError("Unexpected byte order mark (BOM)")
    return DECODER.decode(text)


def reason_of(error: ValueError | RecursionError) -> str:
    """Return why a text is not JSON, in the words of a user."""
    if isinstance(error, RecursionError):
        return "too many lists or objects inside each other"
    return str(error).removesuffix("; use sys.set_int_max_str_digits() to increase the limit")


def told(value: Any) -> str:
    """Return a value for a message: null, a truth value and a number as JSON, and another value by
    its kind."""
    for kind, name in _KINDS.items():
        if isinstance(value, kind):
            return name
    if not isinstance(value, int | float | None):
        return type(value).__name__  # of Parquet
    shown = json.dumps(value)
    return shown if len(shown) <= _SHOWN else "a long number"
