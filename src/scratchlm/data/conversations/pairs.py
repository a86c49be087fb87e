"""Turn preferences into pairs of examples that fit into a row, and count what happened to them.

The model learns only the last answer of each dialogue, up to and including its end marker. Both
dialogues of a pair are in the same row, so a row must have room for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scratchlm.data.conversations.examples import (
    TooLong,
    nothing_in,
    number_of,
    remedy_of,
    told_of_long,
    told_of_lost,
)
from scratchlm.data.conversations.masks import Example, example_of
from scratchlm.data.conversations.preferences import Preference
from scratchlm.tokenizer.chat_template import ChatTemplate, newest_that_fit


class Pair(NamedTuple):
    """The examples of the chosen and of the rejected dialogue."""

    chosen: Example
    rejected: Example

    @property
    def num_predictions(self) -> int:
        return self.chosen.num_predictions + self.rejected.num_predictions

    def is_equal(self) -> bool:
        return np.array_equal(self.chosen.ids, self.rejected.ids)

    def cut(self, most: int) -> Pair:
        """Return the pair with at most `most` predictions. Cut the longer dialogue first."""
        sizes = [each.num_predictions for each in self]
        size = max(most // 2, most - min(sizes))
        return Pair(*(Example(ids[: size + 1], marks[: size + 1]) for ids, marks in self))


@dataclass
class PairCounts:
    """Count what happened to pairs: `read` = `kept` + `too_long` + `equal`."""

    read: int = 0
    kept: int = 0
    too_long: int = 0  # dropped
    equal: int = 0  # dropped, because both answers have the same tokens
    shortened: int = 0  # kept, without their oldest messages
    lost_messages: int = 0  # the messages that these pairs lost
    cut_answers: int = 0  # answers without their end
    lost_targets: int = 0  # of the pairs that are too long or shortened
    predictions: int = 0
    targets: int = 0

    def lines(self) -> Iterator[str]:
        """Yield what happened, in sentences for a user."""
        yield (
            f"{number_of(self.read, 'pair')}: {self.kept:,} kept, {self.too_long:,} dropped "
            f"because they are too long, {self.equal:,} dropped because both answers are equal"
        )
        yield from told_of_long("pairs", self.too_long, self.read)
        if self.shortened or self.cut_answers:
            yield (
                f"{self.shortened:,} of the kept pairs lost the oldest messages of their prompt "
                f"({number_of(self.lost_messages, 'message')}), and "
                f"{number_of(self.cut_answers, 'answer')} lost their end"
            )
        if self.lost_targets:
            yield told_of_lost("pairs", self.lost_targets, self.targets)
        fraction = self.targets / max(1, self.predictions)
        yield f"{self.targets:,} of {self.predictions:,} predictions are targets ({fraction:.1%})"

    def check(self, source: str, row_length: int) -> None:
        """Raise ValueError if no pair remains."""
        if not self.read:
            raise nothing_in(source, "pair")
        if not self.kept:
            raise ValueError(
                f"at least one pair of different answers must fit into a row of {row_length} "
                f"tokens ({source}: {number_of(self.read, 'pair')}, {self.too_long:,} too long, "
                f"{self.equal:,} with equal answers); use longer rows (--row_length, "
                "--context_length), or other pairs"
            )


def pairs_of(
    preferences: Iterable[Preference],
    template: ChatTemplate,
    row_length: int,
    too_long: TooLong,
    counts: PairCounts,
    source: str = "the data",
) -> Iterator[Pair]:
    """Yield a pair for each preference that is not dropped, in order. Add to `counts`.

    `source` says in a message where the pairs come from. A pair has at most `row_length`
    predictions. too_long: what happens to a longer pair. "drop" leaves the pair out, and "error"
    stops. "truncate" drops the oldest messages of the prompt, but keeps the system text. If the
    pair is still too long, it cuts the ends of the answers. A pair of equal answers teaches
    nothing, so it is dropped.

    Raise ValueError for a text that the tokenizer cannot encode, for a pair that is too long if
    `too_long` is "error", and if no pair remains.
    """
    for preference in preferences:
        counts.read += 1
        try:
            pair = _pair(preference, template)
        except ValueError as error:
            raise ValueError(f"{preference.place}: {error}") from None
        if pair.is_equal():
            counts.equal += 1
            continue
        kept, lost = pair, 0
        targets = sum(each.num_targets for each in pair)
        if pair.num_predictions > row_length:
            if too_long == "error":
                raise ValueError(
                    f"both dialogues of a pair must have at most {row_length} predictions together "
                    f"({preference.place}: {pair.num_predictions}); "
                    f"{remedy_of(pair.num_predictions)}"
                )
            if too_long == "truncate":
                pair, lost = _shortened(preference, template, row_length)
                kept = pair.cut(row_length)
            if too_long == "drop" or kept.is_equal() or not all(each.num_targets for each in kept):
                counts.too_long += 1
                counts.lost_targets += targets
                continue
        counts.kept += 1
        counts.shortened += lost > 0
        counts.lost_messages += lost
        cut = (len(mine.ids) < len(whole.ids) for mine, whole in zip(kept, pair, strict=True))
        counts.cut_answers += sum(cut)
        counts.predictions += kept.num_predictions
        remaining = sum(each.num_targets for each in kept)
        counts.targets += remaining
        counts.lost_targets += targets - remaining
        yield kept
    counts.check(source, row_length)


def _pair(preference: Preference, template: ChatTemplate, lost: int = 0) -> Pair:
    """Return the pair without the first `lost` messages after the system text."""
    head = int(preference.chosen[0]["role"] == "system")
    both = (
        [*messages[:head], *messages[head + lost :]]
        for messages in (preference.chosen, preference.rejected)
    )
    return Pair(*(example_of(each, template, "last") for each in both))


def _shortened(preference: Preference, template: ChatTemplate, most: int) -> tuple[Pair, int]:
    """Return the pair with the newest turns of its prompt that fit, and how many messages it lost.
    If not even the last turn fits, return the pair with the last turn alone."""
    head = int(preference.chosen[0]["role"] == "system")
    messages = range(len(preference.chosen) - head)

    def fits(rest: Sequence[int]) -> bool:
        return _pair(preference, template, rest[0]).num_predictions <= most

    rest = newest_that_fit(messages, fits) or messages[-2:]
    return _pair(preference, template, rest[0]), rest[0]
