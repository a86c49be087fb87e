"""Determine the kind of a file from its first bytes, because the file's name may be wrong.

For example, a file of weights may be a Git LFS pointer, and a `.txt` file may be a picture. Readers
call `kind_of` before they read. So their error reports the kind of the file, not a problem in a
parser.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from scratchlm.errors import FileFormatError
from scratchlm.files.paths import StrPath

HEAD = 4096  # bytes that `kind_of` reads from the start of a file

_MANY_NULS = 8  # a text may contain a few


# The endings of formats that store text, numbers or weights in one file.
FILE_ENDINGS = frozenset({
    ".7z", ".arrow", ".bin", ".ckpt", ".csv", ".feather", ".ggml", ".gguf", ".gz", ".h5", ".hdf5",
    ".json", ".jsonl", ".keras", ".md", ".model", ".msgpack", ".npy", ".npz", ".onnx", ".parquet",
    ".pickle", ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".tgz", ".tiktoken", ".toml", ".tsv",
    ".txt", ".xz", ".yaml", ".zip", ".zst",
})  # fmt: skip


class Kind(NamedTuple):
    """Describe a kind of file. `remedy` tells a user what to do with such a file. `is_text` is true
    if a reader can read the bytes as text."""

    name: str
    remedy: str
    is_text: bool = False


_LFS = Kind("a Git LFS pointer, not the real file", "fetch the real file with git lfs pull")
_HTML = Kind("an HTML page", "download the real file", is_text=True)
_UTF_16 = Kind("UTF-16 text", "convert the text to UTF-8")
_BINARY = Kind("binary data", "choose a text file")

_STARTS: list[tuple[bytes, Kind]] = [  # regular expressions
    (rb"version https://git-lfs\.github\.com/spec/", _LFS),
    (rb"\xff\xfe\0\0", Kind("UTF-32 text", "convert the text to UTF-8")),
    (rb"\0\0\xfe\xff", Kind("UTF-32 text", "convert the text to UTF-8")),
    (rb"\xff\xfe", _UTF_16),
    (rb"\xfe\xff", _UTF_16),
    (rb"\x1f\x8b", Kind("gzip data", "change the file's ending to .gz, such as .txt.gz")),
    (rb"\x28\xb5\x2f\xfd", Kind("Zstandard data", "change the file's ending to .zst")),
    (rb"\xfd7zXZ\0", Kind("xz data", "unpack the file with xz -d")),
    (rb"BZh[1-9]1AY&SY", Kind("bzip2 data", "unpack the file with bunzip2")),
    (rb"7z\xbc\xaf\x27\x1c", Kind("a 7-Zip archive", "unpack the archive")),
    (rb"Rar!\x1a\x07", Kind("a RAR archive", "unpack the archive")),
    (rb"PAR1\x15", Kind("a Parquet file", "change the file's ending to .parquet")),
    (rb"\x89HDF\r\n\x1a\n", Kind("an HDF5 file",
                                    "choose a text file, or change the ending of ids to .h5")),
    (rb"\x93NUMPY", Kind("a NumPy array",
                         "choose a text file, or change the ending of ids to .npy")),
    (rb"ARROW1\0\0", Kind("an Arrow file", "save the data as Parquet")),
    (rb"SQLite format 3\0", Kind("an SQLite database", "save its text as JSON lines")),
    (rb"GGUF[\x01-\x08]\0", Kind("a GGUF model", "choose another file")),
    (rb"PK\x03\x04", Kind("a ZIP archive (.docx, .xlsx, .epub, .npz and .pt files are archives)",
                         "unpack the archive, or save its text as .txt")),
    (rb"(?s:.{257})ustar", Kind("a tar archive", "unpack the archive")),
    (rb"%PDF-", Kind("a PDF", "save its text as .txt")),
    (rb"\{\\rtf[0-9]", Kind("an RTF document", "save its text as .txt")),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind("an Office document", "save its text as .txt")),
    (rb"\x89PNG\r\n\x1a\n", Kind("a PNG picture", "choose a text file")),
    (rb"\xff\xd8\xff", Kind("a JPEG picture", "choose a text file")),
    (rb"GIF8[79]a", Kind("a GIF picture", "choose a text file")),
    (rb"\x7fELF", Kind("a program", "choose a text file")),
]  # fmt: skip


def kind_of(head: bytes) -> Kind | None:
    """Return the kind of the file whose first bytes (at most HEAD bytes) are `head`. Return None
    for UTF-8 text and for an unknown kind."""
    for start, kind in _STARTS:
        if re.match(start, head):
            return kind
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:15].lower()
    if first.startswith((b"<!doctype html", b"<html")):
        return _HTML
    nuls = head.count(0)
    if nuls < _MANY_NULS or 10 * nuls < len(head):
        return None
    # In UTF-16 without a mark, every second byte of Latin text is 0.
    return _UTF_16 if max(head[::2].count(0), head[1::2].count(0)) > 0.9 * nuls else _BINARY


def ending_of(path: Path) -> str:
    """Return the ending of a file name in lower case. Return "" if the ending is not a format, for
    example in run.v2 or 3.1."""
    ending = path.suffix.lower()
    is_format = re.match(r"\.(?!v\d)[^\W\d_]", ending) or ending in FILE_ENDINGS
    return ending if is_format else ""


def check_folder_name(path: StrPath, what: str) -> None:
    """Raise ValueError if the name of a new folder ends in a file format. A user who writes
    `out.h5` wants that format. `what` is the first part of the message, such as "a run must be a
    folder"."""
    place = Path(path)
    if place.suffix.lower() in FILE_ENDINGS and not place.is_dir():
        raise ValueError(
            f"{what}, not a {place.suffix} file ({place}); choose a name such as {place.stem}"
        )


def check_downloaded(path: StrPath) -> None:
    """Raise FileFormatError for a Git LFS pointer or an HTML page, which a clone or a browser saved
    instead of the file. Readers of other formats call this function if they cannot parse a file."""
    if not Path(path).is_file():  # reading a pipe would block
        return
    with Path(path).open("rb") as file:
        kind = kind_of(file.read(HEAD))
    if kind in (_LFS, _HTML):
        raise FileFormatError(f"this file is {kind.name} ({os.fspath(path)}); {kind.remedy}")
