"""Token files: the ids of a text in a memory-mapped file. A part of a corpus is called a shard.

    train.bin         little-endian uint16 (uint32 for a vocabulary above 65,536 ids), no header
    train.bin.json    the sidecar: dtype, count, the tokenizer's hash, size, time, SHA-256

A `.bin` without a sidecar has the requested dtype. Without a request, it has the dtype that its
vocabulary needs. A `.npy` of integers, and an HDF5 file (`.h5`, `.hdf5`) with a dataset `tokens`,
are also token files. See `hdf5`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from scratchlm.data.hdf5 import ENDINGS, open_hdf5, write_hdf5
from scratchlm.data.joined import TokenArray
from scratchlm.data.sources import is_shard
from scratchlm.errors import FileFormatError
from scratchlm.files.checksum import sha256_of
from scratchlm.files.file_kinds import check_downloaded
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.token_files import (
    DTYPES,
    ShardInfo,
    path_from,
    read_sidecar,
    writing_ids,
)

if TYPE_CHECKING:
    from scratchlm.tokenizer.bpe import BPETokenizer

BLOCK = 1 << 24  # ids to read at a time


@dataclasses.dataclass(frozen=True)
class TokenShard:
    """An open token file: `tokens` is a read-only memory map, (count,); `info` is its sidecar.

    Only chunked HDF5 has no memory map: `tokens` then reads slices from the file.
    """

    path: Path
    tokens: TokenArray
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
    path: StrPath,
    *,
    verify: bool = False,
    dtype: Literal["uint16", "uint32"] | None = None,
    vocab_size: int | None = None,
) -> TokenShard:
    """Map the ids of a `.bin`, `.npy` or HDF5 file.

    `open_shard` always compares the size with the sidecar. It compares the SHA-256 if `verify` is
    true, or if the file's time differs from the recorded time (a copy, a git checkout). It reads a
    `.bin` without a sidecar as `dtype`. If `dtype` is also None, it reads uint32 for a `vocab_size`
    above 65,536, and uint16 otherwise.

    Raise FileFormatError if the file is truncated or altered, or does not contain ids. Raise
    ValueError if the path cannot be a token file, if `verify` finds no sidecar, or if `dtype` is
    not the dtype of the ids. Also raise ValueError if a `.bin` without a sidecar most likely
    contains uint32 ids, but `open_shard` would read uint16.
    """
    path = Path(path)
    _check_path(path)
    tokens: TokenArray
    if path.suffix.lower() in ENDINGS:
        tokens, info = open_hdf5(path)
    else:
        info = read_sidecar(path)
    if verify and not info:
        raise ValueError(f"verification needs a sidecar ({path} has none); encode the text again")
    if path.suffix.lower() in ENDINGS:
        if info:
            _compare_hdf5(path, tokens, info, verify=verify)
    elif path.suffix.lower() == ".npy":
        tokens = _map_npy(path)
    elif info:
        _compare(path, info, verify=verify)
        tokens = np.memmap(path, DTYPES[info.dtype], mode="r")
    else:
        return TokenShard(path, _map_bare(path, dtype, vocab_size), None)
    if dtype not in (None, tokens.dtype.name):
        raise ValueError(
            f"data.dtype must be the type of the ids ({dtype}, but {path} has "
            f"{tokens.dtype.name} ids); remove data.dtype"
        )
    return TokenShard(path, tokens, info)


def read_info(path: Path) -> ShardInfo | None:
    """Return the description of a token file. Return None if it has none."""
    return open_hdf5(path)[1] if path.suffix.lower() in ENDINGS else read_sidecar(path)


def write_shard(
    tokenizer: BPETokenizer,
    src: StrPath,
    dst: StrPath,
    *,
    num_workers: int | None = None,
    tokenizer_path: StrPath | None = None,
) -> ShardInfo:
    """Encode the text file `src` into the token file `dst`: a `.bin` and its sidecar, or HDF5."""
    src, dst = Path(src), Path(dst)
    if dst.suffix.lower() not in (".bin", *ENDINGS):
        raise ValueError(
            f"the name of a new token file must end in .bin or .h5 ({dst}); use the name "
            f"{dst.stem}.bin"
        )
    if src.resolve() == dst.resolve():
        raise ValueError(
            f"the text and its token file must be different files ({src}); choose another output"
        )
    with _binary_for(dst) as binary:
        with writing_ids(tokenizer.parts, binary, tokenizer_path) as writer:
            for ids in tokenizer.encode_ranges(src, num_workers):
                writer.write(ids)
            if writer.count == 0:
                raise ValueError(f"the text must not be empty ({src}); choose another text")
        assert writer.info is not None
        if binary != dst:
            write_hdf5([binary], writer.info, dst)
        return writer.info


def join_shards(paths: Sequence[Path], dst: Path, tokenizer_path: StrPath) -> ShardInfo:
    """Join `.bin` files of one tokenizer, in their order, into one HDF5 file."""
    infos = [info for path in paths if (info := open_shard(path).info)]
    assert len(infos) == len(paths) > 0
    joined = dataclasses.replace(
        infos[0],
        count=sum(info.count for info in infos),
        text_bytes=sum(info.text_bytes for info in infos),
        max_id=max(info.max_id for info in infos),
        size=sum(info.size for info in infos),
        tokenizer=path_from(dst, tokenizer_path),
        sha256=sha256_of(*paths),
    )
    write_hdf5(paths, joined, dst)
    return joined


@contextlib.contextmanager
def _binary_for(path: Path) -> Iterator[Path]:
    """Yield the path of a `.bin`: `path` itself, or a temporary `.bin` beside an HDF5 file."""
    if path.suffix.lower() not in ENDINGS:
        yield path
        return
    binary = path.with_name(f".{path.name}.bin")  # a new run overwrites a killed run's file
    try:
        yield binary
    finally:
        binary.unlink(missing_ok=True)
        binary.with_name(f"{binary.name}.json").unlink(missing_ok=True)


def _check_path(path: Path) -> None:
    size = path.stat().st_size  # raises FileNotFoundError for a missing file
    if not path.is_file():
        raise ValueError(
            f"a token file must not be a folder ({path}); choose a .bin, .npy or .h5 file"
        )
    if not is_shard(path):
        raise ValueError(
            f"the name of a token file must end in .bin, .npy or .h5 ({path}); encode a text with "
            "scratchlm-tokenize"
        )
    if size == 0:
        raise FileFormatError(f"the token file is empty ({path}); encode its text again")


def _compare_hdf5(path: Path, tokens: TokenArray, info: ShardInfo, *, verify: bool) -> None:
    """Compare the ids with the dataset's attributes. HDF5 itself finds a truncated file."""
    if len(tokens) != info.count or tokens.dtype != DTYPES[info.dtype]:
        raise FileFormatError(
            f"the dataset differs from its attributes ({path}: {len(tokens)} {tokens.dtype} ids, "
            f"not {info.count} {info.dtype} ids); encode its text again"
        )
    if verify:
        digest = hashlib.sha256()
        for start in range(0, len(tokens), BLOCK):
            digest.update(tokens[start : start + BLOCK].tobytes())
        if digest.hexdigest() != info.sha256:
            raise _changed(path)


def _compare(path: Path, info: ShardInfo, *, verify: bool) -> None:
    status = path.stat()
    if status.st_size != info.count * DTYPES[info.dtype].itemsize:
        raise FileFormatError(
            f"the token file is truncated or has a wrong sidecar ({path}: {status.st_size} bytes "
            f"for {info.count} {info.dtype} ids); copy the file again from the source, or encode "
            "its text again"
        )
    if (verify or status.st_mtime_ns != info.mtime_ns) and sha256_of(path) != info.sha256:
        raise _changed(path)


def _changed(path: Path) -> FileFormatError:
    return FileFormatError(
        f"the token file changed after it was written ({path}: its SHA-256 differs from the "
        "sidecar's SHA-256); copy the file again from the source, or encode its text again"
    )


def _map_bare(path: Path, dtype: str | None, vocab_size: int | None) -> npt.NDArray[np.integer]:
    """Map the ids of a `.bin` without a sidecar; see `open_shard`."""
    check_downloaded(path)
    width = dtype or ("uint32" if (vocab_size or 0) > 1 << 16 else "uint16")
    size = path.stat().st_size
    if size % DTYPES[width].itemsize:
        raise FileFormatError(
            f"a file of {width} ids must have a multiple of {DTYPES[width].itemsize} bytes "
            f"({path}: {size}); encode its text again, or specify the type of the ids with "
            "--data.dtype"
        )
    tokens: npt.NDArray[np.integer] = np.memmap(path, DTYPES[width], mode="r")
    if dtype is None and width == "uint16" and _looks_like_uint32(tokens[: 1 << 16]):
        raise ValueError(
            f"every second id is 0 in a file without a sidecar ({path}, read as uint16), so the "
            "ids are most likely uint32; use --data.dtype uint32, or --data.dtype uint16 if the "
            "ids are uint16"
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
        raise FileFormatError(
            f"the file is not a .npy file of ids ({path}: {error}); save the ids to a new file"
        ) from None
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise FileFormatError(
            f"the ids must be a 1-D array of integers ({path}: shape {tokens.shape}, "
            f"{tokens.dtype}); save the ids in a 1-D array of integers"
        )
    return tokens


def _largest(tokens: TokenArray, path: Path) -> int:
    largest = 0
    for start in range(0, len(tokens), BLOCK):
        block = tokens[start : start + BLOCK]
        if block.min() < 0:
            raise FileFormatError(
                f"each id must be at least 0 ({path}: {block.min()}); encode the text again"
            )
        largest = max(largest, int(block.max()))
    return largest
