"""`Conversation` keeps the messages of a chat and streams the model's replies.

writer = TextGenerator.load("Qwen3-0.6B")
conversation = Conversation(writer, find_template("auto", writer), system="Be brief.")
for piece in conversation.reply("Why is the sky blue?", temperature=0.7):
    print(piece, end="", flush=True)
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any

from scratchlm.chat.running_text import TEMPLATES, Template, find_template
from scratchlm.errors import FileFormatError
from scratchlm.files.paths import StrPath
from scratchlm.files.strict_json import parse_json
from scratchlm.generation.generator import TextGenerator
from scratchlm.generation.sampling import Continuation, FinishReason
from scratchlm.tokenizer.chat_template import Message

Pieces = Generator[str, None, None]  # the caller may close it early


class Conversation:
    """A chat: the model that replies, and the `messages` so far.

    `messages` alternate between the user and the assistant. The context keeps room for the reply:
    `max_tokens` tokens, or half of the context if that is less. Old messages that no longer fit
    stay in `messages`, but the model does not read them. Then `complete` is False.
    `finish_reason` is the reason why the last reply ended. It is None if the reply was interrupted.
    """

    def __init__(
        self, writer: TextGenerator, template: Template, system: str | None = None
    ) -> None:
        self.writer = writer
        self.template = template
        self.system = system
        self.messages: list[Message] = []
        self.complete = True
        self.finish_reason: FinishReason | None = None

    def reply(self, text: str, max_tokens: int = 256, **how: Any) -> Pieces:
        """Yield the model's reply to `text` in pieces.

        `how` contains arguments for `TextGenerator.steps`.

        If the caller closes the iterator, or the user presses Ctrl-C, `messages` keeps the partial
        reply. If an error occurs, the conversation does not change. Raise ValueError if `text` is
        too long.
        """
        return self._reply(self.messages, text, max_tokens, how)

    def retry(self, max_tokens: int = 256, **how: Any) -> Pieces:
        """Yield another reply to the last message. The new reply replaces the old one."""
        if not self.messages:
            raise ValueError("there is no message to answer (0 messages); write a message first")
        *before, said, _ = self.messages
        return self._reply(before, said["content"], max_tokens, how)

    def reset(self) -> None:
        """Delete the messages and keep the system text."""
        self.messages = []
        self.complete = True

    def _reply(
        self, before: list[Message], text: str, max_tokens: int, how: dict[str, Any]
    ) -> Pieces:
        # Encode the text alone first, so that an error contains the position in this text.
        self.writer.tokenizer.encode(text, allowed_special="none")
        said: Message = {"role": "user", "content": text}
        context_length = self.writer.model.config.context_length
        room = context_length - min(max_tokens, context_length // 2)
        prompt = self.template.fit(self.system, [*before, said], room)
        how = {"stop_ids": self.template.end_ids} | how
        steps = self.writer.steps(prompt.ids, max_tokens, **how)
        return self._written(steps, [*before, said], prompt.complete)

    def _written(
        self, steps: Iterator[tuple[str, Continuation]], messages: list[Message], complete: bool
    ) -> Pieces:
        answer: Message = {"role": "assistant", "content": ""}
        old = self.messages, self.complete
        self.messages, self.complete, self.finish_reason = [*messages, answer], complete, None
        try:
            for piece, row in steps:
                self.finish_reason = row.finish_reason
                answer["content"] += piece
                if piece:
                    yield piece
        except Exception:
            self.messages, self.complete = old
            raise

    def to_json(self) -> str:
        """Return the conversation as JSON text for a file."""
        content = {
            "template": self.template.name,
            "system": self.system,
            "messages": self.messages,
        }
        return json.dumps(content, ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_json(
        cls,
        writer: TextGenerator,
        text: str | bytes,
        name: StrPath = "text",
        template: str | None = None,
    ) -> Conversation:
        """Read the text that `to_json` returned.

        name: the name of the file, for error messages. template: replaces the template that the
        text specifies. Raise FileFormatError if the text is not a conversation. Raise ValueError if
        the template does not fit the tokenizer.
        """
        content = _checked(text, name)
        found = find_template(template or content["template"], writer)
        conversation = cls(writer, found, content["system"])
        conversation.messages = content["messages"]
        return conversation


def is_conversation(text: bytes) -> bool:
    """Return whether `from_json` accepts `text`."""
    try:
        _checked(text, "")
    except FileFormatError:
        return False
    return True


def _checked(text: str | bytes, name: StrPath) -> dict[str, Any]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise _broken(name, f"the text is not JSON: {error}") from None
    if not isinstance(content, dict) or content.keys() != {"template", "system", "messages"}:
        raise _broken(name, "it must be an object with the keys template, system and messages")
    template, system, messages = content["template"], content["system"], content["messages"]
    if template not in TEMPLATES[1:]:
        known = ", ".join(TEMPLATES[1:])
        raise _broken(name, f"template must be one of {known}, not {template!r}")
    if system is not None and not _is_text(system):
        raise _broken(name, "system must be a text or null")
    if not isinstance(messages, list) or len(messages) % 2:
        raise _broken(name, "messages must be a list of pairs of a user message and a reply")
    for i, message in enumerate(messages):
        role = ("user", "assistant")[i % 2]
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise _broken(name, f"message {i} must be an object with the keys role and content")
        if message["role"] != role or not _is_text(message["content"]):
            raise _broken(name, f"message {i} must have the role {role} and a text as its content")
    return content


def _is_text(value: object) -> bool:
    """Return whether `value` is a string without lone surrogates, which UTF-8 can encode."""
    return isinstance(value, str) and value == value.encode("utf-8", "ignore").decode()


def _broken(name: StrPath, what: str) -> FileFormatError:
    return FileFormatError(
        f"the file is not a conversation ({name}: {what}); choose a file that /save wrote"
    )
