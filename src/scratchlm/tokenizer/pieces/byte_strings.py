"""Process many short byte strings with numpy: a string of up to eight bytes becomes a number.

No string may contain a zero byte, because zero bytes pad the numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SHORT = 8  # bytes
_MASKS = np.array([(1 << 8 * length) - 1 for length in range(SHORT + 1)], np.uint64)


def between_spaces(text: str) -> tuple[bytes, Array, Array]:
    """Return the bytes of a text, and the start and length of each string after a space.

    The text must begin with a space, or contain no space.
    """
    data = text.encode()
    spaces = np.flatnonzero(np.frombuffer(data + b" ", np.uint8) == ord(" "))
    return data, spaces[:-1] + 1, np.diff(spaces) - 1


def numbers_of(data: bytes, starts: Array, lengths: Array) -> Array:
    """Return the strings at these places, each of up to eight bytes, as uint64."""
    # Read eight bytes from every place as a number, then clear the bytes after the string.
    numbers: Array = np.ndarray(len(data) + 1, "<u8", data + bytes(SHORT), strides=(1,))
    return numbers[starts] & _MASKS[lengths]


def strings_of(numbers: Array) -> list[bytes]:
    """Convert the numbers back to strings."""
    strings: list[bytes] = numbers.astype("<u8").view(f"S{SHORT}").tolist()  # `S8` drops zero bytes
    return strings


def slices(data: bytes, starts: Array, lengths: Array) -> list[bytes]:
    """Return the strings at these places."""
    ends = (starts + lengths).tolist()
    return [data[start:end] for start, end in zip(starts.tolist(), ends, strict=True)]


def byte_starts(lengths: Array, data: Array) -> Array:
    """lengths (piece,) in characters, data (byte,) -> starts (piece,) in bytes

    `data` is the UTF-8 of all pieces, joined.
    """
    starts = np.cumsum(lengths) - lengths
    if len(data) == starts[-1] + lengths[-1]:
        return starts
    characters = np.flatnonzero(data & 0xC0 != 0x80)  # the first byte of each
    return characters[starts]
