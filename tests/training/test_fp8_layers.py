"""FP8 in a model: which layers use it, what stays the same, and runs beside bfloat16."""

from __future__ import annotations

import copy
import pydoc_data.topics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import exact_runs, forked, small_runs, tiny
from helpers.exact_runs import difference, quiet
from helpers.refusals import check_refusal
from scratchlm import AdamW, ModelConfig, Transformer, save_checkpoint
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.cli.train import main as train
from scratchlm.data.batches import TrainBatches
from scratchlm.devices import runtime
from scratchlm.devices.ranks import ALONE, Ranks, data_parallel, fully_sharded
from scratchlm.devices.runtime import recompute_activations
from scratchlm.functional import fp8_product
from scratchlm.kernels.fp8_linear import fp8_linear
from scratchlm.model.config import LoRAConfig, MoEConfig
from scratchlm.model.layers import Linear
from scratchlm.optim.schedule import cosine_schedule
from scratchlm.training import recipe, run_config
from scratchlm.training.early_checks import check_settings
from scratchlm.training.fp8_layers import FP8Linear, use_fp8
from scratchlm.training.objective import Objective
from scratchlm.training.trainer import Trainer
from scratchlm.training.trainer_config import TrainerConfig

IDS = torch.arange(64).view(2, 32) * 7 % 300
CPU = torch.device("cpu")


def in_fp8(model: Transformer) -> Transformer:
    use_fp8(model.layers, fp8_product)
    return model


def gradients(model: nn.Module) -> list[Tensor]:
    loss, _, _ = Objective(model)(IDS, IDS)
    loss.backward()
    return [weight.grad for weight in model.parameters()]


def test_the_matrices_of_the_blocks_use_it_and_nothing_else_does() -> None:
    model = in_fp8(tiny.model(bias=True, qk_norm=True, gated_attention="elementwise"))
    found = {name for name, module in model.named_modules() if isinstance(module, FP8Linear)}
    assert found == {
        f"layers.{layer}.{name}"
        for layer in range(2)
        for name in (
            "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "attn.gate.proj",
            "ffn.gate_proj", "ffn.up_proj", "ffn.down_proj",
        )
    }  # fmt: skip
    assert type(model.lm_head) is Linear


def test_the_state_of_the_model_stays_the_same() -> None:
    model = tiny.model(bias=True)
    state, weights = model.state_dict(), [id(weight) for weight in model.parameters()]
    in_fp8(model)
    assert [id(weight) for weight in model.parameters()] == weights
    assert difference(dict(model.state_dict()), dict(state)) is None
    other = tiny.model(seed=1, bias=True)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(IDS), model.eval()(IDS))


def test_only_training_uses_it() -> None:
    """The finished model computes without FP8, so validation and samples do too."""
    model = tiny.model(bias=True)
    reference = copy.deepcopy(model)
    in_fp8(model)
    assert not torch.equal(model(IDS), reference(IDS))
    assert torch.equal(model.eval()(IDS), reference.eval()(IDS))
    assert torch.equal(model.eval()(IDS[:, :5]), reference(IDS[:, :5]))  # of any length


def test_a_layer_adds_its_bias_in_the_dtype_of_the_product() -> None:
    linear = Linear(32, 48, bias=True)
    nn.init.normal_(linear.bias)
    layer, x = FP8Linear(linear, fp8_product), torch.randn(4, 16, 32)
    assert torch.equal(layer(x), fp8_linear(x, linear.weight, product=fp8_product) + linear.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    layer(x).sum().backward()
    torch.testing.assert_close(linear.bias.grad, torch.full((48,), 64.0))


def test_recomputed_activations_give_the_same_gradients() -> None:
    model = in_fp8(tiny.model())
    again = copy.deepcopy(model)
    recompute_activations(again.layers)
    assert difference(gradients(model), gradients(again)) is None


def _gradients_on(ranks: Ranks) -> None:
    """Compare the gradients of DDP and FSDP. The rows of the ranks differ."""
    rows = torch.arange(64).view(2, 32) * (7 + ranks.rank) % 300
    models = [in_fp8(tiny.model()), in_fp8(tiny.model())]
    objectives = [
        data_parallel(Objective(models[0]), CPU),
        fully_sharded(Objective(models[1]), models[1].layers, ranks, CPU, torch.float32),
    ]
    for objective in objectives:
        objective(rows, rows)[0].backward()
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        whole = other.grad.full_tensor()
        torch.testing.assert_close(whole, one.grad, rtol=1e-5, atol=1e-5)
    assert any(weight.grad.abs().max() > 0.1 for weight in models[0].parameters())


@pytest.mark.slow
def test_sharded_weights_give_the_same_gradients(tmp_path: Path) -> None:
    forked.run_ranks(tmp_path, 2, _gradients_on)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_ff": 72}, r"must be multiples of 16 \(layers\.0\.ffn\.gate_proj: 32 to 72\); "),
        ({"gated_attention": "headwise"}, r"\(layers\.0\.attn\.gate\.proj: 32 to 4\); "),
        ({"lora": LoRAConfig(4)}, r"adapters \(LoRA\) must not use FP8 \(layers\.0\.attn\.q_proj"),
        ({"moe": MoEConfig(4, 2)}, r"experts must not use FP8 \(layers\.0\.ffn\.experts\); "),
    ],
)
def test_a_layer_that_cannot_use_it_is_refused(changes: dict[str, Any], message: str) -> None:
    model = tiny.model(**changes)
    with pytest.raises(ValueError, match=message):
        in_fp8(model)
    assert not any(isinstance(module, FP8Linear) for module in model.modules())


def test_a_resumed_run_equals_an_uninterrupted_run(tmp_path: Path) -> None:
    def trainer(out: str) -> Trainer:
        return small_runs.trainer(tmp_path / out, model=in_fp8(tiny.model(dropout=0.1)))

    trainer("whole").fit()
    resumed = trainer("resumed")
    checkpoints = tmp_path / "whole" / "checkpoints"
    assert len(resumed.resume(checkpoints / "step-00000004")) == 1  # no difference to report
    resumed.fit()
    payloads = [read_checkpoint(tmp_path / out / "checkpoints" / "step-00000008")
                for out in ("whole", "resumed")]  # fmt: skip
    assert payloads[0]["environment"]["dtype"] == "fp8"
    for payload in payloads:
        del payload["pending"]  # contains the speed
    assert difference(*payloads) is None
    plain = small_runs.trainer(tmp_path / "plain")
    assert "dtype fp8 -> float32" in plain.resume(checkpoints / "step-00000004")[1]


# --- the settings of a run ------------------------------------------------------------------------


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    given = {"runtime.dtype": "fp8", "runtime.compile": "on", "model.dropout": 0.0}
    return exact_runs.flags(folder, "run", **{**given, **changes})


@pytest.fixture
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel of a CPU computes the same, so that tests may use it."""
    monkeypatch.setattr(runtime, "check_capability", lambda *arguments: None)


@pytest.mark.usefixtures("any_device")
def test_a_run_uses_it_in_the_blocks(tmp_path: Path) -> None:
    config, _ = run_config.resolve(None, settings(tmp_path), say=quiet)
    trainer = recipe.build(config, say=quiet)
    assert trainer.environment["dtype"] == "fp8"
    assert trainer.dtype == torch.bfloat16  # the head
    assert isinstance(trainer.model, Transformer)
    assert all(isinstance(block.attn.q_proj, FP8Linear) for block in trainer.model.layers)


@pytest.mark.usefixtures("any_device")
def test_a_model_is_refused_before_the_data_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "--train_data",
        str(tiny.corpus(tmp_path)),
        "--dtype",
        "fp8",
        "--model.moe.num_experts",
    ]
    words += ["4", "--model.moe.num_active", "2", "--device", "cpu", "--out", "run"]
    message = "experts must not use FP8 (layers.0.ffn.experts); choose --dtype bfloat16"
    for more in ([], ["--dry_run"]):
        check_refusal(train, [*words, *more], 2, message, capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("any_device")
def test_a_compiled_run_resumes_exactly(tmp_path: Path) -> None:
    given = settings(tmp_path, **{"train.epochs": None, "train.iterations": 8})
    exact_runs.run(given)
    config, _ = run_config.resolve(None, given | {"train.out": str(tmp_path / "other")}, say=quiet)
    resumed = recipe.build(config, say=quiet)
    said = resumed.resume(tmp_path / "run" / "checkpoints" / "step-00000004")
    assert not [line for line in said if "bit-exact" in line]
    resumed.fit()
    assert exact_runs.log_of(tmp_path / "run")[4:] == exact_runs.log_of(tmp_path / "other")
    weights = [exact_runs.final(tmp_path / out)["model"] for out in ("run", "other")]
    assert difference(*weights) is None


@pytest.mark.parametrize(
    ("changes", "ranks", "message"),
    [
        ({"runtime.compile": "off"}, ALONE, r"fp8 must be compiled \(runtime.compile off\)"),
        ({"data.kind": "dpo"}, ALONE, r"pairs of answers cannot use fp8 \(data.kind dpo\)"),
        ({"model.context_length": 9}, ALONE, r"must be a multiple of 16 \(4 x 9\); change --batch"),
        (
            {"model.context_length": 24, "train.accumulate": 1},
            Ranks(0, 4, 0, 4),
            r"must be a multiple of 16 \(1 x 24\)",
        ),
    ],
)
def test_settings_that_it_cannot_have(
    changes: dict[str, Any], ranks: Ranks, message: str, tmp_path: Path
) -> None:
    kind = changes.pop("data.kind", "text")
    config, _ = run_config.resolve(None, settings(tmp_path, **changes), say=quiet)
    begun = replace(config.train, init_from="model")  # pairs of answers need it
    config = replace(config, data=replace(config.data, kind=kind), train=begun)
    with pytest.raises(ValueError, match=message):
        check_settings(config.rows_model, config.train, config.data, config.runtime, ranks)


def test_a_context_that_the_data_may_shorten_is_checked_with_the_data(tmp_path: Path) -> None:
    config, _ = run_config.resolve(None, settings(tmp_path, **{"model.context_length": 9}))
    fitting = replace(config.data, fit_context=True)
    check_settings(config.model, config.train, fitting, config.runtime)
    with pytest.raises(ValueError, match=r"must be a multiple of 16 \(4 x 9\)"):
        recipe.resolve_auto(replace(config, data=fitting), 8, CPU, ALONE)


@pytest.mark.usefixtures("any_device")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compile", "off"], "fp8 must be compiled (runtime.compile off)"),
        (
            ["--batch_size", "3", "--context_length", "40"],
            "the tokens of a rank's micro-batch must be a multiple of 16 (3 x 40)",
        ),
        (["--kind", "dpo", "--init_from", "base"], "pairs of answers cannot use fp8"),
    ],
)
def test_settings_are_refused_before_the_data_is_prepared(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def prepare_for(*arguments: object) -> None:
        raise AssertionError("the data is prepared")

    monkeypatch.setattr(recipe, "prepare_for", prepare_for)
    monkeypatch.chdir(tmp_path)
    save_checkpoint("base", tiny.model(), None, 0, tokenizer=tiny.tokenizer(tmp_path).to_json())
    given = ["--train_data", str(tiny.corpus(tmp_path)), "--dtype", "fp8", *words]
    for more in (["--device", "cpu", "--out", "run"], ["--dry_run"]):
        check_refusal(train, [*given, *more], 2, message, capsys)


def test_a_dry_run_for_a_cpu_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--config", "gpt2-124m", "--dry_run", "--dtype", "fp8", "--device"]
    message = "fp8 needs an NVIDIA GPU of compute capability 8.9 or higher (cpu); choose --dtype"
    check_refusal(train, [*words, "cpu"], 2, message, capsys)
    assert train([*words, "cuda"]) == 0  # of another machine


def test_a_device_without_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = tiny.corpus(tmp_path)
    words = ["--train_data", str(corpus), "--device", "cpu", "--dtype", "fp8", "--out", "run"]
    message = "fp8 needs an NVIDIA GPU of compute capability 8.9 or higher (cpu); choose --dtype"
    check_refusal(train, words, 2, message, capsys)


def test_an_older_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    for capability, message in (((8, 0), r"\(cuda has 8\.0\)"), ((7, 5), r"\(cuda has 7\.5\)")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        with pytest.raises(ValueError, match=message):
            runtime.resolve_dtype("fp8", cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert runtime.resolve_dtype("fp8", cuda) == torch.bfloat16
    monkeypatch.setattr(torch.version, "hip", "7.0")
    with pytest.raises(ValueError, match=r"NVIDIA GPU .*\(cuda\)"):
        runtime.resolve_dtype("fp8", cuda)


# --- learning -------------------------------------------------------------------------------------

STEPS = 200


def losses(change: Callable[[Transformer], object]) -> Tensor:
    """Train a model of characters for 200 steps in bfloat16, and return its losses."""
    text = str(pydoc_data.topics.topics).encode("ascii", "replace")
    ids = np.frombuffer(text[:500_000], dtype=np.uint8).astype(np.uint16)
    torch.manual_seed(0)
    model = Transformer(ModelConfig(128, 64, 64, 2, 2))
    change(model)
    optimizer = AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    trainer = Trainer(
        model, optimizer, TrainBatches(ids, 16, 64, 0), TrainerConfig(iterations=STEPS),
        dtype=torch.bfloat16,
        schedule=partial(
            cosine_schedule, max_lr=1.0, min_lr=0.1, warmup_steps=20, total_steps=STEPS
        ),
    )  # fmt: skip
    return torch.tensor([float(trainer.train_step()["loss"]) for _ in range(STEPS)])


@pytest.mark.slow
def test_200_steps_learn_as_well_as_in_bfloat16() -> None:
    """Another seed changes the loss by 1%, so the bound is smaller."""
    bfloat16 = losses(lambda model: None)
    fp8 = losses(in_fp8)
    assert bfloat16[:10].mean() > 1.3 * bfloat16[-50:].mean()
    assert not torch.equal(fp8, bfloat16)
    assert fp8[-50:].mean().item() == pytest.approx(bfloat16[-50:].mean().item(), rel=0.002)
