"""Count the letters of a text by their script: Latin, Han, Cyrillic, …"""

from __future__ import annotations

import functools
import sys

import numpy as np
import numpy.typing as npt
import regex

SCRIPTS = (
    "Latin", "Han", "Hiragana", "Katakana", "Hangul", "Cyrillic", "Greek", "Arabic", "Hebrew",
    "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Tamil", "Telugu", "Kannada", "Malayalam",
    "Sinhala", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Mongolian", "Georgian", "Armenian",
    "Ethiopic",
)  # fmt: skip


@functools.cache
def _numbers() -> npt.NDArray[np.uint8]:
    """Return a number for each code point: 0 if it is no letter, 1 + the index of its script, or
    the largest number for a letter of another script."""
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    numbers = np.zeros(len(every), np.uint8)
    for match in regex.finditer(r"\p{L}+", every):
        numbers[match.start() : match.end()] = len(SCRIPTS) + 1
    for number, script in enumerate(SCRIPTS, 1):
        for match in regex.finditer(rf"\p{{Script={script}}}+", every):
            part = numbers[match.start() : match.end()]
            part[part > 0] = number
    return numbers


def count_scripts(text: str) -> dict[str, int]:
    """Return the number of letters of each script in the text, such as {"latin": 10, "han": 3}."""
    if text.isascii():
        codes: npt.NDArray[np.unsignedinteger] = np.frombuffer(text.encode(), np.uint8)
    else:
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    counts = np.bincount(_numbers()[codes], minlength=len(SCRIPTS) + 2)[1:]
    names = (*map(str.lower, SCRIPTS), "other")
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}
