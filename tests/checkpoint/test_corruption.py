"""Damaged checkpoints: loading raises an error with the file's name, or returns the payload that
was saved. A forged checkpoint has new checksums, so it may be another valid checkpoint. No check
can find this. But a model and an optimizer can continue from it, or loading raises an error."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import mutations, tiny
from helpers.bounds import bounded
from helpers.mutations import Folder, Mutation
from helpers.refusals import check_refusal
from scratchlm import AdamW, Transformer, save_checkpoint
from scratchlm.checkpoint.models import load_with_tokenizer
from scratchlm.checkpoint.pointers import find_checkpoint
from scratchlm.checkpoint.save_and_load import read_checkpoint, restore
from scratchlm.cli.generate import main as generate
from scratchlm.cli.train import main as train
from scratchlm.errors import FileFormatError
from scratchlm.model.config import ModelConfig
from scratchlm.optim.groups import adamw_groups


def same(one: Any, other: Any) -> bool:
    """Check that two values have equal types and equal bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        return alike and torch.equal(bits(one), bits(other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", other)
    return one == other


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@dataclass
class Run:
    """A run's folder with two checkpoints, their contents, and the objects that continue
    from one."""

    path: Path
    checkpoints: Folder
    payloads: dict[str, dict[str, Any]]
    single: Folder
    model: Transformer
    optimizer: AdamW


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("damage")
    words = ["--train_data", str(tiny.corpus(path, 300)), "--vocab_size", "280", "--out",
             str(path / "run"), "--d_model", "16", "--num_layers", "1", "--num_heads", "2",
             "--d_ff", "16", "--context_length", "8", "--batch_size", "2", "--iterations", "2",
             "--save_every", "1", "--eval_every", "1", "--device", "cpu"]  # fmt: skip
    assert train(words) == 0
    found = {step.name: step for step in (path / "run" / "checkpoints").glob("step-*")}
    payloads = {name: read_checkpoint(step) for name, step in found.items()}
    assert len(payloads) == 2
    (path / "single").mkdir()
    payload = dict(payloads["step-00000002"])
    model = Transformer(ModelConfig(**payload["config"]))
    optimizer = AdamW(adamw_groups(model.named_parameters(), 0.1), lr=1e-3)
    restore(payload, model, optimizer, name="")
    more = {key: payload[key] for key in payload.keys() - {"model", "optimizer", "step"}}
    save_checkpoint(path / "single" / "model.pt", model, optimizer, 2, **more)
    payloads["model.pt"] = read_checkpoint(path / "single" / "model.pt")
    checkpoints = Folder(path / "run" / "checkpoints")
    return Run(path / "run", checkpoints, payloads, Folder(path / "single"), model, optimizer)


@pytest.fixture(autouse=True)
def as_before(run: Run) -> Iterator[None]:
    with bounded(120):
        yield
    run.checkpoints.restore()
    run.single.restore()


def check_load(run: Run, path: Path, mutation: Mutation) -> None:
    """Check that a checkpoint is as it was saved, or valid if it is forged, or refused by name."""
    with refused_by_name(mutation):
        payload = read_checkpoint(path)
        if mutation.forged and path in {*mutation.files, *(file.parent for file in mutation.files)}:
            go_on(run, payload, path)
        else:
            assert same(payload, run.payloads[path.name]), "loaded, and not as it was"


@contextmanager
def refused_by_name(mutation: Mutation) -> Iterator[None]:
    """Allow the block to raise a FileFormatError only if it names a mutated file, or the checkpoint
    that contains this file."""
    try:
        yield
    except FileFormatError as error:
        told = [
            path.parent if path.name == "manifest.json" or mutation.forged else path
            for path in mutation.files
        ]
        if not any(str(path) in str(error) for path in told):
            raise AssertionError(f"it does not name the file: {error}") from None


def go_on(run: Run, payload: dict[str, Any], path: Path) -> None:
    """Use a checkpoint as the commands do: write its tokenizer and model, and train one step."""
    if payload.get("tokenizer") is not None:  # without one it is whole, too
        load_with_tokenizer(path)
    restore(payload, run.model, run.optimizer, name=str(path))
    for parameter in run.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    run.optimizer.step()


def check(run: Run, seed: int) -> None:
    mutation = mutations.mutate(run.checkpoints, seed)
    paths = {path.parent for path in mutation.files} - {run.checkpoints.path}
    try:
        for prefer in ("last", "best"):
            with refused_by_name(mutation):
                paths.add(find_checkpoint(run.path, prefer))
        for path in paths:
            check_load(run, path, mutation)
    except Exception as error:
        raise AssertionError(f"seed {seed}: {mutation.what}") from error
    finally:
        run.checkpoints.restore()


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_a_damaged_checkpoint_is_refused_or_the_same(run: Run, first: int) -> None:
    for seed in range(first, first + 20):
        check(run, seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(200, 2200, 100))
def test_two_thousand_damaged_checkpoints(run: Run, first: int) -> None:
    for seed in range(first, first + 100):
        check(run, seed)


def check_single(run: Run, seed: int) -> None:
    rng, path = random.Random(seed), run.single.path / "model.pt"
    kinds = [mutations.flip, mutations.truncate, mutations.extend, mutations.overwrite,
             mutations.forge_pickle]  # fmt: skip
    mutation = kinds[seed % len(kinds)](rng, [path])
    try:
        check_load(run, path, mutation)
    except Exception as error:
        raise AssertionError(f"seed {seed}: {mutation.what}") from error
    finally:
        run.single.restore()


def test_a_damaged_single_file_is_refused_or_the_same(run: Run) -> None:
    for seed in range(100):
        check_single(run, seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 1100, 100))
def test_a_thousand_damaged_single_files(run: Run, first: int) -> None:
    for seed in range(first, first + 100):
        check_single(run, seed)


# --- through the commands -------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands in a folder that no other test uses, so that new files are found."""
    monkeypatch.chdir(run.path)


@pytest.mark.parametrize("command", ["train", "generate"])
@pytest.mark.parametrize(
    "name",
    ["last", "step-00000002", "step-00000002/manifest.json", "step-00000002/model.safetensors",
     "step-00000002/state.json", "step-00000002/config.json", "step-00000002/tokenizer.json"],
)  # fmt: skip
def test_a_command_refuses_a_damaged_run(
    run: Run, command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.checkpoints.path / name
    if path.is_dir():
        path.rename(path.with_name("moved"))
    else:
        path.write_bytes(path.read_bytes()[:-4])
    if command == "train":
        check_refusal(train, ["--resume", str(run.path)], 3, path.name, capsys)
    else:
        pointer = str(run.checkpoints.path / "last")
        check_refusal(generate, ["--model_path", pointer, "--prompt", "a"], 3, path.name, capsys)


def test_what_was_not_damaged_goes_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The positive control: without a mutation, every check passes."""
    for path in (run.path, run.path / "checkpoints" / "last", run.single.path / "model.pt"):
        words = ["--model_path", str(path), "--prompt", "a", "--max_tokens", "2"]
        assert generate([*words, "--device", "cpu"]) == 0
    assert train(["--resume", str(run.path)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    for name, payload in run.payloads.items():
        folder = run.single.path if name.endswith(".pt") else run.checkpoints.path
        assert same(read_checkpoint(folder / name), payload)


@pytest.mark.parametrize(
    ("key", "value"),
    [("rng", 5), ("rng", {}), ("rng", [{}]), ("rng", [5]), ("rng", [{"python": [], "numpy": []}]),
     ("scaler", 5), ("best_val_loss", "low"), ("best_step", 1.5), ("best_step", "x"),
     ("smoothed", {}), ("smoothed", {"total": "x", "weight": 1.0}), ("tokens", None),
     ("cursor", []), ("optimizer_name", {}), ("data_id", "x"), ("environment", 1),
     ("history", {}), ("recipe", "x")],
)  # fmt: skip
def test_a_forged_state_of_the_run(
    run: Run, key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.checkpoints.path / "step-00000002" / "state.json"
    content = json.loads(path.read_text())
    content["values"][key] = value
    path.write_text(json.dumps(content))
    mutations.sealed(Mutation("", [path]))
    words = ["--resume", str(run.path), "--iterations", "3"]
    check_refusal(train, words, 3, path.parent.name, capsys)


def test_a_recipe_that_is_none(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Read a checkpoint that was moved out of its run."""
    path = run.single.path / "model.pt"
    torch.save(run.payloads["model.pt"] | {"recipe": "x"}, path)
    check_refusal(train, ["--resume", str(path)], 3, "model.pt", capsys)
