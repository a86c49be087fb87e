"""Turn dialogues into examples that fit into a row, and count what happened to the dialogues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from scratchlm.data.conversations.dialogues import Dialogue
from scratchlm.data.conversations.masks import (
    Example,
    Fitted,
    TrainOn,
    example_of,
    learned,
    truncated,
)
from scratchlm.tokenizer.chat_template import ChatTemplate, Message

TooLong = Literal["drop", "truncate", "error"]


@dataclass(frozen=True)
class Learning:
    """Specify what a model learns of its dialogues.

    train_on: see `example_of`. too_long: what happens to a dialogue that is longer than a row:
    "drop" leaves the dialogue out, "truncate" uses `truncated`, and "error" stops. A dialogue with
    fewer than `min_target_tokens` targets is left out.
    """

    train_on: TrainOn = "assistant"
    too_long: TooLong = "drop"
    min_target_tokens: int = 1

    def __post_init__(self) -> None:
        for name, choices in (("train_on", get_args(TrainOn)), ("too_long", get_args(TooLong))):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(
                    f"{name} must be a valid choice ({value}); choose one of: {', '.join(choices)}"
                )
        if self.min_target_tokens < 1:
            raise ValueError(
                f"min_target_tokens must be at least 1 ({self.min_target_tokens}); use e.g. 1"
            )


@dataclass
class Counts:
    """Count what happened to dialogues: `read` = `kept` + `too_long` + `without_targets`."""

    read: int = 0
    kept: int = 0
    too_long: int = 0  # dropped
    without_targets: int = 0  # dropped
    shortened: int = 0  # kept, without their oldest messages
    lost_messages: int = 0  # the messages that these dialogues lost
    ended_early: int = 0  # kept, without their last messages
    lost_last: int = 0  # the messages that these dialogues lost
    cut_answers: int = 0  # answers without their end
    lost_targets: int = 0  # of dropped and shortened dialogues
    answers: int = 0  # of all dialogues
    masked_answers: int = 0  # answers of all dialogues that the model does not learn
    predictions: int = 0
    targets: int = 0

    def keep(self, before: Sequence[Message], fitted: Fitted, targets: int) -> None:
        """Add a kept dialogue. `before` and `fitted` are the dialogue as read and as kept. targets:
        the number of targets of the whole dialogue."""
        lost = len(before) - len(fitted.messages) - fitted.lost_last
        self.kept += 1
        self.shortened += lost > 0
        self.lost_messages += lost
        self.ended_early += fitted.lost_last > 0
        self.lost_last += fitted.lost_last
        self.cut_answers += fitted.is_cut
        self.lost_targets += targets - fitted.example.num_targets
        self.predictions += fitted.example.num_predictions
        self.targets += fitted.example.num_targets

    def lines(self) -> Iterator[str]:
        """Yield what happened, in sentences for a user."""
        yield (
            f"{number_of(self.read, 'dialogue')}: {self.kept:,} kept, {self.too_long:,} dropped "
            f"because they are too long, {self.without_targets:,} dropped because they have too "
            "few targets"
        )
        yield from told_of_long("dialogues", self.too_long, self.read)
        lost = [
            f"{number:,} lost {what}"
            for number, what in (
                (self.shortened, f"their oldest messages ({self.lost_messages:,} messages)"),
                (self.ended_early, f"their last messages ({self.lost_last:,} messages)"),
                (self.cut_answers, "the end of an answer"),
            )
            if number
        ]
        if lost:
            yield f"of the kept dialogues, {', '.join(lost)}"
        if self.lost_targets:
            yield told_of_lost("dialogues", self.lost_targets, self.targets)
        fraction = self.targets / max(1, self.predictions)
        yield (
            f"{self.targets:,} of {self.predictions:,} predictions are targets ({fraction:.1%}); "
            f"{self.masked_answers:,} of {self.answers:,} answers are masked"
        )

    def check(self, source: str, row_length: int) -> None:
        """Raise ValueError if no dialogue remains."""
        if not self.read:
            raise nothing_in(source, "dialogue")
        if not self.kept:
            raise ValueError(
                f"at least one dialogue must have a target in a row of {row_length} tokens "
                f"({source}: {number_of(self.read, 'dialogue')}, {self.too_long:,} too long, "
                f"{self.without_targets:,} with too few targets); use longer rows "
                "(--row_length, --context_length), or other dialogues"
            )


def number_of(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def told_of_long(what: str, too_long: int, read: int) -> Iterator[str]:
    """Yield a warning if more than half of the dialogues, or pairs, are dropped as too long."""
    if 2 * too_long > read:
        yield (
            f"warning: more than half of the {what} are too long ({too_long:,} of {read:,}); use "
            "longer rows (--row_length, --context_length)"
        )


def told_of_lost(what: str, lost: int, kept: int) -> str:
    """Return a line about the targets that dropped and shortened dialogues, or pairs, lost."""
    return (
        f"the dropped and shortened {what} lost {lost:,} of {lost + kept:,} targets "
        f"({lost / (lost + kept):.1%}); longer rows (--row_length, --context_length) keep more of "
        "them"
    )


def examples_of(
    dialogues: Iterable[Dialogue],
    template: ChatTemplate,
    row_length: int,
    learning: Learning,
    counts: Counts,
    source: str = "the data",
) -> Iterator[Example]:
    """Yield an example for each dialogue that is not dropped, in order. Add to `counts`.

    `source` says in a message where the dialogues come from. An example has 1 to `row_length`
    predictions. Raise ValueError for a text that the tokenizer cannot encode, for a dialogue that
    is too long if `learning.too_long` is "error", and if no dialogue remains.
    """
    for messages, place in dialogues:
        counts.read += 1
        try:
            example = example_of(messages, template, learning.train_on)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        is_learned = learned(messages, learning.train_on)
        counts.answers += len(is_learned)
        counts.masked_answers += len(is_learned) - sum(is_learned)
        targets = example.num_targets
        if targets < learning.min_target_tokens:
            counts.without_targets += 1
            counts.lost_targets += targets
            continue
        fitted = Fitted(messages, example, False)
        if example.num_predictions > row_length:
            if learning.too_long == "error":
                raise ValueError(
                    f"a dialogue must have at most {row_length} predictions ({place}: "
                    f"{example.num_predictions}); {remedy_of(example.num_predictions)}"
                )
            least = learning.min_target_tokens
            if learning.too_long == "truncate":
                fitted = truncated(messages, template, row_length, learning.train_on, least)
            if learning.too_long == "drop" or fitted.example.num_targets < least:
                counts.too_long += 1
                counts.lost_targets += targets
                continue
        counts.keep(messages, fitted, targets)
        yield fitted.example
    counts.check(source, row_length)


def remedy_of(predictions: int) -> str:
    """Return the remedy for a dialogue, or a pair, that is longer than a row."""
    return (
        f"shorten the text, use rows of {predictions} tokens (--row_length, --context_length), or "
        "set --too_long truncate"
    )


def nothing_in(source: str, noun: str) -> ValueError:
    return ValueError(
        f"the data must have at least one {noun} ({source} has none); choose other files"
    )
