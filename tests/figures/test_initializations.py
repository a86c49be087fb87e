"""Figures: check the measured numbers, and that a file is complete or does not exist."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import tiny
from helpers.refusals import check_refusal
from scratchlm import ModelConfig, save_checkpoint
from scratchlm.cli.plot import main
from scratchlm.data.shards import write_shard
from scratchlm.figures.initializations import InitRun, draw_init, init_runs, made_up_language
from scratchlm.figures.sampling import (
    NextToken,
    distribution_after,
    examples,
    made_up,
    new_figure,
    of_model,
)
from scratchlm.generation.generator import TextGenerator

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
    assert f"saved: {figure}" in capsys.readouterr().out


def test_without_matplotlib_the_remedy_is_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for figure in ("init", "sampling"):
        assert main([figure, "--output", str(tmp_path / "figure.png")]) == 2
        assert "pip install 'scratchlm[viz]'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def words_left(strategy: str, next_token: NextToken) -> list[str]:
    after = distribution_after(examples(next_token.logits)[strategy], next_token)
    assert float(after.sum()) == pytest.approx(1)
    return [next_token.name(id) for id in after.nonzero().flatten().tolist()]


def test_the_made_up_distribution_shows_what_each_strategy_does() -> None:
    """Probabilities in per mille, added up by hand."""
    next_token = made_up()
    before = next_token.logits.softmax(-1)
    assert before[:3].tolist() == pytest.approx([0.3, 0.14, 0.09])
    everything = [next_token.name(id) for id in range(len(before))]
    five = ["mat", "branch", "roof", "fence", "cat"]
    assert words_left("temperature 0 (greedy)", next_token) == ["mat"]
    assert words_left("top_k 5", next_token) == five
    assert words_left("top_p 0.7", next_token) == [*five, "dog"]  # 670, and 720
    assert words_left("min_p 0.1", next_token) == everything[:9]  # from 30 on
    assert words_left("typical_p 0.5", next_token) == everything[1:9]
    assert words_left("logit_bias: 1st -inf, 5th +2", next_token) == everything[1:]
    assert (
        words_left("no_repeat_ngram_size 3", next_token) == everything[1:]
    )  # "on the mat" is there
    said = [everything.index(word) for word in ("mat", "branch")]  # twice, and never
    for strategy, factor in (("presence_penalty 1", math.e), ("frequency_penalty 1", math.e**2)):
        after = distribution_after(examples(next_token.logits)[strategy], next_token)[said]
        assert float(after[0] / after[1]) == pytest.approx(300 / 140 / factor, rel=1e-4)


def test_the_next_token_is_the_models_own(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer(tmp_path)
    model = tiny.model(vocab_size=320).eval()  # padded past its tokenizer
    next_token = of_model(TextGenerator(model, tokenizer), "the cat")
    assert next_token.ids == tokenizer.encode("the cat")
    own = model(torch.tensor([next_token.ids]))[0, -1, : len(tokenizer)]
    assert torch.allclose(next_token.logits, own, atol=1e-5)
    assert next_token.name(next_token.ids[0]) == tokenizer.decode(next_token.ids[:1])
    assert next_token.name(0xE4) == "\\xe4"


def test_the_bars_are_the_probabilities() -> None:
    pytest.importorskip("matplotlib")
    next_token = made_up()
    before = next_token.logits.softmax(-1)
    axes = new_figure(next_token).axes
    strategies = examples(next_token.logits)
    assert [axis.get_title(loc="left") for axis in axes] == list(strategies)
    for axis, strategy in zip(axes, strategies.values(), strict=True):
        after = distribution_after(strategy, next_token)
        filled, outlined = axis.containers
        for bars, expected in ((filled, after), (outlined, before)):
            widths = torch.tensor([bar.get_width() for bar in bars], dtype=torch.float32)
            assert torch.allclose(widths[:16], expected[:16], atol=1e-6)
            assert float(widths[16]) == pytest.approx(float(expected[16:].sum()), abs=1e-6)
        labels = [label.get_text() for label in axis.get_yticklabels()]
        assert labels == [*map(next_token.name, range(16)), "15 others"]
        (cut,) = axis.lines
        assert [labels[row] for row in cut.get_ydata()] == [
            label for label, bar in zip(labels, filled, strict=True) if bar.get_width() == 0
        ]
    told = [axis.texts[-1].get_text() for axis in axes]
    assert told[0] == "1 token, 30% of the mass · 0.00 nats"
    assert told[3].startswith("5 tokens, 67% of the mass")
    assert told[9].startswith("all tokens · ")


def test_the_command_draws_what_a_model_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny.tokenizer(tmp_path)
    save_checkpoint("model.pt", tiny.model(), None, 1, tokenizer=tokenizer.to_json())
    prompt = "$a$ 中文\n"  # no formula; without a glyph; a line break
    assert main(["sampling", "--model_path", "model.pt", "--prompt", prompt]) == 0
    assert capsys.readouterr() == ("saved: sampling.png\n", "")
    assert Path("sampling.png").read_bytes().startswith(PNG)


def test_without_a_model_it_draws_made_up_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    drawn: list[tuple[str, str]] = []

    def note(next_token: NextToken, path: str) -> None:
        drawn.append((next_token.text, path))

    monkeypatch.setattr("scratchlm.figures.sampling.draw_sampling", note)
    monkeypatch.chdir(tmp_path)
    assert main(["sampling"]) == 0
    assert drawn == [(made_up().text, "sampling.png")]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["sampling", "--train_data", "corpus.bin"], "--train_data is only for the figure init"),
        (["sampling", "--config", "tiny.toml"], "--config is only for the figure init"),
        (["sampling", "--steps", "100"], "--steps is only for the figure init"),
        (["init", "--prompt", "so"], "--prompt is only for the figure sampling"),
        (["init", "--model_path", "run"], "--model_path is only for the figure sampling"),
        (["init", "--tokenizer_path", "t.json"], "--tokenizer_path is only for the figure"),
        (["sampling", "--prompt", "so"], "no --model_path"),
        (["sampling", "--model_path", "run"], "no --prompt"),
        (["sampling", "--tokenizer_path", "t.json"], "a tokenizer (t.json) needs a model"),
        (["sampling", "--model_path", "nowhere", "--prompt", "so"], "nowhere"),
        (["sampling", "--output", "sampling.pdf"], "a figure must be a .png file (sampling.pdf)"),
        (["sampling", "--output", "nowhere/sampling.png"], "the figure's folder must exist"),
        (["init", "--steps", "0"], "steps must be at least 1 (0)"),
        (["attention"], "attention"),
    ],
)
def test_refusals(
    words: list[str],
    names: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    check_refusal(main, words, 2, names, capsys)
