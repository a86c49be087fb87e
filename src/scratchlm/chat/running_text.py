"""A conversation without turns: one running text. And the choice of a template for a model."""

from __future__ import annotations

from collections.abc import Sequence

from scratchlm.generation.generator import TextGenerator
from scratchlm.tokenizer.chat_template import (
    FORMS,
    ChatTemplate,
    Message,
    Prompt,
    markers,
    too_long,
)


class RunningText:
    """No turns: one text, which the user and a base model write by turns.

    What the model reads is what stands on the screen: a user's text begins a line, and the model
    continues it; an empty one lets it go on where it stopped. A system text is the first line.
    """

    name = "plain"
    end_ids: Sequence[int] = ()

    def __init__(self, writer: TextGenerator) -> None:
        self.writer = writer

    def fit(self, system: str | None, messages: Sequence[Message], room: int) -> Prompt:
        """The text in at most `room` ids: the oldest are left out, those of the system text never.

        ValueError where the last message alone does not fit, or there is no text at all.
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
    """The template of this name; "auto" is the first whose markers the tokenizer has, or plain."""
    if name not in TEMPLATES:
        raise ValueError(f"no such template ({name!r}); give one of {', '.join(TEMPLATES)}")
    if name == "auto":
        known = set(writer.tokenizer.special_tokens)
        fitting = [each for each, form in FORMS.items() if known.issuperset(markers(form))]
        name = fitting[0] if fitting else RunningText.name
    return RunningText(writer) if name == RunningText.name else ChatTemplate(name, writer.tokenizer)


def _begun_line(text: str) -> str:
    """With a line end after what there is."""
    return text if not text or text.endswith("\n") else text + "\n"
