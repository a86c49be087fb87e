from __future__ import annotations

import json
import struct

import pytest
import safetensors.torch
import torch

from scratchlm.errors import FileFormatError
from scratchlm.files.tensor_file import mmap_tensors, read_tensors, write_tensors


def example():
    torch.manual_seed(0)
    return {
        "matrix": torch.randn(3, 5),
        "transposed": torch.randn(4, 2).t(),
        "bf16": torch.randn(7).bfloat16(),
        "half": torch.randn(3, 1).half(),
        "ids": torch.arange(6).view(2, 3),
        "mask": torch.tensor([True, False, True]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "名": torch.tensor([1], dtype=torch.int32),
    }


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


def test_the_safetensors_library_reads_what_we_write(tmp_path):
    with (tmp_path / "x.safetensors").open("wb") as file:
        write_tensors(file, example())
    assert_same(example(), safetensors.torch.load_file(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("read", [read_tensors, mmap_tensors])
def test_we_read_what_the_safetensors_library_writes(tmp_path, read):
    contiguous = {name: tensor.contiguous() for name, tensor in example().items()}
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(contiguous, path, metadata={"format": "pt"})
    assert_same(contiguous, read(path))


@pytest.mark.parametrize("read", [read_tensors, mmap_tensors])
def test_no_tensor_at_all(tmp_path, read):
    with (tmp_path / "x").open("wb") as file:
        write_tensors(file, {})
    assert read(tmp_path / "x") == {}


@pytest.mark.parametrize("read", [read_tensors, mmap_tensors])
def test_elements_that_others_did_not_align(tmp_path, read):
    content = {
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
    }
    header = json.dumps(content).encode()
    data = bytes([1, 2, 3]) + struct.pack("<2f", 1.5, -2.5)
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + data)
    assert_same(safetensors.torch.load_file(tmp_path / "x"), read(tmp_path / "x"))


def test_mapped_tensors_change_in_memory_only(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        write_tensors(file, example())
    before = (tmp_path / "x").read_bytes()
    for tensor in mmap_tensors(tmp_path / "x").values():
        tensor.zero_()
    assert (tmp_path / "x").read_bytes() == before


def test_an_unknown_dtype_is_refused_by_name(tmp_path):
    with (
        (tmp_path / "x").open("wb") as file,
        pytest.raises(ValueError, match=r"phase: torch\.comp"),
    ):
        write_tensors(file, {"phase": torch.zeros(1, dtype=torch.complex64)})


def packed(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"w": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        packed({}, length=1 << 62),
        packed({}, length=1000),
        packed(b"not json"),
        packed(b"\xff\xfe"),
        packed([1, 2]),
        packed({"w": 3}, bytes(8)),
        packed(entry(dtype="F31"), bytes(8)),
        packed(entry(shape=(3,)), bytes(8)),
        packed(entry(shape=(-2,), offsets=(8, 0)), bytes(8)),
        packed(entry(shape=(2.0,)), bytes(8)),
        packed(entry(offsets=(0, 8)), bytes(7)),
        packed(entry(offsets=(-8, 0)), bytes(8)),
        packed(entry(shape=(1 << 40, 1 << 40)), bytes(8)),
        packed({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    ],
)
@pytest.mark.parametrize("read", [read_tensors, mmap_tensors])
def test_a_damaged_file_is_refused_by_name(tmp_path, content, read):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"bad\.safetensors"):
        read(path)
