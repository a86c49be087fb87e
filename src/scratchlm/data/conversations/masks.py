"""Decide which tokens of a dialogue the model learns to predict.

The targets are an assistant's answer, up to and including its end marker. The model never learns
the header of a turn, a user's text, or an answer with the weight 0. It learns the end marker, so
its replies end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from scratchlm.functional import IGNORED
from scratchlm.tokenizer.chat_template import ChatTemplate, Message, newest_that_fit

TrainOn = Literal["assistant", "last", "all"]


class Example(NamedTuple):
    """ids: (n + 1,) the tokens of a dialogue. is_target: (n + 1,) whether the model learns them.

    An example of n + 1 ids has n predictions, because nothing predicts the first id.
    """

    ids: npt.NDArray[np.int64]
    is_target: npt.NDArray[np.bool_]

    @property
    def num_predictions(self) -> int:
        return len(self.ids) - 1

    @property
    def num_targets(self) -> int:
        return int(self.is_target.sum())

    def inputs_and_targets(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return (n,) the inputs, and (n,) the next tokens, with -100 for no target."""
        return self.ids[:-1], np.where(self.is_target[1:], self.ids[1:], IGNORED)


def learned(messages: Sequence[Message], train_on: TrainOn) -> list[bool]:
    """Return whether the model learns each answer of the assistant."""
    answers = [each for each in messages if each["role"] == "assistant"]
    return [
        answer.get("weight", 1) == 1 and (train_on != "last" or number == len(answers))
        for number, answer in enumerate(answers, 1)
    ]


def marked(
    messages: Sequence[Message], template: ChatTemplate, train_on: TrainOn = "assistant"
) -> Example:
    """Return all ids of a dialogue, with their targets.

    train_on: "assistant" learns every answer, "last" only the last answer, and "all" every token.
    None of them learns an answer with the weight 0.
    """
    ids, answers = template.encode_dialogue(messages)
    is_target = np.full(len(ids), train_on == "all")
    is_target[:1] = False
    for (start, end), is_learned in zip(answers, learned(messages, train_on), strict=True):
        is_target[start:end] = is_learned
    return Example(np.array(ids, dtype=np.int64), is_target)


def example_of(
    messages: Sequence[Message], template: ChatTemplate, train_on: TrainOn = "assistant"
) -> Example:
    """Return the example of a dialogue: its marked ids up to the last target. Later ids change no
    prediction of a target."""
    ids, is_target = marked(messages, template, train_on)
    last = int(np.flatnonzero(is_target)[-1]) if is_target.any() else 0
    return Example(ids[: last + 1], is_target[: last + 1])


class Fitted(NamedTuple):
    """An example that fits into a row. messages: those that it still contains. is_cut: whether the
    last answer lost its end. lost_last: how many of the last messages it lost."""

    messages: Sequence[Message]
    example: Example
    is_cut: bool
    lost_last: int = 0


def truncated(
    messages: Sequence[Message],
    template: ChatTemplate,
    most: int,
    train_on: TrainOn = "assistant",
    least: int = 1,
) -> Fitted:
    """Return an example with at most `most` predictions.

    Drop the oldest pairs of messages, but keep the system text. If the last pair is still too long,
    cut the end of its answer. Then the example has no end marker, so the model does not learn to
    end there. If the rest has fewer than `least` targets, drop the last pair too, and begin again.
    "last" always keeps the last pair. If the only pair's answer begins after the cut, the example
    has no target.
    """
    head = messages[:1] if messages[0]["role"] == "system" else []

    def example(rest: Sequence[Message]) -> Example:
        return example_of([*head, *rest], template, train_on)

    for end in range(len(messages), len(head), -2):
        said = messages[len(head) : end]
        rest = newest_that_fit(said, lambda each: example(each).num_predictions <= most)
        rest = rest or said[-2:]
        ids, is_target = example(rest)
        cut = Example(ids[: most + 1], is_target[: most + 1])
        if cut.num_targets >= least or train_on == "last":
            break
    return Fitted([*head, *rest], cut, len(cut.ids) < len(ids), len(messages) - end)
