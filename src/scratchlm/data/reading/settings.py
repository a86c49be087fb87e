"""`Reading`: where the text of a record is, and what separates the documents of a text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from scratchlm.tokenizer.special_tokens import END_OF_TEXT


@dataclass(frozen=True)
class Reading:
    """Specify how to read records.

    `field` is the key of the text in an object or a table. A dot separates the keys of nested
    objects: `meta.body`. A JSON list of keys can contain a dot in a key: `["a.b"]`. None means that
    an object needs no text: its text is empty, and the caller uses the whole object. `separator` is
    the text between the documents of a plain text. A text may be a list of strings only if `join`
    is set: `join` is the text between these strings. A shell passes newlines as `\\n`, so
    `separator` and `join` may contain `\\n` and `\\t` as two characters.
    """

    field: str | None = "text"
    separator: str = END_OF_TEXT
    join: str | None = None

    def __post_init__(self) -> None:
        if not self.separator:
            raise ValueError(
                "the separator must not be empty (''); specify the text between documents"
            )
        _ = self.keys  # refuse a wrong field before any work

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Return the keys that lead to the text. Raise ValueError if `field` is malformed."""
        if self.field is None:
            return ()
        if not self.field.startswith("["):
            keys = self.field.split(".")
            if all(keys):
                return tuple(keys)
            raise ValueError(
                f"a field must not have an empty key ({self.field!r}); write one dot between two "
                "keys, or a JSON list of keys"
            )
        try:
            found = json.loads(self.field)
        except (ValueError, RecursionError):
            found = None
        if not found or not all(isinstance(key, str) for key in found):
            raise ValueError(
                f"a field with [ must be a JSON list of keys ({self.field}); write for example "
                """--field '["a.b"]'"""
            )
        return tuple(found)

    @cached_property
    def glue(self) -> str | None:
        """Return the text between the strings of a list. Return None if a list is an error."""
        return None if self.join is None else _with_newlines(self.join)

    @cached_property
    def boundary(self) -> str:
        """Return the text between the documents of a plain text."""
        return _with_newlines(self.separator)


def _with_newlines(text: str) -> str:
    """Return the text with newlines and tabs instead of `\\n` and `\\t`."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


DEFAULT = Reading()


def field_of(keys: tuple[str, ...]) -> str:
    """Return the `field` with these keys."""
    field = ".".join(keys)
    is_plain = all(key and "." not in key for key in keys) and not field.startswith("[")
    return field if is_plain else json.dumps(keys, ensure_ascii=False)
