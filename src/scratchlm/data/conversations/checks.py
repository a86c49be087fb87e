"""Check the texts and the order of a dialogue's messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scratchlm.data.reading.fields import check_characters
from scratchlm.tokenizer.chat_template import Message

ROLES = ("system", "user", "assistant")
# A template has no place for these. They would be lost without a word.
UNSUPPORTED = (
    "tools", "functions", "tool_calls", "function_call", "reasoning_content", "refusal", "audio",
)  # fmt: skip


def text_of(value: Any, name: str, place: str) -> str:
    """Return `value`, which must be a string. `name` says in a message what the string is."""
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise ValueError(f"{name} must be a string ({place}: {kind}); write a text")
    check_characters(value, place)
    return value


def content_of(value: Any, name: str, place: str) -> str:
    """Return the text of a message: a string, or a list of parts `{"type": "text", "text": …}`."""
    if not isinstance(value, list):
        return text_of(value, name, place)
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else part
        if kind != "text":
            raise ValueError(
                f"a part of {name} must have the type text ({place}: {kind!r:.40}); remove the "
                "part, or remove the dialogue"
            )
    return "".join(text_of(part.get("text"), "text", place) for part in value)


def list_of(value: Any, name: str, place: str) -> list[Any]:
    """Return `value`, which must be a list."""
    if not isinstance(value, list):
        kind = "null" if value is None else type(value).__name__
        raise ValueError(f"{name} must be a list ({place}: {kind}); write a list of messages")
    return value


def object_of(value: Any, name: str, place: str) -> dict[str, Any]:
    """Return `value`, which must be an object whose keys a template can use. Drop null values,
    because a row of Parquet has a null for each key that it does not use."""
    if not isinstance(value, dict):
        kind = "null" if value is None else type(value).__name__
        raise ValueError(f"{name} must be an object ({place}: {kind}); write a JSON object")
    for key in UNSUPPORTED:
        if value.get(key):
            raise ValueError(
                f"{name} must not have {key} ({place}: {value[key]!r:.40}); remove {key}, because "
                "a template has no place for it"
            )
    return {key: each for key, each in value.items() if each is not None}


def told_keys(record: dict[str, Any]) -> str:
    """Return the first keys of a record for a message."""
    first = list(record.items())[:8]
    return ", ".join(f"{key!r}{' (null)' * (each is None)}" for key, each in first) or "none"


def check_messages(messages: Sequence[Message], place: str) -> None:
    """Raise ValueError if the messages are not a dialogue that a model can learn.

    After an optional system text, the user and the assistant alternate. The user begins, and the
    assistant ends. Each of their messages has text.
    """
    said = messages[1:] if messages and messages[0]["role"] == "system" else messages
    first = len(messages) - len(said)
    if not said:
        what = "only a system text" if messages else "no messages"
        raise ValueError(
            f"a dialogue must have an answer of the assistant ({place}: {what}); remove the "
            "dialogue"
        )
    for number, message in enumerate(said):
        role, expected = message["role"], ROLES[1 + number % 2]
        where = f"{place}: message {first + number}"
        if role == "system":
            raise ValueError(
                f"only the first message may be a system text ({where}); move the text to the "
                "start of the dialogue"
            )
        if role != expected:
            raise ValueError(
                f"the user and the assistant must alternate, and the user must begin ({where} is "
                f"from the {role}); join messages of the same role, or remove the dialogue"
            )
        if not message["content"].strip():
            raise ValueError(
                f"a message must have text ({where} from the {role}: {message['content']!r}); "
                "remove the dialogue"
            )
        if role != "assistant" and "weight" in message:
            raise ValueError(
                f"only an assistant's message may have a weight ({where} is from the {role}); "
                "remove the weight"
            )
    if said[-1]["role"] != "assistant":
        raise ValueError(
            f"the last message must be from the assistant ({place}: {said[-1]['role']}); remove "
            "the last message"
        )
