"""Compare a model before and after fine-tuning, on dialogues that training never saw.

    python scripts/measure_assistant.py BEFORE AFTER HELD_OUT.jsonl

BEFORE and AFTER are models. Both tokenizers must have the markers of a template. The script prints
two tables: figures, and some questions with the replies of both models. The loss is the mean over
the tokens of all answers, as in a validation of `scratchlm-train --kind sft --too_long truncate`.
A reply ends by itself if the model writes the end marker within MAX_TOKENS tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from scratchlm.checkpoint.models import load_with_tokenizer
from scratchlm.cli.command import command
from scratchlm.data.conversations.batches import DialogueEvalBatches, Examples
from scratchlm.data.conversations.dialogues import Dialogue, read_dialogues
from scratchlm.data.conversations.examples import Counts, Learning, examples_of
from scratchlm.devices.ranks import ALONE
from scratchlm.files.paths import StrPath
from scratchlm.generation.generator import TextGenerator
from scratchlm.model.transformer import Transformer
from scratchlm.tokenizer.chat_template import ChatTemplate, Message, fitting_form
from scratchlm.training.objective import Objective
from scratchlm.training.validation import mean_figures

QUESTIONS = 50
MAX_TOKENS = 128  # in a reply
EXAMPLES = 5
SAMPLING: dict[str, Any] = {"temperature": 0.6, "top_p": 0.95}


class Question(NamedTuple):
    """The messages of a dialogue before its first answer, and that answer."""

    messages: Sequence[Message]
    answer: str


class Reply(NamedTuple):
    text: str
    ended: bool


class Measured(NamedTuple):
    """loss: the mean loss of the held-out answers, in nats per token."""

    loss: float
    replies: Sequence[Reply]

    @property
    def ended(self) -> int:
        return sum(reply.ended for reply in self.replies)


def load(path: StrPath) -> tuple[Transformer, ChatTemplate]:
    """Return a model and its template. Raise ValueError if its tokenizer has no template."""
    loaded = load_with_tokenizer(path)
    form = loaded.template or fitting_form(loaded.tokenizer)
    if form is None:
        raise ValueError(
            f"the tokenizer must have the markers of a template ({path}); train a tokenizer with "
            "--special_tokens '<|endoftext|>' '<|im_start|>' '<|im_end|>'"
        )
    return loaded.model.eval(), ChatTemplate(form, loaded.tokenizer)


def questions_of(
    dialogues: Sequence[Dialogue], template: ChatTemplate, context_length: int
) -> list[Question]:
    """Return the first questions of `QUESTIONS` dialogues, evenly spaced. A question has at most
    half of the context."""
    questions = []
    for messages, _ in dialogues:
        first = next(i for i, each in enumerate(messages) if each["role"] == "assistant")
        if len(template.encode(messages[:first])) <= context_length // 2:
            questions.append(Question(messages[:first], messages[first]["content"]))
    count = min(QUESTIONS, len(questions))
    return [questions[i * len(questions) // count] for i in range(count)]


@torch.no_grad()
def loss_of(model: Transformer, template: ChatTemplate, dialogues: Sequence[Dialogue]) -> float:
    """Return the mean loss of the answers, in nats per token."""
    length, learning = model.config.context_length, Learning(too_long="truncate")
    examples = Examples(examples_of(dialogues, template, length, learning, Counts()))
    batches, objective = DialogueEvalBatches(examples, 8, length), Objective(model)
    found = mean_figures(lambda it: objective(it.inputs, it.targets, it.first)[1], batches, ALONE)
    return found["val_loss"]


def replies_of(
    model: Transformer, template: ChatTemplate, questions: Sequence[Question]
) -> Iterator[Reply]:
    """Yield the reply to each question. The number of the question is the seed."""
    writer = TextGenerator(model, template.tokenizer, end_ids=[template.end_of_answer])
    for number, question in enumerate(questions):
        ids = template.encode(question.messages)
        generator = torch.Generator().manual_seed(number)
        steps = list(writer.steps(ids, MAX_TOKENS, generator=generator, **SAMPLING))
        text = "".join(piece for piece, _ in steps)
        yield Reply(text, steps[-1][1].finish_reason == "stop")


def tables(before: Measured, after: Measured, questions: Sequence[Question]) -> Iterator[str]:
    """Yield the lines of both tables, in Markdown."""
    count = len(questions)
    yield from ("| | before | after |", "|---|---|---|")
    yield f"| loss of the held-out answers, nats per token | {before.loss:.2f} | {after.loss:.2f} |"
    yield f"| replies that end by themselves, of {count} | {before.ended} | {after.ended} |"
    yield from ("", "| question | before | after | the set's answer |", "|---|---|---|---|")
    for number in range(0, count, -(-count // EXAMPLES)):
        question, replies = questions[number], (before.replies[number], after.replies[number])
        asked = question.messages[-1]["content"]
        cells = (asked, *(reply.text for reply in replies), question.answer)
        yield f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Return at most 100 characters of a text, in one line of code, so that no character is a
    mark of Markdown."""
    line = " ".join(text.replace("|", "/").replace("`", "'").split())
    return f"`{line}`" if len(line) <= 100 else f"`{line[:100]}` …"


@command()
def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    if len(words) != 3:
        raise ValueError(
            f"three paths are necessary ({len(words)}); write measure_assistant.py BEFORE AFTER "
            "HELD_OUT.jsonl"
        )
    *paths, held_out = words
    dialogues = list(read_dialogues(held_out))
    models = [load(path) for path in paths]
    model, template = models[1]
    questions = questions_of(dialogues, template, model.config.context_length)
    before, after = (
        Measured(loss_of(*each, dialogues), list(replies_of(*each, questions))) for each in models
    )
    print(*tables(before, after, questions), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
