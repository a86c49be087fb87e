"""Split many texts into words at once, and hash each word to 64 bits.

Two documents are compared by their words, in a normal form that hides small differences (the form
of datatrove's TextNormConfig, character by character): lower case, no accents, one 0 for each
number, and spaces instead of punctuation and symbols. A script without spaces, such as Chinese or
Thai, has no visible words, so each character counts as a word.

`normal_words` is the readable definition. `word_hashes` returns the hashes of the same words. It
computes with whole arrays: it looks up the normal form of each character c in a table, finds where
words start, and hashes a word as the polynomial c0 + c1 B + c2 B^2 + ... modulo 2^64.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, repeat

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]

BLOCK = 1 << 17  # characters in one array, so that all arrays stay in the processor's cache

# Codes in the arrays. No word has these control characters.
_DROPPED, _SPACE, _END, _POINT = range(4)
_ALONE = 1 << 24  # added to the code of a character that is a word
_DIGIT = ord("0")
_INVISIBLE = {"Mn", "Cf", "Cs"}  # accents and formatting characters
_SIGNS = {"Cc", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs"}
_POINTS = ".,\u066b"  # inside numbers; U+066B is the Arabic decimal separator
_BASE = 0x9E3779B97F4A7C15  # an odd number, so it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_WITHOUT_SPACES = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # parts of Chinese characters
    (0x3005, 0x3007),  # 々〆〇
    (0x3040, 0x30FF),  # Japanese kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Chinese characters
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # narrow kana
    (0x20000, 0x323AF),  # rare Chinese characters
)
# Outside these ranges, the normal form of a character is the character.
_VARIED = ((0, 0x20000), (0x2F800, 0x2FA20), (0xE0000, 0xE0200))


def normal_words(text: str) -> list[str]:
    """Return the words of a text in their normal form.

    >>> normal_words("Déjà vu: $1,299.50 for the LAST-minute trip… 你好!")
    ['deja', 'vu', '0', 'for', 'the', 'last', 'minute', 'trip', '你', '好']
    """
    kept = "".join(map(normal_form, unicodedata.normalize("NFC", text)))
    kept = re.sub("0(?:[.]?0)+", "0", kept).replace(".", " ")
    return "".join(f" {each} " if is_alone(each) else each for each in kept).split()


def normal_form(character: str) -> str:
    """Return the character in lower case without accents. Return 0 for a digit, a point for a
    decimal point or comma, a space for white space and other signs, and nothing for an accent."""
    if character in _POINTS:
        return "."
    category = unicodedata.category(character)
    if category in _SIGNS:
        return " "
    decomposed = unicodedata.normalize("NFD", character.lower())
    plain = "".join(each for each in decomposed if unicodedata.category(each) not in _INVISIBLE)
    if plain.isdecimal():
        return "0"
    return plain if len(plain) < 2 else character  # a Korean syllable stays one character


def is_alone(character: str) -> bool:
    """Check whether the character belongs to a script without spaces, so that it is a word."""
    return any(first <= ord(character) <= last for first, last in _WITHOUT_SPACES)


def word_hashes(texts: Sequence[str]) -> tuple[Hashes, Counts]:
    """Return the hashes of the words of all texts in order, and the number of words of each text.

    A word of more than BLOCK characters counts as several words.
    """
    hashes: list[Hashes] = []
    counts = np.zeros(len(texts), np.int64)
    for owners, pieces in _blocks(texts):
        found, each = _hash_words(pieces)
        hashes.append(found)
        np.add.at(counts, owners, each)
    return np.concatenate([np.zeros(0, np.uint64), *hashes]), counts


def mixed(hashes: Hashes) -> Hashes:
    """Spread each bit of a number over all bits of the result (the last step of SplitMix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _blocks(texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Group the pieces of all texts into blocks. Yield the numbers of the texts, and the pieces."""
    owners: list[int] = []
    pieces: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        for piece in _cut_at_spaces(unicodedata.normalize("NFC", text)):
            if pieces and size + len(piece) > BLOCK:
                yield owners, pieces
                owners, pieces, size = [], [], 0
            owners.append(number)
            pieces.append(piece)
            size += len(piece) + 1
    if pieces:
        yield owners, pieces


def _cut_at_spaces(text: str) -> Iterator[str]:
    """Cut a long text at spaces. The cuts depend only on the text."""
    start = 0
    while len(text) - start > BLOCK:
        end = text.rfind(" ", start, start + BLOCK) + 1 or start + BLOCK
        yield text[start:end]
        start = end
    yield text[start:]


def _hash_words(pieces: list[str]) -> tuple[Hashes, Counts]:
    """Return the hashes of the words of some pieces, and the number of words of each piece."""
    joined = "\n".join([*pieces, ""]).encode("utf-32-le", "surrogatepass")
    codes = _table()[np.frombuffer(joined, "<u4")]
    codes[np.cumsum([len(piece) + 1 for piece in pieces]) - 1] = _END
    codes = codes[codes != _DROPPED]
    codes = _with_short_numbers(codes)

    space, alone = codes <= _POINT, codes >= _ALONE
    begins = ~space
    begins[1:] &= space[:-1] | alone[:-1] | alone[1:]
    starts = np.flatnonzero(begins)
    words = np.diff(np.searchsorted(starts, np.flatnonzero(codes == _END)), prepend=0)
    if not len(starts):
        return np.zeros(0, np.uint64), words

    # Position p contributes code * B^p, so a word that starts at p has B^p times its own hash.
    terms = codes * _powers(_BASE)[: len(codes)]
    terms[space] = 0
    return mixed(np.add.reduceat(terms, starts) * _powers(_INVERSE)[starts]), words


def _with_short_numbers(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Keep one digit of each number. A point between two digits belongs to the number."""
    number = codes == _DIGIT
    number[1:-1] |= number[:-2] & (codes[1:-1] == _POINT) & number[2:]
    repeated = number[1:] & number[:-1]
    return np.concatenate([codes[:1], codes[1:][~repeated]]) if repeated.any() else codes


@functools.cache
def _table() -> npt.NDArray[np.uint32]:
    """Return the code of each character's normal form."""
    table = np.arange(0x110000, dtype=np.uint32)
    codes = {" ": _SPACE, ".": _POINT}
    for number in chain.from_iterable(range(*each) for each in _VARIED):
        form = normal_form(chr(number))
        table[number] = codes.get(form) or ord(form) if form else _DROPPED
    for first, last in _WITHOUT_SPACES:
        inside = (table >= first) & (table <= last)
        table[inside] += _ALONE
    return table


@functools.cache
def _powers(base: int) -> Hashes:
    """Return base^0, base^1, ... modulo 2^64: enough for a block and the end of its last piece."""

    def step(power: int, factor: int) -> int:
        return power * factor % (1 << 64)

    return np.fromiter(accumulate(repeat(base, BLOCK + 1), step, initial=1), np.uint64)
