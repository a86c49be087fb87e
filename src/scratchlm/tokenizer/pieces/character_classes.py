r"""Replace the classes of a pattern (`\p{L}`, `\s`, `\d`) by their ranges in Unicode 16."""

from __future__ import annotations

import functools
import re
from itertools import groupby

import regex

from scratchlm.tokenizer.pieces.unicode_table import RUNS

# Unicode's White_Space: `\s` in tiktoken and `tokenizers`. Python's `\s` also has U+001C-1F.
WHITE_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

Ranges = list[tuple[int, int]]

_PROPERTY = re.compile(r"[pP](?:\{(\^?)([^{}]+)\}|([A-Z]))")
# Escapes that mean one ASCII character.
_ASCII_ESCAPES = frozenset("rntfva" + re.sub(r"\w", "", "".join(map(chr, range(32, 127)))))
_SET_OPERATIONS = {"&&", "--", "~~"}
_LAST = 0x10FFFF
LAST_OF_BMP = 0xFFFF


def translate(pattern: str, last: int = _LAST) -> tuple[str, bool]:
    r"""Replace `\p{…}`, `\P{…}`, `\s`, `\S`, `\d`, `\D` in the pattern by ranges up to `last`.

    Also return whether the pattern distinguishes characters beyond ASCII only by these classes.
    """
    parts: list[str] = []
    by_category = pattern.isascii()
    inside = False  # whether `i` is inside a [class]
    i = 0
    while i < len(pattern):
        character = pattern[i]
        length = 1
        if inside and pattern[i : i + 2] == "||":
            pass  # drop one of the two: `regex` reads || as an operation
        elif character == "\\":
            ranges, length = _escaped_class(pattern, i)
            if ranges is not None:
                written = _written([(a, min(b, last)) for a, b in ranges if a <= last])
                parts.append(written if inside else f"[{written}]")
            else:
                by_category = by_category and pattern[i + 1 : i + 2] in _ASCII_ESCAPES
                parts.append(_frozen(pattern[i : i + length]))
        else:
            if inside and (character == "[" or pattern[i : i + 2] in _SET_OPERATIONS):
                by_category = False
            if character == "[":
                inside = True
                # A leading ] is a member of the class: []…] and [^]…].
                length = len(re.match(r"\[\^?\]?", pattern[i:])[0])  # type: ignore[index]
            elif character == "]":
                inside = False
            parts.append(pattern[i : i + length])
        i += length
    return "".join(parts), by_category


def _escaped_class(pattern: str, i: int) -> tuple[Ranges | None, int]:
    """Return the code points of the class escape at `i` (None for other escapes) and its length."""
    kind = pattern[i + 1 : i + 2]
    if kind and kind in "sSdD":
        ranges = white_space() if kind in "sS" else category("Nd")
        return (ranges if kind.islower() else complement(ranges)), 2
    if kind and kind in "pP" and (match := _PROPERTY.match(pattern, i + 1)):
        name = match[2] or match[3]
        if name in _category_names():
            negative = (kind == "P") != bool(match[1])
            ranges = category(name)
            return (complement(ranges) if negative else ranges), match.end() - i
        return None, match.end() - i
    return None, 2


def _frozen(escape: str) -> str:
    r"""Return an escape for `regex`. `\w` and `\p{Han}` exclude characters newer than the table."""
    if not re.match(r"\\[wWpP]", escape) or not (newer := _written(_newer())):
        return escape
    kind = escape[1].lower()
    name = escape[2:].replace("^", "", 1)
    negative = escape[1].isupper() != ("^" in escape)
    return f"[{'^' if negative else ''}[\\{kind}{name}--[{newer}]]]"


@functools.cache
def _newer() -> Ranges:
    """Return the code points that only the installed `regex` knows, not the table."""
    unassigned = "".join(chr(c) for a, b in category("Cn") for c in range(a, b + 1))
    points = map(ord, regex.findall(r"\P{Cn}", unassigned))
    runs = groupby(enumerate(points), lambda point: point[1] - point[0])
    ends = [[point for _, point in run] for _, run in runs]
    return [(run[0], run[-1]) for run in ends]


@functools.cache
def category(name: str) -> Ranges:
    """Return the code points of a general category (`Lu`) or of a group of categories (`L`)."""
    ranges: Ranges = []
    for inside, runs in groupby(_runs(), lambda run: run[0].startswith(name)):
        if inside:
            (_, first, last), *more = runs
            ranges.append((first, more[-1][2] if more else last))
    return ranges


def complement(ranges: Ranges) -> Ranges:
    """Return all code points outside the ranges."""
    starts = [0, *(last + 1 for _, last in ranges)]
    ends = [*(first - 1 for first, _ in ranges), 0x10FFFF]
    return [(a, b) for a, b in zip(starts, ends, strict=True) if a <= b]


@functools.cache
def white_space() -> Ranges:
    """Return the code points of Unicode's White_Space."""
    return [
        (ord(first), ord(last or first))
        for first, last in re.findall(r"(.)(?:-(.))?", WHITE_SPACE, re.DOTALL)
    ]


@functools.cache
def _runs() -> list[tuple[str, int, int]]:
    """Return the category, the first and the last code point of each run."""
    runs = []
    start = 0
    for name, length in re.findall(r"([A-Z][a-z])(\d*)", RUNS):
        end = start + int(length or 1)
        runs.append((name, start, end - 1))
        start = end
    return runs


@functools.cache
def run_starts() -> tuple[list[str], list[int]]:
    return [name for name, _, _ in _runs()], [first for _, first, _ in _runs()]


@functools.cache
def _category_names() -> frozenset[str]:
    names = {name for name, _, _ in _runs()}
    return frozenset(names | {name[0] for name in names})


def _written(ranges: Ranges) -> str:
    """Write ranges as the text of a [class]."""
    return "".join(
        f"{_character(a)}-{_character(b)}" if a < b else _character(a) for a, b in ranges
    )


def _character(code_point: int) -> str:
    """Write a character for a [class].

    Beyond Latin-1, write the character itself, because `re` parses it faster than an escape.
    """
    return chr(code_point) if code_point > 0xFF else f"\\x{code_point:02x}"
