"""Find the text in a record, and put another text in its place."""

from __future__ import annotations

import json
from typing import Any

from scratchlm.data.reading.json_values import LONGEST_NAME, told
from scratchlm.data.reading.settings import Reading

_OF_PAIRS = {"chosen", "rejected"}  # keys of a record
_OF_DIALOGUES = {"messages", "conversations", "instruction", "completion"}


def text_in(value: Any, reading: Reading, what: str, place: str) -> str:
    """Return the text of a record. A string is the text itself. An object has no text if
    `reading.field` is None.

    `what` and `place` say in a message what the record is, and where. Raise ValueError if the
    record has no text.
    """
    return value if isinstance(value, str) else "".join(strings_in(value, reading, what, place))


def strings_in(value: Any, reading: Reading, what: str, place: str) -> list[str]:
    """Return the strings that make the text of a record: one, or those of a list and the text
    between them. Raise the errors of `text_in`."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, dict):
        written = f'{{"{reading.keys[0]}": "text"}}' if reading.keys else "a JSON object"
        raise ValueError(
            f"{what} must be an object or a string ({place}: {told(value)}); write {written}"
        )
    if not reading.keys:
        return []
    found, above = value, ""
    for key in reading.keys:
        if not isinstance(found, dict):
            raise ValueError(
                f"field {above!r} must be an object ({place}: {told(found)}); choose another field "
                "with --field"
            )
        if key not in found:
            raise _no_field(reading, list(found), key, f"{place}: {above!r}" if above else place)
        found, above = found[key], f"{above}.{key}" if above else key
    return [found] if isinstance(found, str) else _joined(found, reading, place)


def _no_field(reading: Reading, has: list[str], key: str, place: str) -> ValueError:
    names = ", ".join(repr(name[:LONGEST_NAME]) for name in has[:8]) or "none"
    remedy = "choose a field with --field"
    if reading.field in has:
        remedy = f"for a key with a dot, use --field '{json.dumps([reading.field])}'"
    elif _OF_PAIRS.issubset(has):
        remedy += ", or train on pairs of answers with scratchlm-train --config dpo"
    elif _OF_DIALOGUES.intersection(has):
        remedy += ", or train on dialogues with scratchlm-train --config sft"
    what = f"{reading.field!r}, because {key!r} is missing" if reading.keys[1:] else repr(key)
    return ValueError(f"there is no field {what} ({place} has {names}); {remedy}")


def _joined(found: Any, reading: Reading, place: str) -> list[str]:
    kind, remedy = told(found), "choose another field with --field"
    if not isinstance(found, list):
        raise ValueError(f"field {reading.field!r} must be a string ({place}: {kind}); {remedy}")
    if reading.glue is None:
        raise ValueError(
            f"field {reading.field!r} must be a string ({place}: {kind}); join the strings of a "
            r"list with --join '\n\n', or " + remedy
        )
    for number, part in enumerate(found):
        if not isinstance(part, str):
            raise ValueError(
                f"field {reading.field!r} must be a string or a list of strings ({place}: item "
                f"{number} is {told(part)}); {remedy}"
            )
    return [string for part in found for string in (reading.glue, part)][1:]


def with_text(value: Any, text: str, reading: Reading) -> dict[str, Any]:
    """Return the record `value` with another text. A string becomes an object with the keys of
    `reading`, so that the same reading finds the text in each record. Do not change `value`."""
    return _replaced(value if isinstance(value, dict) else {}, text, reading.keys or ("text",))


def _replaced(value: dict[str, Any], text: str, keys: tuple[str, ...]) -> dict[str, Any]:
    first, *rest = keys
    return value | {first: _replaced(value.get(first, {}), text, tuple(rest)) if rest else text}


def check_characters(text: str, place: str) -> None:
    """Raise ValueError if the text has half of a surrogate pair, which is not a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text has a lone surrogate ({place}: U+{ord(text[error.start]):04X} at "
            f"character {error.start}); replace the surrogate, for example with U+FFFD"
        ) from None
