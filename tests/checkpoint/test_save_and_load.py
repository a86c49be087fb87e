from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from helpers import tiny
from scratchlm import AdamW, load_checkpoint, load_model, save_checkpoint
from scratchlm.checkpoint.models import read_own_texts
from scratchlm.checkpoint.pointers import find_checkpoint, write_pointer
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.errors import FileFormatError
from scratchlm.files.atomic import previous, replacing_directory, replacing_file


def trained(seed: int = 0, steps: int = 3):
    """A module that is not from scratchlm, and an optimizer with state, two groups and tuples."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    groups = [{"params": model[0].parameters(), "lr": 0.1, "tag": (1, "a")},
              {"params": [*model[1].parameters(), *model[2].parameters()]}]  # fmt: skip
    optimizer = AdamW(groups, lr=0.01, betas=(0.8, 0.9))
    train(model, optimizer, steps)
    return model, optimizer


def train(model, optimizer, steps):
    for i in range(steps):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(i))
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def assert_equal_states(first, second):
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


TARGETS = ["step-1", "model.pt", "model.pth"]


@pytest.mark.parametrize("name", TARGETS)
def test_round_trip_continues_exactly(tmp_path, name):
    model, optimizer = trained()
    save_checkpoint(tmp_path / name, model, optimizer, 3)
    other, other_optimizer = trained(seed=1, steps=1)
    assert load_checkpoint(tmp_path / name, other, other_optimizer) == 3
    assert_equal_states(model, other)
    ours, theirs = (o.state_dict()["param_groups"] for o in (optimizer, other_optimizer))
    assert ours == theirs
    assert type(theirs[0]["betas"]) is tuple
    assert theirs[0]["tag"] == (1, "a")
    train(model, optimizer, 3)
    train(other, other_optimizer, 3)
    assert_equal_states(model, other)


def test_torch_optimizers_and_open_files():
    model, _ = trained()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.01))
    train(model, optimizer, 2)
    buffer = io.BytesIO()
    save_checkpoint(buffer, model, optimizer, 2)
    buffer.seek(0)
    other, _ = trained(seed=1)
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=torch.tensor(0.5))
    assert load_checkpoint(buffer, other, other_optimizer) == 2
    assert_equal_states(model, other)


@pytest.mark.parametrize("name", TARGETS)
def test_more_values_come_back_with_their_types(tmp_path, name):
    model, optimizer = trained()
    more = {"history": [1.5, (2, None)], "by_step": {1: "a"}, "ids": torch.arange(3), "on": True}
    save_checkpoint(tmp_path / name, model, optimizer, 1, **more)
    payload = read_checkpoint(tmp_path / name)
    assert torch.equal(payload.pop("ids"), more.pop("ids"))
    assert {key: payload[key] for key in more} == more


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("value", [np.float64(1), Path("x"), {"deep": [np.int32(1)]}, {1, 2}])
def test_what_is_not_plain_is_refused_before_anything_is_written(tmp_path, name, value):
    model, optimizer = trained()
    with pytest.raises(ValueError, match=r"\(mine"):
        save_checkpoint(tmp_path / name, model, optimizer, 1, mine=value)
    assert list(tmp_path.iterdir()) == []


def test_a_numpy_scalar_in_a_param_group_is_refused_by_its_key(tmp_path):
    model, _ = trained()
    optimizer = torch.optim.SGD(model.parameters(), lr=np.float64(0.1))
    with pytest.raises(ValueError, match=r"optimizer\.param_groups\.0\.lr is a numpy\.float64"):
        save_checkpoint(tmp_path / "x.pt", model, optimizer, 1)


def test_the_safetensors_library_reads_the_weights(tmp_path):
    model = tiny.model()
    save_checkpoint(tmp_path / "step-1", model, None, 1)
    theirs = safetensors.torch.load_file(tmp_path / "step-1" / "model.safetensors")
    assert theirs.keys() == model.state_dict().keys()
    assert torch.equal(theirs["lm_head.weight"], model.lm_head.weight)


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    model = tiny.model(tie_embeddings=True)
    save_checkpoint(tmp_path / "step-1", model, None, 1)
    stored = safetensors.torch.load_file(tmp_path / "step-1" / "model.safetensors")
    assert ("lm_head.weight" in stored) != ("embedding.weight" in stored)
    loaded = load_model(tmp_path / "step-1", "cpu")
    assert loaded.lm_head.weight is loaded.embedding.weight
    assert_equal_states(model, loaded)


@pytest.mark.parametrize("name", TARGETS)
def test_load_model_needs_nothing_else(tmp_path, name):
    model = tiny.model(qk_norm=True).eval()
    tokenizer = tiny.tokenizer(tmp_path)
    save_checkpoint(tmp_path / name, model, None, 1, tokenizer=tokenizer.to_json())
    loaded = load_model(tmp_path / name, "cpu")
    ids = torch.arange(10)[None]
    assert torch.equal(loaded(ids), model(ids))
    assert not loaded.training
    assert type(read_checkpoint(tmp_path / name)["config"]) is dict
    own = read_own_texts(tmp_path / name)
    assert own is not None
    assert own.tokenizer.hash == tokenizer.hash


def test_load_model_says_where_there_is_no_config(tmp_path):
    model, optimizer = trained()
    save_checkpoint(tmp_path / "x.pt", model, optimizer, 1)
    with pytest.raises(FileFormatError, match=r"no model config .*x\.pt"):
        load_model(tmp_path / "x.pt")


@pytest.mark.parametrize("name", TARGETS)
def test_a_checkpoint_of_another_shape_is_refused_by_the_tensor(tmp_path, name):
    save_checkpoint(tmp_path / name, tiny.model(), None, 1)
    with pytest.raises(FileFormatError, match=r"layers\.0\.ffn\.gate_proj\.weight is \(64, 32\)"):
        load_checkpoint(tmp_path / name, tiny.model(d_ff=128))
    with pytest.raises(FileFormatError, match=r"layers\.2\..* is absent in the checkpoint"):
        load_checkpoint(tmp_path / name, tiny.model(num_layers=3))
    with pytest.raises(FileFormatError, match=r"layers\.1\..* absent in the model"):
        load_checkpoint(tmp_path / name, tiny.model(num_layers=1))


def test_find_follows_pointers_and_folders(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (1, 2):
        save_checkpoint(folder / f"step-{step}", tiny.model(step), None, step)
    write_pointer(folder / "last", "step-2")
    for path in (tmp_path, folder, folder / "last", folder / "step-2"):
        assert find_checkpoint(path) == folder / "step-2"
    write_pointer(folder / "best", "step-1")
    assert find_checkpoint(tmp_path) == folder / "step-1"
    assert find_checkpoint(tmp_path, "last") == folder / "step-2"
    write_pointer(folder / "last", "../../etc/passwd")
    with pytest.raises(FileFormatError, match="nor a pointer"):
        find_checkpoint(folder / "last")
    with pytest.raises(FileNotFoundError, match="the checkpoint does not exist"):
        find_checkpoint(tmp_path / "nothing")


# --- damage ---------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["model.safetensors", "state.safetensors", "state.json",
                                  "config.json", "tokenizer.json"])  # fmt: skip
@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "remove", "empty"])
def test_a_damaged_file_is_named(tmp_path, file, damage):
    target = tmp_path / "step-1"
    model = tiny.model()
    text = tiny.tokenizer(tmp_path).to_json()
    save_checkpoint(target, model, AdamW(model.parameters()), 1, tokenizer=text, rng=torch.ones(2))
    path = target / file
    match damage:
        case "flip":
            flip(path, 1000)
        case "truncate":
            path.write_bytes(path.read_bytes()[:-1])
        case "extend":
            path.write_bytes(path.read_bytes() + b" ")
        case "remove":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
    with pytest.raises(FileFormatError, match=file.replace(".", r"\.")):
        read_checkpoint(target)


@pytest.mark.parametrize(
    "manifest",
    [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 9, "files": {}}',
     b'{"format": 1, "files": {}}',
     b'{"format": 1, "files": {"../x": {"size": 0, "sha256": ""}}}',
     b'{"format": 1, "files": {"/etc/passwd": {"size": 0, "sha256": ""}}}'],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(tmp_path, manifest):
    save_checkpoint(tmp_path / "step-1", tiny.model(), None, 1)
    (tmp_path / "step-1" / "manifest.json").write_bytes(manifest)
    with pytest.raises(FileFormatError, match="step-1"):
        read_checkpoint(tmp_path / "step-1")


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    "content",
    [b"", b"text", pickle.dumps({"model": {}}), pickle.dumps(Payload()), "torch"],
)
def test_a_pt_is_never_executed(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pt"
    if content == "torch":
        torch.save({"model": {}, "step": 1, "evil": Payload()}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"bad\.pt"):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [3, [1], {}, {"model": 1, "step": 1}, {"model": {}},
                                     {"model": {}, "step": "1"}])  # fmt: skip
def test_a_pt_that_is_no_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(FileFormatError, match=r"x\.pt"):
        read_checkpoint(tmp_path / "x.pt")


# --- atomic ---------------------------------------------------------------------------------------


def test_a_failed_save_leaves_the_old_one_and_no_litter(tmp_path, monkeypatch):
    for name in ("step-1", "x.pt"):
        save_checkpoint(tmp_path / name, tiny.model(0), None, 1)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    for name in ("step-1", "x.pt"):
        with pytest.raises(OSError, match="No space"):
            save_checkpoint(tmp_path / name, tiny.model(1), None, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "x.pt"]
    for name in ("step-1", "x.pt"):
        assert read_checkpoint(tmp_path / name)["step"] == 1


def test_a_directory_lost_between_the_two_renames_is_found(tmp_path):
    save_checkpoint(tmp_path / "step-1", tiny.model(), None, 1)
    (tmp_path / "step-1").rename(previous(tmp_path / "step-1"))
    assert read_checkpoint(tmp_path / "step-1")["step"] == 1
    save_checkpoint(tmp_path / "step-1", tiny.model(), None, 2)
    assert read_checkpoint(tmp_path / "step-1")["step"] == 2


def test_replacing_removes_what_a_killed_process_left(tmp_path):
    (tmp_path / ".x.tmp-999999").mkdir()
    with replacing_directory(tmp_path / "x") as folder:
        (folder / "file").write_text("1")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_block_that_fails_writes_nothing(tmp_path):
    (tmp_path / "x").write_bytes(b"old")

    def fail():
        with replacing_file(tmp_path / "x") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


SAVER = """
import sys, torch
from pathlib import Path
from scratchlm import save_checkpoint
model = torch.nn.Linear(512, 512)
print("ready", flush=True)
step = 0
while True:
    step += 1
    torch.nn.init.constant_(model.weight, step)
    save_checkpoint(sys.argv[1], model, None, step)
"""


@pytest.mark.parametrize("name", ["step-1", "x.pt"])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, name):
    save_checkpoint(tmp_path / name, nn.Linear(512, 512), None, 0)
    for delay in (0.05, 0.083, 0.131):
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path / name)], stdout=subprocess.PIPE
        )
        assert saver.stdout is not None
        saver.stdout.readline()
        time.sleep(delay)
        saver.kill()
        saver.wait()
        saver.stdout.close()
        payload = read_checkpoint(tmp_path / name)
        weight = payload["model"]["weight"]
        assert payload["step"] == 0 or torch.equal(weight, torch.full_like(weight, payload["step"]))


def test_the_manifest_states_sizes_and_hashes(tmp_path):
    import hashlib

    save_checkpoint(tmp_path / "step-1", tiny.model(), None, 1)
    manifest = json.loads((tmp_path / "step-1" / "manifest.json").read_text())
    names = {path.name for path in (tmp_path / "step-1").iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == names
    for name, entry in manifest["files"].items():
        data = (tmp_path / "step-1" / name).read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize(
    ("step", "more", "message"),
    [
        (True, {}, r"step must be an int \(True\)"),
        (3.0, {}, r"step must be an int \(3\.0\)"),
        (1, {"tokenizer": {"a": 1}}, r"tokenizer must be a str \(dict\)"),
        (1, {"config": "big"}, r"config must be a dict \(str\)"),
        (1, {"config": {"x": torch.ones(1)}}, "config must contain only JSON values"),
        (1, {"config": {"x": float("nan")}}, "config must contain only JSON values"),
        (-1, {}, r"step must be 0 or more \(-1\)"),
    ],
)
def test_what_could_not_be_read_back_is_not_saved(tmp_path, step, more, message):
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path / "x", nn.Linear(1, 1), None, step, **more)
    assert list(tmp_path.iterdir()) == []


def test_only_a_checkpoint_is_replaced_by_one(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("mine too")
    for name in ("mine", "file"):
        with pytest.raises(ValueError, match="exists and is not a checkpoint"):
            save_checkpoint(tmp_path / name, tiny.model(), None, 1)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    (tmp_path / "empty").mkdir()
    save_checkpoint(tmp_path / "empty", tiny.model(), None, 1)
    assert read_checkpoint(tmp_path / "empty")["step"] == 1


def test_a_value_of_the_users_may_have_any_name(tmp_path):
    model = tiny.model(tie_embeddings=True)
    save_checkpoint(tmp_path / "x", model, None, 1, shared={}, values=2)
    payload = read_checkpoint(tmp_path / "x")
    assert (payload["shared"], payload["values"]) == ({}, 2)
    load_checkpoint(tmp_path / "x", model)
