"""The recipes of configs/: each is a model, and each small one trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers import tiny
from scratchlm import config as configuration
from scratchlm.cli.train import main as train
from scratchlm.costs.model_costs import count_parameters
from scratchlm.data.config import DataConfig
from scratchlm.model.config import LoRAConfig, ModelConfig
from scratchlm.optim.config import OptimConfig
from scratchlm.training.trainer_config import TrainerConfig

EVERY = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
CONFIGS = [path for path in EVERY if "d_model" in configuration.read_toml(path).get("model", {})]


def model_of(path: Path) -> ModelConfig:
    return configuration.build(ModelConfig, configuration.read_toml(path)["model"], "model.")


SMALL = [path for path in CONFIGS if count_parameters(model_of(path)).total < 20_000_000]


def test_every_member_of_the_family_has_one() -> None:
    models = {path.stem: model_of(path) for path in CONFIGS}
    sizes = {name: count_parameters(model).total for name, model in models.items()}
    assert {"gpt2-124m", "gpt2-350m", "gpt2-774m", "gpt2-1.5b", "gpt-mini", "pile-13m",
            "pile-2b"} <= sizes.keys()  # fmt: skip
    llamas = sorted(size for name, size in sizes.items() if name.startswith("llama"))
    assert llamas[0] < 16e6
    assert llamas[-1] > 8e9
    assert any(model.gated_attention != "none" for model in models.values())
    assert any(model.window for model in models.values())
    assert any(model.moe for model in models.values())


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_every_section_is_read(path: Path) -> None:
    tree = configuration.read_toml(path)
    assert {"optim", "train"} <= set(tree) <= {"data", "model", "optim", "train"}
    if path not in CONFIGS:  # the model comes from the weights
        configuration.build(LoRAConfig, tree.get("model", {}).get("lora", {}), "model.lora.")
    configuration.build(DataConfig, {"train": "a.txt"} | tree.get("data", {}), "data.")
    configuration.build(OptimConfig, tree["optim"], "optim.")
    configuration.build(TrainerConfig, tree["train"], "train.")
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_a_small_one_takes_twenty_steps(path: Path, tmp_path: Path) -> None:
    corpus = tiny.corpus(tmp_path, num_words=6000)
    arguments = ["--config", str(path), "--train_data", str(corpus), "--val_data", "none",
                 "--vocab_size", "300", "--max_seq_len", "48", "--iterations", "20",
                 "--batch_size", "2", "--accumulate", "1", "--optim.warmup_steps", "2",
                 "--device", "cpu", "--save_every", "0", "--eval_every", "0",
                 "--eval_batches", "2", "--out", str(tmp_path / "run")]  # fmt: skip
    assert train(arguments) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == list(range(1, 21))
    assert log[-1]["loss"] < log[0]["loss"]
    if model_of(path).moe:
        load = log[-1]["expert_load"]
        assert [len(layer) for layer in load] == [8] * 4
        assert all(sum(layer) == pytest.approx(1, abs=0.01) for layer in load)
