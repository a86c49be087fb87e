"""Named tensors in one file, in the safetensors layout (github.com/huggingface/safetensors).

    8 bytes  length N of the header, little-endian
    N bytes  JSON {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
    rest     the tensors' bytes, row-major and little-endian; offsets count from here

A file cannot execute anything, because it contains only numbers and names. The tensors fill the
rest without gaps or overlaps, so a reader never uses more memory than the file's size.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from scratchlm.errors import FileFormatError
from scratchlm.files.file_kinds import check_downloaded
from scratchlm.files.paths import StrPath
from scratchlm.files.strict_json import parse_json

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_HEADER_LIMIT = 100_000_000  # bytes, as in the reference implementation
_DIMENSIONS = 64  # at most; the product of a million axes would take hours

Place = tuple[torch.dtype, list[int], int, int]  # dtype, shape, begin and end in the file


class Sink(Protocol):
    """The target of `write_tensors`: a file, or an object that also hashes the bytes."""

    def write(self, data: Any, /) -> object: ...


def write_tensors(
    sink: Sink, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` in the layout above. Raise ValueError for a dtype that the layout lacks."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    # The widest elements come first, so every tensor starts at a multiple of its element's size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise ValueError(
                f"a tensor file cannot store this dtype ({name}: {tensor.dtype}); cast the tensor"
            )
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    sink.write(struct.pack("<Q", len(text)))
    sink.write(text)
    for name in order:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        sink.write(flat.view(torch.uint8).numpy().data)


def read_tensors(path: StrPath) -> dict[str, Tensor]:
    """Read the tensors of a file to the CPU. Raise FileFormatError if the layout is wrong."""
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        tensors = {}
        for name, (dtype, shape, begin, end) in _places(file, size, path).items():
            raw = torch.empty(end - begin, dtype=torch.uint8)
            file.seek(begin)
            if raw.numel() and file.readinto(raw.numpy().data) != raw.numel():
                raise FileFormatError(
                    f"the tensor file is truncated ({path}: {name}); restore the file"
                )
            tensors[name] = raw.view(dtype).reshape(shape)
    return tensors


def mmap_tensors(path: StrPath) -> dict[str, Tensor]:
    """Map the tensors of a file into memory. The system loads a page at its first use. Changes stay
    in memory and never reach the file."""
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        places = _places(file, size, path)
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors = {}
    for name, (dtype, shape, begin, end) in places.items():
        if begin == end:
            tensors[name] = torch.empty(shape, dtype=dtype)
            continue
        count = (end - begin) // dtype.itemsize
        if begin % dtype.itemsize:  # another program wrote the file; torch needs aligned elements
            raw = bytearray(content[begin:end])
            tensors[name] = torch.frombuffer(raw, dtype=dtype).reshape(shape)
            continue
        flat = torch.frombuffer(content, dtype=dtype, count=count, offset=begin)
        tensors[name] = flat.reshape(shape)
    return tensors


def _places(file: BinaryIO, size: int, path: Path) -> dict[str, Place]:
    """Check the whole header, and return each tensor's dtype, shape and place."""
    first = file.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else _HEADER_LIMIT
    if length > min(_HEADER_LIMIT, size - 8):
        check_downloaded(path)
        raise FileFormatError(
            f"the file is not a tensor file, or is truncated ({path}); restore the file from a copy"
        )
    try:
        header = parse_json(file.read(length))
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise FileFormatError(f"the tensor file's header is not JSON ({path}); restore the file")
    header.pop("__metadata__", None)
    start = 8 + length
    places = {name: _checked(name, entry, start, size, path) for name, entry in header.items()}
    filled = start
    for name, (_, _, begin, end) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin != filled:
            raise FileFormatError(
                f"tensors must not overlap or leave a gap ({path}: {name}); restore the file"
            )
        filled = end
    if filled != size:
        raise FileFormatError(
            f"the tensors must end at the end of the file ({path}: {filled} of {size} bytes); "
            "restore the file"
        )
    return places


def _checked(name: str, entry: Any, start: int, size: int, path: Path) -> Place:
    try:
        dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in [*shape, begin, end])
        # An axis of 0 makes the product 0, but torch multiplies the other axes for its strides.
        fits = whole and type(shape) is list and len(shape) <= _DIMENSIONS
        fits = fits and math.prod(max(number, 1) for number in shape) < 1 << 60
        fits = fits and start + end <= size
        if fits and end - begin == math.prod(shape) * dtype.itemsize:
            return dtype, shape, start + begin, start + end
    except (KeyError, TypeError, ValueError):
        pass
    raise FileFormatError(
        f"a tensor's dtype, shape and offsets must fit the file ({path}: {name}); restore the file"
    )
