"""The help of `scratchlm-train`, its recipes, and its required flags."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers import tiny
from helpers.refusals import check_refusal
from scratchlm.cli.generate import main as generate
from scratchlm.cli.train import main as train
from scratchlm.cli.train_flags import FLAGS, GROUPS
from scratchlm.config import keys
from scratchlm.devices.runtime_config import RuntimeConfig
from scratchlm.model.config import ModelConfig
from scratchlm.optim.config import OptimConfig
from scratchlm.training.train_config import DEFAULT_ITERATIONS, DEFAULT_MODEL, TrainConfig
from scratchlm.training.trainer_config import TrainerConfig

ROOT = Path(__file__).parents[2]
SHORT = ["--iterations", "1", "--device", "cpu", "--eval_batches", "1"]


@pytest.fixture
def helps(monkeypatch, capsys) -> dict[str, dict[str, str]]:
    """Return {group: {flag: its entry}} of the help."""
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as ended:
        train(["--help"])
    assert ended.value.code == 0
    found: dict[str, dict[str, str]] = {}
    for block in re.split(r"\n\n", capsys.readouterr().out):
        title, _, body = block.partition(":\n")
        entries = re.split(r"\n  (?=-)", "\n" + body)[1:]
        found[title] = {each.split()[0]: " ".join(each.split()) for each in entries}
    return found


def test_the_help_shows_every_key_of_the_configuration_in_its_group(helps):
    assert set(FLAGS) == {key.name for key in keys(TrainConfig)}
    for key, (text, *names) in FLAGS.items():
        entry = helps[GROUPS[key.partition(".")[0]]][f"--{names[0] if names else key}"]
        assert text in entry, key
        assert all(f"--{name}" in entry for name in names), key
    groups = [title for title in helps if title in GROUPS.values()]
    assert groups == list(GROUPS.values())


def test_the_help_shows_the_defaults_of_the_dataclasses(helps):
    model = ModelConfig(vocab_size=300, **DEFAULT_MODEL)
    for group, flag, value in [
        ("model", "--d_model", model.d_model),
        ("model", "--num_layers", model.num_layers),
        ("model", "--model.norm", model.norm),
        ("model", "--model.position", model.position),
        ("model", "--model.ffn", model.ffn),
        ("model", "--model.qk_norm", "false"),
        ("model", "--model.moe.jitter", 0.0),
        ("optimizer", "--optimizer", OptimConfig().optimizer),
        ("optimizer", "--schedule", OptimConfig().schedule),
        ("optimizer", "--weight_decay", OptimConfig().weight_decay),
        ("optimizer", "--lr", OptimConfig().lr),
        ("run", "--iterations", DEFAULT_ITERATIONS),
        ("run", "--batch_size", TrainerConfig().batch_size),
        ("run", "--sample_prompt", repr(TrainerConfig().sample_prompt)),
        (GROUPS["runtime"], "--dtype", RuntimeConfig().dtype),
    ]:
        assert re.search(rf"\({re.escape(str(value))}(;.*)?\)$", helps[group][flag]), flag
    assert "rmsnorm|layernorm" in helps["model"]["--model.norm"]


def test_a_true_may_be_left_out(tmp_path):
    np.save(tmp_path / "ids.npy", (np.arange(2000) % 100).astype(np.uint16))
    words = ["--train_data", tmp_path / "ids.npy", "--vocab_size", 100, "--max_seq_len", 16]
    words += ["--d_model", 16, "--num_heads", 2, "--model.qk_norm", "--tie_embeddings", *SHORT]
    assert train([str(word) for word in [*words, "--out", tmp_path / "run"]]) == 0
    saved = (tmp_path / "run" / "config.toml").read_text()
    assert "qk_norm = true" in saved
    assert "tie_embeddings = true" in saved


def test_alone_it_says_what_it_needs_and_gives_an_example_that_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train([]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "training data is missing" in error
    example = re.search(r"scratchlm-train (--train_data \S+ --config \w+)", error)[1]
    shutil.copy(ROOT / "README.md", tmp_path / "book.txt")
    assert train([*example.split(), *SHORT]) == 0


@pytest.mark.parametrize("words", [[], ["--seed", "1"], ["--d_model", "64"]])
def test_flags_without_data_are_told_before_torch_is_imported(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check_refusal(train, words, 2, "--train_data", capsys)


# --- recipes --------------------------------------------------------------------------------------


def test_a_recipe_is_found_by_its_name_and_by_its_path(capsys):
    said = set()
    for word in ("gpt-mini", str(ROOT / "configs" / "gpt-mini.toml")):
        assert train(["--dry_run", "--config", word]) == 0
        said.add(capsys.readouterr().out)
    assert len(said) == 1
    assert generate(["--dry_run", "--model_path", "gpt-mini"]) == 0
    assert "parameters      5," in capsys.readouterr().out


def test_a_file_of_that_name_wins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_text("[model]\nvocab_size = 300\nd_model = 8\nnum_heads = 2\n")
    assert train(["--dry_run", "--config", "tiny"]) == 0
    assert "embedding 2,400" in capsys.readouterr().out
    (tmp_path / "gpt-mini").mkdir()
    assert train(["--dry_run", "--config", "gpt-mini"]) == 0, "a folder is no config"


def test_the_recipes_are_listed_with_size_and_purpose(capsys):
    assert train(["--config", "list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "parameters", "purpose"]
    found = {line.split()[0]: line.split()[1] for line in lines}
    assert set(found) == {path.stem for path in (ROOT / "configs").glob("*.toml")}
    assert found["gpt2-124m"] == "124.5M"
    assert {found.pop(name) for name in ("sft", "sft-lora", "dpo")} == {"any"}
    sizes = [float(size.removesuffix("M").replace(",", "")) for size in found.values()]
    assert sizes == sorted(sizes)
    assert any(line.endswith("hours on two cores.") for line in lines)


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("gpt-mimi", "did you mean gpt-mini?"),
        ("gpt_mimi", "did you mean gpt-mini?"),
        ("configs/gpt_mini.toml", "write only its name: gpt-mini"),
        ("gpt2", "--config list shows all recipes"),
        ("configs/tiny.toml", "write only its name: tiny"),
        ("run", "set --config run/config.toml"),
        ("", "--config list shows all recipes"),
    ],
)
def test_an_unknown_recipe_is_refused_with_those_that_are_close(
    word, names, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("")
    check_refusal(train, ["--train_data", "x.txt", f"--config={word}"], 2, names, capsys)


def test_a_recipes_name_has_hyphens_or_underscores(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = []
    for name in ("gpt-mini", "gpt_mini"):
        assert train(["--dry_run", "--config", name]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


# --- optimizer and schedule -----------------------------------------------------------------------


def test_a_run_with_sgddecay_goes_on_exactly(tmp_path):
    np.save(tmp_path / "ids.npy", (np.arange(2000) % 100).astype(np.uint16))
    words = ["--train_data", tmp_path / "ids.npy", "--vocab_size", 100, "--max_seq_len", 16]
    words += [
        "--d_model",
        16,
        "--num_heads",
        2,
        "--optimizer",
        "sgddecay",
        "--schedule",
        "constant",
    ]
    words = [str(word) for word in [*words, "--warmup_steps", 0, "--device", "cpu"]]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train([*words, "--iterations", "4", "--out", str(whole)]) == 0
    assert train([*words, "--iterations", "2", "--out", str(parts)]) == 0
    assert train(["--resume", str(parts), "--iterations", "4"]) == 0
    weights = [
        (run / "checkpoints" / "step-00000004" / "model.safetensors").read_bytes()
        for run in (whole, parts)
    ]
    assert weights[0] == weights[1]


def test_weight_decay_without_effect_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.corpus(tmp_path)
    words = "--train_data corpus.txt --optimizer sgddecay --weight_decay 0.1 --vocab_size 300"
    check_refusal(
        train, words.split(), 2, "optim.weight_decay (0.1) has no effect on sgddecay", capsys
    )
