r"""The patterns that cut text into pieces.

A pattern is written as its own tokenizer writes it. `\p{L}` in it means what tiktoken and
`tokenizers` take for a letter, which is Unicode 16; Python's `re` knows no `\p`, and the installed
`regex` some newer version, in which thousands of code points more are letters. So the classes are
written out as ranges from a table, and `re`, the fastest of the three on them, does the matching.

A pattern is one regular expression, of which every match is a piece (tiktoken's way), or a tuple of
several, which cut the text one after another (the way of `tokenizers`): each cuts the pieces of the
one before it into its matches and into what lies between two matches.

>>> find_pieces((r"[0-9]", r" ?[a-z]+"))("a1, bc")
['a', '1', ',', ' bc']
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import regex

from scratchlm.tokenizer.pieces.character_classes import (
    LAST_OF_BMP,
    category,
    run_starts,
    translate,
)

Pattern = str | tuple[str, ...]

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

# StarCoder, SmolLM, Granite, Command R: GPT-2's, after every digit was cut out. So white space
# before a digit stands at the end of what is left, and is one piece.
STARCODER = r"'s|'t|'re|'ve|'m|'ll|'d|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"

# Mistral's tekken (NeMo): as GPT-4o's, without contractions, and every digit stands alone.
TEKKEN = O200K.replace(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")

PATTERNS = {
    "gpt2": GPT2,
    "cl100k": CL100K,
    "llama3": LLAMA3,
    "o200k": O200K,
    "qwen2": QWEN2,
    "starcoder": STARCODER,
    "tekken": TEKKEN,
}

_BLOOM = ".,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c"

# How tiktoken writes two of them, and what stands for StarCoder's in its files. The pieces are the
# same. The last is BLOOM's, in which engines read the brackets within brackets in several ways.
_SAME_PIECES: dict[Pattern, str] = {
    (r"\p{N}", GPT2): STARCODER,
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": GPT2,
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s": CL100K,
    rf" ?[^(\s|[{_BLOOM}])]+": rf" ?[^(\s|{_BLOOM})]+",
}

# (?i:…) over letters without another case beyond ASCII but ſ and the Kelvin sign, of which all
# engines know; i has three to some, and to some a pair such as ss or st is a letter's other case.
_CASELESS = re.compile(r"\(\?i:(?:(?!(?i:ss|st|f[fl]))[A-HJ-Za-hj-z'\u2019|\[\]?])*\)")
_CASELESS_FLAG = re.compile(r"\(\?[a-zA-Z]*i[a-zA-Z]*[:)-]")
_BEYOND_BMP = re.compile("[\U00010000-\U0010ffff]")


def is_known(pattern: Pattern) -> bool:
    """Whether it is one of the patterns above, of which more is proven than of any pattern."""
    return canonical(pattern) in PATTERNS.values()


def canonical(pattern: Pattern) -> Pattern:
    """The pattern, or the one above that has this name or gives the same pieces.

    ValueError for any other single word: as an expression it would leave most text out.
    """
    if not isinstance(pattern, str):
        cuts = tuple(_canonical(cut) for cut in pattern)
        if len(cuts) == 1 and cuts[0] in PATTERNS.values():
            return cuts[0]
        return _SAME_PIECES.get(cuts, cuts)
    return _canonical(pattern)


def _canonical(pattern: str) -> str:
    if pattern.isidentifier() and pattern not in PATTERNS:
        raise ValueError(
            f"no such pattern ({pattern}); give one of {', '.join(PATTERNS)}, or a regular "
            "expression"
        )
    return _SAME_PIECES.get(pattern, PATTERNS.get(pattern, pattern))


class PieceFinder:
    """The pieces of a text: `findall` of one expression.

    Python's `re` looks a character of the Basic Multilingual Plane up in a bitmap, but goes through
    ranges beyond it one by one. So its ranges end there, and a character beyond is searched as
    another of its category. What says more of characters beyond ASCII than their category, or what
    `re` cannot read (scripts, set operations, `\\X`), is left to `regex`.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        # Of those above it is proven that they match every character.
        self._known = is_known(pattern)
        if not self._known:
            _check(self._pattern)
        source, by_category = translate(self._pattern, LAST_OF_BMP)
        self._stands_in = False
        if by_category:
            with contextlib.suppress(re.error):
                self._expression: re.Pattern[str] | regex.Pattern[str] = re.compile(source)
                self._stands_in = True
        if not self._stands_in:
            self._expression = _compiled(translate(self._pattern)[0])
        self._find = self._expression.findall

    def __call__(self, text: str) -> list[str]:
        """The pieces in order; ValueError for a pattern that does not match all of the text."""
        pieces = self._covering(text)
        if pieces is None:
            raise self._leaves_out()
        return pieces

    def _covering(self, text: str) -> list[str] | None:
        """The matches, if together they are all of the text."""
        searched = self._searched(text)
        found: list[str] = self._find(searched)
        if not self._known and sum(map(len, found)) != len(text):
            return None
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

    def cut(self, text: str) -> list[str]:
        """The matches, and what lies between two of them, in order."""
        pieces = self._covering(text)
        return list(self._matches_and_gaps(text)) if pieces is None else pieces

    def _matches_and_gaps(self, text: str) -> Iterator[str]:
        end = 0
        for match in self._expression.finditer(self._searched(text)):
            if end < match.start():
                yield text[end : match.start()]
            if match.start() < match.end():
                yield text[match.start() : match.end()]
            end = match.end()
        if end < len(text):
            yield text[end:]

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


class Cuts:
    """The pieces of a text that several expressions cut one after another."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        if not patterns:
            raise ValueError("the pattern has no expression (()); give at least one")
        self._finders = [PieceFinder(pattern) for pattern in patterns]

    def __call__(self, text: str) -> list[str]:
        """The pieces in order."""
        pieces = [text] if text else []
        for finder in self._finders:
            pieces = [part for piece in pieces for part in finder.cut(piece)]
        return pieces

    def lengths(self, text: str) -> npt.NDArray[np.int64]:
        """How many characters each piece has."""
        pieces = self(text)
        return np.fromiter(map(len, pieces), np.int64, len(pieces))


@functools.cache
def find_pieces(pattern: Pattern) -> PieceFinder | Cuts:
    """What finds the pieces of a text; ValueError for what is no pattern."""
    pattern = canonical(pattern)
    return PieceFinder(pattern) if isinstance(pattern, str) else Cuts(pattern)


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
    names, firsts = run_starts()
    name = names[bisect.bisect(firsts, code_point) - 1]
    return chr(next(first for first, _ in category(name) if first > 0x17F))
