"""The runs of the benchmark train on the same dialogues, and the peers learn what we learn."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import tiny
from scratchlm import ModelConfig, from_hf
from scratchlm.data.conversations.batches import Examples
from scratchlm.data.conversations.masks import Example
from scratchlm.data.packing import pack
from scratchlm.functional import IGNORED

SCRIPTS = Path(__file__).parents[2] / "scripts"
Weights = dict[str, Tensor]
MODULES = ("bench_finetuning", "bench_finetuning_runs", "allocated_memory")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, with a small model and short rows, without the peers of other projects."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_finetuning

    shape = {"d_model": 16, "num_layers": 1, "num_heads": 2}
    for name, value in {"VOCAB": 300, "ROW_LENGTH": 128, "ROWS": 2, "SHAPE": shape}.items():
        monkeypatch.setattr(bench_finetuning, name, value)
    yield bench_finetuning
    for module in MODULES:
        sys.modules.pop(module)


@pytest.fixture
def dialogues(tmp_path: Path) -> Path:
    """48 dialogues of different lengths."""
    words = tiny.text(3000).split()
    path = tmp_path / "dialogues.json"
    items = [
        {"instruction": " ".join(words[i : i + 2]), "input": "", "output": " ".join(words[: i % 7])}
        for i in range(1, 60)
        if i % 7
    ]
    path.write_text(json.dumps(items), encoding="utf-8")
    return path


def task_of(bench: ModuleType, dialogues: Path, folder: Path) -> tuple[Any, Examples]:
    """Return a task of one step with all training dialogues, and the held-out dialogues."""
    training, held_out, _ = bench.prepare([dialogues], folder)
    chosen = bench.sample(training, 4, 6, 128)
    assert len(pack(chosen.lengths, 128)) == 6
    return bench.Task(chosen, folder, torch.float32, 1, 6, 128, 4), held_out


def loss_of(bench: ModuleType, weights: Weights, held_out: Examples, task: Any) -> float:
    config = ModelConfig(len(weights["embedding.weight"]), 128, **bench.SHAPE)
    return bench.loss_of(weights, config, held_out, task)


def test_all_ways_train_on_the_same_targets(
    bench: ModuleType, dialogues: Path, tmp_path: Path
) -> None:
    task, held_out = task_of(bench, dialogues, tmp_path / "model")
    ways = [bench.packed(False), bench.padded_in_trainer(False), bench.padded_in_trainer(True)]
    packed, random, by_length = [run(task) for run in ways]
    assert packed.targets == random.targets == by_length.targets
    assert packed.targets == sum(
        task.examples[number].num_targets for number in range(len(task.examples))
    )
    assert by_length.places < random.places
    assert packed.places == task.rows * 128
    losses = [loss_of(bench, each.weights, held_out, task) for each in (packed, random, by_length)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    assert losses[0] < loss_of(bench, from_hf(task.folder).state_dict(), held_out, task) - 0.01


def test_batches_have_each_dialogue_once(bench: ModuleType) -> None:
    from bench_finetuning_runs import in_batches, padded

    generator = np.random.default_rng(0)
    lengths = generator.permutation(np.arange(2, 42))
    examples = Examples(
        Example(generator.integers(0, 9, length + 1), generator.random(length + 1) < 0.5)
        for length in lengths
    )
    for by_length in (False, True):
        numbers = in_batches(examples, by_length)
        assert sorted(np.concatenate(numbers).tolist()) == list(range(40))
        spread = [np.ptp(examples.lengths[each]) for each in numbers]
        assert (max(spread) == 7) == by_length
        batch = padded(examples, numbers[0])
        assert batch.first is None
        assert batch.inputs.shape == (8, examples.lengths[numbers[0]].max())
        for row, number in enumerate(numbers[0]):
            inputs, targets = examples[number].inputs_and_targets()
            assert batch.inputs[row, : len(inputs)].tolist() == inputs.tolist()
            assert batch.targets[row, : len(inputs)].tolist() == targets.tolist()
            assert (batch.targets[row, len(inputs) :] == IGNORED).all()
    chosen = bench.sample(examples, 2, 8, 64)
    assert chosen.lengths.tolist() == [*range(10, 18), *range(26, 34)]
    chosen = bench.sample(examples, 2, 5, 64)  # 344 tokens, so the longest do not fit
    assert chosen.lengths.tolist() == [*range(10, 18), *range(26, 32)]


@pytest.mark.slow
def test_transformers_learns_the_same(bench: ModuleType, dialogues: Path, tmp_path: Path) -> None:
    task, held_out = task_of(bench, dialogues, tmp_path / "model")
    for by_length in (False, True):
        runs = bench.padded_in_trainer(by_length), bench.padded_in_transformers(by_length)
        ours, theirs = [run(task) for run in runs]
        assert (ours.targets, ours.places) == (theirs.targets, theirs.places)
        losses = [loss_of(bench, each.weights, held_out, task) for each in (ours, theirs)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.bench
def test_trl_learns_the_same(bench: ModuleType, dialogues: Path, tmp_path: Path) -> None:
    """So trl separates the dialogues, and counts only the answers."""
    pytest.importorskip("trl")
    task, held_out = task_of(bench, dialogues, tmp_path / "model")
    # A row of trl contains the last id of each dialogue too.
    rows = len(pack(task.examples.lengths + 1, 128))
    ours, theirs = bench.packed(False)(task), bench.packed_in_trl(replace(task, rows=rows))
    assert ours.targets == theirs.targets
    losses = [loss_of(bench, each.weights, held_out, task) for each in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_table(
    bench: ModuleType,
    dialogues: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bench, "quiet", lambda: None)
    monkeypatch.setattr(bench, "runs", lambda *_: {"ours": run, "not compiled": run})
    monkeypatch.setattr(bench, "has_trl", lambda: False)
    run = bench.packed(False)
    bench.main([str(dialogues), "--steps", "1", "--rounds", "1", "--dtype", "float32"])
    out = capsys.readouterr().out
    assert "The table has no row for trl: trl is not installed" in out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == [
        "| packed rows of 128 tokens", "| 1", "| 2", "| 4",
        "| peer", "| ours, not compiled", "| run", "| ours", "| not compiled",
    ]  # fmt: skip
    assert rows[7][1:] == rows[8][1:], "one run, twice"
    ratios = [float(cell.split("(")[1].rstrip("x |)")) for row in rows[1:4] for cell in row[1:]]
    assert ratios[::3] == [1, 1, 1]
    for q_and_v, all_linear in zip(ratios[1::3], ratios[2::3], strict=True):
        assert q_and_v < all_linear


def test_ratios_are_medians_of_rounds(bench: ModuleType) -> None:
    ours = [bench.Measured(seconds, 2.0, 100, 200, {}) for seconds in (1.0, 4.0, 2.0)]
    theirs = [bench.Measured(seconds, 3.0, 150, 200, {}) for seconds in (3.0, 3.0, 9.0)]
    assert bench.row("x", ours, theirs, "≥ 2x") == "| x | 50 | 50 | 2.00x | 1.00x | ≥ 2x |"
