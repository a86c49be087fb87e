"""`RunningText` is a chat without turns, and `find_template` chooses a model's template."""

from __future__ import annotations

from collections.abc import Sequence

from scratchlm.generation.generator import TextGenerator
from scratchlm.tokenizer.chat_template import (
    FORMS,
    ChatTemplate,
    Message,
    Prompt,
    fitting_form,
    too_long,
    unknown_template,
)


class RunningText:
    """One text without turn markers, which the user and a base model write together.

    The model reads exactly the text on the screen. A user's message starts a new line, and the
    model continues it. After an empty message, the model continues where it stopped. A system text
    is the first line.
    """

    name = "plain"
    end_ids: Sequence[int] = ()

    def __init__(self, writer: TextGenerator) -> None:
        self.writer = writer

    def fit(self, system: str | None, messages: Sequence[Message], room: int) -> Prompt:
        """Return the ids of the text, but at most `room` ids.

        Drop the oldest ids, but keep the system text. Raise ValueError if the last message alone
        does not fit, or if there is no text.
        """
        head = list(self.writer.start_ids)
        if system is not None:
            head += self._encode(_begun_line(system))
        text = ""
        for message in messages:
            if message["role"] == "user" and message["content"]:
                text = _begun_line(text)
            text += message["content"]
        ids, last = self._encode(text), self._encode(messages[-1]["content"])
        room -= len(head)
        if len(last) > room:
            raise too_long(len(last), room)
        kept = head + ids[max(0, len(ids) - room) :]
        return Prompt(kept or self.writer.encode(""), len(ids) <= room)

    def _encode(self, text: str) -> list[int]:
        return self.writer.tokenizer.encode(text, allowed_special="none")


Template = ChatTemplate | RunningText
TEMPLATES = ("auto", RunningText.name, *FORMS)


def find_template(name: str, writer: TextGenerator) -> Template:
    """Return the template with this name.

    "auto" means the template that the model was trained with, if the model records one. Otherwise
    "auto" means the first template that marks the turns with special tokens of the tokenizer. If no
    template does, "auto" means "plain".
    """
    if name not in TEMPLATES:
        raise unknown_template(name, TEMPLATES)
    if name == "auto" and writer.template is not None:
        return writer.template
    if name == "auto":
        name = fitting_form(writer.tokenizer) or RunningText.name
    return RunningText(writer) if name == RunningText.name else ChatTemplate(name, writer.tokenizer)


def _begun_line(text: str) -> str:
    """Return `text` with a line end, unless it is empty or already has one."""
    return text if not text or text.endswith("\n") else text + "\n"
