"""Runs that train only adapters: begin from weights, resume, and convert the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import tiny
from helpers.exact_runs import difference, final, flags, quiet, run
from helpers.refusals import check_refusal
from helpers.variants import small
from scratchlm import Transformer, cross_entropy, from_hf, load_model, to_hf
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.cli.convert import main as convert
from scratchlm.convert.peft_folder import from_peft, to_peft
from scratchlm.errors import FileFormatError, Notice
from scratchlm.model.config import LoRAConfig
from scratchlm.model.lora import adapted_layers, is_adapter
from scratchlm.training import recipe, run_config
from scratchlm.training.objective import Objective
from scratchlm.training.trainer import Trainer

IDS = torch.arange(32).view(2, 16) * 7 % 96
SHORT = {"train.epochs": None, "train.iterations": 8, "train.accumulate": 1}
LORA = {"model.lora.r": 4, "model.lora.targets": "all-linear", "model.lora.dropout": 0.1}


def begun(given: dict[str, Any]) -> Trainer:
    config, _ = run_config.resolve(None, given, say=quiet)
    return recipe.build(config, say=quiet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run `base`, and a run `lora` that trains adapters on it."""
    folder = tmp_path_factory.mktemp("runs")
    run(flags(folder, "base", **SHORT))
    run(flags(folder, "lora", **SHORT, **LORA) | {"train.init_from": str(folder / "base")})
    return folder


@pytest.mark.parametrize("targets", ["lm_head", "q_proj,lm_head", "v_proj"])
def test_the_objective_sees_an_adapter_of_the_head(targets: str) -> None:
    torch.manual_seed(0)
    model = small(lora=LoRAConfig(targets=(targets,) if "," not in targets else targets.split(",")))
    for _, layer in adapted_layers(model):
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    inputs, targets_ = torch.randint(61, (2, 2, 20))
    learning = [p for p in model.parameters() if p.requires_grad]
    loss, figures, _ = Objective(model)(inputs, targets_)
    expected = 40 * cross_entropy(model(inputs), targets_)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(figures["loss"], expected, rtol=1e-6, atol=1e-6)
    for mine, other in zip(
        torch.autograd.grad(loss, learning), torch.autograd.grad(expected, learning), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-4)


def test_only_the_adapters_learn(folder: Path) -> None:
    base, lora = load_model(folder / "base", "cpu"), load_model(folder / "lora", "cpu")
    assert lora.config.lora == LoRAConfig(4, dropout=0.1, targets=("all-linear",))
    kept = {name: w for name, w in lora.state_dict().items() if not is_adapter(name)}
    assert difference(dict(base.state_dict()), kept) is None
    assert all(layer.lora_B.any() for _, layer in adapted_layers(lora))
    state = read_checkpoint(folder / "lora" / "checkpoints" / "step-00000008")["optimizer"]
    assert len(state["state"]) == sum(is_adapter(name) for name in lora.state_dict())


def test_a_resumed_run_equals_an_uninterrupted_run(folder: Path) -> None:
    checkpoint = str(folder / "lora" / "checkpoints" / "step-00000004")
    config, found = run_config.resolve(
        None, {"train.out": str(folder / "again")}, checkpoint, say=quiet
    )
    recipe.build(config, resume=found, say=quiet).fit()
    assert difference(final(folder / "lora"), final(folder / "again")) is None


def test_a_run_begins_with_the_outputs_of_its_weights(folder: Path) -> None:
    """The settings of the weights win, and other adapters are merged first."""
    lora = load_model(folder / "lora", "cpu")
    given = {"train.init_from": str(folder / "lora")} | flags(folder, "next", **SHORT)
    same = begun(given).model.eval()
    assert isinstance(same, Transformer)
    assert difference(dict(lora.state_dict()), dict(same.state_dict())) is None
    for changes, config in [
        ({"model.lora.r": 2}, LoRAConfig(2, dropout=0.1, targets=("all-linear",))),
        ({"model.lora.alpha": 3}, LoRAConfig(4, 3.0, 0.1, ("all-linear",))),
        ({"model.lora": "none"}, None),
    ]:
        with pytest.warns(Notice, match="other settings, so they are merged into the weights"):
            other = begun(given | changes).model.eval()
        assert isinstance(other, Transformer)
        assert other.config.lora == config
        torch.testing.assert_close(other(IDS), lora(IDS), rtol=1e-5, atol=1e-5)
        assert all(p.requires_grad for p in other.parameters()) == (config is None)


def test_adapters_on_a_hugging_face_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    to_hf(tiny.model(vocab_size=96, context_length=16), tmp_path / "hub")
    given = flags(tmp_path, "out", **SHORT, **LORA) | {"train.init_from": str(tmp_path / "hub")}
    model = begun(given).model
    assert torch.equal(model.eval()(IDS), from_hf(tmp_path / "hub")(IDS))


def test_the_commands_write_the_merged_model_and_the_adapters(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM

    lora = load_model(folder / "lora", "cpu")
    words = ["--from", str(folder / "lora"), "--to"]
    assert convert([*words, str(tmp_path / "merged")]) == 0
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(IDS).logits
    torch.testing.assert_close(lora(IDS), theirs, rtol=1e-5, atol=1e-5)
    assert convert([*words, str(tmp_path / "adapter"), "--adapter_only"]) == 0
    assert "the adapters in the format of peft" in capsys.readouterr().out
    base = load_model(folder / "base", "cpu")
    from_peft(base, tmp_path / "adapter")
    assert torch.equal(base(IDS), lora(IDS))

    assert convert(["--from", str(folder / "base"), "--to", str(tmp_path / "hub")]) == 0
    words = ["--from", str(tmp_path / "hub"), "--adapter", str(tmp_path / "adapter"), "--to"]
    assert convert([*words, str(tmp_path / "ours")]) == 0
    assert torch.equal(load_model(tmp_path / "ours", "cpu")(IDS), lora(IDS))


def test_a_folder_of_adapters_is_no_model(tmp_path: Path) -> None:
    to_peft(small(lora=LoRAConfig()), tmp_path / "adapter")
    with pytest.raises(FileFormatError, match=r"only adapters, and no model .*--adapter .*adapter"):
        load_model(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("words", "code", "names"),
    [
        (["--from", "base", "--to", "x", "--adapter_only"], 2, "only a model with adapters"),
        (["--from", "base", "--to", "x", "--adapter", "base"], 3, "adapter_config.json is missing"),
        (["--from", "lora", "--to", "x", "--adapter", "a"], 2, "must not have adapters already"),
    ],
)
def test_the_command_refuses(
    words: list[str], code: int, names: str, folder: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    check_refusal(convert, words, code, names, capsys)
