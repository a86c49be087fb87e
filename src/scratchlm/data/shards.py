"""Token shards: the ids of a text as a file that is memory-mapped, never loaded.

    train.bin         little-endian uint16 (uint32 for a vocabulary past 65,536), no header
    train.bin.json    what they are: dtype, count, the tokenizer's hash, size, time, SHA-256

A `.bin` without its sidecar is read as uint16; a `.npy` of integers reads alike.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from scratchlm.atomic import replacing_file, sync, sync_directory
from scratchlm.errors import FileFormatError

if TYPE_CHECKING:
    from scratchlm.tokenizer.bpe import BPETokenizer

_DTYPES: dict[str, np.dtype[np.uint16] | np.dtype[np.uint32]] = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
}
_BLOCK = 1 << 24  # ids, or bytes, scanned at a time


@dataclasses.dataclass(frozen=True)
class ShardInfo:
    """The sidecar. `text_bytes`: of the text that the ids stand for, special tokens for none."""

    dtype: str
    count: int
    text_bytes: int
    vocab_size: int
    max_id: int
    tokenizer_hash: str
    tokenizer: str | None  # the tokenizer.json, relative to the shard
    sha256: str
    size: int
    mtime_ns: int


@dataclasses.dataclass(frozen=True)
class TokenShard:
    """`tokens` is a read-only memory map, (count,); `info` is None where there is no sidecar."""

    path: Path
    tokens: npt.NDArray[np.integer]
    info: ShardInfo | None

    @cached_property
    def max_id(self) -> int:
        """The largest id: as recorded, or else found by reading the whole file once."""
        return self.info.max_id if self.info else _largest(self.tokens, self.path)

    @cached_property
    def sha256(self) -> str:
        """The hash of the file's bytes: as recorded, or else found in the same way."""
        return self.info.sha256 if self.info else _sha256(self.path)


def open_shard(path: str | Path, *, verify: bool = False) -> TokenShard:
    """Map the ids of a `.bin` or `.npy` file.

    The size is always checked against the sidecar. The SHA-256 is where `verify`, or where the
    file's time is not the recorded one (a copy, a git checkout).

    FileFormatError for a file that is truncated, altered, or not ids; ValueError for a path that
    cannot be a shard, or a `verify` with no sidecar to compare to.
    """
    path = Path(path)
    size = path.stat().st_size  # a missing file is the system's own FileNotFoundError
    if not path.is_file():
        raise ValueError(f"a token shard is a file ({path}); pass a .bin or .npy file")
    if path.suffix not in (".bin", ".npy"):
        raise ValueError(
            f"a token shard ends in .bin or .npy ({path}); encode text with scratchlm-tokenize"
        )
    if size == 0:
        raise FileFormatError(f"the token shard is empty ({path}); encode its text again")
    info = read_sidecar(path)
    if info:
        _compare(path, info, verify=verify)
    elif verify:
        raise ValueError(
            f"nothing to verify against ({path} has no sidecar); encode its text again to get one"
        )
    if path.suffix == ".npy":
        return TokenShard(path, _map_npy(path), None)
    dtype = _DTYPES[info.dtype if info else "uint16"]
    if size % dtype.itemsize:
        raise FileFormatError(
            f"uint16 ids take an even number of bytes ({path}: {size}); encode its text again"
        )
    return TokenShard(path, np.memmap(path, dtype, mode="r"), info)


def write_shard(
    tokenizer: BPETokenizer,
    src: str | Path,
    dst: str | Path,
    *,
    num_workers: int | None = None,
    tokenizer_path: str | Path | None = None,
) -> ShardInfo:
    """Encode the text file `src` into the shard `dst` and its sidecar."""
    src, dst = Path(src), Path(dst)
    if dst.suffix != ".bin":
        raise ValueError(f"a token shard is written to a .bin file ({dst}); name it {dst.stem}.bin")
    if src.resolve() == dst.resolve():
        raise ValueError(f"the text and its shard are one file ({src}); name another output")
    if tokenizer_path is not None:
        tokenizer_path = Path(os.path.relpath(tokenizer_path, dst.parent)).as_posix()
    temporary = partial_path(dst)
    try:
        count = tokenizer.encode_file(src, temporary, num_workers)
        if count == 0:
            raise ValueError(f"the text has no tokens ({src}); encode a file that is not empty")
        with temporary.open("rb") as file:
            sync(file)
        dtype = "uint16" if len(tokenizer) <= 1 << 16 else "uint32"
        text_bytes = _text_bytes(temporary, tokenizer)
        info = _describe(
            temporary, dtype, text_bytes, len(tokenizer), tokenizer.hash, tokenizer_path
        )
        assert info.count == count
        put_shard(temporary, dst, info)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return info


def bytes_of(tokenizer: BPETokenizer) -> npt.NDArray[np.int64]:
    """(vocab,): the bytes of text each id stands for; none for a special token."""
    lengths = np.zeros(len(tokenizer), dtype=np.int64)
    for index, token in tokenizer.vocab.items():
        lengths[index] = len(token)
    for special in tokenizer.special_tokens:
        lengths[tokenizer.token_to_id(special)] = 0
    return lengths


def partial_path(path: Path) -> Path:
    """Where a shard lies while it is written."""
    return path.with_name(f".{path.name}.partial")  # what a killed run left is written over


def put_shard(temporary: Path, path: Path, info: ShardInfo) -> None:
    """The sidecar, then the ids in its place.

    A kill between the two leaves ids that their sidecar does not describe, which `open_shard`
    refuses: the other order would leave uint32 ids to be read as uint16.
    """
    _write(path, info)
    temporary.replace(path)
    sync_directory(path.parent)


def write_sidecar(
    path: str | Path,
    *,
    dtype: str,
    text_bytes: int,
    vocab_size: int,
    tokenizer_hash: str,
    tokenizer: str | None,
) -> ShardInfo:
    """Describe ids that are already there; count, largest id and SHA-256 are read from the file.

    ValueError if an id is not below `vocab_size`: then they are another tokenizer's, or `dtype` is
    not theirs.
    """
    info = _describe(Path(path), dtype, text_bytes, vocab_size, tokenizer_hash, tokenizer)
    _write(Path(path), info)
    return info


def _text_bytes(path: Path, tokenizer: BPETokenizer) -> int:
    """How many bytes of text the ids in a file stand for; special tokens for none."""
    lengths, total = bytes_of(tokenizer), 0
    with path.open("rb") as file:
        while data := file.read(_BLOCK):
            total += int(lengths[np.frombuffer(data, tokenizer.dtype)].sum())
    return total


def _describe(
    path: Path,
    dtype: str,
    text_bytes: int,
    vocab_size: int,
    tokenizer_hash: str,
    tokenizer: str | None,
) -> ShardInfo:
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be uint16 or uint32 ({dtype}); pass one of them")
    sha256, max_id = hashlib.sha256(), 0
    with path.open("rb") as file:  # read, not mapped: a map of many GB counts as memory in use
        while data := file.read(_BLOCK):
            sha256.update(data)
            max_id = max(max_id, int(np.frombuffer(data, _DTYPES[dtype]).max()))
    if max_id >= vocab_size:
        raise ValueError(
            f"an id is outside the vocabulary ({path}: {max_id}, vocab_size {vocab_size}); "
            "pass the tokenizer that made the ids, and their dtype"
        )
    status = path.stat()
    return ShardInfo(
        dtype=dtype,
        count=status.st_size // _DTYPES[dtype].itemsize,
        text_bytes=text_bytes,
        vocab_size=vocab_size,
        max_id=max_id,
        tokenizer_hash=tokenizer_hash,
        tokenizer=tokenizer,
        sha256=sha256.hexdigest(),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )


def _write(path: Path, info: ShardInfo) -> None:
    with replacing_file(_sidecar(path)) as file:
        file.write(json.dumps(dataclasses.asdict(info), indent=2).encode() + b"\n")


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def read_sidecar(path: str | Path) -> ShardInfo | None:
    """What is said of a shard, without opening it; None where nothing is, as for a `.npy`."""
    path = Path(path)
    if path.suffix != ".bin":
        return None
    sidecar = _sidecar(path)
    try:
        fields = json.loads(sidecar.read_bytes())
        info = ShardInfo(**fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise _bad_sidecar(sidecar, str(error)) from None
    for field in dataclasses.fields(ShardInfo):
        kind = field.type.split(" | ")[0]  # an annotation is its text: "int", "str", "str | None"
        value = getattr(info, field.name)
        if type(value).__name__ != kind and not (value is None and "None" in field.type):
            raise _bad_sidecar(sidecar, f"{field.name} is {value!r}")
    if info.dtype not in _DTYPES:
        raise _bad_sidecar(sidecar, f"dtype is {info.dtype!r}")
    return info


def _bad_sidecar(sidecar: Path, reason: str) -> FileFormatError:
    return FileFormatError(
        f"not the description of a token shard ({sidecar}: {reason}); encode the text again"
    )


def _compare(path: Path, info: ShardInfo, *, verify: bool) -> None:
    status = path.stat()
    if status.st_size != info.count * _DTYPES[info.dtype].itemsize:
        raise FileFormatError(
            f"the token shard is truncated or not its sidecar's ({path}: {status.st_size} bytes "
            f"for {info.count} {info.dtype} ids); copy it again, or encode its text again"
        )
    if (verify or status.st_mtime_ns != info.mtime_ns) and _sha256(path) != info.sha256:
        raise FileFormatError(
            f"the token shard is not what was written ({path}: its SHA-256 differs from the "
            "sidecar's); copy it again, or encode its text again"
        )


def _map_npy(path: Path) -> npt.NDArray[np.integer]:
    try:
        # Unlike np.load this opens nothing but a .npy, and so no pickle.
        tokens: npt.NDArray[np.integer] = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise FileFormatError(f"not a .npy of ids ({path}: {error}); save it again") from None
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise FileFormatError(
            f"ids are one row of integers ({path}: shape {tokens.shape}, {tokens.dtype}); "
            "save them as a 1-D integer array"
        )
    return tokens


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _largest(tokens: npt.NDArray[np.integer], path: Path) -> int:
    largest = 0
    for start in range(0, len(tokens), _BLOCK):
        block = tokens[start : start + _BLOCK]
        if block.min() < 0:
            raise FileFormatError(
                f"an id is negative ({path}: {block.min()}); encode its text again"
            )
        largest = max(largest, int(block.max()))
    return largest
