"""The sources that a user specifies for a mixture, and their weights.

books/                       one source
books/:0.7,code.h5:0.3       a mixture: 70 % of the training windows come from books/
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from scratchlm.data.sources import is_there

MOST = 1_000_000  # windows after which the sources of a mixture may repeat their turns

_SOURCE = re.compile(r"(.+?):(\d+(?:\.\d*)?|\.\d+)(?:,|$)", re.DOTALL)


class Part(NamedTuple):
    """Store a path, folder or glob, and its weight. The weight is exact: 0.7 is 7/10."""

    name: str
    weight: Fraction


def parts_of(text: str) -> list[Part]:
    """Return the sources of `text`. An existing path, or a glob that matches, is one source.

    Raise ValueError for a mixture with a source without a weight, or with a weight that is not
    positive.

    >>> parts_of("books/:0.7,code.h5:0.3")[0]
    Part(name='books/', weight=Fraction(7, 10))
    """
    if is_there(text):
        return [Part(text, Fraction(1))]
    if not _SOURCE.search(text):
        _check_is_one(text, text)
        return [Part(text, Fraction(1))]
    parts, place = [], 0
    while place < len(text):
        found = _SOURCE.match(text, place)
        if found is None:
            raise _without_weight(text[place:], text)
        _check_is_one(found[1], text)
        parts.append(Part(found[1], Fraction(found[2])))
        place = found.end()
    for name, weight in parts:
        if weight == 0:
            raise ValueError(
                f"each weight of a mixture must be greater than 0 ({name}:0); increase the weight, "
                "or remove the source"
            )
    return parts


def _check_is_one(name: str, text: str) -> None:
    """Raise ValueError if `name` is not a path, but seems to be several paths with commas."""
    if "," in name and not is_there(name) and any(map(is_there, filter(None, name.split(",")))):
        raise _without_weight(name, text)


def _without_weight(name: str, text: str) -> ValueError:
    return ValueError(
        f"each source of a mixture must have a weight ({name} in {text}); write PATH:NUMBER for "
        "each source, such as books/:2,code.h5:1"
    )


def with_paths(text: str, change: Callable[[str], str]) -> str:
    """Return `text` with `change(path)` for the path of each source."""
    parts = parts_of(text)
    if is_there(text) or not _SOURCE.search(text):
        return change(text)
    return ",".join(f"{change(name)}:{decimal(weight)}" for name, weight in parts)


def decimal(weight: Fraction) -> str:
    """Return the decimal number that `parts_of` read. It has no more digits than necessary."""
    digits = 0
    while weight.denominator != 1:
        weight, digits = weight * 10, digits + 1
    if digits == 0:
        return str(weight.numerator)
    written = str(weight.numerator).zfill(digits + 1)
    return f"{written[:-digits]}.{written[-digits:]}"


def whole_weights(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Return the smallest whole numbers with the same proportions.

    Raise ValueError if their sum is above MOST.

    >>> whole_weights([Fraction("0.7"), Fraction("0.3")])
    (7, 3)
    """
    multiple = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * multiple) for weight in weights]
    divisor = math.gcd(*whole)
    whole = [weight // divisor for weight in whole]
    if sum(whole) > MOST:
        shown = ", ".join(map(decimal, weights))
        raise ValueError(
            f"the weights of a mixture have too many digits ({shown}); round each weight to 4 "
            "digits"
        )
    return tuple(whole)
