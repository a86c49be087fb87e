"""HDF5 token files: h5py is the oracle. Ours are mapped into memory; others are read in chunks."""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers import forked, tiny
from helpers.pairs import same
from scratchlm.cli.tokenize import main as tokenize
from scratchlm.data.batches import TrainBatches, get_batch
from scratchlm.data.shards import open_shard, read_info, write_shard
from scratchlm.errors import FileFormatError

UPSTREAM = np.random.default_rng(0).integers(0, 300, 5000).astype("i4")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    tiny.tokenizer(tmp_path).save(tmp_path / "t.json")
    write_shard(tiny.tokenizer(tmp_path), tiny.corpus(tmp_path), tmp_path / "a.h5",
                tokenizer_path=tmp_path / "t.json")  # fmt: skip
    return tmp_path / "a.h5"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A file as FareedKhan-dev/train-llm-from-scratch writes it: int32, grown piece by piece."""
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("tokens", (0,), maxshape=(None,), dtype="i")
        for start in range(0, len(UPSTREAM), 700):
            piece = UPSTREAM[start : start + 700]
            dataset.resize((len(dataset) + len(piece),))
            dataset[-len(piece) :] = piece
    return path


def test_the_ids_and_the_description_are_those_of_a_bin(ours: Path, tmp_path: Path) -> None:
    info = write_shard(tiny.tokenizer(tmp_path), tmp_path / "corpus.txt", tmp_path / "a.bin",
                       tokenizer_path=tmp_path / "t.json")  # fmt: skip
    binary, opened = open_shard(tmp_path / "a.bin"), open_shard(ours, verify=True)
    assert isinstance(opened.tokens, np.memmap)
    assert np.array_equal(opened.tokens, binary.tokens)
    assert opened.tokens.dtype == binary.tokens.dtype
    assert opened.sha256 == binary.sha256
    found = vars(opened.info) | {"mtime_ns": info.mtime_ns}
    assert found == vars(info) | {"tokenizer": "t.json"}
    with h5py.File(ours) as file:
        assert np.array_equal(file["tokens"][:], binary.tokens)
        assert file["tokens"].chunks is None
        assert file["tokens"].attrs["tokenizer_hash"].decode() == info.tokenizer_hash
        assert file["tokens"].attrs["count"] == info.count
    again = tmp_path / "again.h5"
    write_shard(tiny.tokenizer(tmp_path), tmp_path / "corpus.txt", again,
                tokenizer_path=tmp_path / "t.json")  # fmt: skip
    assert again.read_bytes() == ours.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_the_command_writes_it(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.tokenizer(tmp_path).save("t.json")
    tiny.corpus(tmp_path)
    words = ["--tokenizer_path", "t.json", "--encode", "corpus.txt", "--output"]
    assert tokenize([*words, "out.h5"]) == 0
    assert "out.h5" in capsys.readouterr().out
    assert tokenize([*words, "out.bin"]) == 0
    assert np.array_equal(open_shard("out.h5").tokens, open_shard("out.bin").tokens)
    Path("a.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    assert tokenize([*words[:3], "a.jsonl", "--output", "out.h5"]) == 2
    assert "must be a folder" in capsys.readouterr().err


def test_chunks_are_read_like_an_array(theirs: Path) -> None:
    opened = open_shard(theirs)
    assert (opened.max_id, opened.info, len(opened.tokens)) == (UPSTREAM.max(), None, 5000)
    assert opened.tokens[690:1410].tolist() == UPSTREAM[690:1410].tolist()
    chunked, array = (TrainBatches(tokens, 8, 16, seed=1) for tokens in (opened.tokens, UPSTREAM))
    for step in range(100):
        assert same(chunked.batch(step), array.batch(step))
    assert get_batch(opened.tokens, 2, 8, "cpu")[0].shape == (2, 8)


def test_upstreams_windows_are_windows_of_ours(theirs: Path) -> None:
    """Their iterator reads T + 1 ids at each multiple of T, so ours with offset 0 contains it."""
    length, tokens = 16, open_shard(theirs).tokens
    with h5py.File(theirs) as file:
        expected = [file["tokens"][i : i + length + 1].tolist()
                    for i in range(0, len(UPSTREAM) - length, length)]  # fmt: skip
    for start, window in zip(range(0, 5000, length), expected, strict=False):
        assert tokens[start : start + length + 1].tolist() == window


def descriptor(path: Path) -> int:
    """Return the number of the file's only descriptor in this process."""
    [found] = [link for link in Path("/proc/self/fd").iterdir()
               if link.is_symlink() and os.path.realpath(link) == str(path)]  # fmt: skip
    return int(found.name)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs the descriptors of Linux")
def test_a_process_opens_the_file_for_itself(theirs: Path, tmp_path: Path) -> None:
    """A fork shares the position of each inherited descriptor. Its own descriptor begins at 0."""
    tokens = open_shard(theirs).tokens
    assert tokens[:3].tolist() == UPSTREAM[:3].tolist()  # the parent has a descriptor now
    os.lseek(descriptor(theirs), 7, os.SEEK_SET)

    def read(start: int) -> int:
        for i in range(start, 4900, 7):
            assert np.array_equal(tokens[i : i + 9], UPSTREAM[i : i + 9])
        return os.lseek(descriptor(theirs), 0, os.SEEK_CUR)

    processes = [forked.start(read, i, file=tmp_path / f"{i}.pickle") for i in range(3)]
    assert read(0) == 7
    for i, process in enumerate(processes):
        forked.wait(process)
        assert pickle.loads((tmp_path / f"{i}.pickle").read_bytes()) == ("ok", 0)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<u4", "<i8", "u1"])
def test_contiguous_integers_of_any_width(tmp_path: Path, dtype: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file["tokens"] = np.array([3, 200, 1], dtype)
    opened = open_shard(tmp_path / "a.h5")
    assert isinstance(opened.tokens, np.memmap)
    assert opened.tokens.tolist() == [3, 200, 1]
    assert read_info(tmp_path / "a.h5") is None


def test_files_without_ids_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"

    def refused(told: str, **content: object) -> None:
        with h5py.File(path, "w") as file:
            for name, value in content.items():
                file[name] = value
        with pytest.raises(FileFormatError, match=told):
            open_shard(path)

    refused("must have a dataset 'tokens' .* has nothing")
    refused("must have a dataset 'tokens' .* has ids, more", ids=[1], more=[2])
    refused("a 1-D array of integers .*float", tokens=np.ones(3))
    refused(r"a 1-D array of integers .*\(2, 2\)", tokens=np.ones((2, 2), int))
    refused(r"a 1-D array of integers .*\(\)", tokens=3)
    refused("is empty", tokens=np.zeros(0, "u2"))
    with h5py.File(path, "w") as file:
        file.create_group("tokens")
    with pytest.raises(FileFormatError, match="must have a dataset"):
        open_shard(path)
    with h5py.File(path, "w") as file:
        file["tokens"] = np.array([1, -1])
    with pytest.raises(FileFormatError, match="each id must be at least 0"):
        _ = open_shard(path).max_id
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(FileFormatError, match="an HTML page"):
        open_shard(path)
    path.write_bytes(b"no HDF5 at all")
    with pytest.raises(FileFormatError, match="not an HDF5 file of ids"):
        open_shard(path)


def test_damage_is_found(ours: Path, tmp_path: Path) -> None:
    """--verify finds each changed byte that matters. A cut file never opens."""
    assert ours.read_bytes()[8] == 3  # from this version on, HDF5 has checksums
    content, expected = ours.read_bytes(), open_shard(ours).tokens.tolist()
    path = tmp_path / "damaged.h5"
    for size in (1, 100, 1000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(FileFormatError):
            open_shard(path)
    found = 0
    for place in range(0, len(content), 61):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert open_shard(path, verify=True).tokens.tolist() == expected
        except ValueError:
            found += 1
    assert found > len(expected) * 2 / 61  # at least each change of an id


def test_an_attribute_that_lies_is_refused(ours: Path) -> None:
    with h5py.File(ours, "r+") as file:
        file["tokens"].attrs["count"] = 3
    with pytest.raises(FileFormatError, match="differs from its attributes"):
        open_shard(ours)
    with h5py.File(ours, "r+") as file:
        file["tokens"].attrs["count"] = "many"
    with pytest.raises(FileFormatError, match=r"does not describe a token file .*count"):
        open_shard(ours)


def test_a_full_disk_leaves_the_old_file(ours: Path, tmp_path: Path) -> None:
    old = ours.read_bytes()

    def body(limit: int) -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(OSError, match=r"large|write|space"):
            write_shard(tiny.tokenizer(tmp_path), tmp_path / "corpus.txt", ours, num_workers=1)
        return "refused"

    for limit in (1 << 10, 1 << 13, len(old) - 1):
        process = forked.start(body, limit, file=None)
        assert forked.wait(process) == 0
        assert ours.read_bytes() == old
        assert [path.name for path in tmp_path.glob(".*h5*")] == []


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_the_file_is_whole_or_missing(tmp_path: Path, kills: int) -> None:
    tokenizer, corpus = tiny.tokenizer(tmp_path), tiny.corpus(tmp_path, 40_000)
    write_shard(tokenizer, corpus, tmp_path / "whole.h5", num_workers=1)
    whole, killed, path = (tmp_path / "whole.h5").read_bytes(), 0, tmp_path / "a.h5"
    began = time.monotonic()
    write_shard(tokenizer, corpus, tmp_path / "b.h5", num_workers=1)
    seconds, rng = time.monotonic() - began, random.Random(0)
    while killed < kills:
        process = forked.start(partial(write_shard, tokenizer, corpus, path, num_workers=1))
        killed += forked.kill_after(process, rng.uniform(0, seconds))
        assert not path.exists() or path.read_bytes() == whole
    write_shard(tokenizer, corpus, path, num_workers=1)
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_the_description_is_in_the_file_alone(ours: Path, tmp_path: Path) -> None:
    assert not (tmp_path / "a.h5.json").exists()
    with h5py.File(ours) as file:
        names = set(file["tokens"].attrs)
    sidecar = {"dtype", "count", "text_bytes", "vocab_size", "max_id", "tokenizer_hash",
               "tokenizer", "sha256", "size"}  # fmt: skip
    assert names == sidecar
    json.dumps({key: getattr(open_shard(ours).info, key) for key in sidecar})
