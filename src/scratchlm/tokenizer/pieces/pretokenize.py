"""Cutting text into the pieces that BPE never merges across.

Special tokens split the text first, leftmost first and the longest where several start together;
what lies between them is cut by a pattern, GPT-2's unless another is given. Merges happen inside a
piece only, so everything here that reads a long text block by block must cut it where the pieces
stay what they were. `Pretokenizer.blocks` is the one place that does: training, streamed encoding
and encoding a file all stand on it.
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

# Where a text may be cut in two without changing a piece of any known pattern: between two
# characters of which the left is no white space and the right a space, or the left a letter or
# number and the right of another class. The piece on the left must end there, for no alternative
# goes on from such a character to such another. Nothing on the left changes when the rest is taken
# away: only `(?!\S)` and an unfinished contraction look past their own end, the first from white
# space, the second from an apostrophe to letters (so a letter before an apostrophe is no border
# either, for GPT-4o's words end with their contraction). Nothing on the right does, for no
# alternative looks back. And after a line feed that stands alone between two signs: it is a piece,
# or ends one, and only GPT-4o's pieces go on behind it, with a slash.
#
#     So it's a|,|cut|(| at bars|)|!⏎|%%⏎⏎% and before spaces, not in it's, nor in two line feeds.
#
# Marks (accents) go with their letter, so that composing and decomposing too does the same on both
# sides. NFKC and NFKD make letters of signs (™ is TM); then only a space is a border.
_BORDER = (
    r"[^\s](?= )"
    r"|\p{L}(?=(?!')[\p{N}\p{P}\p{S}\p{Z}\p{C}])"
    r"|\p{N}(?=[\p{L}\p{P}\p{S}\p{Z}\p{C}])"
    r"|(?<=[^\s])\n(?=[^\s/\p{M}])"
)
_BORDER_OF_K_FORMS = r"[^\s](?= )"

BLOCK_CHARACTERS = 1 << 20  # a block handed to a worker: pieces of it take some 20 MB


class Pretokenizer:
    """Pieces of text under one pattern and one set of special tokens.

    `pattern` (see `patterns`) must hold no capturing group, and one expression must match every
    character of every text; ValueError otherwise, because text would be lost. The blocks of a text
    may be brought to the Unicode form `normalization` afterwards. `normalized_tokens` are those of
    the special tokens that are looked for in what the others leave, after it was normalized.
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
        """Ordinary text at the even places, special tokens at the odd ones."""
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
        """The pieces of text in which no special token is looked for."""
        return self.find(ordinary)

    def blocks(self, texts: Iterable[str]) -> Iterator[str]:
        """Cut one text, given in chunks, into blocks whose pieces are the pieces of the whole.

        A block is given out as soon as it is safe. What is held back is what more text could still
        change: the last piece, some characters around it, and as many as the longest special token
        has. So memory is bounded by one chunk and the longest piece. Only known patterns have
        borders proven safe; under any other the text is cut at special tokens alone.
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
                # Looking again only when the text has doubled keeps an endless word linear.
                wanted = 2 * held_length
        if held_length:
            yield "".join(held)

    def _last_border(self, text: str) -> int:
        """The last place where `text`, whatever may follow it, can be cut; 0 where there is none.

        A special token that starts at `limit` or before is seen whole, with all its rivals; one
        that starts later may still be cut off or outgrown by a longer one.
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
            # The border may be limit + 1 at most; its right-hand character must be visible.
            end = max(border, limit + 2)
            while end := self._last_match(text, border, end):
                # All others were found above.
                if not self._normalized or not self._is_in_token(text, end):
                    return end
        return border

    def border_near(self, text: str, end: int) -> int:
        """The last place up to `end` where a text can be cut that this is only a part of; 0 where
        none is found. At least one character and a special token's length must follow `end`.

        A border between characters is one whatever stands further away. It is none for a special
        token that lies across it.
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
        """The last border between two characters of text[start:end], 0 where there is none."""
        reach = 64
        while True:
            first = max(start, end - reach)
            border = _border(_BORDER_OF_K_FORMS if self._k_form else _BORDER)
            ends = [match.end() for match in border.finditer(text, first, end)]
            if ends or first == start:
                return ends[-1] if ends else 0
            reach *= 16


def _is_inert(token: str, normalization: str | None) -> bool:
    """Whether normalizing makes the token only of itself, or it is white space, which lies across
    no border. NFC makes ASCII of other characters in three cases: K, ; and `."""
    if token.isspace() or normalization is None:
        return True
    return normalization == "NFC" and token.isascii() and not set("K;`").intersection(token)


def _any_of(tokens: Sequence[str]) -> regex.Pattern[str] | None:
    """What finds these tokens, the leftmost first and the longest of those that start together."""
    if not tokens:
        return None
    return regex.compile(f"({_tree(sorted(tokens))})")


def _tree(tokens: Sequence[str], start: int = 0) -> str:
    """An expression for one of these sorted tokens, from a character on: what they begin with alike
    stands once. As a list of hundreds it would take long to compile."""
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
    """The special tokens as a list; ValueError for a string, an empty token, a repeated one."""
    if isinstance(special_tokens, str):
        raise ValueError(
            f"special_tokens is one string ({special_tokens!r}); put it in a list: "
            f"[{special_tokens!r}]"
        )
    for token, times in Counter(special_tokens).items():
        if not token:
            raise ValueError("a special token is empty (''); give it at least one character")
        if any("\ud800" <= character <= "\udfff" for character in token):
            raise ValueError(f"a special token has a lone surrogate ({token!r}); replace it")
        if times > 1:
            raise ValueError(f"a special token is given {times} times ({token!r}); give it once")
    return list(special_tokens)
