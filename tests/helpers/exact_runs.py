"""Runs that are stopped, resumed, and compared to the bit."""

from __future__ import annotations

import json
import random
import time
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from helpers import forked
from scratchlm.checkpoint.payload import best_with_its_own
from scratchlm.checkpoint.pointers import find_checkpoint
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.devices.ranks import ALONE, Ranks
from scratchlm.training import recipe, run_config

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
    """Train to the end, from the beginning or from the last checkpoint."""
    config, checkpoint = run_config.resolve(None, given, "auto", say=quiet)
    recipe.build(config, resume=checkpoint, ranks=ranks, say=quiet).fit()


def log_of(out: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in NOT_REPEATED} for line in lines
    ]


def difference(a: object, b: object, place: str = "") -> str | None:
    """Return the place where two payloads differ in a bit, or None if they are equal."""
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
    """Start a run, kill it within `longest` seconds, and start it again. Let it end after so many
    kills. Return the number of kills."""
    rng = random.Random(seed)
    for done in range(kills + 1):
        process = forked.start(partial(run, flags(folder, out, **changes)), file=folder / "answer")
        if done < kills and forked.kill_after(process, rng.uniform(longest / 3, longest)):
            continue
        assert forked.wait(process) == 0, forked.traceback_in(folder / "answer")
        break
    return done


def start_straight(folder: Path, **changes) -> float:
    """Run without a kill. Return the seconds."""
    began = time.monotonic()
    process = forked.start(
        partial(run, flags(folder, "straight", **changes)), file=folder / "answer"
    )
    assert forked.wait(process, 600) == 0, forked.traceback_in(folder / "answer")
    return time.monotonic() - began
