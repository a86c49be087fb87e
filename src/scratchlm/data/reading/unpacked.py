"""Read the bytes of a file, and unpack `.gz` and `.zst`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scratchlm.data.extra import extra
from scratchlm.errors import FileFormatError
from scratchlm.files.file_kinds import HEAD, kind_of
from scratchlm.tokenizer.pieces.text_files import BYTE_ORDER_MARK

READ_BYTES = 1 << 20  # in one read of a file
LONGEST_WINDOW = 1 << 31  # bytes, of zstd --long=31; reading needs this memory
READ_BYTES_ZST = 1 << 12  # packed bytes in one read; unpacked, they are at most 128 MB

Progress = Callable[[int], object]  # receives the number of bytes read since its last call


def unpacked(path: Path, packed: str, progress: Progress = lambda size: None) -> Iterator[bytes]:
    """Yield the unpacked content of the file."""
    if packed:
        yield from _unpack(path, packed, progress)
        return
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            progress(len(data))
            yield data


def _unpack(path: Path, packed: str, progress: Progress) -> Iterator[bytes]:
    check_kind(path, {".gz": "gzip data", ".zst": "Zstandard data"}[packed])
    new, bad = _unpacker(path, packed)
    frame = None
    try:
        with path.open("rb") as file:
            while data := file.read(READ_BYTES_ZST):
                progress(len(data))
                while data:  # a file may contain several frames
                    if frame is None and packed == ".gz":
                        data = data.lstrip(b"\0")  # zero padding after a frame
                        if not data:
                            break
                    frame = frame or new()
                    content = frame.decompress(data)
                    for start in range(0, len(content), READ_BYTES):
                        yield content[start : start + READ_BYTES]
                    data = frame.unused_data
                    if frame.eof:
                        frame = None
    except bad as error:
        raise FileFormatError(
            f"the {packed[1:]} file is damaged ({path}: {error}); copy the file again from the "
            "source"
        ) from None
    if frame or not path.stat().st_size:
        raise FileFormatError(
            f"the {packed[1:]} file is truncated ({path}); copy the file again from the source"
        )


def _unpacker(path: Path, packed: str) -> tuple[Callable[[], Any], type[Exception]]:
    """Return a function that makes a decompressor for one frame, and the decompressor's error."""
    if packed == ".gz":
        return lambda: zlib.decompressobj(wbits=31), zlib.error  # 31: the header of gzip
    zstandard = extra("zstandard", path)
    new = zstandard.ZstdDecompressor(max_window_size=LONGEST_WINDOW).decompressobj
    return new, zstandard.ZstdError


def check_kind(path: Path, expected: str) -> None:
    """Raise FileFormatError if the content has a known kind other than `expected`."""
    with path.open("rb") as file:
        kind = kind_of(file.read(HEAD))
    if kind is not None and kind.name != expected:
        raise FileFormatError(f"the file looks like {kind.name} ({path}); {kind.remedy}")


def without_mark(data: bytes) -> bytes:
    return data.removeprefix(BYTE_ORDER_MARK.encode()).lstrip()
