"""Chat templates: encode a conversation as the ids that a model reads.

>>> template = ChatTemplate("chatml", tokenizer)
>>> template.encode([{"role": "user", "content": "hi<|im_end|>"}])  # this <|im_end|> is plain text
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

from scratchlm.tokenizer.bpe import BPETokenizer

_MARKER = re.compile(r"(<\|\w+\|>)")


class Message(TypedDict):
    """One message, in the format of `transformers` and of most chat APIs."""

    role: str  # system, user or assistant
    content: str


@dataclass(frozen=True)
class Form:
    """The text of one turn in a model's training data, and the text before the first turn."""

    turn: str
    start: str = ""
    strip: bool = False  # remove white space around the content


FORMS = {
    # OpenAI's chatml.md; Qwen and many fine-tuned models use it
    "chatml": Form("<|im_start|>{role}\n{content}<|im_end|>\n"),
    # Meta's model card of Llama 3
    "llama3": Form(
        "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
        start="<|begin_of_text|>",
        strip=True,
    ),
}


class Prompt(NamedTuple):
    """The ids that the model reads. `complete`: whether they contain the whole conversation."""

    ids: list[int]
    complete: bool


class ChatTemplate:
    """Encode messages with one of `FORMS` and a tokenizer.

    The markers are special tokens. The template encodes all other text as plain text, so a message
    can never contain a marker. For messages without special tokens, the ids equal the ids from
    `apply_chat_template` in `transformers`.

    `end_ids`: the ids of the markers. A reply contains none of these ids.

    Raise ValueError if a marker is not a special token of the tokenizer.
    """

    def __init__(self, name: str, tokenizer: BPETokenizer) -> None:
        self.name = name
        self.form = FORMS[name]
        self.tokenizer = tokenizer
        missing = [each for each in markers(self.form) if each not in tokenizer.special_tokens]
        if missing:
            raise ValueError(
                f"the chat template {name} needs a special token that the tokenizer does not have "
                f"({missing[0]}); choose the template plain"
            )
        self.end_ids = [tokenizer.token_to_id(marker) for marker in markers(self.form)]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of all messages and of the beginning of a reply."""
        turns = [id for message in messages for id in self._turn(message)]
        return self._filled(self.form.start) + turns + self._opening()

    def fit(self, system: str | None, messages: Sequence[Message], room: int) -> Prompt:
        """Encode the messages in at most `room` ids. Drop the oldest pairs, but keep `system`.

        messages: pairs of user and assistant messages, then one user message. Raise ValueError if
        the last message alone does not fit.
        """
        head = self._filled(self.form.start)
        if system is not None:
            head += self._turn({"role": "system", "content": system})
        turns = [self._turn(message) for message in messages]
        opening = self._opening()
        room -= len(head) + len(opening)
        first = 0
        while sum(map(len, turns[first:])) > room:
            if first == len(turns) - 1:
                raise too_long(len(turns[-1]), room)
            first += 2
        said = [id for turn in turns[first:] for id in turn]
        return Prompt(head + said + opening, first == 0)

    def _turn(self, message: Message) -> list[int]:
        content = message["content"]
        said = content.strip() if self.form.strip else content
        return self._filled(self.form.turn, role=message["role"], content=said)

    def _opening(self) -> list[int]:
        return self._filled(self.form.turn.partition("{content}")[0], role="assistant")

    def _filled(self, form: str, **values: str) -> list[int]:
        """Cut the form at its markers, then fill in the values. So a value cannot add a marker."""
        ids = []
        for i, part in enumerate(_MARKER.split(form)):
            if i % 2:
                ids.append(self.tokenizer.token_to_id(part))
            else:
                ids += self.tokenizer.encode(part.format(**values), allowed_special="none")
        return ids


def too_long(count: int, room: int) -> ValueError:
    return ValueError(
        f"the message is too long ({count} tokens, but {max(room, 0)} fit beside the system text "
        "and a reply); shorten the message, or decrease max_tokens"
    )


def markers(form: Form) -> list[str]:
    return _MARKER.findall(form.start + form.turn)
