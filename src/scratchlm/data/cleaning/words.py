"""Split a text into words and signs, as the rules for web pages count them."""

from __future__ import annotations

import functools
import re

# As in spaCy: "don't" is do + n't, "it's" is it + 's, and "..." and each other sign is a word.
_WORD = re.compile(r"\w+(?=n't\b)|n't\b|'\w+|\w+|\.+|[^\w\s]")


@functools.lru_cache(maxsize=1)  # several steps ask for the words of the same document
def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text in English, or in another language with spaces between words."""
    words: list[str] = []
    for part in text.split():
        if part.isalnum():  # most parts: this is faster than the pattern
            words.append(part)
        else:
            words += _WORD.findall(part)
    return tuple(words)


def has_letter(word: str) -> bool:
    return word.isalpha() or any(map(str.isalpha, word))


def has_letter_or_digit(word: str) -> bool:
    return word.isalnum() or any(map(str.isalnum, word))
