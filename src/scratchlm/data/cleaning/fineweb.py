"""The rules of FineWeb for web pages.

Source: Penedo et al. 2024, "The FineWeb Datasets: Decanting the Web for the Finest Text Data at
Scale", section 3.6 (https://arxiv.org/abs/2406.17557).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from scratchlm.data.cleaning.characters import table
from scratchlm.data.cleaning.step import Filter, check_at_least, check_share
from scratchlm.data.cleaning.words import words_of


@functools.cache
def ends_of_sentences() -> frozenset[str]:
    """Return the characters that Unicode calls ends of sentences, such as `.`, `!`, `?`, `。`."""
    return frozenset(map(chr, np.flatnonzero(table(r"\p{Sentence_Terminal}")).tolist()))


@dataclass(frozen=True)
class FineWebQuality(Filter):
    """Drop texts that look like a list or a menu, or that repeat lines.

    line_punct: at least this fraction of the lines must end with the end of a sentence.
    short_line: at most this fraction of the lines may have up to `short_line_chars` characters.
    char_dup: at most this fraction of the characters may be in lines that occur before.
    list: at most this number of line breaks per word.
    """

    kind: ClassVar[str] = "fineweb_quality"
    line_punct: float = 0.12
    short_line: float = 0.67
    short_line_chars: int = 30
    char_dup: float = 0.01
    list: float = 0.3

    def __post_init__(self) -> None:
        for name in ("line_punct", "short_line", "char_dup"):
            check_share(f"fineweb_quality.{name}", getattr(self, name))
        check_at_least("fineweb_quality.short_line_chars", self.short_line_chars, 0, 30)
        check_at_least("fineweb_quality.list", self.list, 0, 0.3)

    def reason(self, text: str) -> str | None:
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        if not lines:
            return "empty"
        ends = ends_of_sentences()
        if sum(line[-1] in ends for line in lines) / len(lines) < self.line_punct:
            return "too few sentences"
        short = sum(len(line) <= self.short_line_chars for line in lines)
        if short / len(lines) > self.short_line:
            return "short lines"
        breaks = text.count("\n")
        repeated = sum(map(len, lines)) - sum(map(len, set(lines)))
        if repeated / (len(text) - breaks) > self.char_dup:
            return "repeated lines"
        return "too many line breaks" if breaks / len(words_of(text)) > self.list else None
