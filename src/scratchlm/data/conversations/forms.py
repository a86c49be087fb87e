"""Convert the forms of published sets of dialogues to messages.

messages           {"messages": [{"role": "user", "content": …}, …]}, as OpenAI has them. An
                   answer may have a "weight" of 0 or 1. A model does not learn an answer of 0
sharegpt           {"conversations": [{"from": "human", "value": …}, {"from": "gpt", …}]}.
                   "role" and "content" are allowed too, and a "system" beside the list
alpaca             {"instruction": …, "input": …, "output": …}. "input" may be empty or absent.
                   "system" and "history" (pairs of an instruction and an output) are allowed
prompt_completion  {"prompt": …, "completion": …}: two strings, or two lists of messages. The
                   answers in the prompt get the weight 0
ultrachat          {"data": [the user's text, the assistant's text, …]}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scratchlm.data.conversations.checks import (
    ROLES,
    content_of,
    list_of,
    object_of,
    text_of,
    told_keys,
)
from scratchlm.tokenizer.chat_template import Message

SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}


def recognised(value: Any, place: str) -> str:
    """Return the name of the form of a record. Raise ValueError if not exactly one form fits."""
    record = object_of(value, "a record", place)
    fitting = [name for name, keys in KEYS.items() if record.keys() >= set(keys)]
    if record.keys() >= {"chosen", "rejected"}:
        use = f", or specify the form with --format {fitting[0]}" if fitting else ""
        raise ValueError(
            f"a dialogue must not have the keys 'chosen' and 'rejected' ({place} has a pair of "
            f"answers); train on pairs with --kind dpo{use}"
        )
    if len(fitting) == 1:
        return fitting[0]
    has = told_keys(value)
    if fitting:
        raise ValueError(
            f"a record must have one form of a dialogue ({place} has {has}: {' and '.join(fitting)}"
            "); specify the form with --format"
        )
    raise ValueError(
        f"a record must have the keys of a dialogue ({place} has {has}); write "
        '{"messages": [{"role": "user", "content": "text"}, …]}'
    )


def to_messages(value: Any, form: str, place: str) -> list[Message]:
    """Return the messages of a record, whose form is a name in `KEYS`.

    Raise ValueError if the record lacks a key of the form, or if a value has the wrong type.
    """
    record = object_of(value, "a record", place)
    missing = [key for key in KEYS[form] if key not in record]
    if missing and missing[0] in value:
        raise ValueError(
            f"the value of {missing[0]!r} must not be null ({place}); write the value, or remove "
            "the record"
        )
    if missing:
        raise ValueError(
            f"a record of the form {form} must have the key {missing[0]!r} ({place} has "
            f"{told_keys(value)}); put records of another form into another file"
        )
    return _CONVERT[form](record, place)


def _messages(record: dict[str, Any], place: str) -> list[Message]:
    return message_list(record["messages"], place)


def _sharegpt(record: dict[str, Any], place: str) -> list[Message]:
    messages: list[Message] = []
    for number, turn in enumerate(list_of(record["conversations"], "conversations", place)):
        where = f"{place}: message {number}"
        turn = object_of(turn, "a message", where)
        keys = ("from", "value") if "from" in turn else ("role", "content")
        role = turn.get(keys[0])
        role = SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
        messages.append(_message(turn, role, keys[1], where))
    return system_of(record, place) + messages


def alpaca_prompt(record: dict[str, Any], place: str) -> list[Message]:
    """Return the messages of a record of the form alpaca, without its output."""
    messages = system_of(record, place)
    for number, pair in enumerate(list_of(record.get("history", []), "history", place)):
        where = f"{place}: history {number}"
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(
                f"history must have pairs ({where}); write lists of an instruction and an output"
            )
        messages += _exchange(*(text_of(each, "history", where) for each in pair))
    asked = text_of(record["instruction"], "instruction", place)
    if more := text_of(record.get("input", ""), "input", place):
        asked = f"{asked}\n\n{more}"
    return [*messages, {"role": "user", "content": asked}]


def _alpaca(record: dict[str, Any], place: str) -> list[Message]:
    answer = text_of(record["output"], "output", place)
    return [*alpaca_prompt(record, place), {"role": "assistant", "content": answer}]


def _prompt_completion(record: dict[str, Any], place: str) -> list[Message]:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, str):
        answer = text_of(completion, "completion", place)
        return _exchange(text_of(prompt, "prompt", place), answer)
    before = message_list(prompt, place)
    for message in before:
        if message["role"] == "assistant":
            message["weight"] = 0
    return before + message_list(completion, place, len(before))


def _ultrachat(record: dict[str, Any], place: str) -> list[Message]:
    texts = [text_of(each, "a message", place) for each in list_of(record["data"], "data", place)]
    return [{"role": ROLES[1 + i % 2], "content": text} for i, text in enumerate(texts)]


def message_list(value: Any, place: str, start: int = 0) -> list[Message]:
    """Return the messages of a list. `start` is the number of its first message in an error."""
    messages = []
    for number, turn in enumerate(list_of(value, "messages", place), start):
        where = f"{place}: message {number}"
        turn = object_of(turn, "a message", where)
        messages.append(_message(turn, turn.get("role"), "content", where))
    return messages


def _message(turn: dict[str, Any], role: Any, content: str, where: str) -> Message:
    if role not in ROLES:
        raise ValueError(
            f"a role must be system, user or assistant ({where}: {role!r:.40}); correct the role, "
            "or remove the dialogue"
        )
    message: Message = {"role": role, "content": content_of(turn.get(content), content, where)}
    if "weight" in turn:
        weight = turn["weight"]
        if type(weight) not in (int, float) or weight not in (0, 1):
            raise ValueError(f"a weight must be 0 or 1 ({where}: {weight!r:.40}); write 0 or 1")
        message["weight"] = int(weight)
    return message


def system_of(record: dict[str, Any], place: str) -> list[Message]:
    """Return the system text that a record has beside its messages, as a message."""
    text = text_of(record.get("system", ""), "system", place)
    return [{"role": "system", "content": text}] if text else []


def _exchange(asked: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


# The keys that each form needs, and its function.
KEYS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
    "ultrachat": ("data",),
}
_CONVERT: dict[str, Callable[[dict[str, Any], str], list[Message]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "ultrachat": _ultrachat,
}
