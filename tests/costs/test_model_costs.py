"""The costs of a model: known models, arithmetic by hand, and the real memory of a step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from scratchlm import AdamW, ModelConfig, Transformer
from scratchlm import config as configuration
from scratchlm.cli.generate import main as generate
from scratchlm.cli.train import main as train
from scratchlm.costs import model_costs
from scratchlm.devices.batch import Batch
from scratchlm.model.config import LoRAConfig, MoEConfig
from scratchlm.optim.config import OptimConfig
from scratchlm.optim.recipe import build_optimizer
from scratchlm.training.fp8_layers import use_fp8
from scratchlm.training.objective import Objective
from scratchlm.training.preference_objective import PreferenceObjective, frozen_copy
from scratchlm.training.trainer import Trainer
from scratchlm.training.trainer_config import TrainerConfig

EVERYWHERE = LoRAConfig(8, targets=("all-linear",))
CONFIGS = Path(__file__).parents[2] / "configs"


def from_file(name: str) -> ModelConfig:
    tree = configuration.read_toml(CONFIGS / f"{name}.toml")
    return configuration.build(ModelConfig, tree["model"])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt2-124m", 124_439_808 + 47 * 768),  # the published number, and the padding rows
        ("gpt2-350m", 354_823_168 + 47 * 1024),
        ("gpt2-774m", 774_030_080 + 47 * 1280),
        ("gpt2-1.5b", 1_557_611_200 + 47 * 1600),
        ("llama2-7b", 6_738_415_616),
        ("llama3-1b", 1_235_814_400),
        ("llama3-8b", 8_030_261_248),
        ("llama3-70b", 70_553_706_496),
        ("qwen3-0.6b", 596_049_920),
    ],
)
def test_known_models_have_their_number_of_parameters(name: str, count: int) -> None:
    assert model_costs.count_parameters(from_file(name)).total == count


def test_parameters_by_part_and_those_that_a_token_meets() -> None:
    config = ModelConfig(100, 8, 16, 2, 4, d_ff=32, moe=MoEConfig(4, 2))
    counts = model_costs.count_parameters(config)
    experts = 2 * 4 * 3 * 16 * 32
    assert counts.embedding == counts.head == 100 * 16
    assert counts.attention == 2 * 4 * 16 * 16
    assert counts.feed_forward == experts + 2 * 4 * 16
    assert counts.norms == 5 * 16
    assert counts.total == Transformer(config).num_parameters()
    assert counts.active == counts.total - experts // 2


def test_only_adapters_take_gradients_and_moments() -> None:
    base = ModelConfig(100, 8, 16, 2, 4, d_ff=32)
    config = dataclasses.replace(base, lora=LoRAConfig(3))
    counts, total = model_costs.count_parameters(config), model_costs.count_parameters(base).total
    assert counts.trainable == 2 * 2 * 3 * (16 + 16)
    assert counts.total == total + counts.trainable
    memory = model_costs.training_memory(config, 1)
    assert memory.weights == 4 * counts.total
    assert memory.gradients == 4 * counts.trainable
    assert memory.optimizer == 8 * counts.trainable
    frozen = model_costs.training_memory(base, 1).activations - memory.activations
    assert frozen == 4 * 100 * 16  # the gradient of the head


def test_flops_by_hand() -> None:
    config = ModelConfig(100, 8, 16, 2, 4, d_ff=32, tie_embeddings=True)
    matrices = 2 * (4 * 16 * 16 + 3 * 16 * 32) + 16 * 100
    forward = model_costs.flops_per_token(config)
    assert forward == 2 * matrices + 2 * 4 * 4 * 4 * 4
    assert model_costs.training_flops_per_token(config) == 3 * forward
    tuned = dataclasses.replace(config, lora=LoRAConfig(3))
    adapters = 2 * 2 * 3 * (16 + 16)
    assert model_costs.flops_per_token(tuned) == forward + 2 * adapters
    training = 3 * (forward + 2 * adapters) - 2 * matrices
    assert model_costs.training_flops_per_token(tuned) == training


def test_the_cache_is_as_large_as_it_is_said_to_be() -> None:
    config = ModelConfig(100, 64, 32, 3, 4, num_kv_heads=2)
    cache = Transformer(config).new_cache(5, 40)
    assert model_costs.cache_bytes(config, 40, 5, 4) == cache.nbytes
    assert cache.nbytes == cache.keys.nbytes + cache.values.nbytes


class OneBatch:
    def __init__(self, *tensors: torch.Tensor) -> None:
        self.tensors = tensors

    def batch(self, index: int) -> Batch:
        return Batch(*self.tensors)


def real_peak(
    config: ModelConfig, batch: int, optimizer: str, accumulate: int, *, reference: bool = False
) -> int:
    """Return the peak bytes of tensors in a trainer's third step: the bytes before the step, and
    the most that the profiler sees allocated during the step. With `reference`, each row is a
    pair of answers."""
    torch.manual_seed(0)
    model = Transformer(config)
    steps = build_optimizer(OptimConfig(optimizer=optimizer), model)  # type: ignore[arg-type]
    ids = torch.randint(config.vocab_size, (batch, config.context_length))
    settings = TrainerConfig(iterations=3, accumulate=accumulate, batch_size=batch)
    batches, objective = OneBatch(ids, ids), None
    if reference:
        second = (torch.arange(config.context_length) >= config.context_length // 2).expand_as(ids)
        batches = OneBatch(ids, ids, second * config.context_length // 2, 1 - 2 * second.int())
        objective = PreferenceObjective(model, frozen_copy(model))
    trainer = Trainer(model, steps, batches, settings, objective=objective)
    state: list[Any] = []
    for step in range(3):
        steps.zero_grad(set_to_none=True)
        state = [value for one in steps.state.values() for value in one.values()]
        with profile(activities=[ProfilerActivity.CPU], profile_memory=step == 2) as profiled:
            trainer.train_step()
    weights = {*model.parameters(), *trainer.objective.parameters()}
    kept = [*weights, *(value for value in state if isinstance(value, torch.Tensor))]
    assert profiled.profiler is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak + sum(tensor.nbytes for tensor in kept)


@pytest.mark.parametrize(
    ("config", "batch", "optimizer", "accumulate"),
    [
        (ModelConfig(1024, 128, 128, 4, 4), 8, "adamw", 1),
        (ModelConfig(2048, 128, 128, 4, 4, norm="layernorm", position="learned", ffn="gelu",
                     bias=True, tie_embeddings=True, init="gpt2", dropout=0.1), 8, "adamw", 1),
        (ModelConfig(512, 128, 256, 4, 8, num_kv_heads=2, qk_norm=True,
                     gated_attention="elementwise"), 4, "adamw", 1),
        (ModelConfig(512, 128, 128, 4, 4, d_ff=192, moe=MoEConfig(8, 2)), 8, "adamw", 1),
        (ModelConfig(8192, 32, 256, 2, 4), 2, "adamw", 1),  # most of it weights
        (ModelConfig(8192, 32, 256, 2, 4), 4, "adamw", 4),
        (ModelConfig(2048, 32, 256, 4, 4), 4, "muon", 1),
        (ModelConfig(2048, 32, 256, 4, 4), 4, "sgd", 2),
        (ModelConfig(5000, 128, 64, 2, 4, vocab_multiple=64), 4, "adamw", 1),
        (from_file("pile-13m"), 4, "adamw", 1),  # most of it logits
        (ModelConfig(2048, 64, 256, 4, 4, lora=EVERYWHERE), 4, "adamw", 1),
        (ModelConfig(512, 128, 128, 4, 4, window=16, window_pattern="SSSL", nope_every=4,
                     local_rope_theta=1e3), 8, "adamw", 1),
        (ModelConfig(5000, 128, 64, 2, 4, logit_softcap=30.0), 4, "adamw", 1),
        (ModelConfig(512, 128, 128, 4, 4, attention_sinks=True), 8, "adamw", 1),
    ],
    ids=["llama", "gpt2", "gated", "moe", "weights", "accumulated", "muon", "sgd", "padded",
         "pile-13m", "adapters", "layers", "soft-cap", "sinks"],
)  # fmt: skip
def test_memory_is_within_15_percent_of_what_a_step_takes(
    config: ModelConfig, batch: int, optimizer: Any, accumulate: int
) -> None:
    estimate = model_costs.training_memory(config, batch, optimizer, accumulate=accumulate).peak
    real = real_peak(config, batch, optimizer, accumulate)
    assert estimate == pytest.approx(real, rel=0.15)


@pytest.mark.parametrize("lora", [None, EVERYWHERE], ids=["whole", "adapters"])
def test_memory_of_a_step_on_pairs(lora: LoRAConfig | None) -> None:
    """A reference model needs its weights. With adapters, it shares the frozen weights."""
    config = ModelConfig(2048, 64, 256, 4, 4, lora=lora)
    alone, both = (model_costs.training_memory(config, 4, reference=each) for each in (False, True))
    real = real_peak(config, 4, "adamw", 1, reference=True)
    assert both.peak == pytest.approx(real, rel=0.15)
    assert both.peak - alone.peak == alone.gradients
    assert (alone.gradients < alone.weights / 10) == (lora is not None)


@pytest.mark.gpu
def test_memory_is_within_15_percent_on_a_gpu() -> None:
    config = from_file("gpt2-124m")
    model = Transformer(config).cuda()
    optimizer = AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(config.vocab_size, (4, config.context_length)).cuda()
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16):
            loss, _, _ = Objective(model)(ids, ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    estimate = model_costs.training_memory(config, 4, precision="half").peak
    assert estimate == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.15)


@pytest.mark.parametrize("precision", ["half", "fp8"])
@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(512, 128, 128, 4, 4),
        ModelConfig(512, 128, 128, 4, 4, norm="layernorm", ffn="gelu", bias=True),
        ModelConfig(512, 128, 256, 4, 8, num_kv_heads=2, qk_norm=True,
                    gated_attention="elementwise"),
    ],
    ids=["llama", "gpt2", "gated"],
)  # fmt: skip
def test_what_backward_keeps_under_autocast_is_within_6_percent(
    config: ModelConfig, precision: model_costs.Precision
) -> None:
    """The activations of the blocks, and the copies of their weights."""
    model, ids = Transformer(config), torch.randint(500, (4, 128))
    if precision == "fp8":
        use_fp8(model.layers)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        hidden = model.hidden(ids)
    assert hidden.requires_grad
    counts = model_costs.count_parameters(config)
    copies = model_costs.training_memory(config, 4, precision=precision).copies
    copies -= 2 * (counts.embedding + counts.head)
    estimate = ids.numel() * model_costs.activation_bytes(config, precision=precision) + copies
    assert estimate == pytest.approx(sum(each.nbytes() for each in kept.values()), rel=0.06)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0.0 KiB"),
        (1536, "1.5 KiB"),
        (3 << 19, "1.5 MiB"),
        (100 << 20, "100.0 MiB"),
        (3 << 29, "1.50 GiB"),
        (3 << 40, "3,072.00 GiB"),
    ],
)
def test_a_size_has_the_unit_that_leaves_something_of_it(size: int, text: str) -> None:
    assert model_costs.size_text(size) == text


def test_dry_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from scratchlm import save_checkpoint

    arguments = ["--config", str(CONFIGS / "gpt2-124m.toml"), "--dry_run", "--device", "cuda"]
    assert train(arguments) == 0
    out = capsys.readouterr().out
    assert "124,475,904: embedding 39,419,904" in out
    assert "memory to train 16 sequences of 1024 at once, bf16 autocast" in out
    assert "a step: 16 sequences of 1024, 32 times" in out
    assert "T4 (16)" in out
    assert "8.38 GiB" in out
    assert train([*arguments, "--dtype", "fp8"]) == 0
    out = capsys.readouterr().out
    assert "memory to train 16 sequences of 1024 at once, fp8 in the blocks" in out
    assert "GPUs with enough memory to train (8% stays free): all of the usual GPUs with FP8" in out
    assert train(["--dry_run"]) == 2
    assert "set --vocab_size N" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("a text " * 100, encoding="utf-8")
    assert train(["--dry_run", "--train_data", str(tmp_path / "a.txt")]) == 0
    assert capsys.readouterr().out.startswith("vocab_size is 309: the default for 700 bytes")

    model = Transformer(ModelConfig(100, 64, 32, 3, 4, num_kv_heads=2))
    save_checkpoint(tmp_path / "checkpoint", model, None, 0)
    assert generate(["--model_path", str(tmp_path / "checkpoint"), "--dry_run"]) == 0
    assert "cache 64 x 16" in capsys.readouterr().out
    assert generate(["--model_path", str(CONFIGS / "llama3-8b.toml"), "--dry_run"]) == 0
    assert "8,030,261,248" in capsys.readouterr().out
