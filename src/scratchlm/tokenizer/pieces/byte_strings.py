"""Many short byte strings at once: strings of up to eight bytes as numbers, which numpy can handle.

None may have a zero byte, for those fill a number up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SHORT = 8  # bytes
_MASKS = np.array([(1 << 8 * length) - 1 for length in range(SHORT + 1)], np.uint64)


def between_spaces(text: str) -> tuple[bytes, Array, Array]:
    """The bytes of a text that begins with a space, or has none; where what follows each space
    starts in them, and how long it is."""
    data = text.encode()
    spaces = np.flatnonzero(np.frombuffer(data + b" ", np.uint8) == ord(" "))
    return data, spaces[:-1] + 1, np.diff(spaces) - 1


def numbers_of(data: bytes, starts: Array, lengths: Array) -> Array:
    """The strings of up to eight bytes at these places as uint64."""
    # Every eight bytes in a row as a number, of which those past the string are cleared.
    numbers: Array = np.ndarray(len(data) + 1, "<u8", data + bytes(SHORT), strides=(1,))
    return numbers[starts] & _MASKS[lengths]


def strings_of(numbers: Array) -> list[bytes]:
    """The strings again."""
    strings: list[bytes] = numbers.astype("<u8").view(f"S{SHORT}").tolist()  # zero bytes end them
    return strings


def slices(data: bytes, starts: Array, lengths: Array) -> list[bytes]:
    """The strings at these places."""
    ends = (starts + lengths).tolist()
    return [data[start:end] for start, end in zip(starts.tolist(), ends, strict=True)]
