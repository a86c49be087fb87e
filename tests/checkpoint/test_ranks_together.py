"""The files of a sharded checkpoint: one process writes what several ranks would write."""

from __future__ import annotations

import json

import pytest
import torch

from helpers import tiny
from scratchlm import AdamW, load_model
from scratchlm.checkpoint.directory import contents, write_files, write_manifest
from scratchlm.checkpoint.payload import checked_payload
from scratchlm.checkpoint.save_and_load import read_checkpoint, state_of
from scratchlm.errors import FileFormatError


def share(value, owner, counter):
    """Return a payload with every third tensor, and the other tensors on the meta device."""
    if isinstance(value, torch.Tensor):
        counter.append(1)
        return value.detach() if len(counter) % 3 == owner else value.detach().to("meta")
    if isinstance(value, dict):
        return {key: share(item, owner, counter) for key, item in value.items()}
    return value


@pytest.fixture
def state():
    model = tiny.model()
    optimizer = AdamW(model.parameters())
    model(torch.arange(9)[None]).sum().backward()
    optimizer.step()
    return state_of(model, optimizer, 7, note="x", tokenizer=None)


@pytest.fixture
def folder(tmp_path, state):
    path = tmp_path / "step-7"
    path.mkdir()
    entries = {}
    for k in range(3):
        payload = checked_payload(share(state, k, []), elsewhere=True)
        entries |= write_files(path, contents(payload, (k + 1, 3)))
    write_manifest(path, entries)
    return path


def test_it_is_read_as_if_one_had_written_it(state, folder):
    names = sorted(path.name for path in folder.iterdir())
    parts = [f"{kind}-{k:05d}-of-00003.safetensors" for kind in ("model", "state")
             for k in (1, 2, 3)]  # fmt: skip
    assert names == sorted([*parts, "state.json", "config.json", "manifest.json"])
    for mapped in (False, True):
        read = read_checkpoint(folder, mapped=mapped)
        assert (read["step"], read["note"]) == (7, "x")
        assert read["model"].keys() == state["model"].keys()
        for name, tensor in state["model"].items():
            assert torch.equal(read["model"][name], tensor)
        for index, moments in state["optimizer"]["state"].items():
            for name, value in moments.items():
                assert torch.equal(read["optimizer"]["state"][index][name], value)
    for name, tensor in load_model(folder, "cpu").state_dict().items():
        assert torch.equal(tensor, state["model"][name])


def _rewrite(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest["files"])
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("kind", ["model", "state"])
def test_a_missing_part_is_named(folder, kind):
    name = f"{kind}-00002-of-00003.safetensors"
    (folder / name).unlink()
    with pytest.raises(FileFormatError, match=f"missing .*{name}"):
        read_checkpoint(folder)
    _rewrite(folder, lambda files: files.pop(name))
    with pytest.raises(FileFormatError, match=f"does not list {name}"):
        read_checkpoint(folder)


def test_a_part_of_another_number_or_twice_is_refused(folder):
    first, second = (f"model-0000{k}-of-00003.safetensors" for k in (1, 2))
    (folder / second).write_bytes((folder / first).read_bytes())
    _rewrite(folder, lambda files: files.update({second: files[first]}))
    with pytest.raises(FileFormatError, match="is stored twice"):
        read_checkpoint(folder)
    last = "model-00003-of-00003.safetensors"
    (folder / last).rename(folder / "model-00003-of-00004.safetensors")
    _rewrite(
        folder, lambda files: files.update({"model-00003-of-00004.safetensors": files.pop(last)})
    )
    with pytest.raises(FileFormatError, match="does not list model-00001-of-00004"):
        read_checkpoint(folder)
