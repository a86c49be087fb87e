"""Token files: the ids of a text, and a sidecar that describes them.

    train.bin         little-endian uint16 (uint32 for a vocabulary above 65,536), no header
    train.bin.json    dtype, count, the tokenizer's hash, size, time, SHA-256

Every writer of ids uses `writing_ids`, which writes both files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from scratchlm.errors import FileFormatError
from scratchlm.files.atomic import naming, replacing_file, sync, sync_directory
from scratchlm.files.file_kinds import ending_of
from scratchlm.files.paths import StrPath
from scratchlm.files.strict_json import parse_json
from scratchlm.tokenizer.parts import TokenizerParts, content_hash, ids_of, num_ids
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer
from scratchlm.tokenizer.pieces.text_files import Range, cut_file, texts_of
from scratchlm.tokenizer.workers import parallel_map, workers_for

DTYPES: dict[str, np.dtype[np.uint16] | np.dtype[np.uint32]] = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
}

Ids = npt.NDArray[Any]


def dtype_of(vocab_size: int) -> np.dtype[Any]:
    """Return the type of stored ids: uint16 for up to 65,536 ids, else uint32."""
    return DTYPES["uint16" if vocab_size <= 1 << 16 else "uint32"]


@dataclasses.dataclass(frozen=True)
class ShardInfo:
    """The sidecar. `text_bytes`: the number of UTF-8 bytes of the text, without special tokens."""

    dtype: str
    count: int
    text_bytes: int
    vocab_size: int
    max_id: int
    tokenizer_hash: str
    tokenizer: str | None  # the tokenizer.json, relative to the token file
    sha256: str
    size: int
    mtime_ns: int


def encoded_ranges(
    encode: Callable[[str], Ids], pretokenizer: Pretokenizer, src: StrPath, num_workers: int | None
) -> Iterator[Ids]:
    """Encode a text file in several processes. Yield its ids range by range.

    Show a progress bar. Raise ValueError if the file is not UTF-8 text. Otherwise raise the same
    errors as `encode`.
    """
    size = os.path.getsize(src)
    workers = workers_for(size, num_workers)
    encode_item = functools.partial(_encode, encode, pretokenizer)
    with tqdm(total=size, desc="encoding", unit="B", unit_scale=True, disable=None) as bar:
        items = cut_file(src, pretokenizer, 1 << 22, bar)
        yield from parallel_map(encode_item, items, workers)


def _encode(encode: Callable[[str], Ids], pretokenizer: Pretokenizer, item: Range | str) -> Ids:
    return np.concatenate([encode(""), *map(encode, texts_of(item, pretokenizer))])


@contextlib.contextmanager
def writing_ids(
    parts: TokenizerParts, path: Path, tokenizer_path: StrPath | None = None
) -> Iterator[IdWriter]:
    """Open a writer of ids. If the block ends without an error, write `path` and its sidecar.

    `parts` is the content of the tokenizer that makes the ids. If `tokenizer_path` is not None, the
    sidecar contains it, relative to the folder of `path`.
    """
    if ending_of(path) not in ("", ".bin"):
        raise ValueError(f"a file of ids must end with .bin ({path}); use the name {path.stem}.bin")
    relative = None if tokenizer_path is None else path_from(path, tokenizer_path)
    writer = IdWriter(path, Maker.of(parts, relative))
    try:
        yield writer
        writer.close()
    except BaseException:
        writer.abandon()
        raise


def path_from(path: Path, tokenizer_path: StrPath) -> str:
    """Return the tokenizer's path relative to the folder of the token file `path`."""
    with contextlib.suppress(ValueError):  # Windows has no relative path to another drive
        tokenizer_path = os.path.relpath(tokenizer_path, path.parent)
    return Path(tokenizer_path).as_posix()


@dataclasses.dataclass(frozen=True)
class Maker:
    """The tokenizer's part of a sidecar. `bytes_of`: the result of the function `bytes_of`."""

    dtype: np.dtype[Any]
    bytes_of: npt.NDArray[np.int64]
    hash: str
    path: str | None  # relative to the file of ids

    @classmethod
    def of(cls, parts: TokenizerParts, path: str | None) -> Maker:
        return cls(dtype_of(num_ids(parts)), bytes_of(parts), content_hash(parts), path)


class IdWriter:
    """Write ids array by array. Hash and count them at the same time, to avoid a second read.

    The file exists when `close` returns. Before this, and after a kill, there is only a temporary
    file.
    """

    def __init__(self, path: Path, maker: Maker) -> None:
        self.path, self._maker = path, maker
        self.info: ShardInfo | None = None  # set by `close`
        self.count = self._text_bytes = self._max_id = 0
        self._hash = hashlib.sha256()
        self._temporary = partial_path(path)
        self._file = self._temporary.open("wb")

    def write(self, ids: npt.NDArray[np.integer]) -> None:
        """Append ids (n,) of the tokenizer's dtype."""
        data = ids.tobytes()
        with naming(self.path):
            self._file.write(data)
        self._hash.update(data)
        self.count += len(ids)
        # A sum over ids is right even if the file begins in the middle of a document.
        self._text_bytes += int(self._maker.bytes_of[ids].sum())
        self._max_id = max(self._max_id, int(ids.max(initial=0)))

    def close(self) -> ShardInfo:
        """Write the sidecar, and give the file its final name."""
        with naming(self.path):
            sync(self._file)
        self._file.close()
        status = self._temporary.stat()
        self.info = ShardInfo(
            dtype=self._maker.dtype.name,
            count=self.count,
            text_bytes=self._text_bytes,
            vocab_size=len(self._maker.bytes_of),
            max_id=self._max_id,
            tokenizer_hash=self._maker.hash,
            tokenizer=self._maker.path,
            sha256=self._hash.hexdigest(),
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
        )
        # Write the sidecar first. A kill before the rename then leaves a sidecar that does not
        # match the file, and readers refuse it. The other order would leave ids of unknown width.
        _write(self.path, self.info)
        self._temporary.replace(self.path)
        sync_directory(self.path.parent)
        return self.info

    def abandon(self) -> None:
        """Delete the temporary file, because the ids are not complete."""
        with contextlib.suppress(OSError):  # `close` writes, which may fail too
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def bytes_of(parts: TokenizerParts) -> npt.NDArray[np.int64]:
    """-> (vocab,): the number of text bytes of each id, 0 for a special token."""
    lengths = np.zeros(num_ids(parts), dtype=np.int64)
    for index, token in parts.vocab.items():
        lengths[index] = len(token)
    _, special_ids = ids_of(parts.vocab, parts.special_tokens)
    lengths[list(special_ids.values())] = 0
    return lengths


def partial_path(path: Path) -> Path:
    """Return the path of the temporary file of an unfinished token file."""
    return path.with_name(f".{path.name}.partial")  # a new run overwrites a killed run's file


def _write(path: Path, info: ShardInfo) -> None:
    with replacing_file(_sidecar(path)) as file:
        file.write(json.dumps(dataclasses.asdict(info), indent=2).encode() + b"\n")


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def read_sidecar(path: StrPath) -> ShardInfo | None:
    """Read the sidecar of a token file. Return None if there is none, as for a `.npy` file."""
    path = Path(path)
    if path.suffix.lower() != ".bin":
        return None
    sidecar = _sidecar(path)
    try:
        return info_of(parse_json(sidecar.read_bytes()), sidecar)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _bad_sidecar(sidecar, str(error)) from None


def info_of(fields: Any, sidecar: Path) -> ShardInfo:
    """Return the info that `fields` of the file `sidecar` contain. Raise FileFormatError for other
    fields and for values of other types."""
    try:
        info = ShardInfo(**fields)
    except TypeError as error:
        raise _bad_sidecar(sidecar, str(error)) from None
    for field in dataclasses.fields(ShardInfo):
        kind = field.type.split(" | ")[0]  # annotations are strings: "int", "str | None"
        value = getattr(info, field.name)
        if type(value).__name__ != kind and not (value is None and "None" in field.type):
            raise _bad_sidecar(sidecar, f"{field.name} must be {field.type}, not {value!r}")
    if info.dtype not in DTYPES:
        raise _bad_sidecar(sidecar, f"dtype must be uint16 or uint32, not {info.dtype!r}")
    return info


def _bad_sidecar(sidecar: Path, reason: str) -> FileFormatError:
    return FileFormatError(
        f"the file does not describe a token file ({sidecar}: {reason}); encode the text again"
    )
