"""Checkpoints from an attacker: reading them runs no code, touches no other folder, does not wait,
and does not use much memory."""

from __future__ import annotations

import builtins
import copy
import functools
import io
import json
import os
import pickle
import posix
import shutil
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from torch import nn

from helpers import tiny
from helpers.bounds import Hang, bounded, touching_at_most
from helpers.mutations import Mutation, sealed
from helpers.refusals import check_refusal
from scratchlm import AdamW, load_checkpoint, load_model, save_checkpoint
from scratchlm.checkpoint.models import load_with_tokenizer
from scratchlm.checkpoint.pointers import find_checkpoint
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.cli.generate import main as generate
from scratchlm.cli.train import main as train
from scratchlm.errors import FileFormatError
from scratchlm.files.tensor_file import mmap_tensors, read_tensors


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint `step-1`, and the same as `model.pt`."""
    folder = tmp_path_factory.mktemp("template")
    model, text = tiny.model(), tiny.tokenizer(folder).to_json()
    for name in ("step-1", "model.pt"):
        save_checkpoint(folder / name, model, None, 1, tokenizer=text)
    return folder


@pytest.fixture
def folder(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory with both checkpoints. Code that a hostile file runs would create
    `executed` in it."""
    shutil.copytree(template / "step-1", tmp_path / "step-1")
    shutil.copy(template / "model.pt", tmp_path)
    monkeypatch.chdir(tmp_path)
    with bounded(20, address_space=3 << 30):
        yield tmp_path
    assert not (tmp_path / "executed").exists()
    assert "SCRATCHLM_EXECUTED" not in os.environ


# --- .pt ------------------------------------------------------------------------------------------


class Runs:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class Marked(torch.Tensor):
    """A subclass that makes its loader run code."""

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def payload(**more: Any) -> dict[str, Any]:
    return {"model": {"w": torch.ones(2)}, "step": 1, **more}


ENVIRONMENT = "__import__('os').environ.__setitem__('SCRATCHLM_EXECUTED', '1')"
PICKLES = {
    "os.system": payload(x=Runs(os.system, "mkdir executed")),
    "posix.system": payload(x=Runs(posix.system, "mkdir executed")),
    "builtins.eval": payload(x=Runs(builtins.eval, ENVIRONMENT)),
    "builtins.exec": payload(x=Runs(builtins.exec, ENVIRONMENT)),
    "a getattr": payload(x=Runs(getattr, "x", "upper")),
    "an import": payload(x=Runs(__import__, "antigravity")),
    "deep in the optimizer": payload(optimizer={"state": {0: [(1, Runs(os.mkdir, "executed"))]}}),
    "as the weights": {"model": Runs(os.mkdir, "executed"), "step": 1},
    "as a key": payload(x={Runs(os.mkdir, "executed"): 1}),
    "in a tensor's subclass": payload(x=torch.ones(2).as_subclass(Marked)),
    "an array of objects": payload(x=np.array([Runs(os.mkdir, "executed")], dtype=object)),
    "a whole module": {"model": nn.Linear(2, 2), "step": 1},
    "another load": payload(x=Runs(torch.load, "model.pt")),
    "a partial": payload(x=Runs(functools.partial, os.mkdir, "executed")),
    "a set of sets": payload(x={frozenset({1})}),
    "a sparse tensor": payload(x=torch.eye(3).to_sparse()),
    "weights that are sparse": {"model": {"w": torch.eye(3).to_sparse()}, "step": 1},
    "weights without memory": {"model": {"w": torch.ones(2, device="meta")}, "step": 1},
    "weights that are text": {"model": {"w": "weights"}, "step": 1},
    "bytes": payload(x=bytearray(3)),
    "a terabyte of zeros": payload(x=Runs(bytearray, 1 << 40)),
    "a negative step": {"model": {}, "step": -1},
    "a step that is true": {"model": {}, "step": True},
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_of_more_than_plain_values(folder: Path, name: str) -> None:
    torch.save(PICKLES[name], folder / "bad.pt")
    with pytest.raises(FileFormatError, match=r"bad\.pt"):
        read_checkpoint(folder / "bad.pt")
    with (
        pytest.raises(FileFormatError, match=r"not a checkpoint|only tensors"),
        (folder / "bad.pt").open("rb") as file,
    ):
        read_checkpoint(file)


def doubled(times: int) -> list[Any]:
    """Return 2 ** `times` values that a pickle stores in only `times` lists."""
    value: list[Any] = []
    for _ in range(times):
        value = [value, value]
    return value


def in_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def nested(depth: int) -> bytes:
    """A pickle of lists in lists, deeper than pickle itself would write."""
    lists = b"]" * depth + b"a" * (depth - 1)
    model, step, x = (b"X" + struct.pack("<I", len(key)) + key for key in (b"model", b"step", b"x"))
    return b"\x80\x02}(" + model + b"}" + step + b"K\x01" + x + lists + b"u."


@pytest.mark.parametrize("value", [doubled(100), in_itself(), [[0] * 3000] * 3000])
def test_a_pickle_that_is_larger_than_it_looks(folder: Path, value: Any) -> None:
    torch.save(payload(x=value), folder / "bad.pt")
    with (
        touching_at_most(100 << 20),
        pytest.raises(FileFormatError, match=r"repeats its values too often .*bad\.pt"),
    ):
        read_checkpoint(folder / "bad.pt")


def repacked(path: Path, compression: int = zipfile.ZIP_STORED, **changed: bytes) -> None:
    """Write the same archive with other entries. Each entry has the right checksum."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, changed.get(Path(name).stem, content))


def test_a_pickle_nested_without_end(folder: Path) -> None:
    repacked(folder / "model.pt", data=nested(100))
    assert read_checkpoint(folder / "model.pt")["x"], "the pickle is one that loads"
    repacked(folder / "model.pt", data=nested(100_000))
    with pytest.raises(FileFormatError, match=r"model\.pt: it is nested too deeply"):
        read_checkpoint(folder / "model.pt")


def test_a_weight_with_another_bit(folder: Path) -> None:
    """torch.load accepts the file, although the checksum of the archive is wrong."""
    path = folder / "model.pt"
    with zipfile.ZipFile(path) as archive:
        weight = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(path.read_bytes())
    data[weight.header_offset + weight.file_size // 2] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)
    with pytest.raises(
        FileFormatError, match=r"model\.pt: .*/data/\d+ does not match its checksum"
    ):
        read_checkpoint(path)


def test_an_archive_that_inflates(folder: Path) -> None:
    repacked(folder / "model.pt", zipfile.ZIP_DEFLATED, data=bytes(100 << 20))
    assert (folder / "model.pt").stat().st_size < 1 << 20
    with (
        touching_at_most(30 << 20),
        pytest.raises(FileFormatError, match=r"model\.pt: it is compressed"),
    ):
        read_checkpoint(folder / "model.pt")


def test_entries_that_overlap(folder: Path) -> None:
    """Write many names for the same bytes: the tensors have more bytes than the file."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("model/data.pkl", bytes(1 << 20))
        entry = archive.infolist()[0]
        for i in range(1000):
            twin = copy.copy(entry)
            twin.filename = twin.orig_filename = f"model/data/{i}"
            archive.filelist.append(twin)
        archive._didModify = True
    (folder / "bad.pt").write_bytes(whole.getvalue())
    with pytest.raises(FileFormatError, match=r"bad\.pt: its entries claim more bytes"):
        read_checkpoint(folder / "bad.pt")


def legacy_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Runs(os.mkdir, "executed"))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(pickle.dumps(Runs(os.mkdir, "executed"))),
        lambda path: torch.save(payload(), path, _use_new_zipfile_serialization=False),
        lambda path: torch.save(
            payload(x=Runs(os.mkdir, "executed")), path, _use_new_zipfile_serialization=False
        ),
        legacy_tar,
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
        lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)),
        lambda path: path.write_bytes(b""),
        lambda path: (path.touch(), os.truncate(path, 1 << 36)),  # 64 GiB of nothing
    ],
    ids=["pickle", "legacy", "legacy call", "tar", "zip's head", "zip's end", "empty", "sparse"],
)
def test_what_is_no_archive_of_torch(folder: Path, write: Callable[[Path], object]) -> None:
    write(folder / "bad.pt")
    with touching_at_most(100 << 20), pytest.raises(FileFormatError, match=r"bad\.pt"):
        read_checkpoint(folder / "bad.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive(folder: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), folder / "bad.pt")
    with pytest.raises(FileFormatError, match=r"bad\.pt"):
        read_checkpoint(folder / "bad.pt")


@pytest.mark.parametrize("what", ["fifo", "device", "link to a device", "fifo behind `last`"])
def test_what_is_no_file_is_not_waited_for(folder: Path, what: str) -> None:
    path = folder / "bad.pt"
    match what:
        case "fifo" | "fifo behind `last`":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "link to a device":
            path.symlink_to("/dev/zero")
    if what == "fifo behind `last`":
        (folder / "last").write_text("bad.pt")
        path = folder
    with pytest.raises(FileFormatError, match=f"{path}"):
        read_checkpoint(find_checkpoint(path))


# --- pointers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b".", b"..", b"../../etc/passwd", b"/etc/passwd", b"/", b"sub/step-1", b"last",
        b"best", b"step-1/", b"step-1\0", b"\0", b"a\nb", b"..\\step-1", b"step-" + b"1" * 95,
        b"x" * 5000, "é".encode() * 50, b"\xff\xfe", b"loop", b"..pt", b".pt", b"absent.pt",
        b"folder.pt", b"~", b"$HOME", b"%00", b"step-1; mkdir executed", b"$(mkdir executed)",
    ],
)  # fmt: skip
def test_a_pointer_names_a_checkpoint_beside_it(folder: Path, content: bytes) -> None:
    (folder / "last").write_bytes(content)
    (folder / "best").write_bytes(b"..")
    (folder / "loop").symlink_to("loop")
    (folder / "folder.pt").mkdir()
    (folder / ("x" * 102)).mkdir()  # what a longer name begins with
    for path in (folder / "last", folder):
        with pytest.raises(FileFormatError, match=f"{folder}"):
            find_checkpoint(path, "last")


@pytest.mark.parametrize("what", ["fifo", "folder", "loop", "device"])
def test_a_pointer_is_a_file(folder: Path, what: str) -> None:
    pointer = folder / "last"
    match what:
        case "fifo":
            os.mkfifo(pointer)
        case "folder":
            pointer.mkdir()
        case "loop":
            pointer.symlink_to("last")
        case "device":
            pointer.symlink_to("/dev/zero")
    with pytest.raises(FileFormatError, match="last"):
        find_checkpoint(folder)


# --- the directory's files ------------------------------------------------------------------------


def manifest_with(folder: Path, name: str, size: int = 0, sha256: str = "") -> None:
    path = folder / "step-1" / "manifest.json"
    content = json.loads(path.read_text())
    content["files"][name] = {"size": size, "sha256": sha256}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name",
    ["../model.pt", "/etc/passwd", "", ".", "..", "a\0b", "..\\model.pt", "sub/file", "sub", "link",
     "linked/config.json", "fifo", "x" * 300, "/dev/zero", "null", "\ud800", "./state.json"],
)  # fmt: skip
def test_a_manifest_lists_plain_files_beside_it(folder: Path, name: str) -> None:
    step = folder / "step-1"
    (step / "sub").mkdir()
    (step / "sub" / "file").write_bytes(b"")
    (step / "link").symlink_to("/etc/passwd")
    (step / "null").symlink_to("/dev/null")
    (step / "linked").symlink_to(step)
    os.mkfifo(step / "fifo")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    manifest_with(folder, name, 0, empty)
    with pytest.raises(FileFormatError, match="a checkpoint's file is missing"):
        read_checkpoint(step)


FILES = ["config.json", "manifest.json", "model.safetensors", "state.json", "state.safetensors",
         "tokenizer.json"]  # fmt: skip


@pytest.mark.parametrize("what", ["fifo", "folder", "link", "device", "loop"])
@pytest.mark.parametrize("name", FILES)
def test_something_else_in_a_files_place(folder: Path, name: str, what: str) -> None:
    path = folder / "step-1" / name
    path.rename(folder / name)
    match what:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(folder / name)
        case "device":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(name)
    if (name, what) == ("manifest.json", "link"):  # the same bytes, and they are what counts
        assert read_checkpoint(folder / "step-1")["step"] == 1
        return
    with pytest.raises(FileFormatError, match=name.replace(".", r"\.")):
        read_checkpoint(folder / "step-1")


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "config.json"])
def test_a_pickle_by_another_name(folder: Path, name: str) -> None:
    path = folder / "step-1" / name
    path.write_bytes(pickle.dumps(Runs(os.mkdir, "executed")))
    sealed(Mutation("", [path]))
    with pytest.raises(FileFormatError, match=name.replace(".", r"\.")):
        read_checkpoint(folder / "step-1")


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "config.json"])
@pytest.mark.parametrize(
    "text",
    [DEEP, '{"a":' * 100_000, "9" * 5000, "NaN", '{"a": 1, "a": 1}', '{"files": {}, "files": {}}',
     "[[[[[[[[[[[[]]]]]]]]]]]]", "null", "1", '"text"', "\xff", "", "{}"],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_json_that_is_none_of_ours(folder: Path, name: str, text: str) -> None:
    path = folder / "step-1" / name
    path.write_bytes(text.encode("latin-1"))
    if name != "manifest.json":
        sealed(Mutation("", [path]))
    with pytest.raises(FileFormatError, match="step-1"):
        load_model(folder / "step-1")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_file_that_the_manifest_was_told_to_forget(folder: Path, name: str) -> None:
    path = folder / "step-1" / "manifest.json"
    content = json.loads(path.read_text())
    del content["files"][name]
    path.write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=rf"does not list .*{name}"):
        read_checkpoint(folder / "step-1")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"step": 1', '"step": 1, "x": NaN'),
        ('"step": 1', '"step": -1'),
        ('"optimizer": null', '"optimizer": Infinity'),
        ('"step": 1', '"step": true'),
        ('"step": 1', '"step": 1, "step": 2'),
        ('"step": 1', '"step": 1, "x": {"__tensor__": "absent"}'),
        ('"step": 1', '"step": 1, "x": {"__float__": "inf", "y": 1}'),
        ('"step": 1', '"step": 1, "x": {"__reduce__": ["os.mkdir", "executed"]}'),
        ('"step": 1', '"step": 1, "x": {"__dict__": [[1.5, 1]]}'),
        ('"step": 1', '"step": 1, "tokenizer": 1'),
        ('"shared": {}', '"shared": {"norm.weight": "lm_head.weight"}'),
        ('"shared": {}', '"shared": {"new": "absent"}'),
        ('"shared": {}', '"shared": []'),
    ],
)
def test_a_state_that_was_never_written(folder: Path, old: str, new: str) -> None:
    path = folder / "step-1" / "state.json"
    text = path.read_text()
    assert old in text
    (folder / "step-1" / "tokenizer.json").unlink()
    manifest = folder / "step-1" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["files"]["tokenizer.json"]
    manifest.write_text(json.dumps(content))
    assert read_checkpoint(folder / "step-1")["step"] == 1
    path.write_text(text.replace(old, new))
    sealed(Mutation("", [path]))
    with pytest.raises(FileFormatError, match="step-1"):
        read_checkpoint(folder / "step-1")


CONFIGS = [
    {"d_model": 10**400, "d_ff": None, "num_heads": 2},
    {"d_model": 1 << 40}, {"d_ff": 1 << 44}, {"d_ff": 10**30}, {"vocab_size": 10**12},
    {"vocab_size": 10**400}, {"vocab_multiple": 10**15}, {"num_layers": 10**9},
    {"head_dim": 1 << 40}, {"context_length": 10**12}, {"context_length": 10**9},
    {"context_length": 10**30}, {"num_heads": 10**9}, {"num_kv_heads": 1, "num_heads": 1 << 50},
    {"moe": {"num_experts": 1 << 40, "num_active": 1}}, {"position": "learned"},
    {"moe": {"num_experts": 1, "num_active": 1, "num_shared": 1 << 40}}, {"d_ff": "9" * 5000},
    {"position": "learned", "context_length": 1 << 50}, {"d_model": [32]},
    {"rope_scaling": {"kind": "linear", "factor": 1, "deep": [[[]]]}}, {"d_model": {"a": {}}},
    {"tie_embeddings": "yes"}, {"rope_theta": 10**400}, {"no_such_field": 1}, {"d_head": 8},
]  # fmt: skip


@pytest.mark.parametrize("changes", CONFIGS, ids=lambda changes: str(changes)[:40])
def test_a_config_of_another_model_takes_no_memory(folder: Path, changes: dict[str, Any]) -> None:
    """The shapes are compared with the weights before any memory is allocated."""
    path = folder / "step-1" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    sealed(Mutation("", [path]))
    with bounded(20, 300 << 20), pytest.raises(FileFormatError, match="step-1"):
        load_model(folder / "step-1", "cpu")


def test_weights_of_another_kind_of_number(folder: Path) -> None:
    content = read_checkpoint(folder / "step-1")
    whole = {name: weight.int() for name, weight in content["model"].items()}
    model = tiny.model()
    model.state_dict = lambda: whole  # type: ignore[method-assign,assignment]
    save_checkpoint(folder / "whole", model, None, 1)
    with pytest.raises(FileFormatError, match=r"torch\.int32 in the checkpoint, torch\.float32 in"):
        load_model(folder / "whole", "cpu")


@pytest.mark.parametrize(
    "edit",
    [
        lambda tree: tree["model"]["vocab"].clear(),
        lambda tree: tree["model"]["vocab"].update({"x" * 10**6: 10**9}),
        lambda tree: tree["model"]["vocab"].update({"\ud800": 5}),
        lambda tree: tree["model"]["merges"].append("absent token"),
        lambda tree: tree["model"]["merges"].append([[[]]]),
        lambda tree: tree["model"].update(type="WordPiece"),
        lambda tree: tree.update(normalizer={"type": "Replace", "pattern": {"Regex": "(a+)+b"}}),
        lambda tree: tree.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(" * 999}}),
        lambda tree: tree["added_tokens"].append({"content": "", "id": -1}),
        lambda tree: tree.update(model=None),
    ],
)
def test_a_hostile_tokenizer_in_a_checkpoint(folder: Path, edit: Callable[[Any], None]) -> None:
    path = folder / "step-1" / "tokenizer.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    edit(tree)
    path.write_text(json.dumps(tree))
    sealed(Mutation("", [path]))
    with pytest.raises(FileFormatError, match="step-1"):
        load_with_tokenizer(folder / "step-1")


@pytest.mark.parametrize("ids", [["a"], "text", [-1], [1.5], {"a": 1}, [True], 3])
def test_ids_that_are_none(folder: Path, ids: Any) -> None:
    text = (folder / "step-1" / "tokenizer.json").read_text(encoding="utf-8")
    save_checkpoint(folder / "bad", tiny.model(), None, 1, tokenizer=text, end_ids=ids)
    with pytest.raises(FileFormatError, match=r"end_ids .*bad"):
        load_with_tokenizer(folder / "bad")


@pytest.mark.parametrize(
    "optimizer",
    [5, "text", [], {}, {"state": {}}, {"state": {}, "param_groups": 5},
     {"state": {}, "param_groups": []}, {"state": {}, "param_groups": [[]]},
     {"state": {}, "param_groups": [{}]}, {"state": {}, "param_groups": [{"params": []}]},
     {"state": 5}, {"state": {0: 5}}, {"state": {0: {"exp_avg": torch.ones(3)}}},
     {"state": {0: {"step": "x"}}}, None],
)  # fmt: skip
def test_an_optimizer_that_is_none(folder: Path, optimizer: Any) -> None:
    """After the error, the optimizer and the model are unchanged."""
    model = tiny.model(1)
    ours = AdamW(model.parameters())
    if isinstance(optimizer, dict) and "param_groups" not in optimizer:
        optimizer = ours.state_dict() | optimizer if optimizer.get("state") else optimizer
    content = read_checkpoint(folder / "model.pt") | {"optimizer": optimizer}
    torch.save(content, folder / "bad.pt")
    with pytest.raises(FileFormatError, match=r"bad\.pt"):
        load_checkpoint(folder / "bad.pt", model, ours)
    assert torch.equal(model.lm_head.weight, tiny.model(1).lm_head.weight)
    assert not ours.state


# --- tensor files ---------------------------------------------------------------------------------


def tensor_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TENSOR_FILES = {
    "a header of exabytes": tensor_file({}, length=1 << 62),
    "a header of 99 MB that is not there": tensor_file({}, length=99_000_000),
    "a key twice": tensor_file(b'{"w":%b,"w":%b}' % ((json.dumps(tensor([2], 0, 8)).encode(),) * 2),
                               bytes(8)),
    "bytes twice": tensor_file({"a": tensor([2], 0, 8), "b": tensor([2], 0, 8)}, bytes(8)),
    "some bytes twice": tensor_file({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)),
    "a gap": tensor_file({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, bytes(12)),
    "a gap at the start": tensor_file({"a": tensor([1], 4, 8)}, bytes(8)),
    "more behind": tensor_file({"a": tensor([1], 0, 4)}, bytes(8)),
    "nothing behind": tensor_file({"a": tensor([1], 0, 4)}),
    "past the end": tensor_file({"a": tensor([1 << 30], 0, 1 << 32)}, bytes(8)),
    "backwards": tensor_file({"a": tensor([2], 8, 0)}, bytes(8)),
    "negative": tensor_file({"a": tensor([2], -8, 0)}, bytes(8)),
    "an overflow": tensor_file({"a": tensor([1 << 32, 1 << 32], 0, 0)}),
    "an overflow behind a 0": tensor_file({"a": tensor([0, 1 << 40, 1 << 40], 0, 0)}),
    "a million axes": tensor_file({"a": tensor([1 << 47] * 100_000, 0, 8)}, bytes(8)),
    "a shape that is an object": tensor_file({"a": tensor({}, 0, 4)}, bytes(4)),
    "a shape that is text": tensor_file({"a": tensor("", 0, 4)}, bytes(4)),
    "an unknown dtype": tensor_file({"a": tensor([2], 0, 8, "C64")}, bytes(8)),
    "a dtype that is a list": tensor_file({"a": tensor([2], 0, 8, [])}, bytes(8)),
    "deep": tensor_file(DEEP.encode()),
}  # fmt: skip
# The reference has complex numbers, keeps the last of two keys, and never multiplies behind a 0.
OURS = {"an unknown dtype", "an overflow behind a 0", "a key twice"}


@pytest.mark.parametrize("read", [read_tensors, mmap_tensors])
@pytest.mark.parametrize("name", TENSOR_FILES)
def test_a_hostile_tensor_file(folder: Path, name: str, read: Callable[[Path], Any]) -> None:
    path = folder / "bad.safetensors"
    path.write_bytes(TENSOR_FILES[name])
    with (
        bounded(5, 300 << 20),
        touching_at_most(50 << 20),
        pytest.raises(FileFormatError, match=r"bad\.safetensors"),
    ):
        read(path)


@pytest.mark.parametrize("name", sorted(TENSOR_FILES.keys() - OURS))
def test_the_reference_refuses_it_too(folder: Path, name: str) -> None:
    path = folder / "bad.safetensors"
    path.write_bytes(TENSOR_FILES[name])
    with pytest.raises(safetensors.SafetensorError), safetensors.safe_open(path, "pt") as file:
        file.keys()


# --- the commands ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["generate", "train"])
@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda folder: torch.save(PICKLES["os.system"], folder / "bad"), "bad.pt"),
        (lambda folder: os.mkfifo(folder / "bad"), "bad.pt"),
        (lambda folder: (folder / "bad").write_bytes(b"PK"), "bad.pt"),
    ],
    ids=["pickle", "fifo", "no archive"],
)
def test_a_command_says_so_in_one_line(
    folder: Path, command: str, make: Callable[[Path], object], names: str, capsys: Any
) -> None:
    make(folder)
    (folder / "bad").rename(folder / "bad.pt")
    corpus = tiny.corpus(folder, 100)
    if command == "generate":
        check_refusal(generate, ["--model_path", "bad.pt", "--prompt", "a"], 3, names, capsys)
    else:
        words = ["--resume", "bad.pt", "--train_data", str(corpus), "--vocab_size", "280"]
        check_refusal(train, words, 3, names, capsys)


def test_the_bounds_hold() -> None:
    """The negative control: the guard of the tests above raises if the code does harm."""
    with pytest.raises(Hang), bounded(0.05):
        time.sleep(10)
    with bounded(20, 100 << 20), pytest.raises(MemoryError):
        bytearray(200 << 20)
    with pytest.raises(AssertionError), touching_at_most(50 << 20):
        b"1" * (100 << 20)
