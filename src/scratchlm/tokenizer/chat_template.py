"""Chat templates: encode a conversation as the ids that a model reads.

>>> template = ChatTemplate("chatml", tokenizer)
>>> template.encode([{"role": "user", "content": "hi<|im_end|>"}])  # this <|im_end|> is plain text
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, NotRequired, Self, TypedDict, TypeVar

from scratchlm.tokenizer.bpe import BPETokenizer

T = TypeVar("T")

_MARKER = re.compile(r"(<\|\w+\|>)")


class Message(TypedDict):
    """One message, in the format of `transformers` and of most chat APIs."""

    role: str  # system, user or assistant
    content: str
    weight: NotRequired[int]  # 0: training does not learn this answer


@dataclass(frozen=True)
class Form:
    """The texts of a turn of each role in a model's training data.

    Each turn has the place {content}. `jinja`: the same form as a Jinja template, which other
    programs read (`transformers`, vLLM, llama.cpp). `start`: the text before the first turn.
    `default_system`: the system text of a conversation that has none. `strip`: remove white space
    around a content. `only_text`: the turns begin with text instead of markers, so a user can write
    such a beginning.
    """

    system: str
    user: str
    assistant: str
    jinja: str
    start: str = ""
    default_system: str | None = None
    strip: bool = False
    only_text: bool = False

    @classmethod
    def with_role(cls, turn: str, jinja: str, start: str = "", strip: bool = False) -> Self:
        """Return a form whose turns are the same, except for the name of the {role}."""
        system, user, assistant = (
            turn.replace("{role}", role) for role in ("system", "user", "assistant")
        )
        return cls(system, user, assistant, jinja, start=start, strip=strip)

    def turn(self, role: str) -> str:
        turns = {"system": self.system, "user": self.user, "assistant": self.assistant}
        if role not in turns:
            raise ValueError(f"a role must be system, user or assistant ({role!r}); correct it")
        return turns[role]


_ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request."
)

# The Jinja templates have no {% generation %}, because only transformers knows this tag. Other
# programs refuse a template with an unknown tag (llama-cpp-python#2225, tabbyAPI#437).
FORMS = {
    # OpenAI's chatml.md; Qwen and many fine-tuned models use it
    "chatml": Form.with_role(
        "<|im_start|>{role}\n{content}<|im_end|>\n",
        jinja="{% for message in messages %}"
        r"{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
        r"{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
    # Meta's model card of Llama 3
    "llama3": Form.with_role(
        "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
        jinja="{{ '<|begin_of_text|>' }}{% for message in messages %}"
        r"{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
        r"{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        start="<|begin_of_text|>",
        strip=True,
    ),
    # Stanford's Alpaca, for a tokenizer without markers of turns
    "plain_alpaca": Form(
        system="{content}",
        user="\n\n### Instruction:\n{content}",
        assistant="\n\n### Response:\n{content}<|endoftext|>",
        jinja="{% if messages[0]['role'] != 'system' %}{{ '" + _ALPACA_SYSTEM + "' }}{% endif %}"
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}"
        r"{% elif message['role'] == 'user' %}{{ '\n\n### Instruction:\n' + message['content'] }}"
        "{% elif message['role'] == 'assistant' %}"
        r"{{ '\n\n### Response:\n' + message['content'] + '<|endoftext|>' }}"
        "{% else %}{{ raise_exception('a role must be system, user or assistant') }}{% endif %}"
        r"{% endfor %}{% if add_generation_prompt %}{{ '\n\n### Response:\n' }}{% endif %}",
        default_system=_ALPACA_SYSTEM,
        only_text=True,
    ),
}


class Prompt(NamedTuple):
    """The ids that the model reads. `complete`: whether they contain the whole conversation."""

    ids: list[int]
    complete: bool


class EncodedDialogue(NamedTuple):
    """The ids of a dialogue. `answers`: (start, end) for each message of the assistant.

    An answer is the content and its end marker. An id that has bytes of the header and of the
    content belongs to the answer.
    """

    ids: list[int]
    answers: list[tuple[int, int]]


class _Run(NamedTuple):
    """Text that the tokenizer encodes as one text: up to the next marker, or up to the end.

    text: all text before `answer`. answer: the content of an answer, which the marker ends.
    """

    text: str
    answer: str | None
    marker: str | None


class ChatTemplate:
    """Encode messages with one of `FORMS` and a tokenizer.

    The markers are special tokens. The template encodes all other text as plain text, so a message
    can never contain a marker. For messages without special tokens, the ids equal the ids from
    `apply_chat_template` in `transformers`.

    `end_ids`: the ids of the markers. A reply contains none of these ids. `start_ids`: the ids of
    the markers before the first turn. `end_of_answer`: the id of the marker that ends an answer.

    Raise ValueError if no form has this name, or if a marker is not a special token of the
    tokenizer.
    """

    def __init__(self, name: str, tokenizer: BPETokenizer) -> None:
        if name not in FORMS:
            raise unknown_template(name, FORMS)
        self.name = name
        self.form = FORMS[name]
        self.tokenizer = tokenizer
        if missing := missing_markers(self.form, tokenizer):
            raise ValueError(
                f"the chat template {name} needs a special token that the tokenizer does not have "
                f"({missing[0]}); choose another template"
            )
        self.end_ids = [tokenizer.token_to_id(marker) for marker in markers(self.form)]
        self.start_ids = [tokenizer.token_to_id(each) for each in _MARKER.findall(self.form.start)]
        self.end_of_answer = tokenizer.token_to_id(end_marker(self.form))

    def with_end_of_answer(self, end_ids: Iterable[int]) -> list[int]:
        """Return the id that ends an answer, and then the other `end_ids`."""
        return list(dict.fromkeys([self.end_of_answer, *end_ids]))

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of all messages and of the beginning of a reply."""
        opening = self.form.assistant.partition("{content}")[0]
        return self._encoded(self._runs(messages, opening)).ids

    def encode_dialogue(self, messages: Sequence[Message]) -> EncodedDialogue:
        """Return the ids of a whole dialogue, and where the assistant's answers are.

        Raise ValueError for a byte that encoding would otherwise drop.
        """
        return self._encoded(self._runs(messages), strict=True)

    def fit(self, system: str | None, messages: Sequence[Message], room: int) -> Prompt:
        """Encode the messages in at most `room` ids. Drop the oldest pairs, but keep `system`.

        messages: pairs of user and assistant messages, then one user message. Raise ValueError if
        the last message alone does not fit.
        """
        head: list[Message] = [] if system is None else [{"role": "system", "content": system}]

        def encoded(rest: Sequence[Message]) -> list[int]:
            return self.encode([*head, *rest])

        rest = newest_that_fit(messages, lambda rest: len(encoded(rest)) <= room)
        if not rest:
            others = len(encoded([]))
            raise too_long(len(encoded(messages[-1:])) - others, room - others)
        return Prompt(encoded(rest), len(rest) == len(messages))

    def _runs(self, messages: Sequence[Message], opening: str = "") -> Iterator[_Run]:
        """Cut the form at its markers, then fill in the contents. So a content has no marker."""
        default = self.form.default_system
        if default is not None and (not messages or messages[0]["role"] != "system"):
            messages = [{"role": "system", "content": default}, *messages]
        turns = [(self.form.turn(each["role"]), each) for each in messages]
        text, answer = "", None
        for turn, message in [(self.form.start, None), *turns, (opening, None)]:
            for i, part in enumerate(_MARKER.split(turn)):
                if i % 2:
                    yield _Run(text, answer, part)
                    text, answer = "", None
                    continue
                before, place, after = part.partition("{content}")
                text += before
                if place and message:
                    content = message["content"].strip() if self.form.strip else message["content"]
                    if message["role"] == "assistant":
                        answer = content
                    else:
                        text += content + after
        yield _Run(text, answer, None)

    def _encoded(self, runs: Iterable[_Run], strict: bool = False) -> EncodedDialogue:
        ids: list[int] = []
        answers = []
        for text, answer, marker in runs:
            new = self._ids(text + (answer or ""), strict)
            start = len(ids) + (0 if answer is None else self._count_before(text, new))
            ids += new
            if marker is not None:
                ids.append(self.tokenizer.token_to_id(marker))
            if answer is not None:
                answers.append((start, len(ids)))
        return EncodedDialogue(ids, answers)

    def _count_before(self, text: str, ids: list[int]) -> int:
        """Return how many of `ids` have bytes of `text` alone, if `text` begins their text."""
        size = self._num_bytes(self._ids(text))
        ends = itertools.accumulate(self._num_bytes([id]) for id in ids)
        return sum(1 for _ in itertools.takewhile(lambda end: end <= size, ends))

    def _num_bytes(self, ids: list[int]) -> int:
        return sum(len(self.tokenizer.vocab[id]) for id in ids)

    def _ids(self, text: str, strict: bool = False) -> list[int]:
        return self.tokenizer.encode_array(text, "none", strict=strict).tolist()


def newest_that_fit(messages: Sequence[T], fits: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    """Drop as few of the oldest pairs of messages as possible, so that the rest fits.

    Return an empty sequence if not even the last pair, or the last message, fits.
    """
    if fits(messages):
        return messages
    starts = range(0, len(messages), 2)
    first = bisect_left(starts, True, key=lambda start: fits(messages[start:]))
    return messages[starts[first] :] if first < len(starts) else []


def fitting_form(tokenizer: BPETokenizer) -> str | None:
    """Return the first template whose turns begin with special tokens of this tokenizer."""
    return next(
        (
            name
            for name, form in FORMS.items()
            if not form.only_text and not missing_markers(form, tokenizer)
        ),
        None,
    )


def with_markers(tokenizer: BPETokenizer, name: str) -> BPETokenizer:
    """Return the tokenizer with the markers of this template as special tokens.

    New markers get the next ids: `len(tokenizer)` and the ids after it. Other ids do not change.
    """
    parts = tokenizer.parts
    specials = dict.fromkeys([*parts.special_tokens, *markers(FORMS[name])])
    return BPETokenizer.from_parts(replace(parts, special_tokens=list(specials)))


def template_for_training(name: str, tokenizer: BPETokenizer) -> ChatTemplate:
    """Return the template with this name, and with a tokenizer that has its markers.

    "auto" means `fitting_form`, or "chatml" if no form fits. `with_markers` adds missing markers.
    """
    if name not in ("auto", *FORMS):
        raise unknown_template(name, ("auto", *FORMS))
    if name == "auto":
        name = fitting_form(tokenizer) or "chatml"
    return ChatTemplate(name, with_markers(tokenizer, name))


def unknown_template(name: str, known: Iterable[str]) -> ValueError:
    return ValueError(f"no template has this name ({name!r}); choose one of {', '.join(known)}")


def too_long(count: int, room: int) -> ValueError:
    return ValueError(
        f"the message is too long ({count} tokens, but {max(room, 0)} fit beside the system text "
        "and a reply); shorten the message, or decrease max_tokens"
    )


def markers(form: Form) -> list[str]:
    """Return each marker of the form once, in the order of their first use."""
    turns = form.start + form.system + form.user + form.assistant
    return list(dict.fromkeys(_MARKER.findall(turns)))


def end_marker(form: Form) -> str:
    """Return the marker after the content of an assistant's turn."""
    return _MARKER.findall(form.assistant.partition("{content}")[2])[0]


def missing_markers(form: Form, tokenizer: BPETokenizer) -> list[str]:
    """Return the markers of the form that are not special tokens of the tokenizer."""
    known = set(tokenizer.special_tokens)
    return [marker for marker in markers(form) if marker not in known]
