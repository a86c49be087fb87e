"""The rules of Gopher for web pages: quality and repetition.

Source: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training
Gopher", section A.1.1 (https://arxiv.org/abs/2112.11446). The rules are for English and for other
languages with spaces between words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

from scratchlm.data.cleaning.step import Filter, check_at_least, check_order, check_share
from scratchlm.data.cleaning.words import has_letter, has_letter_or_digit, words_of

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("•", "-")
ELLIPSES = ("...", "…")


@dataclass(frozen=True)
class GopherQuality(Filter):
    """Drop texts that are too short or too long, or that do not look like prose.

    min_words, max_words: the number of words with a letter or a digit.
    min_mean_length, max_mean_length: the mean length of these words in characters.
    max_symbols: "#" per word, and "..." or "…" per word.
    max_bullets, max_ellipsis_lines: the fraction of lines that start with a bullet, or end with
    an ellipsis.
    min_alpha: the fraction of words, with signs, that have a letter.
    min_stop_words: how many of the, be, to, of, and, that, have, with the text contains.
    """

    kind: ClassVar[str] = "gopher_quality"
    min_words: int = 50
    max_words: int = 100_000
    min_mean_length: float = 3.0
    max_mean_length: float = 10.0
    max_symbols: float = 0.1
    max_bullets: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_alpha: float = 0.8
    min_stop_words: int = 2

    def __post_init__(self) -> None:
        for name in ("max_bullets", "max_ellipsis_lines", "min_alpha"):
            check_share(f"gopher_quality.{name}", getattr(self, name))
        for name in ("min_words", "min_mean_length", "max_symbols", "min_stop_words"):
            default = getattr(GopherQuality, name)
            check_at_least(f"gopher_quality.{name}", getattr(self, name), 0, default)
        check_order("gopher_quality.words", self.min_words, self.max_words)
        check_order("gopher_quality.mean_length", self.min_mean_length, self.max_mean_length)
        if self.min_stop_words > len(STOP_WORDS):
            raise ValueError(
                f"gopher_quality.min_stop_words must be at most {len(STOP_WORDS)} "
                f"({self.min_stop_words}); use e.g. 2"
            )

    def reason(self, text: str) -> str | None:
        words = words_of(text)
        real = [word for word in words if has_letter_or_digit(word)]
        if not real or len(real) < self.min_words:
            return "too few words"
        if len(real) > self.max_words:
            return "too many words"
        mean = sum(map(len, real)) / len(real)
        if not self.min_mean_length <= mean <= self.max_mean_length:
            return "short words" if mean < self.min_mean_length else "long words"
        if text.count("#") / len(words) > self.max_symbols:
            return "too many #"
        if sum(map(text.count, ELLIPSES)) / len(words) > self.max_symbols:
            return "too many ellipses"
        lines = text.splitlines()
        if _fraction([line.lstrip().startswith(BULLETS) for line in lines]) > self.max_bullets:
            return "too many bullets"
        ends = [line.rstrip().endswith(ELLIPSES) for line in lines]
        if _fraction(ends) > self.max_ellipsis_lines:
            return "too many lines with an ellipsis"
        if sum(map(has_letter, words)) / len(words) < self.min_alpha:
            return "too few words with letters"
        if len(STOP_WORDS.intersection(words)) < self.min_stop_words:
            return "too few stop words"
        return None


def _fraction(flags: list[bool]) -> float:
    return sum(flags) / max(len(flags), 1)


@dataclass(frozen=True)
class Repetition(Filter):
    """Drop texts that repeat themselves. The defaults are those of Gopher's Table A1.

    dup_lines, dup_paragraphs: the fraction of lines, and of paragraphs, that occur before.
    dup_line_chars, dup_paragraph_chars: the same as a fraction of the characters.
    top_ngram: for 2, 3 and 4 words, the fraction of characters in the most frequent n-gram.
    dup_ngram: for 5 to 10 words, the fraction of characters in n-grams that occur before. No
    character counts twice.
    """

    kind: ClassVar[str] = "repetition"
    dup_lines: float = 0.30
    dup_paragraphs: float = 0.30
    dup_line_chars: float = 0.20
    dup_paragraph_chars: float = 0.20
    top_ngram: tuple[float, float, float] = (0.20, 0.18, 0.16)
    dup_ngram: tuple[float, float, float, float, float, float] = (
        0.15, 0.14, 0.13, 0.12, 0.11, 0.10,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("dup_lines", "dup_paragraphs", "dup_line_chars", "dup_paragraph_chars"):
            check_share(f"repetition.{name}", getattr(self, name))
        for share in (*self.top_ngram, *self.dup_ngram):
            check_share("repetition.top_ngram and dup_ngram", share)

    def reason(self, text: str) -> str | None:
        return (
            self._repeated_parts(
                re.split(r"\n{2,}", text.strip()), len(text),
                "paragraph", self.dup_paragraphs, self.dup_paragraph_chars,
            )
            or self._repeated_parts(
                re.split(r"\n+", text), len(text), "line", self.dup_lines, self.dup_line_chars
            )
            or self._frequent(words_of(text), len(text))
            or self._repeated(words_of(text), len(text))
        )  # fmt: skip

    @staticmethod
    def _repeated_parts(
        parts: list[str], size: int, name: str, most: float, most_chars: float
    ) -> str | None:
        once = set(parts)
        if len(once) == len(parts):
            return None
        if (len(parts) - len(once)) / len(parts) > most:
            return f"repeated {name}s"
        chars = sum(map(len, parts)) - sum(map(len, once))
        return f"characters in repeated {name}s" if chars / max(size, 1) > most_chars else None

    def _frequent(self, words: Sequence[str], size: int) -> str | None:
        longest = max(map(len, words), default=0)
        most, longest_twice = len(words), longest
        for n, limit in enumerate(self.top_ngram, 2):
            # An upper bound: no n-gram occurs more often than the most frequent shorter n-gram, and
            # an n-gram that occurs twice consists of words of shorter n-grams that occur twice.
            bound = max(most * (n * longest_twice + n - 1), n * longest + n - 1)
            if len(words) < n or bound <= limit * size:
                continue
            counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
            most = max(counts.values())
            top = next(ngram for ngram, times in counts.items() if times == most)
            if most * len(" ".join(top)) / size > limit:
                return f"frequent {n}-gram"
            twice = (ngram for ngram, times in counts.items() if times > 1)
            longest_twice = max(map(len, chain.from_iterable(twice)), default=0)
        return None

    def _repeated(self, words: Sequence[str], size: int) -> str | None:
        shortest = 5
        ngrams = list(zip(*(words[i:] for i in range(shortest)), strict=False))
        repeated = len(ngrams) - len(set(ngrams))
        if not repeated:
            return None
        # Each repeated longer n-gram consists of repeated 5-grams. So these are upper bounds of the
        # repeated characters: first a fast one, then a closer one.
        least = min(self.dup_ngram) * size
        longest = max(map(len, words))
        if repeated * shortest * longest <= least or _covered(ngrams, words) <= least:
            return None
        for n, limit in enumerate(self.dup_ngram, shortest):
            if _repeated_chars(words, n) / size > limit:
                return f"repeated {n}-grams"
        return None


def _covered(ngrams: list[tuple[str, ...]], words: Sequence[str]) -> int:
    """Return the number of characters in words of n-grams that occur before."""
    seen: set[tuple[str, ...]] = set()
    repeated = [start for start, ngram in enumerate(ngrams) if ngram in seen or seen.add(ngram)]  # type: ignore[func-returns-value]
    covered = set(chain.from_iterable(range(start, start + len(ngrams[0])) for start in repeated))
    return sum(len(words[index]) for index in covered)


def _repeated_chars(words: Sequence[str], n: int) -> int:
    """Return the number of characters in n-grams that occur before. Continue after each of them."""
    seen: set[tuple[str, ...]] = set()
    chars = at = 0
    while at <= len(words) - n:
        ngram = tuple(words[at : at + n])
        if ngram in seen:
            chars += sum(map(len, ngram))
            at += n
        else:
            seen.add(ngram)
            at += 1
    return chars
