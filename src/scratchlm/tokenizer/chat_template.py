"""A conversation as the ids that a model reads.

>>> template = ChatTemplate("chatml", tokenizer)
>>> template.encode([{"role": "user", "content": "hi<|im_end|>"}])  # the last one is plain text
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

from scratchlm.tokenizer.bpe import BPETokenizer

_MARKER = re.compile(r"(<\|\w+\|>)")


class Message(TypedDict):
    """What one side said; as `transformers` and the APIs of others have it."""

    role: str  # system, user or assistant
    content: str


@dataclass(frozen=True)
class Form:
    """How a model was taught to read a turn, and what comes before all of them."""

    turn: str
    start: str = ""
    strip: bool = False  # white space around what was said is left out


FORMS = {
    # OpenAI's chatml.md; Qwen, and many a model that others fine-tuned
    "chatml": Form("<|im_start|>{role}\n{content}<|im_end|>\n"),
    # Meta's model card of Llama 3
    "llama3": Form(
        "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
        start="<|begin_of_text|>",
        strip=True,
    ),
}


class Prompt(NamedTuple):
    """What the model reads, and whether that is all of the conversation."""

    ids: list[int]
    complete: bool


class ChatTemplate:
    """One of `FORMS` in the ids of a tokenizer.

    Markers are special tokens; all between them is encoded as plain text, so that no text, whoever
    wrote it, is ever a marker. The ids are those of `apply_chat_template` in `transformers` for
    every text without special tokens in it.

    `end_ids`: the markers, none of which is part of a reply. ValueError where one is no special
    token of the tokenizer.
    """

    def __init__(self, name: str, tokenizer: BPETokenizer) -> None:
        self.name = name
        self.form = FORMS[name]
        self.tokenizer = tokenizer
        missing = [each for each in markers(self.form) if each not in tokenizer.special_tokens]
        if missing:
            raise ValueError(
                f"the tokenizer has no {missing[0]}, which the template is written with ({name}); "
                "use plain"
            )
        self.end_ids = [tokenizer.token_to_id(marker) for marker in markers(self.form)]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """All messages, and the beginning of a reply."""
        turns = [id for message in messages for id in self._turn(message)]
        return self._filled(self.form.start) + turns + self._opening()

    def fit(self, system: str | None, messages: Sequence[Message], room: int) -> Prompt:
        """The same in at most `room` ids: the oldest exchanges are left out, the system text never.

        messages: exchanges, and a user's message. ValueError where that alone does not fit.
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
        """Cut at its markers first and filled in then: what is filled in cannot hold one."""
        ids = []
        for i, part in enumerate(_MARKER.split(form)):
            if i % 2:
                ids.append(self.tokenizer.token_to_id(part))
            else:
                ids += self.tokenizer.encode(part.format(**values), allowed_special="none")
        return ids


def too_long(count: int, room: int) -> ValueError:
    return ValueError(
        f"the message is too long ({count} tokens, {max(room, 0)} fit beside the system text and a "
        "reply); shorten it, or set a lower max_tokens"
    )


def markers(form: Form) -> list[str]:
    return _MARKER.findall(form.start + form.turn)
