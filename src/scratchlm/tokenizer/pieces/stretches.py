r"""Text cut at its spaces, the quick half of cutting it into pieces.

A stretch is a space and what follows it up to the next. " the" or " end." comes again and again:
who counts or encodes a text needs the pieces of the distinct stretches only.

    to be  or not   to    ->    to · ␣be · ␣ · ␣or · ␣not · ␣* · ␣to

In the known patterns a space is a border where a sign that is no white space stands beside it: no
piece goes on from such a sign into a space, and a space before such a sign begins a piece. One of
them (StarCoder's) keeps white space before a number together. So only a space after white space may
be inside a piece, and only if white space or a number follows, or the text ends. A mark (* above)
replaces it, which makes it part of the stretch that it stands in.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from scratchlm.tokenizer.pieces.character_classes import category, white_space

_IS_WHITE = np.zeros(1 << 16, bool)
for _first, _last in white_space():
    _IS_WHITE[_first : _last + 1] = True
# By UTF-16 unit; half of a character beyond the Basic Multilingual Plane may be one of a number.
_MAY_FOLLOW = _IS_WHITE.copy()
_MAY_FOLLOW[0xD800:0xE000] = True
for _first, _last in category("N"):
    _MAY_FOLLOW[_first : _last + 1] = True
_MARK = "\x02"
# Written after each stretch when many are searched at once: a piece of its own in every known
# pattern, which ends white space before it as the next stretch did, for it too is a space and a
# sign.
SEPARATOR = " \x01"
_TAKEN = (_MARK, SEPARATOR[-1], "\0")


def has_stretches(text: str) -> bool:
    """Whether there are enough spaces (Chinese has few, and stretches that hardly come again), and
    neither the mark, nor the separator's sign, nor a zero byte, which ends what `byte_strings`
    holds."""
    return text.count(" ") * 16 > len(text) and not any(sign in text for sign in _TAKEN)


def stretches_of(text: str) -> tuple[str, str, str]:
    """What stands before the first stretch; all stretches but the last, still marked; the last.

    To be cut, all but the last get `SEPARATOR` after them, in place of the space that follows. The
    last does not, for a pattern may cut white space that ends a text in another way.
    UnicodeEncodeError for a lone surrogate.
    """
    others, space, last = _marked(text).rpartition(" ")
    first, first_space, stretches = others.partition(" ")
    return plain_text(first), first_space + stretches, plain_text(space + last)


def _marked(text: str) -> str:
    """The text with a mark for every space that is no border; any other begins a stretch."""
    units = np.frombuffer(text.encode("utf-16-le"), np.uint16)
    spaces = np.flatnonzero(units[1:] == ord(" ")) + 1
    spaces = spaces[_IS_WHITE[units[spaces - 1]]]
    following = np.minimum(spaces + 1, len(units) - 1)  # the last has itself, a space
    spaces = spaces[_MAY_FOLLOW[units[following]]]
    if not len(spaces):
        return text
    units = units.copy()
    units[spaces] = ord(_MARK)
    return units.tobytes().decode("utf-16-le")


def together(stretches: Iterable[bytes]) -> str:
    """All stretches in one text, `SEPARATOR` after each; none may have its sign."""
    end = SEPARATOR.encode()
    joined = b"".join([b" %b%b" % (stretch, end) for stretch in stretches])
    return plain_text(joined.decode())


def plain_text(stretch: str) -> str:
    """A stretch, or other marked text, with its marks as the spaces they were."""
    return stretch.replace(_MARK, " ")
