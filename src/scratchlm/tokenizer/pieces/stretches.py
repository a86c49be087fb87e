r"""Cut text at its spaces into stretches: the fast first step of cutting it into pieces.

A stretch is a space and the text up to the next space. Stretches such as " the" or " end." repeat
often, so counting and encoding cut only the distinct stretches into pieces.

    to be  or not   to    ->    to · ␣be · ␣ · ␣or · ␣not · ␣* · ␣to

In the known patterns, a space beside a character that is not white space is a border. No piece
continues from such a character into a space, and a space before such a character begins a piece.
StarCoder's pattern is an exception, because it keeps white space before a number together. So a
space can be inside a piece only after white space, and only before white space, a number or the end
of the text. A mark (* above) replaces such a space, so the space stays inside its stretch.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from scratchlm.tokenizer.pieces.character_classes import category, white_space

_IS_WHITE = np.zeros(1 << 16, bool)
for _first, _last in white_space():
    _IS_WHITE[_first : _last + 1] = True
# By UTF-16 unit. A surrogate may be half of a number beyond the Basic Multilingual Plane.
_MAY_FOLLOW = _IS_WHITE.copy()
_MAY_FOLLOW[0xD800:0xE000] = True
for _first, _last in category("N"):
    _MAY_FOLLOW[_first : _last + 1] = True
_MARK = "\x02"
# The separator follows each stretch when one search cuts many stretches. It is one piece in every
# known pattern. Like the next stretch, it ends the white space before it, because it is a space and
# a sign.
SEPARATOR = " \x01"
_TAKEN = (_MARK, SEPARATOR[-1], "\0")


def has_stretches(text: str) -> bool:
    """Return whether a caller can cut a text into stretches, and saves time by it.

    The text needs enough spaces. Chinese has few spaces, and its stretches rarely repeat. The text
    must not contain the mark, the separator's sign, or a zero byte (padding in `byte_strings`).
    """
    return text.count(" ") * 16 > len(text) and not any(sign in text for sign in _TAKEN)


def stretches_of(text: str) -> tuple[str, str, str]:
    """Return the text before the first stretch, the middle stretches with marks, and the last one.

    Before a caller cuts the first text or a middle stretch, it must append `SEPARATOR`, in place of
    the next space. It must not append `SEPARATOR` to the last stretch, because a pattern may treat
    white space at the end of a text specially. Raise UnicodeEncodeError for a lone surrogate.
    """
    others, space, last = _marked(text).rpartition(" ")
    first, first_space, stretches = others.partition(" ")
    return plain_text(first), first_space + stretches, plain_text(space + last)


def _marked(text: str) -> str:
    """Replace every space that is not a border with a mark. Every other space begins a stretch."""
    units = np.frombuffer(text.encode("utf-16-le"), np.uint16)
    spaces = np.flatnonzero(units[1:] == ord(" ")) + 1
    spaces = spaces[_IS_WHITE[units[spaces - 1]]]
    following = np.minimum(spaces + 1, len(units) - 1)  # for a last space, the space itself
    spaces = spaces[_MAY_FOLLOW[units[following]]]
    if not len(spaces):
        return text
    units = units.copy()
    units[spaces] = ord(_MARK)
    return units.tobytes().decode("utf-16-le")


def together(stretches: Iterable[bytes]) -> str:
    """Join stretches, with `SEPARATOR` after each. No stretch may contain the separator's sign."""
    end = SEPARATOR.encode()
    joined = b"".join([b" %b%b" % (stretch, end) for stretch in stretches])
    return plain_text(joined.decode())


def plain_text(stretch: str) -> str:
    """Change the marks in a text back into spaces."""
    return stretch.replace(_MARK, " ")
