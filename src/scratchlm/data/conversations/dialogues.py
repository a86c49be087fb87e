"""Read dialogues from JSON, JSON lines and Parquet, in any of the forms of `forms`.

>>> for dialogue in read_dialogues("dialogues.jsonl"):
...     dialogue.messages  # [{"role": "user", "content": …}, {"role": "assistant", …}]
...     dialogue.place  # dialogues.jsonl:1
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from scratchlm.data.conversations.checks import check_messages
from scratchlm.data.conversations.forms import KEYS, recognised, to_messages
from scratchlm.data.reading.record import Record, place
from scratchlm.data.reading.records import read_records
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import Reading
from scratchlm.data.reading.unpacked import Progress
from scratchlm.data.sources import JSON_ENDINGS, find_files, format_of
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.chat_template import Message

T = TypeVar("T")


class Dialogue(NamedTuple):
    """The messages of a dialogue, and its place in a file for error messages."""

    messages: list[Message]
    place: str


def read_dialogues(
    paths: StrPath | Sequence[StrPath],
    form: str = "auto",
    system: str | None = None,
    rejects: Rejects | None = None,
    progress: Progress = lambda size: None,
) -> Iterator[Dialogue]:
    """Yield the dialogues of all files in order.

    form: a name in `forms`. "auto" recognises the form of each file from its first record. system:
    the system text of each dialogue that has none.

    Raise ValueError for a record that is not a dialogue and that `rejects` does not accept. Raise
    the errors of `read_records` too.
    """
    if form != "auto" and form not in KEYS:
        known = ", ".join(["auto", *KEYS])
        raise ValueError(f"the format must be one of {known} ({form!r}); choose one of them")
    forms: dict[Path, str] = {}

    def dialogue_in(record: Record) -> Dialogue:
        messages = with_system(_messages(record, form, forms), system)
        return Dialogue(messages, place(record))

    yield from converted(paths, dialogue_in, rejects or Rejects(), progress)


def dialogue_files(paths: StrPath | Sequence[StrPath]) -> list[Path]:
    """Return the files of JSON and Parquet, as `find_files` does. Raise ValueError for a path of
    another file."""
    files = find_files(paths, JSON_ENDINGS)
    for file in files:
        if format_of(file).kind == "text":
            raise ValueError(
                f"dialogues must be in .jsonl, .json or .parquet files ({file}); use a file of "
                "dialogues, or train on text with --kind text and without a recipe of dialogues"
            )
    return files


def converted(
    paths: StrPath | Sequence[StrPath],
    convert: Callable[[Record], T],
    rejects: Rejects,
    progress: Progress = lambda size: None,
) -> Iterator[T]:
    """Yield `convert(record)` for the records of all files. `rejects` receives each record for
    which `convert` raises a ValueError."""
    for record in read_records(dialogue_files(paths), Reading(field=None), rejects, progress):
        try:
            found = convert(record)
        except ValueError as error:
            rejects.add(error, record.path, record.line, json.dumps(record.value).encode())
            continue
        yield found


def with_system(messages: list[Message], system: str | None) -> list[Message]:
    """Return the messages, after the text `system` if they have no system text. An empty system
    text is none."""
    if messages[0]["role"] == "system":
        if messages[0]["content"].strip():
            return messages
        messages = messages[1:]
    if not system:
        return messages
    return [{"role": "system", "content": system}, *messages]


def _messages(record: Record, form: str, forms: dict[Path, str]) -> list[Message]:
    """Return the messages. `forms` stores the form of each file whose form is known."""
    where = place(record)
    if form == "auto":
        form = forms.get(record.path) or recognised(record.value, where)
    messages = to_messages(record.value, form, where)
    check_messages(messages, where)
    forms[record.path] = form
    return messages
