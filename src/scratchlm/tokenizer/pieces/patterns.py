r"""The patterns that cut text into pieces.

Each pattern has the form that its own tokenizer uses. `\p{L}` means a letter of Unicode 16, as in
tiktoken and `tokenizers`. Python's `re` has no `\p`, and the installed `regex` may use a newer
Unicode, which has thousands more letters. So `translate` replaces the classes with ranges from a
table, and `re` searches, because `re` is the fastest engine for such ranges.

A pattern is one regular expression or a tuple of several. With one expression, every match is a
piece (as in tiktoken). The expressions of a tuple cut the text one after another (as in
`tokenizers`): each cuts the previous pieces into its matches and the text between the matches.

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

# Radford et al. 2019, the encoder of openai/gpt-2: contractions; words, numbers and other signs,
# each with an optional space before it; white space, without the last character if a word follows.
GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# Llama 3: any sign may begin a word, a number has at most three digits, and line ends join the
# signs or the white space before them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# tiktoken's cl100k_base (GPT-4): Llama 3's, but white space at the end of a text is one piece.
# (?![\s\S]) is the end of the text in every engine; `$` is the end of every line in some.
CL100K = LLAMA3.replace(r"|\s*[\r\n]+", r"|\s+(?![\s\S])|\s*[\r\n]+")

# tiktoken's o200k_base (GPT-4o): it also cuts words before a capital, and a word keeps its 's.
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Qwen 2, 2.5 and 3: Llama 3's, but every digit is one piece, as in Llama 1 and 2.
QWEN2 = LLAMA3.replace("{1,3}", "")

# StarCoder, SmolLM, Granite, Command R: they cut every digit out first, then use GPT-2's pattern.
# So white space before a digit is one piece, as at the end of a text.
STARCODER = r"'s|'t|'re|'ve|'m|'ll|'d|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"

# Mistral's tekken (NeMo): GPT-4o's without contractions, and every digit is one piece.
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

# Other forms that give the same pieces: StarCoder's in its files, then tiktoken's GPT2 and CL100K,
# then BLOOM's, because engines disagree on its brackets within brackets.
_SAME_PIECES: dict[Pattern, str] = {
    (r"\p{N}", GPT2): STARCODER,
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": GPT2,
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s": CL100K,
    rf" ?[^(\s|[{_BLOOM}])]+": rf" ?[^(\s|{_BLOOM})]+",
}

# Groups (?i:…) that every engine reads in the same way. Beyond ASCII, their letters have no other
# case except ſ and the Kelvin sign, which all engines support. In some engines, i has three other
# cases, and a pair such as ss or st is another case of one letter.
_CASELESS = re.compile(r"\(\?i:(?:(?!(?i:ss|st|f[fl]))[A-HJ-Za-hj-z'\u2019|\[\]?])*\)")
_CASELESS_FLAG = re.compile(r"\(\?[a-zA-Z]*i[a-zA-Z]*[:)-]")
_BEYOND_BMP = re.compile("[\U00010000-\U0010ffff]")


def is_known(pattern: Pattern) -> bool:
    """Return whether the pattern is one of `PATTERNS`, whose borders and coverage are proven."""
    return canonical(pattern) in PATTERNS.values()


def canonical(pattern: Pattern) -> Pattern:
    """Return the pattern of `PATTERNS` with this name or the same pieces, else `pattern` itself.

    Raise ValueError for any other single word, because such an expression matches little text.
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
            f"no pattern has this name ({pattern}); choose one of {', '.join(PATTERNS)}, or write "
            "a regular expression"
        )
    return _SAME_PIECES.get(pattern, PATTERNS.get(pattern, pattern))


class PieceFinder:
    """Find the pieces of a text: `findall` of one expression.

    Python's `re` finds a character of the Basic Multilingual Plane (BMP) in a bitmap, but tries the
    ranges beyond the BMP one by one. So the ranges end with the BMP, and `_searched` replaces each
    character beyond the BMP with a BMP character of the same category. `regex` handles patterns
    that distinguish characters beyond ASCII by more than their category, and patterns that `re`
    cannot read (scripts, set operations, `\\X`).
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        # The known patterns are proven to match every character.
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
        """Return the pieces in order. Raise ValueError if the pattern does not match all text."""
        pieces = self._covering(text)
        if pieces is None:
            raise self._leaves_out()
        return pieces

    def _covering(self, text: str) -> list[str] | None:
        """Return the matches, or None if they do not cover the text."""
        searched = self._searched(text)
        found: list[str] = self._find(searched)
        if not self._known and sum(map(len, found)) != len(text):
            return None
        if searched is text:
            return found
        ends = list(itertools.accumulate(map(len, found)))
        return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    def lengths(self, text: str) -> npt.NDArray[np.int64]:
        """Return the number of characters of each piece. Raise the same errors as `__call__`."""
        found = self._find(self._searched(text))
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        if not self._known and lengths.sum() != len(text):
            raise self._leaves_out()
        return lengths

    def cut(self, text: str) -> list[str]:
        """Return the matches and the text between them, in order."""
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
            f"the pattern does not match every character of the text ({self._pattern!r}); "
            r"add |[\s\S] at the end of the pattern, for example"
        )

    def _searched(self, text: str) -> str:
        """Return the text, with a stand-in for each character beyond the BMP."""
        if (
            not self._stands_in
            or text.isascii()
            or len(text.encode("utf-16-le", "surrogatepass")) == 2 * len(text)
        ):
            return text
        return _BEYOND_BMP.sub(_stand_in, text)


class Cuts:
    """Find the pieces of a text with several expressions, one after another."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        if not patterns:
            raise ValueError(
                "the pattern must have an expression (()); add at least one expression"
            )
        self._finders = [PieceFinder(pattern) for pattern in patterns]

    def __call__(self, text: str) -> list[str]:
        """Return the pieces in order."""
        pieces = [text] if text else []
        for finder in self._finders:
            pieces = [part for piece in pieces for part in finder.cut(piece)]
        return pieces

    def lengths(self, text: str) -> npt.NDArray[np.int64]:
        """Return the number of characters of each piece."""
        pieces = self(text)
        return np.fromiter(map(len, pieces), np.int64, len(pieces))


@functools.cache
def find_pieces(pattern: Pattern) -> PieceFinder | Cuts:
    """Return the finder of a pattern's pieces. Raise ValueError if the pattern is invalid."""
    pattern = canonical(pattern)
    return PieceFinder(pattern) if isinstance(pattern, str) else Cuts(pattern)


def _check(pattern: str) -> None:
    """Raise ValueError for an invalid expression, and for one that engines read differently."""
    if _compiled(pattern).groups:
        raise ValueError(
            f"the pattern must not have capturing groups ({pattern!r}); write (?:…) instead of (…)"
        )
    rest = _CASELESS.sub("", pattern)
    if flags := _CASELESS_FLAG.search(rest) or re.search(r"\(\?[a-z]*x", rest):
        raise ValueError(
            f"the pattern must not have a flag that engines read differently ({flags[0]} in "
            f"{pattern!r}); write both cases of each letter, as in [Aa], and write no comments"
        )


def _compiled(pattern: str) -> regex.Pattern[str]:
    """Compile with `regex`. V1 has nested sets and set operations (&&), like tiktoken's engine."""
    try:
        return regex.compile(pattern, regex.V1)
    except regex.error as error:
        raise ValueError(
            f"the pattern must be a regular expression ({error}: {pattern!r}); correct the pattern"
        ) from None
    except (RecursionError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"the pattern is nested too deeply or is too long ({type(error).__name__}); shorten "
            "the pattern"
        ) from None


def _stand_in(match: re.Match[str]) -> str:
    return stand_in_of(ord(match[0]))


@functools.lru_cache(1 << 12)
def stand_in_of(code_point: int) -> str:
    """Return a BMP character of the same category that is not another case of an ASCII letter."""
    names, firsts = run_starts()
    name = names[bisect.bisect(firsts, code_point) - 1]
    return chr(next(first for first, _ in category(name) if first > 0x17F))
