"""Count the characters of a class in a text, fast: by a table over all code points."""

from __future__ import annotations

import functools
import sys

import numpy as np
import numpy.typing as npt
import regex

from scratchlm.data.scripts import all_characters, code_points


@functools.cache
def table(pattern: str) -> npt.NDArray[np.bool_]:
    r"""Return, for each code point, whether it is in the class `pattern`, such as `\p{L}`."""
    found = np.zeros(sys.maxunicode + 1, np.bool_)
    for match in regex.finditer(f"(?:{pattern})+", all_characters()):
        found[match.start() : match.end()] = True
    return found


def count(text: str, pattern: str) -> int:
    """Return how many characters of the text are in the class."""
    return sum(int(np.count_nonzero(table(pattern)[codes])) for codes in code_points(text))
