"""Token files: reading returns what was written, and refuses altered files."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scratchlm.data.shards import open_shard, write_shard
from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.bpe import BPETokenizer


def byte_tokenizer(size: int = 256) -> BPETokenizer:
    """Ids are bytes; `size` past 65,536 makes them four bytes wide."""
    return BPETokenizer({size - 256 + byte: bytes([byte]) for byte in range(256)}, [])


TEXT = b"the quick brown fox jumps over the lazy dog"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT)
    return path


@pytest.fixture
def shard(text: Path, tmp_path: Path) -> Path:
    write_shard(byte_tokenizer(), text, tmp_path / "train.bin")
    return tmp_path / "train.bin"


def flip_a_bit(path: Path) -> None:
    """Change a byte as a bad disk does: the file's size and time stay the same."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("size", "dtype"), [(256, "uint16"), (65_536, "uint16"), (65_537, "uint32")]
)
def test_round_trip(text: Path, tmp_path: Path, size: int, dtype: str) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "train.bin"
    info = write_shard(byte_tokenizer(size), text, path, tokenizer_path=tmp_path / "tokenizer.json")
    opened = open_shard(path, verify=True)
    assert bytes((opened.tokens - (size - 256)).astype(np.uint8)) == TEXT
    assert isinstance(opened.tokens, np.memmap)
    assert opened.tokens.dtype == dtype
    assert not opened.tokens.flags.writeable
    assert opened.info == info
    assert (info.dtype, info.count, info.text_bytes) == (dtype, len(TEXT), len(TEXT))
    assert (info.vocab_size, info.max_id) == (size, size - 256 + ord("z"))
    assert opened.max_id == info.max_id
    assert (info.tokenizer_hash, info.tokenizer) == (byte_tokenizer(size).hash, "../tokenizer.json")
    assert sorted(p.name for p in path.parent.iterdir()) == ["train.bin", "train.bin.json"]


def test_bytes_are_little_endian(text: Path, tmp_path: Path) -> None:
    write_shard(byte_tokenizer(65_537), text, tmp_path / "train.bin")
    first = ord("t") + 65_537 - 256
    assert (tmp_path / "train.bin").read_bytes()[:4] == first.to_bytes(4, "little")


@pytest.mark.parametrize("cut", [1, 2, 10])
def test_truncated(shard: Path, cut: int) -> None:
    status = shard.stat()
    shard.write_bytes(shard.read_bytes()[:-cut])
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(FileFormatError, match=r"truncated .* bytes for 43 uint16 ids\); copy"):
        open_shard(shard)


def test_a_flipped_bit_is_found_when_the_time_differs_or_on_request(shard: Path) -> None:
    flip_a_bit(shard)
    open_shard(shard)  # an equal time is trusted: hashing gigabytes at each start is not free
    with pytest.raises(FileFormatError, match=r"SHA-256 differs .*\); copy the file again"):
        open_shard(shard, verify=True)
    os.utime(shard, ns=(1, 1))
    with pytest.raises(FileFormatError, match=r"SHA-256 differs .*\); copy the file again"):
        open_shard(shard)


def test_a_copy_with_another_time_opens(shard: Path) -> None:
    os.utime(shard, ns=(1, 1))
    assert open_shard(shard).info is not None


def test_without_a_sidecar_it_is_uint16_and_the_largest_id_is_found(tmp_path: Path) -> None:
    path = tmp_path / "plain.bin"
    np.array([5, 65_535, 7], "<u2").tofile(path)
    opened = open_shard(path)
    assert opened.info is None
    assert opened.tokens.tolist() == [5, 65_535, 7]
    assert opened.max_id == 65_535
    path.write_bytes(b"odd")
    with pytest.raises(FileFormatError, match=r"a multiple of 2 bytes \(.*: 3\); encode"):
        open_shard(path)
    with pytest.raises(ValueError, match=r"verification needs a sidecar .*; encode"):
        open_shard(path, verify=True)


def test_a_bare_files_width_is_asked_for_or_follows_from_the_vocabulary(tmp_path: Path) -> None:
    path, ids = tmp_path / "plain.bin", np.arange(1, 101)
    ids.astype("<u4").tofile(path)
    assert open_shard(path, dtype="uint32").tokens.tolist() == ids.tolist()
    assert open_shard(path, vocab_size=65_537).tokens.tolist() == ids.tolist()
    with pytest.raises(ValueError, match=r"every second id is 0 .*plain\.bin.*dtype uint32"):
        open_shard(path, vocab_size=65_536)
    assert open_shard(path, dtype="uint16").tokens[:4].tolist() == [1, 0, 2, 0]
    for right in (ids, ids * 0, ids % 3):  # none of these is taken for uint32
        right.astype("<u2").tofile(path)
        assert open_shard(path).tokens.tolist() == right.tolist()
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(
        FileFormatError, match=r"a multiple of 4 bytes \(.*: 198\); .*--data\.dtype"
    ):
        open_shard(path, dtype="uint32")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 4\n")
    with pytest.raises(FileFormatError, match=r"a Git LFS pointer.*plain\.bin.*git lfs pull"):
        open_shard(path)
    path.rename(tmp_path / "plain.npy")
    with pytest.raises(FileFormatError, match=r"a Git LFS pointer.*plain\.npy"):
        open_shard(tmp_path / "plain.npy")


def test_a_width_that_the_file_contradicts(shard: Path, tmp_path: Path) -> None:
    assert len(open_shard(shard, dtype="uint16").tokens) == len(TEXT)
    with pytest.raises(ValueError, match=r"type of the ids \(uint32, .* uint16 ids\); remove"):
        open_shard(shard, dtype="uint32")
    np.save(tmp_path / "ids.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"type of the ids .* int64 ids\); remove data\.dtype"):
        open_shard(tmp_path / "ids.npy", dtype="uint32")


@pytest.mark.parametrize("size", [257, 65_537])
def test_encode_file_writes_a_sidecar(tmp_path: Path, text: Path, size: int) -> None:
    tokenizer = byte_tokenizer(size)
    assert tokenizer.encode_file(text, tmp_path / "a.bin") == len(TEXT)
    info = write_shard(tokenizer, text, tmp_path / "b.bin")
    opened = open_shard(tmp_path / "a.bin", verify=True)
    assert opened.tokens.tolist() == tokenizer.encode(TEXT.decode())
    assert replace(info, mtime_ns=0) == replace(opened.info, mtime_ns=0)


def test_the_largest_id_is_found_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scratchlm.data.shards.BLOCK", 4)
    for place in (0, 3, 4, 9):
        ids = np.zeros(10, "<u2")
        ids[place] = 77
        ids.tofile(tmp_path / "plain.bin")
        assert open_shard(tmp_path / "plain.bin").max_id == 77


@pytest.mark.parametrize("dtype", ["<u2", "<u4", ">u2", "<i8", "uint8"])
def test_npy_reads_alike(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "ids.npy", np.array([3, 200, 1], dtype))
    opened = open_shard(tmp_path / "ids.npy")
    assert opened.tokens.tolist() == [3, 200, 1]
    assert isinstance(opened.tokens, np.memmap)
    assert (opened.max_id, opened.info) == (200, None)


def test_npy_that_is_not_ids_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ids.npy"
    for array in (np.ones(4), np.ones((2, 2), np.uint16), np.array([True])):
        np.save(path, array)
        with pytest.raises(FileFormatError, match=r"a 1-D array of integers \(.*\); save the ids"):
            open_shard(path)
    np.save(path, np.array([1, -1]))
    with pytest.raises(FileFormatError, match=r"each id must be at least 0 \(.*: -1\); encode"):
        _ = open_shard(path).max_id
    np.save(path, np.arange(1000))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileFormatError, match=r"not a \.npy file of ids"):
        open_shard(path)
    path.write_bytes(b"no array")
    with pytest.raises(FileFormatError, match=r"not a \.npy file of ids"):
        open_shard(path)


def test_npy_never_runs_a_pickle(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (ran,))

    path = tmp_path / "ids.npy"
    np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(FileFormatError, match=r"not a \.npy file of ids"):
        open_shard(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(FileFormatError, match=r"not a \.npy file of ids"):
        open_shard(path)
    assert not ran.exists()


def test_paths_that_are_no_shards(tmp_path: Path, text: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_shard(tmp_path / "missing.bin")
    with pytest.raises(ValueError, match=r"a token file must not be a folder \(.*\); choose"):
        open_shard(tmp_path)
    with pytest.raises(
        ValueError, match=r"must end in \.bin, \.npy or \.h5 \(.*text\.txt\); encode"
    ):
        open_shard(text)
    for name in ("empty.bin", "empty.npy"):
        (tmp_path / name).touch()
        with pytest.raises(FileFormatError, match=r"the token file is empty \(.*\); encode"):
            open_shard(tmp_path / name)


@pytest.mark.parametrize(
    "change",
    [
        "not json",
        pytest.param("[" * 100_000, id="nested too deeply"),
        '{"count": 1, "count": 2}',
        "[]",
        "null",
        "{}",
        {"dtype": "float32"},
        {"count": "43"},
        {"count": True},
        {"sha256": None},
        {"tokenizer": 3},
        {"more": 1},
    ],
)
def test_malformed_sidecar(shard: Path, change: str | dict[str, object]) -> None:
    sidecar = shard.with_name("train.bin.json")
    if isinstance(change, dict):
        change = json.dumps(json.loads(sidecar.read_text()) | change)
    sidecar.write_text(change)
    with pytest.raises(
        FileFormatError, match=r"does not describe a token file .*train\.bin\.json.*; encode"
    ) as e:
        open_shard(shard)
    assert "\n" not in str(e.value)


class Killed(BaseException):
    pass


def test_killed_while_encoding_leaves_the_old_shard_whole(
    shard: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: BPETokenizer, text: str, **options: object) -> None:
        raise Killed

    monkeypatch.setattr(BPETokenizer, "encode_array", killed)
    with pytest.raises(Killed):
        write_shard(byte_tokenizer(), text, shard)
    assert bytes(open_shard(shard, verify=True).tokens.astype(np.uint8)) == TEXT
    assert sorted(p.name for p in shard.parent.iterdir()) == [
        "text.txt",
        "train.bin",
        "train.bin.json",
    ]


@pytest.mark.parametrize("new", [b"other words of another length", bytes(reversed(TEXT))])
def test_killed_between_sidecar_and_ids_never_leaves_a_sidecar_that_lies(
    shard: Path, text: Path, monkeypatch: pytest.MonkeyPatch, new: bytes
) -> None:
    os.utime(shard, ns=(1, 1))  # the old ids are from another time
    text.write_bytes(new)
    rename = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target) == shard:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(Killed):
        write_shard(byte_tokenizer(), text, shard)
    with pytest.raises(FileFormatError, match=r"encode its text again"):
        open_shard(shard)
    monkeypatch.undo()
    write_shard(byte_tokenizer(), text, shard)
    assert bytes(open_shard(shard, verify=True).tokens.astype(np.uint8)) == new


def test_write_shard_refuses_before_it_encodes(text: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"must end in \.bin or \.h5 \(.*\); use the name train\.bin"
    ):
        write_shard(byte_tokenizer(), text, tmp_path / "train.npy")
    with pytest.raises(FileNotFoundError):
        write_shard(byte_tokenizer(), tmp_path / "missing.txt", tmp_path / "train.bin")
    text_named_bin = text.rename(tmp_path / "text.bin")
    with pytest.raises(ValueError, match=r"its token file must be different files \(.*\); choose"):
        write_shard(byte_tokenizer(), text_named_bin, text_named_bin)
    assert text_named_bin.read_bytes() == TEXT


def test_text_without_tokens_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"the text must not be empty \(.*\); choose"):
        write_shard(byte_tokenizer(), tmp_path / "empty.txt", tmp_path / "train.bin")
    assert [p.name for p in tmp_path.iterdir()] == ["empty.txt"]


def test_special_tokens_stand_for_no_text(tmp_path: Path) -> None:
    tokenizer = BPETokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["<|end|>"])
    (tmp_path / "a.txt").write_text("ab<|end|>é<|end|>")
    info = write_shard(tokenizer, tmp_path / "a.txt", tmp_path / "a.bin")
    assert (info.count, info.text_bytes) == (6, 4)
