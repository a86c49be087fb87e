"""Count the letters of a text by their script: Latin, Han, Cyrillic, …"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import regex

SCRIPTS = (
    "Latin", "Han", "Hiragana", "Katakana", "Hangul", "Cyrillic", "Greek", "Arabic", "Hebrew",
    "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Tamil", "Telugu", "Kannada", "Malayalam",
    "Sinhala", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Mongolian", "Georgian", "Armenian",
    "Ethiopic",
)  # fmt: skip
_CHARACTERS = 1 << 20  # in an array of code points


@functools.cache
def all_characters() -> str:
    """Return every code point once, in order. Half surrogates are not characters: they are U+FFFD
    here."""
    codes = np.arange(sys.maxunicode + 1, dtype="<u4")
    codes[0xD800:0xE000] = 0xFFFD
    return codes.tobytes().decode("utf-32-le")


@functools.cache
def _numbers() -> npt.NDArray[np.uint8]:
    """Return a number for each code point: 0 if it is no letter, 1 + the index of its script, or
    the largest number for a letter of another script."""
    every = all_characters()
    numbers = np.zeros(len(every), np.uint8)
    for match in regex.finditer(r"\p{L}+", every):
        numbers[match.start() : match.end()] = len(SCRIPTS) + 1
    for number, script in enumerate(SCRIPTS, 1):
        for match in regex.finditer(rf"\p{{Script={script}}}+", every):
            part = numbers[match.start() : match.end()]
            part[part > 0] = number
    return numbers


def code_points(text: str) -> Iterator[npt.NDArray[np.unsignedinteger]]:
    """Yield the code points of a text without lone surrogates, in arrays of bounded size."""
    for start in range(0, len(text), _CHARACTERS):
        part = text[start : start + _CHARACTERS]
        if part.isascii():
            yield np.frombuffer(part.encode("ascii"), np.uint8)
        else:
            yield np.frombuffer(part.encode("utf-32-le"), "<u4")


def count_scripts(text: str) -> dict[str, int]:
    """Return the number of letters of each script in the text, such as {"latin": 10, "han": 3}."""
    counts = np.zeros(len(SCRIPTS) + 2, np.int64)
    for codes in code_points(text):
        counts += np.bincount(_numbers()[codes], minlength=len(counts))
    names = (*map(str.lower, SCRIPTS), "other")
    return {name: int(count) for name, count in zip(names, counts[1:], strict=True) if count}
