"""Figures: what is measured, and that it is drawn whole or not at all."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import tiny
from scratchlm import ModelConfig
from scratchlm.cli.plot import main
from scratchlm.data.shards import write_shard
from scratchlm.plots import InitRun, draw_init, init_runs, made_up_language

PNG = b"\x89PNG\r\n"


def test_the_made_up_language_can_be_learnt() -> None:
    ids = made_up_language(64, 20_000)
    assert ids.min() >= 0
    assert ids.max() < 64
    assert np.array_equal(ids, made_up_language(64, 20_000))
    pairs = np.zeros((64, 64))
    np.add.at(pairs, (ids[:-1], ids[1:]), 1)
    four_likeliest = np.sort(pairs, axis=1)[:, -4:].sum() / pairs.sum()
    assert 0.85 < four_likeliest < 0.95


def test_each_strategy_is_measured_at_its_start_and_learns() -> None:
    config = ModelConfig(64, 16, 64, 3, 4)
    lines: list[str] = []
    runs = init_runs(config, made_up_language(64, 5000), steps=30, progress=lines.append)
    assert set(runs) == {"truncated", "gpt2", "xavier", "kaiming"}
    assert [line.split()[0] for line in lines] == list(runs)
    for run in runs.values():
        assert len(run.activations) == 4
        assert len(run.gradients) == 3
        assert len(run.losses) == 30
        assert run.losses[-1] < run.losses[0]
    # The table's standard deviations, as the embedding's rows show them.
    assert runs["gpt2"].activations[0] == pytest.approx(0.02, rel=0.1)
    assert runs["xavier"].activations[0] == pytest.approx(math.sqrt(2 / 128), rel=0.1)
    assert runs["kaiming"].activations[0] == pytest.approx(math.sqrt(2 / 64), rel=0.1)


def test_a_figure_is_drawn_whole_or_not_at_all(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = {"gpt2": InitRun([0.1, 0.2], [0.3], [4.0, 3.0])}
    draw_init(runs, tmp_path / "init.png", "two layers")  # type: ignore[arg-type]
    assert (tmp_path / "init.png").read_bytes().startswith(PNG)
    with pytest.raises(OSError):
        draw_init(runs, tmp_path / "nowhere" / "init.png", "")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["init.png"]


def test_the_command_draws_the_model_of_a_config_on_a_shard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    config, figure = tmp_path / "model.toml", tmp_path / "init.png"
    config.write_text(
        "[model]\ncontext_length = 16\nd_model = 32\nnum_layers = 2\nnum_heads = 2\n"
        "vocab_size = 300\n[model.moe]\nnum_experts = 4\nnum_active = 2\n"
    )
    shard = tmp_path / "corpus.bin"
    write_shard(tiny.tokenizer(tmp_path), tiny.corpus(tmp_path), shard)
    arguments = ["init", "--config", str(config), "--train_data", str(shard), "--steps", "3"]
    assert main([*arguments, "--output", str(figure)]) == 0
    assert figure.read_bytes().startswith(PNG)
    assert f"drawn: {figure}" in capsys.readouterr().out


def test_without_matplotlib_the_remedy_is_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["init", "--output", str(tmp_path / "init.png")]) == 2
    assert "pip install 'scratchlm[viz]'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
