"""Named tensors in one file, in the safetensors layout (github.com/huggingface/safetensors).

    8 bytes  length N of the header, little-endian
    N bytes  JSON {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
    rest     the tensors' bytes, row-major and little-endian, offsets counted from here

A file cannot execute anything: it holds numbers and their names.
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


class Sink(Protocol):
    """What `write_tensors` writes to: a file, or something that hashes on the way."""

    def write(self, data: Any, /) -> object: ...


def write_tensors(
    sink: Sink, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` in the layout above; a dtype it does not know is a ValueError."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    # Widest elements first: then every tensor starts at a multiple of its element's size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise ValueError(f"no such dtype in a tensor file ({name}: {tensor.dtype}); cast it")
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


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU; FileFormatError for one that breaks the layout."""
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        header, start = _read_header(file, size, path)
        tensors = {}
        for name, entry in header.items():
            dtype, shape, (begin, end) = _checked(name, entry, size - start, path)
            raw = torch.empty(end - begin, dtype=torch.uint8)
            file.seek(start + begin)
            if raw.numel() and file.readinto(raw.numpy().data) != raw.numel():
                raise FileFormatError(f"the tensor file is cut short ({path}: {name}); restore it")
            tensors[name] = raw.view(dtype).reshape(shape)
    return tensors


def map_tensors(path: str | Path) -> dict[str, Tensor]:
    """The same without reading: pages come from the file when looked at, and changes stay in
    memory."""
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        header, start = _read_header(file, size, path)
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors = {}
    for name, entry in header.items():
        dtype, shape, (begin, end) = _checked(name, entry, size - start, path)
        if begin == end:
            tensors[name] = torch.empty(shape, dtype=dtype)
            continue
        count = (end - begin) // dtype.itemsize
        if (start + begin) % dtype.itemsize:  # written by others; torch wants aligned elements
            raw = bytearray(content[start + begin : start + end])
            tensors[name] = torch.frombuffer(raw, dtype=dtype).reshape(shape)
            continue
        flat = torch.frombuffer(content, dtype=dtype, count=count, offset=start + begin)
        tensors[name] = flat.reshape(shape)
    return tensors


def _read_header(file: BinaryIO, size: int, path: Path) -> tuple[dict[str, Any], int]:
    first = file.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else _HEADER_LIMIT
    if length > min(_HEADER_LIMIT, size - 8):
        raise FileFormatError(f"not a tensor file, or cut short ({path}); restore it from a copy")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise FileFormatError(f"the tensor file's header is not JSON ({path}); restore it")
    header.pop("__metadata__", None)
    return header, 8 + length


def _checked(
    name: str, entry: Any, available: int, path: Path
) -> tuple[torch.dtype, list[int], list[int]]:
    try:
        dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in [*shape, begin, end])
        fits = whole and end <= available and max(shape, default=0) < 1 << 48
        if fits and end - begin == math.prod(shape) * dtype.itemsize:
            return dtype, shape, [begin, end]
    except (KeyError, TypeError, ValueError):
        pass
    raise FileFormatError(
        f"a tensor's dtype, shape and place do not agree ({path}: {name}); restore the file"
    )
