"""A run that was killed and resumed equals a run without a kill: every number and tensor, to the
bit. The runs use all parts of `scratchlm-train`, for two epochs, with dropout and accumulation."""

from __future__ import annotations

import pytest
import torch

from helpers.exact_runs import (
    STEPS,
    assert_equal_runs,
    difference,
    final,
    flags,
    killed_and_resumed,
    log_of,
    quiet,
    start_straight,
)
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.devices.runtime import rng_state, seed_everything
from scratchlm.training import recipe, run_config, trainer


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
    """Start runs one after the other, until so many kills have hit. No file is half-written."""
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


# field of a checkpoint -> a function that returns a wrong value for the field
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
    """The negative controls of the test above: without one saved field, the resumed run differs."""
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
        with pytest.raises(ValueError, match=r"the same batches|another optimizer"):
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
