"""A run that was killed and resumed equals one that was not: every figure and tensor, to the bit.

All the parts that `scratchlm-train` puts together, on two epochs, with dropout and accumulation.
"""

from __future__ import annotations

import json
import random
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import forked
from scratchlm import recipe, run_config, trainer
from scratchlm.checkpoint import find_checkpoint, read_checkpoint
from scratchlm.checkpoint_payload import best_with_its_own
from scratchlm.distributed import ALONE, Ranks
from scratchlm.runtime import rng_state, seed_everything

STEPS = 60
NOT_REPEATED = ("tokens_per_second", "memory")


def quiet(line: str) -> None:
    pass


def flags(folder: Path, out: str, **changes) -> dict[str, object]:
    folder.mkdir(exist_ok=True)
    data = folder / "tokens.npy"
    if not data.exists():
        # 60 steps of 2 x 4 windows of 16: two epochs of 240 windows
        np.save(data, np.random.default_rng(0).integers(0, 96, 240 * 16 + 17).astype(np.uint16))
        np.save(folder / "val.npy", np.random.default_rng(1).integers(0, 96, 200).astype(np.uint16))
    return {
        "data.train": str(data), "data.val": str(folder / "val.npy"),
        "model.vocab_size": 96, "model.context_length": 16, "model.d_model": 32,
        "model.num_layers": 2, "model.num_heads": 4, "model.dropout": 0.1,
        "optim.optimizer": "muon", "optim.lr": 0.02, "optim.adamw_lr": 0.05,
        "optim.warmup_steps": 5, "optim.schedule": "constant",
        "train.out": str(folder / out), "train.epochs": 2.0, "train.batch_size": 4,
        "train.accumulate": 2, "train.eval_every": 15, "train.save_every": 4, "train.keep_last": 3,
        "train.seed": 7, "runtime.device": "cpu",
        **changes,
    }  # fmt: skip


def run(given: dict[str, object], ranks: Ranks = ALONE) -> None:
    """To the end, from the beginning or from the last checkpoint."""
    config, checkpoint = run_config.resolve(None, given, "auto", say=quiet)
    recipe.build(config, resume=checkpoint, ranks=ranks, say=quiet).fit()


def log_of(out: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in NOT_REPEATED} for line in lines
    ]


def difference(a: object, b: object, place: str = "") -> str | None:
    """Where two payloads are not the same to the bit; None where they are."""
    if type(a) is not type(b):
        return f"{place}: {type(a)}, {type(b)}"
    if isinstance(a, Tensor):
        assert isinstance(b, Tensor)
        same = a.dtype == b.dtype and a.shape == b.shape
        same = same and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()
        return None if same else place
    if isinstance(a, dict):
        assert isinstance(b, dict)
        if a.keys() != b.keys():
            return f"{place}: {a.keys() ^ b.keys()}"
        parts = [difference(a[key], b[key], f"{place}.{key}") for key in a]
    elif isinstance(a, list | tuple):
        assert isinstance(b, list | tuple)
        if len(a) != len(b):
            return f"{place}: {len(a)}, {len(b)} long"
        parts = [difference(x, y, f"{place}.{i}") for i, (x, y) in enumerate(zip(a, b))]  # noqa: B905
    else:
        return None if a == b else f"{place}: {a}, {b}"
    return next((part for part in parts if part), None)


def final(out: Path) -> dict[str, object]:
    """The last checkpoint with the loss of its validation, without the name of its folder."""
    path = find_checkpoint(out, "last")
    payload = read_checkpoint(path)
    del payload["recipe"]["train"]["out"]
    best, best_step, pending = best_with_its_own(payload, path)
    assert pending is None
    payload |= {"best_val_loss": best, "best_step": best_step, "pending": None}
    return payload


def assert_equal_runs(folder: Path, one: str, other: str) -> None:
    first, second = log_of(folder / one), log_of(folder / other)
    assert [line["step"] for line in first] == list(range(1, len(first) + 1))
    assert first == second
    assert difference(final(folder / one), final(folder / other)) is None


def killed_and_resumed(
    folder: Path, out: str, kills: int, seed: int, longest: float, **changes
) -> int:
    """Start, kill within `longest` seconds, start again; after so many kills, or sooner, it ends.
    How many kills it took."""
    rng = random.Random(seed)
    for done in range(kills + 1):
        process = forked.start(partial(run, flags(folder, out, **changes)), file=folder / "answer")
        if done < kills and forked.kill_after(process, rng.uniform(longest / 3, longest)):
            continue
        assert forked.wait(process) == 0, forked.traceback_in(folder / "answer")
        break
    return done


def start_straight(folder: Path, **changes) -> float:
    """The run that nobody kills; its seconds."""
    began = time.monotonic()
    process = forked.start(
        partial(run, flags(folder, "straight", **changes)), file=folder / "answer"
    )
    assert forked.wait(process, 600) == 0, forked.traceback_in(folder / "answer")
    return time.monotonic() - began


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exactness")
    return folder, start_straight(folder)


def test_the_log_has_every_step_once(straight):
    log = log_of(straight[0] / "straight")
    assert len(log) == STEPS
    assert [line["step"] for line in log if "val_loss" in line] == [15, 30, 45, 60]


@pytest.mark.parametrize("wanted", [3, slow(25), slow(300)])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(straight, wanted):
    """Runs one after the other, until so many kills have hit; nothing is left half-written."""
    folder, seconds = straight
    kills = 0
    for seed in range(10 * wanted):
        out = f"killed-{wanted}-{seed}"
        kills += killed_and_resumed(folder, out, wanted - kills, seed, longest=0.5 * seconds)
        assert_equal_runs(folder, "straight", out)
        checkpoints = folder / out / "checkpoints"
        assert not list(checkpoints.glob(".*"))
        for path in checkpoints.glob("step-*"):
            read_checkpoint(path)
        if kills == wanted:
            return
    pytest.fail(f"only {kills} kills hit")


@pytest.mark.slow
def test_compiled_it_is_as_exact(tmp_path):
    compiled = {"runtime.compile": "on", "model.ffn": "relu2"}
    start_straight(tmp_path / "cold", **compiled)  # fills the compiler's cache
    seconds = start_straight(tmp_path, **compiled)
    kills = killed_and_resumed(tmp_path, "killed", 3, 0, longest=0.5 * seconds, **compiled)
    assert kills == 3
    assert_equal_runs(tmp_path, "straight", "killed")


# What is put in a field's place; a callable changes the payload itself.
LEFT_OUT = {
    "model": lambda payload: {name: torch.zeros_like(t) for name, t in payload["model"].items()},
    "optimizer": lambda payload: {**payload["optimizer"], "state": {}},
    "step": lambda payload: payload["step"] - 1,
    "rng.torch": lambda payload: with_own_rng(payload, "torch"),
    "rng.python": lambda payload: with_own_rng(payload, "python"),
    "rng.numpy": lambda payload: with_own_rng(payload, "numpy"),
    "best_val_loss": lambda payload: float("inf"),
    "best_step": lambda payload: 0,
    "smoothed": lambda payload: None,
    "tokens": lambda payload: 0,
    "cursor": lambda payload: {"seed": 0, "micro_batch": 0},
    "data_id": lambda payload: {},
    "optimizer_name": lambda payload: "",
    "history": lambda payload: [{"step": 1, "changed": {}}],
}


def with_own_rng(payload, name):
    seed_everything(99)
    return [{**payload["rng"][0], name: rng_state()[name]}]


@pytest.mark.parametrize("left_out", [None, *LEFT_OUT])
def test_without_one_field_the_resumed_run_is_another(straight, tmp_path, monkeypatch, left_out):
    """The negative controls of the test above: each field that is saved is needed."""
    folder, _ = straight
    middle = folder / "straight" / "checkpoints" / "step-00000056"
    given = flags(folder, "unused") | {"train.out": str(tmp_path / "run")}
    config, _ = run_config.resolve(None, given, say=quiet)

    def damaged(path, mapped):
        payload = read_checkpoint(path)
        if left_out:
            payload[left_out.split(".")[0]] = LEFT_OUT[left_out](payload)
        return payload

    monkeypatch.setattr(trainer, "read_checkpoint", damaged)
    built = recipe.build(config, say=quiet)
    if left_out in ("cursor", "data_id", "optimizer_name", "step"):
        with pytest.raises(ValueError, match=r"other batches|another optimizer"):
            built.resume(middle)
        return
    built.resume(middle)
    built.fit()
    log = log_of(folder / "straight")[56:]
    same = log_of(tmp_path / "run") == log
    same &= difference(final(folder / "straight"), final(tmp_path / "run")) is None
    assert same == (left_out is None)


@pytest.mark.parametrize(
    "key", [key for key in LEFT_OUT if "." not in key and key not in ("model", "optimizer", "step")]
)
def test_a_checkpoint_without_a_field_is_refused(straight, tmp_path, monkeypatch, key):
    def damaged(path, mapped):
        payload = read_checkpoint(path)
        payload.pop(key)
        return payload

    monkeypatch.setattr(trainer, "read_checkpoint", damaged)
    folder, _ = straight
    given = flags(folder, "unused") | {"train.out": str(tmp_path / "run")}
    config, _ = run_config.resolve(None, given, say=quiet)
    built = recipe.build(config, say=quiet)
    with pytest.raises(ValueError, match=f"has no {key}"):
        built.resume(folder / "straight" / "checkpoints" / "step-00000056")
