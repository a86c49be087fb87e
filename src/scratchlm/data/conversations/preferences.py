"""Read preferences: pairs of answers to the same prompt, one chosen and one rejected by a person.

Each record has the keys `chosen` and `rejected`. It has one of these forms:

- `prompt`, and two answers. Each of the three is a text, or a list of messages.
- `instruction` and `input`, as in the form alpaca, and two answers. `output` has no effect.
- `chosen` and `rejected` are whole dialogues: lists of messages that begin with the prompt. A text
  `prompt` beside them has no effect.
- `chosen` and `rejected` are whole dialogues in one text. Each message begins with an empty line
  and `Human:` or `Assistant:`.

The two dialogues of a pair differ only in their last message, which is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from scratchlm.data.conversations.checks import check_messages, object_of, text_of, told_keys
from scratchlm.data.conversations.dialogues import converted, with_system
from scratchlm.data.conversations.forms import alpaca_prompt, message_list, system_of
from scratchlm.data.reading.record import Record, place
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.unpacked import Progress
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.chat_template import Message

ANSWERS = ("chosen", "rejected")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class Preference(NamedTuple):
    """Two dialogues that differ only in their last answer, and their place in a file."""

    chosen: list[Message]
    rejected: list[Message]
    place: str


def read_preferences(
    paths: StrPath | Sequence[StrPath],
    system: str | None = None,
    rejects: Rejects | None = None,
    progress: Progress = lambda size: None,
) -> Iterator[Preference]:
    """Yield the preferences of all files in order.

    system: the system text of each prompt that has none. Raise ValueError for a record that is not
    a pair of answers and that `rejects` does not accept. Raise the errors of `read_records` too.
    """

    def preference_in(record: Record) -> Preference:
        where = place(record)
        chosen, rejected = _pair(record.value, where)
        return Preference(with_system(chosen, system), with_system(rejected, system), where)

    yield from converted(paths, preference_in, rejects or Rejects(), progress)


def _pair(value: Any, place: str) -> tuple[list[Message], list[Message]]:
    """Return the chosen and the rejected dialogue of a record."""
    record = object_of(value, "a record", place)
    for name in ANSWERS:
        if name not in record:
            raise ValueError(
                f"a pair must have the key {name!r} ({place} has {told_keys(value)}); write "
                '{"prompt": "text", "chosen": "text", "rejected": "text"}, or train on dialogues '
                "with --kind sft"
            )
    if "instruction" in record and "prompt" in record:
        raise ValueError(
            f"a pair must have one prompt ({place} has 'instruction' and 'prompt'); remove one of "
            "them"
        )
    chosen, rejected = (_dialogue(record, name, place) for name in ANSWERS)
    if chosen[:-1] != rejected[:-1]:
        raise ValueError(
            f"both answers of a pair must have the same prompt ({place}: "
            f"{_difference(chosen, rejected)}); correct one of the prompts, or remove the pair"
        )
    return chosen, rejected


def _difference(chosen: Sequence[Message], rejected: Sequence[Message]) -> str:
    """Say where the prompts of two dialogues begin to differ."""
    prompts = zip(chosen[:-1], rejected[:-1], strict=False)
    number = next((i for i, (one, other) in enumerate(prompts) if one != other), None)
    if number is None:
        return f"{len(chosen)} and {len(rejected)} messages"
    return f"message {number} differs"


def _dialogue(record: dict[str, Any], name: str, place: str) -> list[Message]:
    """Return the messages of the prompt, and of the answer that the key `name` contains."""
    answer, where = record[name], f"{place}: {name}"
    prompt = record.get("prompt")
    if isinstance(answer, list):
        messages = message_list(answer, where)
        is_whole = bool(messages) and messages[0]["role"] != "assistant"
        if not (is_whole and isinstance(prompt, str | None)):
            messages = _prompt(record, place) + messages
    elif isinstance(prompt, str | None) and _TURN.match(prompt or text_of(answer, name, where)):
        messages = _split((prompt or "") + text_of(answer, name, where), where)
    else:
        text = text_of(answer, name, where)
        messages = [*_prompt(record, place), {"role": "assistant", "content": text}]
    check_messages(messages, where)
    if messages[-1].get("weight") == 0:
        raise ValueError(
            f"an answer of a pair must not have the weight 0 ({where}); remove the weight"
        )
    return messages


def _prompt(record: dict[str, Any], place: str) -> list[Message]:
    if "instruction" in record:
        return alpaca_prompt(record, place)
    prompt = record.get("prompt")
    if prompt is None:
        raise ValueError(
            f"a pair must have a prompt ({place} has {told_keys(record)}); "
            "add the key 'prompt', or write the whole dialogues"
        )
    if isinstance(prompt, list):
        return message_list(prompt, f"{place}: prompt")
    content = text_of(prompt, "prompt", place)
    return [*system_of(record, place), {"role": "user", "content": content}]


def _split(text: str, place: str) -> list[Message]:
    """Return the messages of a text with a `Human:` or an `Assistant:` before each message."""
    start, *parts = _TURN.split(text)
    assert not start  # the text begins with a turn
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _ROLES[name], "content": content.strip()} for name, content in turns]
