"""Token shards: the ids of a text in a memory-mapped file.

    train.bin         little-endian uint16 (uint32 for a vocabulary above 65,536 ids), no header
    train.bin.json    the sidecar: dtype, count, the tokenizer's hash, size, time, SHA-256

A `.bin` without a sidecar has the requested dtype, or else the dtype that its vocabulary needs.
A `.npy` of integers works too.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from scratchlm.data.sources import is_shard
from scratchlm.errors import FileFormatError
from scratchlm.files.checksum import sha256_of
from scratchlm.files.file_kinds import check_downloaded
from scratchlm.tokenizer.token_files import (
    BLOCK,
    DTYPES,
    ShardInfo,
    encoded_ranges,
    read_sidecar,
    writing_ids,
)

if TYPE_CHECKING:
    from scratchlm.tokenizer.bpe import BPETokenizer


@dataclasses.dataclass(frozen=True)
class TokenShard:
    """Hold an open shard: `tokens` is a read-only memory map, (count,); `info` is its sidecar."""

    path: Path
    tokens: npt.NDArray[np.integer]
    info: ShardInfo | None

    @cached_property
    def max_id(self) -> int:
        """Return the largest id: from the sidecar, or by reading the whole file once."""
        return self.info.max_id if self.info else _largest(self.tokens, self.path)

    @cached_property
    def sha256(self) -> str:
        """Return the hash of the file's bytes: from the sidecar, or by reading the file once."""
        return self.info.sha256 if self.info else sha256_of(self.path)


def open_shard(
    path: str | Path,
    *,
    verify: bool = False,
    dtype: Literal["uint16", "uint32"] | None = None,
    vocab_size: int | None = None,
) -> TokenShard:
    """Map the ids of a `.bin` or `.npy` file.

    `open_shard` always compares the size with the sidecar. It compares the SHA-256 if `verify`, or
    if the file's time differs from the recorded time (a copy, a git checkout). It reads a `.bin`
    without a sidecar as `dtype`. If `dtype` is None too, it reads uint32 for a `vocab_size` above
    65,536, and else uint16.

    Raise FileFormatError if the file is truncated or altered, or does not hold ids. Raise
    ValueError if the path cannot be a shard, if `verify` finds no sidecar, if `dtype` differs from
    the file's, or if ids read as uint16 without a sidecar are most likely uint32.
    """
    path = Path(path)
    size = path.stat().st_size  # raises FileNotFoundError for a missing file
    if not path.is_file():
        raise ValueError(f"a token shard is a file ({path}); pass a .bin or .npy file")
    if not is_shard(path):
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
    if path.suffix.lower() == ".npy":
        tokens = _map_npy(path)
    elif info:
        tokens = np.memmap(path, DTYPES[info.dtype], mode="r")
    else:
        return TokenShard(path, _map_bare(path, dtype, vocab_size), None)
    if dtype not in (None, tokens.dtype.name):
        raise ValueError(
            f"the ids are {tokens.dtype.name} ({path}, data.dtype {dtype}); leave data.dtype out"
        )
    return TokenShard(path, tokens, info)


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
    if dst.suffix.lower() != ".bin":
        raise ValueError(f"a token shard is written to a .bin file ({dst}); name it {dst.stem}.bin")
    if src.resolve() == dst.resolve():
        raise ValueError(f"the text and its shard are one file ({src}); name another output")
    with writing_ids(tokenizer, dst, tokenizer_path) as writer:
        for ids in encoded_ranges(tokenizer, src, num_workers):
            writer.write(ids)
        if writer.count == 0:
            raise ValueError(f"the text has no tokens ({src}); encode a file that is not empty")
    assert writer.info is not None
    return writer.info


def _compare(path: Path, info: ShardInfo, *, verify: bool) -> None:
    status = path.stat()
    if status.st_size != info.count * DTYPES[info.dtype].itemsize:
        raise FileFormatError(
            f"the token shard is truncated or has a wrong sidecar ({path}: {status.st_size} bytes "
            f"for {info.count} {info.dtype} ids); copy it again, or encode its text again"
        )
    if (verify or status.st_mtime_ns != info.mtime_ns) and sha256_of(path) != info.sha256:
        raise FileFormatError(
            f"the token shard changed after it was written ({path}: its SHA-256 differs from the "
            "sidecar's); copy it again, or encode its text again"
        )


def _map_bare(path: Path, dtype: str | None, vocab_size: int | None) -> npt.NDArray[np.integer]:
    """Map the ids of a `.bin` without a sidecar; see `open_shard`."""
    check_downloaded(path)
    width = dtype or ("uint32" if (vocab_size or 0) > 1 << 16 else "uint16")
    size = path.stat().st_size
    if size % DTYPES[width].itemsize:
        what = "an even number of" if width == "uint16" else "four"
        each = "" if width == "uint16" else " each"
        raise FileFormatError(
            f"{width} ids take {what} bytes{each} ({path}: {size}); encode its text again, or give "
            "the ids' own type with --data.dtype"
        )
    tokens: npt.NDArray[np.integer] = np.memmap(path, DTYPES[width], mode="r")
    if dtype is None and width == "uint16" and _looks_like_uint32(tokens[: 1 << 16]):
        raise ValueError(
            f"every second id is 0 in a file without a sidecar ({path}, read as uint16): its ids "
            "are most likely uint32; give --data.dtype uint32, or uint16 if they really are uint16"
        )
    return tokens


def _looks_like_uint32(tokens: npt.NDArray[np.integer]) -> bool:
    """Check whether uint16 ids look like the halves of uint32 ids below 65,536."""
    low, high = tokens[::2], tokens[1::2]
    return len(high) >= 16 and len(low) == len(high) and not high.any() and bool(low.any())


def _map_npy(path: Path) -> npt.NDArray[np.integer]:
    try:
        # Unlike np.load, open_memmap opens only a .npy, so it cannot run a pickle.
        tokens: npt.NDArray[np.integer] = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        check_downloaded(path)
        raise FileFormatError(f"not a .npy of ids ({path}: {error}); save it again") from None
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise FileFormatError(
            f"ids are one row of integers ({path}: shape {tokens.shape}, {tokens.dtype}); "
            "save them as a 1-D integer array"
        )
    return tokens


def _largest(tokens: npt.NDArray[np.integer], path: Path) -> int:
    largest = 0
    for start in range(0, len(tokens), BLOCK):
        block = tokens[start : start + BLOCK]
        if block.min() < 0:
            raise FileFormatError(
                f"an id is negative ({path}: {block.min()}); encode its text again"
            )
        largest = max(largest, int(block.max()))
    return largest
