"""Read one `.pt` file of `torch.save`, after a check of its checksums.

`torch.load` accepts a weight with a flipped bit, because it ignores the CRC-32 of each entry in the
zip archive. `read_single` checks every CRC-32. The check takes half a millisecond per megabyte,
about as long as `torch.load` itself. The CRC-32 detects damage. `weights_only=True` protects from
malicious files, because it runs no code.
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

    Raise FileFormatError in four cases: the file is damaged; it expands far beyond its size; it
    needs code to run; or it has the format of torch before 1.6, which has no checksums.
    """
    if isinstance(file, Path):
        if file.is_dir():
            raise IsADirectoryError(
                f"a .pt checkpoint must be a file ({file} is a folder); specify a file"
            )
        if file.exists() and not file.is_file():  # a pipe blocks, a device has no end
            raise FileFormatError(
                f"a .pt checkpoint must be a file ({file} is a pipe or a device); specify a file"
            )
    start = 0 if isinstance(file, Path) else file.tell()
    num_bytes = _verified(file, name)
    if not isinstance(file, Path):
        file.seek(start)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about a foreign pickle
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # torch.load raises many kinds of error here
        raise FileFormatError(
            f"a .pt file must contain only tensors and plain values ({name} is damaged, or has "
            "objects that run code); save the checkpoint again with save_checkpoint"
        ) from None
    if not _within(content, num_bytes):
        raise FileFormatError(
            f"the .pt file repeats its values too often ({name}); save the checkpoint again with "
            "save_checkpoint"
        )
    return content


def _verified(file: Path | IO[bytes], name: object) -> int:
    """Check that each entry is uncompressed and fits its CRC-32. Return the size of the pickles."""
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
        f"the .pt file is damaged, or torch.save did not write it ({name}: {damaged}); restore the "
        "file from a copy, or save the checkpoint again with save_checkpoint"
    )


def _within(content: Any, most: int) -> bool:
    """Return whether `content` has at most `most` values.

    Each value takes at least one byte of a pickle. But a list can contain the same list many times,
    at many levels, or contain itself. Such a file would expand without limit.
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
