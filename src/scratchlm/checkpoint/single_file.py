"""Read one `.pt` file of `torch.save`, after a check of its checksums.

`torch.load` accepts a weight with a flipped bit, because it ignores the CRC-32 of each entry of the
zip archive. `read_single` compares it. That costs half a millisecond a megabyte, about as much as
`torch.load` itself. The CRC-32 finds damage. `weights_only=True` stops malice, because it runs no
code.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from scratchlm.errors import FileFormatError
from scratchlm.files.file_kinds import check_downloaded


def read_single(file: Path | IO[bytes], name: object) -> Any:
    """Return the content of a `.pt` file.

    FileFormatError if the file is damaged, expands far beyond its size, needs code to run, or has
    torch's format before 1.6, which has no checksums.
    """
    if isinstance(file, Path):
        if file.is_dir():
            raise IsADirectoryError(f"a .pt checkpoint is a file ({file}); this is a directory")
        if file.exists() and not file.is_file():  # a pipe blocks, a device has no end
            raise FileFormatError(f"a .pt checkpoint is a file ({file}); this is a pipe or device")
    start = 0 if isinstance(file, Path) else file.tell()
    num_bytes = _verified(file, name)
    if not isinstance(file, Path):
        file.seek(start)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on a foreign pickle, which loads or raises
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # torch.load raises many kinds of error here
        raise FileFormatError(
            f"not a .pt file of tensors and plain values ({name}); it is damaged, or holds objects "
            "that run code when loaded: save it again with save_checkpoint"
        ) from None
    if not _within(content, num_bytes):
        raise FileFormatError(
            f"a .pt file repeats its values too often ({name}); save it again with save_checkpoint"
        )
    return content


def _verified(file: Path | IO[bytes], name: object) -> int:
    """Check that each entry is uncompressed and has its CRC-32; return the bytes of the pickles."""
    damaged: str | None = "it is not a zip archive"
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            assert archive.fp is not None
            size = archive.fp.seek(0, 2)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                damaged = "it is compressed"
            elif sum(entry.file_size for entry in entries) > size:
                damaged = "its entries claim more bytes than the file has"
            elif (bad := archive.testzip()) is not None:
                damaged = f"{bad} does not match its checksum"
            else:
                return sum(each.file_size for each in entries if each.filename.endswith(".pkl"))
    except OSError:
        raise
    except Exception:  # BadZipFile, RuntimeError, NotImplementedError, struct.error, …
        pass
    if isinstance(file, Path):
        check_downloaded(file)
    raise FileFormatError(
        f"not a .pt file as torch.save writes it ({name}: {damaged}); restore it from a copy, or "
        "save it again with save_checkpoint"
    )


def _within(content: Any, most: int) -> bool:
    """Return whether `content` has at most `most` values.

    Each value takes at least one byte of a pickle. But a list can hold the same list many times, at
    many levels, or hold itself. Such a file would expand without limit.
    """
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            value = [*value.values()]
        if isinstance(value, list | tuple | set):
            most -= len(value)
            if most < 0:
                return False
            pending.extend(value)
    return True
