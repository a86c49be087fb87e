"""Cut text into pieces. BPE merges only inside a piece.

Special tokens split the text first: the leftmost token, and the longest token if several start at
the same place. A pattern (by default GPT-2's) cuts the text between them. Code that reads a long
text in blocks must cut the text at places that do not change the pieces. Training, streamed
encoding and file encoding all use `Pretokenizer.blocks` for this.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import regex

from scratchlm.tokenizer.pieces.character_classes import LAST_OF_BMP, translate
from scratchlm.tokenizer.pieces.patterns import GPT2, Pattern, find_pieces, is_known

# A border: a place where a cut changes no piece of any known pattern. A border is
# 1. between a character that is not white space and a space;
# 2. between a letter or a number and a character of another class;
# 3. after a single line feed between two characters that are not white space.
# 1 and 2 are safe. A piece must end there, because no alternative matches across such a place.
# The cut does not change the left part. Only two alternatives look past their end: `(?!\S)`, after
# white space, and a contraction, from an apostrophe to letters. (GPT-4o's words end with their
# contraction, so a letter before an apostrophe is no border.) The cut does not change the right
# part, because no alternative looks back.
# 3 is safe. The line feed is a piece or ends one. Only GPT-4o's pieces continue, with a slash.
#
#     So it's a|,|cut|(| at bars|)|!⏎|%%⏎⏎% and before spaces, not in it's, nor in two line feeds.
#
# Marks (accents) stay with their letter, so composing and decomposing each side gives the same
# text. NFKC and NFKD turn signs into letters (™ into TM), so there only a space is a border.
_BORDER = (
    r"[^\s](?= )"
    r"|\p{L}(?=(?!')[\p{N}\p{P}\p{S}\p{Z}\p{C}])"
    r"|\p{N}(?=[\p{L}\p{P}\p{S}\p{Z}\p{C}])"
    r"|(?<=[^\s])\n(?=[^\s/\p{M}])"
)
_BORDER_OF_K_FORMS = r"[^\s](?= )"

BLOCK_CHARACTERS = 1 << 20  # of a block; its pieces need about 20 MB


class Pretokenizer:
    """Split text into pieces with one pattern and one set of special tokens.

    pattern: see `patterns`. Raise ValueError if the pattern has a capturing group. A single
    expression must match every character. Otherwise `pieces` raises ValueError, because text would
    be lost.
    normalization: the Unicode form that a caller converts the blocks to.
    normalized_tokens: the special tokens to find after normalization, in the text between the other
    special tokens.
    """

    def __init__(
        self,
        pattern: Pattern = GPT2,
        special_tokens: Collection[str] = (),
        normalization: str | None = None,
        normalized_tokens: Collection[str] = (),
    ) -> None:
        self.pattern = pattern
        self.find = find_pieces(pattern)
        normalized = [token for token in special_tokens if token in normalized_tokens]
        self.known = is_known(pattern) and all(
            _is_inert(token, normalization) for token in normalized
        )
        self._k_form = normalization in ("NFKC", "NFKD")
        self._special_tokens = list(special_tokens)
        self.longest_special = max(map(len, special_tokens), default=0)
        self._specials = _any_of([token for token in special_tokens if token not in normalized])
        self._normalized = _any_of(normalized)
        self._form: Any = normalization

    def split(self, text: str) -> list[str]:
        """Split a text: ordinary text at even indices, special tokens at odd indices."""
        parts = self._specials.split(text) if self._specials else [text]
        if not self._normalized:
            return parts
        split: list[str] = []
        for i, part in enumerate(parts):
            if i % 2:
                split.append(part)
            else:
                form = unicodedata.normalize(self._form, part) if self._form else part
                split += self._normalized.split(form)
        return split

    def pieces(self, ordinary: str) -> list[str]:
        """Return the pieces of a text, without a search for special tokens."""
        return self.find(ordinary)

    def blocks(self, texts: Iterable[str]) -> Iterator[str]:
        """Cut one text, which comes in chunks, into blocks. The blocks have the pieces of the text.

        The method yields a block as soon as it is safe. It keeps the end of the text, whose pieces
        later text can still change: the last piece, a few characters around this piece, and the
        length of the longest special token. So one chunk and the longest piece limit the memory.
        Only known patterns have proven borders. With other patterns, the method cuts only at
        special tokens.
        """
        held: list[str] = []
        held_length = wanted = 0
        for chunk in texts:
            for start in range(0, len(chunk), BLOCK_CHARACTERS):
                held.append(chunk[start : start + BLOCK_CHARACTERS])
                held_length += len(held[-1])
                if held_length < wanted:
                    continue
                text = "".join(held)
                border = self._last_border(text)
                if border:
                    yield text[:border]
                held = [text[border:]]
                held_length = len(text) - border
                # Wait until the text has doubled, so a very long word needs linear time.
                wanted = 2 * held_length
        if held_length:
            yield "".join(held)

    def _last_border(self, text: str) -> int:
        """Return the last cut of `text` that is safe for any following text; 0 if there is none.

        All special tokens that start at or before `limit` are complete. A token that starts later
        may be incomplete, or a longer token may start at the same place.
        """
        limit = len(text) - self.longest_special
        if limit < 0:
            return 0
        border = 0
        if self._specials:
            for match in self._specials.finditer(text):
                if match.start() > limit:
                    break
                border = match.end()
        if self.known:
            # The border is at most limit + 1, because `text` must contain the character after it.
            end = max(border, limit + 2)
            while end := self._last_match(text, border, end):
                # The loop above already found the tokens that are not normalized.
                if not self._normalized or not self._is_in_token(text, end):
                    return end
        return border

    def border_near(self, text: str, end: int) -> int:
        """Return the last safe cut up to `end` in a part of a longer text; 0 if there is none.

        At least one character and the length of a special token must follow `end`. A border depends
        only on the characters beside it, and it must not be inside a special token.
        """
        if not self.known:
            return 0
        border = end + 1
        while border := self._last_match(text, 0, border):
            if not self._is_in_token(text, border):
                return border
        return 0

    def _is_in_token(self, text: str, border: int) -> bool:
        return any(
            special in text[max(0, border - len(special) + 1) : border + len(special) - 1]
            for special in self._special_tokens
        )

    def _last_match(self, text: str, start: int, end: int) -> int:
        """Return the last border between two characters of text[start:end]; 0 if there is none."""
        reach = 64
        while True:
            first = max(start, end - reach)
            border = _border(_BORDER_OF_K_FORMS if self._k_form else _BORDER)
            ends = [match.end() for match in border.finditer(text, first, end)]
            if ends or first == start:
                return ends[-1] if ends else 0
            reach *= 16


def _is_inert(token: str, normalization: str | None) -> bool:
    """Return whether normalization can never create this token across a border.

    White space never crosses a border. NFC turns other characters into ASCII in only three
    cases: K, ; and `.
    """
    if token.isspace() or normalization is None:
        return True
    return normalization == "NFC" and token.isascii() and not set("K;`").intersection(token)


def _any_of(tokens: Sequence[str]) -> regex.Pattern[str] | None:
    """Compile an expression that finds the leftmost token, and the longest that starts there."""
    if not tokens:
        return None
    return regex.compile(f"({_tree(sorted(tokens))})")


def _tree(tokens: Sequence[str], start: int = 0) -> str:
    """Write an expression for any of these sorted tokens, from character `start` on.

    A common prefix appears once. A plain list of hundreds of tokens would compile slowly.
    """
    first, last = tokens[0], tokens[-1]
    end = start
    while end < len(first) and first[end] == last[end]:
        end += 1
    common = regex.escape(first[start:end])
    if first == last:
        return common
    may_end = len(first) == end
    branches = groupby(tokens[may_end:], lambda token: token[end])
    rest = "|".join(_tree(list(branch), end) for _, branch in branches)
    return f"{common}(?:{rest}){'?' if may_end else ''}"


@functools.cache
def _border(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern, LAST_OF_BMP)[0])


def check_special_tokens(special_tokens: Sequence[str]) -> list[str]:
    """Return the tokens as a list. Raise ValueError for a string, and for an invalid token."""
    if isinstance(special_tokens, str):
        raise ValueError(
            f"special_tokens must be a list of strings ({special_tokens!r}); write "
            f"[{special_tokens!r}]"
        )
    for token, times in Counter(special_tokens).items():
        if not token:
            raise ValueError("a special token must not be empty (''); remove the empty token")
        if any("\ud800" <= character <= "\udfff" for character in token):
            raise ValueError(
                f"a special token has a lone surrogate ({token!r}); replace the surrogate"
            )
        if times > 1:
            raise ValueError(f"a special token is listed {times} times ({token!r}); list it once")
    return list(special_tokens)
