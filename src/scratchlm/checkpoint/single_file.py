"""One `.pt` file: what `torch.save` writes, its checksums compared before anything is made of it.

`torch.load` takes a weight with a flipped bit as it is: the CRC-32 that the zip archive has of each
of its entries is not looked at. Here it is, which costs half a millisecond a megabyte, about what
`torch.load` takes. It guards against damage; against malice `weights_only=True` does, which runs no
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
    """The content of a `.pt` file; FileFormatError for one that is damaged, inflates, is of the
    format without checksums that torch had before 1.6, or that only running code could read."""
    if isinstance(file, Path):
        if file.is_dir():
            raise IsADirectoryError(f"a .pt checkpoint is a file ({file}); this is a directory")
        if file.exists() and not file.is_file():  # a pipe would be waited for, a device has no end
            raise FileFormatError(f"a .pt checkpoint is a file ({file}); this is a pipe or device")
    start = 0 if isinstance(file, Path) else file.tell()
    num_bytes = _verified(file, name)
    if not isinstance(file, Path):
        file.seek(start)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign pickle; it loads or is refused
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # torch.load fails in a dozen ways on what it does not trust
        raise FileFormatError(
            f"not a .pt file of tensors and plain values ({name}); it is damaged, or holds objects "
            "that only an unsafe load would run: save it again with save_checkpoint"
        ) from None
    if not _within(content, num_bytes):
        raise FileFormatError(
            f"a .pt file repeats itself without end ({name}); save it again with save_checkpoint"
        )
    return content


def _verified(file: Path | IO[bytes], name: object) -> int:
    """The bytes of its pickles, each entry being stored as it is, and as its CRC-32 says."""
    damaged: str | None = "it is not a zip archive"
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            assert archive.fp is not None
            size = archive.fp.seek(0, 2)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                damaged = "it is compressed"
            elif sum(entry.file_size for entry in entries) > size:
                damaged = "its entries say that they are larger than the file"
            elif (bad := archive.testzip()) is not None:
                damaged = f"{bad} has another checksum"
            else:
                return sum(each.file_size for each in entries if each.filename.endswith(".pkl"))
    except OSError:
        raise
    except Exception:  # zipfile too: BadZipFile, RuntimeError, NotImplementedError, struct.error, …
        pass
    if isinstance(file, Path):
        check_downloaded(file)
    raise FileFormatError(
        f"not a .pt file as torch.save writes it ({name}: {damaged}); restore it from a copy, or "
        "save it again with save_checkpoint"
    )


def _within(content: Any, most: int) -> bool:
    """Whether no more than `most` values are in here: a value takes a byte of a pickle or more,
    but a list may hold ten times another that holds ten times another, or hold itself."""
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
