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
    cut_answers: int = 0  # answers without their end
    masked_answers: int = 0  # answers of kept dialogues that the model does not learn
    predictions: int = 0
    targets: int = 0

    def keep(self, before: Sequence[Message], fitted: Fitted, is_learned: Sequence[bool]) -> None:
        """Add a kept dialogue. `before` and `fitted` are the dialogue as read and as kept."""
        lost = len(before) - len(fitted.messages)
        self.kept += 1
        self.shortened += lost > 0
        self.lost_messages += lost
        self.cut_answers += fitted.is_cut
        self.masked_answers += len(is_learned) - sum(is_learned)
        self.predictions += fitted.example.num_predictions
        self.targets += fitted.example.num_targets

    def lines(self) -> Iterator[str]:
        """Yield what happened, in sentences for a user."""
        yield (
            f"{self.read:,} dialogues: {self.kept:,} kept, {self.too_long:,} dropped because they "
            f"are too long, {self.without_targets:,} dropped because they have too few targets"
        )
        if self.shortened or self.cut_answers:
            yield (
                f"{self.shortened:,} of the kept dialogues lost their oldest messages "
                f"({self.lost_messages:,} messages), and {self.cut_answers:,} lost the end of an "
                "answer"
            )
        fraction = self.targets / max(1, self.predictions)
        yield (
            f"{self.targets:,} of {self.predictions:,} predictions are targets ({fraction:.1%}); "
            f"{self.masked_answers:,} answers are masked"
        )


def examples_of(
    dialogues: Iterable[Dialogue],
    template: ChatTemplate,
    row_length: int,
    learning: Learning,
    counts: Counts,
) -> Iterator[Example]:
    """Yield an example for each dialogue that is not dropped, in order. Add to `counts`.

    An example has 1 to `row_length` predictions. Raise ValueError for a text that the tokenizer
    cannot encode, for a dialogue that is too long if `learning.too_long` is "error", and if no
    dialogue remains.
    """
    for messages, place in dialogues:
        counts.read += 1
        try:
            example = example_of(messages, template, learning.train_on)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if example.num_targets < learning.min_target_tokens:
            counts.without_targets += 1
            continue
        fitted = Fitted(messages, example, False)
        if example.num_predictions > row_length:
            if learning.too_long == "error":
                raise ValueError(
                    f"a dialogue must have at most {row_length + 1} tokens ({place}: "
                    f"{len(example.ids)}); shorten the dialogue, use longer rows, or set "
                    "too_long to truncate"
                )
            if learning.too_long == "truncate":
                fitted = truncated(messages, template, row_length, learning.train_on)
            few = fitted.example.num_targets < learning.min_target_tokens
            if learning.too_long == "drop" or few:
                counts.too_long += 1
                continue
        counts.keep(messages, fitted, learned(fitted.messages, learning.train_on))
        yield fitted.example
    if not counts.kept:
        raise ValueError(
            f"at least one dialogue must have a target in a row of {row_length} tokens "
            f"({counts.read:,} dialogues: {counts.too_long:,} too long, {counts.without_targets:,} "
            "with too few targets); use longer rows, or other dialogues"
        )
