r"""The patterns that cut text into pieces, and what their classes mean.

A pattern is written as its own tokenizer writes it. `\p{L}` in it means what tiktoken and
`tokenizers` take for a letter, which is Unicode 16; Python's `re` knows no `\p`, and the installed
`regex` some newer version, in which thousands of code points more are letters. So the classes are
written out as ranges from a table, and `re`, the fastest of the three on them, does the matching.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import re
from itertools import groupby

import numpy as np
import numpy.typing as npt
import regex

from scratchlm.tokenizer.unicode_table import RUNS

# Radford et al. 2019, the encoder of openai/gpt-2: contractions, then words, numbers and other
# signs with one space before them, then white space (its last character left to a word after it).
GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# Llama 3: any sign may lead a word, digits stand in threes, and lines end with what stands before
# them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# tiktoken's cl100k_base (GPT-4): as Llama 3's, but that white space at the end of a text is one
# piece. (?![\s\S]) is that end to every engine; `$` is every line's to some.
CL100K = LLAMA3.replace(r"|\s*[\r\n]+", r"|\s+(?![\s\S])|\s*[\r\n]+")

# tiktoken's o200k_base (GPT-4o): words are cut before a capital too, and keep their contraction.
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Qwen 2, 2.5 and 3: as Llama 3's, but every digit stands alone, as in the first two Llamas.
QWEN2 = LLAMA3.replace("{1,3}", "")

PATTERNS = {"gpt2": GPT2, "cl100k": CL100K, "llama3": LLAMA3, "o200k": O200K, "qwen2": QWEN2}

# Unicode's White_Space, what `\s` means to tiktoken and `tokenizers` (Python's has U+001C-1F too).
WHITE_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# tiktoken writes two of them in another way; the pieces are the same.
_SAME_PIECES = {
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": GPT2,
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s": CL100K,
}

Ranges = list[tuple[int, int]]

_PROPERTY = re.compile(r"[pP](?:\{(\^?)([^{}]+)\}|([A-Z]))")
# (?i:…) over letters without another case beyond ASCII but ſ and the Kelvin sign, of which all
# engines know; i has three to some, and to some a pair such as ss or st is a letter's other case.
_CASELESS = re.compile(r"\(\?i:(?:(?!(?i:ss|st|f[fl]))[A-HJ-Za-hj-z'\u2019|\[\]?])*\)")
_CASELESS_FLAG = re.compile(r"\(\?[a-zA-Z]*i[a-zA-Z]*[:)-]")
_BEYOND_BMP = re.compile("[\U00010000-\U0010ffff]")
# Escapes of one ASCII character, or of a class or place that is the same for all beyond ASCII.
_ASCII_ESCAPES = frozenset("rntfva" + re.sub(r"\w", "", "".join(map(chr, range(32, 127)))))
_SET_OPERATIONS = {"&&", "--", "~~"}
_LAST = 0x10FFFF
LAST_OF_BMP = 0xFFFF


def is_known(pattern: str) -> bool:
    """Whether it is one of the patterns above, of which more is proven than of any pattern."""
    return canonical(pattern) in PATTERNS.values()


def canonical(pattern: str) -> str:
    """The pattern, or the one above that has this name or gives the same pieces.

    ValueError for any other single word: as an expression it would leave most text out.
    """
    if pattern.isidentifier() and pattern not in PATTERNS:
        raise ValueError(
            f"no such pattern ({pattern}); give one of {', '.join(PATTERNS)}, or a regular "
            "expression"
        )
    return _SAME_PIECES.get(pattern, PATTERNS.get(pattern, pattern))


class PieceFinder:
    """The pieces of a text: `findall` of a pattern.

    Python's `re` looks a character of the Basic Multilingual Plane up in a bitmap, but goes through
    ranges beyond it one by one. So its ranges end there, and a character beyond is searched as
    another of its category. What says more of characters beyond ASCII than their category, or what
    `re` cannot read (scripts, set operations, `\\X`), is left to `regex`.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = canonical(pattern)
        # Of those above it is proven that they match every character.
        self._known = is_known(pattern)
        _check(self._pattern)
        source, by_category = translate(self._pattern, LAST_OF_BMP)
        self._stands_in = False
        if by_category:
            with contextlib.suppress(re.error):
                self._find = re.compile(source).findall
                self._stands_in = True
        if not self._stands_in:
            self._find = _compiled(translate(self._pattern)[0]).findall

    def __call__(self, text: str) -> list[str]:
        """The pieces in order; ValueError for a pattern that does not match all of the text."""
        searched = self._searched(text)
        found: list[str] = self._find(searched)
        if not self._known and sum(map(len, found)) != len(text):
            raise self._leaves_out()
        if searched is text:
            return found
        ends = list(itertools.accumulate(map(len, found)))
        return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    def lengths(self, text: str) -> npt.NDArray[np.int64]:
        """How many characters each piece has; errors as in the call."""
        found = self._find(self._searched(text))
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        if not self._known and lengths.sum() != len(text):
            raise self._leaves_out()
        return lengths

    def _leaves_out(self) -> ValueError:
        return ValueError(
            f"the pattern leaves characters of the text out ({self._pattern!r}); "
            r"let it match every character, for example by ending it with |[\s\S]"
        )

    def _searched(self, text: str) -> str:
        """The text, with a stand-in for each character beyond the plane."""
        if (
            not self._stands_in
            or text.isascii()
            or len(text.encode("utf-16-le", "surrogatepass")) == 2 * len(text)
        ):
            return text
        return _BEYOND_BMP.sub(_stand_in, text)


find_pieces = functools.cache(PieceFinder)


def _check(pattern: str) -> None:
    """ValueError for what is no regular expression, or one that engines read in several ways."""
    if _compiled(pattern).groups:
        raise ValueError(
            f"the pattern has capturing groups ({pattern!r}); write (?:…) instead of (…)"
        )
    rest = _CASELESS.sub("", pattern)
    if flags := _CASELESS_FLAG.search(rest) or re.search(r"\(\?[a-z]*x", rest):
        raise ValueError(
            f"the pattern has a flag that engines read in several ways ({flags[0]} in "
            f"{pattern!r}); write both cases out, as in [Aa], and no comments"
        )


def _compiled(pattern: str) -> regex.Pattern[str]:
    """As `regex` reads it: its V1 knows sets in sets and their operations (&&), as the oracles
    do."""
    try:
        return regex.compile(pattern, regex.V1)
    except regex.error as error:
        raise ValueError(
            f"the pattern is no regular expression ({error}: {pattern!r}); correct it"
        ) from None
    except (RecursionError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"the pattern is too deep or too long ({type(error).__name__}); shorten it"
        ) from None


def _stand_in(match: re.Match[str]) -> str:
    return _stand_in_of(ord(match[0]))


@functools.lru_cache(1 << 12)
def _stand_in_of(code_point: int) -> str:
    """A character of the Basic Multilingual Plane and of the same category, no case of an ASCII
    letter."""
    names, firsts = _run_starts()
    name = names[bisect.bisect(firsts, code_point) - 1]
    return chr(next(first for first, _ in category(name) if first > 0x17F))


def translate(pattern: str, last: int = _LAST) -> tuple[str, bool]:
    r"""The pattern with `\p{…}`, `\P{…}`, `\s`, `\S`, `\d`, `\D` written out as ranges up
    to `last`, and whether it says nothing else of characters beyond ASCII.
    """
    parts: list[str] = []
    by_category = pattern.isascii()
    inside = False  # of a [class]
    i = 0
    while i < len(pattern):
        character = pattern[i]
        length = 1
        if inside and pattern[i : i + 2] == "||":
            pass  # once is enough; `regex` would read an operation
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
                # A bracket that comes first is a member: []…] and [^]…].
                length = len(re.match(r"\[\^?\]?", pattern[i:])[0])  # type: ignore[index]
            elif character == "]":
                inside = False
            parts.append(pattern[i : i + length])
        i += length
    return "".join(parts), by_category


def _escaped_class(pattern: str, i: int) -> tuple[Ranges | None, int]:
    """The code points that the escape at `i` stands for, None for any other, and its length."""
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
    r"""An escape as `regex` reads it, `\w` and `\p{Han}` without the characters that it knows and
    the table does not."""
    if not re.match(r"\\[wWpP]", escape) or not (newer := _written(_newer())):
        return escape
    kind = escape[1].lower()
    name = escape[2:].replace("^", "", 1)
    negative = escape[1].isupper() != ("^" in escape)
    return f"[{'^' if negative else ''}[\\{kind}{name}--[{newer}]]]"


@functools.cache
def _newer() -> Ranges:
    """The code points that the installed `regex` knows and the table does not."""
    unassigned = "".join(chr(c) for a, b in category("Cn") for c in range(a, b + 1))
    points = map(ord, regex.findall(r"\P{Cn}", unassigned))
    runs = groupby(enumerate(points), lambda point: point[1] - point[0])
    ends = [[point for _, point in run] for _, run in runs]
    return [(run[0], run[-1]) for run in ends]


@functools.cache
def category(name: str) -> Ranges:
    """The code points of a general category, `Lu`, or of all that begin so, `L`."""
    ranges: Ranges = []
    for inside, runs in groupby(_runs(), lambda run: run[0].startswith(name)):
        if inside:
            (_, first, last), *more = runs
            ranges.append((first, more[-1][2] if more else last))
    return ranges


def complement(ranges: Ranges) -> Ranges:
    """All other code points."""
    starts = [0, *(last + 1 for _, last in ranges)]
    ends = [*(first - 1 for first, _ in ranges), 0x10FFFF]
    return [(a, b) for a, b in zip(starts, ends, strict=True) if a <= b]


@functools.cache
def white_space() -> Ranges:
    """The code points of Unicode's White_Space."""
    return [
        (ord(first), ord(last or first))
        for first, last in re.findall(r"(.)(?:-(.))?", WHITE_SPACE, re.DOTALL)
    ]


@functools.cache
def _runs() -> list[tuple[str, int, int]]:
    """Category, first and last code point."""
    runs = []
    start = 0
    for name, length in re.findall(r"([A-Z][a-z])(\d*)", RUNS):
        end = start + int(length or 1)
        runs.append((name, start, end - 1))
        start = end
    return runs


@functools.cache
def _run_starts() -> tuple[list[str], list[int]]:
    return [name for name, _, _ in _runs()], [first for _, first, _ in _runs()]


@functools.cache
def _category_names() -> frozenset[str]:
    names = {name for name, _, _ in _runs()}
    return frozenset(names | {name[0] for name in names})


def _written(ranges: Ranges) -> str:
    """Ranges as they stand between brackets."""
    return "".join(f"\\U{a:08x}-\\U{b:08x}" if a < b else f"\\U{a:08x}" for a, b in ranges)
