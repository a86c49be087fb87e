"""The limits of a run: one row by hand, a ring that counts its bytes, and docs/scaling.md."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
import typing
from pathlib import Path

import pytest
import torch
from torch.distributed.run import get_args_parser as torchrun
from torch.profiler import ProfilerActivity, profile

from scratchlm import ModelConfig, Transformer
from scratchlm import config as configuration
from scratchlm.cli.train_flags import FLAGS, parse
from scratchlm.costs.model_costs import (
    GIB,
    RESERVED,
    activation_bytes,
    count_parameters,
    flops_per_token,
    training_memory,
)
from scratchlm.costs.roofline import (
    DEVICES,
    MFU,
    Plan,
    checkpointed_bytes,
    device_memory,
    pass_seconds,
    roofline,
    share,
)
from scratchlm.devices.runtime import recompute_activations
from scratchlm.training.objective import Objective
from scratchlm.training.train_config import TrainConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
A100, H100 = DEVICES["A100"], DEVICES["H100"]


def from_file(name: str) -> ModelConfig:
    tree = configuration.read_toml(ROOT / "configs" / f"{name}.toml")
    return configuration.build(ModelConfig, tree["model"])


def test_no_step_is_faster_than_its_bound() -> None:
    plan = Plan(dataclasses.replace(H100, network=6.25e9), 64, 1, 8, "fsdp", True)
    found = roofline(from_file("llama3-8b"), plan)
    assert found.bound == "interconnect"
    assert found.at_mfu == found.interconnect > found.compute / (4 / 3) / 0.4


def test_gpt2_on_eight_gpus_by_hand() -> None:
    found = roofline(from_file("gpt2-124m"), Plan(A100, 8, micro_batch=16, micro_steps=4))
    # 12 layers of four and eight squares of the width, 13 biases and no norms; and the tied head.
    n = 12 * (12 * 768**2 + (4 + 4 + 1) * 768) + 50304 * 768
    attention = 12 * 2 * 2 * 768 * 512  # queries · keys and weights · values, over half of 1,024
    tokens = 4 * 16 * 1024
    flops = (6 * n + 3 * attention) * tokens
    assert found.compute == pytest.approx(flops / 312e12)
    assert found.at_mfu == pytest.approx(flops / 312e12 / 0.4)
    weights = n + 1024 * 768 + 25 * 2 * 768  # the positions, and the norms' gains and biases
    assert found.interconnect == pytest.approx(2 * 7 / 8 * 4 * weights / 300e9)
    backward = tokens / 4 * (4 * n + 2 * attention) / 312e12  # of the last micro-batch
    assert found.tokens_to_hide == pytest.approx(found.interconnect / backward * 16384, abs=1)
    assert found.bound == "compute"
    activations = 6.30 * GIB  # the dry run's, of 16 x 1,024 tokens
    loss = 512 * 50304 * (2 + 4) + 4 * 768 * 50304  # a chunk's logits; the head's gradient
    traffic = 4 * (12 * weights + 2 * (activations - loss)) + 28 * weights
    assert found.memory == pytest.approx(traffic / 2.039e12, rel=1e-3)
    kept = 16 * weights + 2 * weights + activations  # w, g, m, v; bf16 copies
    assert found.needed.peak == pytest.approx(kept, rel=1e-3)
    assert found.fits


def test_a_sharded_llama_by_hand() -> None:
    plan = Plan(H100, 64, 1, 8, "fsdp", activation_checkpointing=True)
    found = roofline(from_file("llama3-8b"), plan)
    n, layer = 8_030_261_248, 4096 * (2 * 4096 + 2 * 1024 + 3 * 14336) + 2 * 4096
    outside = n - 32 * layer
    multiplying = n - 128256 * 4096 - 65 * 4096
    forward = 2 * multiplying + 32 * 2 * 2 * 4096 * 4096
    assert found.compute == pytest.approx(4 * forward * 8 * 8192 / 989e12)
    ring = 8 * 50e9  # a node's eight cards, less than its links
    assert found.interconnect == pytest.approx(8 * 63 / 64 * (2 + 2 + 4) * n / ring)
    gather, scatter = (63 / 64 * size * n / ring for size in (2, 4))
    hidden = max(gather / forward, (gather + scatter) / (3 * forward)) * 989e12
    assert found.tokens_to_hide == pytest.approx(hidden, abs=1)
    assert found.needed.weights + found.needed.gradients + found.needed.optimizer == 16 * n / 64
    assert found.needed.copies == 2 * (2 * layer + outside) + 4 * outside
    kept = 2 * 8192 * activation_bytes(from_file("llama3-8b"), precision="half")
    assert found.memory == pytest.approx((8 * (12 * n + kept) + 28 * n / 64) / 3.35e12)


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_a_ring_sends_what_is_said(ranks: int) -> None:
    """Simulate the all-reduce of Patarasuk and Yuan: in n − 1 steps each rank sends a partial sum,
    and in n − 1 steps it sends a result."""
    torch.manual_seed(0)
    data = torch.randn(ranks, ranks, 5, dtype=torch.float64)  # rank, chunk, numbers
    total, size = data.sum(dim=0), data[0].nbytes
    sent = [0, 0]
    for half, first in enumerate((0, 1)):
        for step in range(ranks - 1):
            chunks = [(rank + first - step) % ranks for rank in range(ranks)]
            passed = [data[rank, chunk].clone() for rank, chunk in enumerate(chunks)]
            sent[half] += passed[0].nbytes
            for rank, (chunk, values) in enumerate(zip(chunks, passed, strict=True)):
                target = data[(rank + 1) % ranks, chunk]
                target.copy_(values if half else target + values)
    torch.testing.assert_close(data, total.expand_as(data))
    plan = Plan(H100, ranks, 1, 1)
    for bytes_sent in sent:
        assert pass_seconds(plan, size) == pytest.approx(bytes_sent / H100.link)


def test_beyond_a_node_the_ring_has_the_nodes_network() -> None:
    assert A100.ring(8) == 300e9
    assert A100.ring(9) == 8 * 25e9
    assert dataclasses.replace(A100, network=1e12).ring(16) == 300e9


def test_communication_hides_from_the_tokens_that_are_said() -> None:
    for parallel in ("ddp", "fsdp"):
        plan = Plan(H100, 8, 1, 1, parallel)  # type: ignore[arg-type]
        config = ModelConfig(1000, 1, 512, 4, 8)  # one token a sequence
        least = roofline(config, plan).tokens_to_hide
        for tokens, hides in ((least, True), (least - 1, False)):
            found = roofline(config, dataclasses.replace(plan, micro_batch=tokens))
            beside = {
                # the all-reduce beside backward; gather and reduce-scatter, 6 bytes of 8, likewise
                "ddp": found.interconnect,
                "fsdp": 6 / 8 * found.interconnect,
            }[parallel]
            assert (beside <= 2 / 3 * found.compute) == hides


@pytest.mark.parametrize("name", ["gpt2-1.5b", "llama3-8b", "llama3-70b"])
def test_a_large_models_size_hardly_matters_to_hiding(name: str) -> None:
    """The page's 2 · peak / bandwidth for ddp: 8N bytes against the 4N FLOPs of backward."""
    found = roofline(from_file(name), Plan(H100, 1024, 1, 1))
    assert found.tokens_to_hide == pytest.approx(2 * 989e12 / 400e9, rel=0.15)


def test_one_gpu_sends_nothing_and_needs_what_the_dry_run_says() -> None:
    config = from_file("gpt2-350m")
    found = roofline(config, Plan(A100, 1, 8, 4))
    assert found.interconnect == found.tokens_to_hide == 0
    assert found.needed == training_memory(config, 8, precision="half", accumulate=4)


def test_what_is_reduced_stays_beside_the_activations() -> None:
    config = from_file("gpt2-350m")
    alone, among_eight = (device_memory(config, Plan(A100, ranks, 8, 1)) for ranks in (1, 8))
    assert among_eight.peak == alone.peak + alone.gradients


def test_a_plan_fits_with_room_to_spare() -> None:
    config = from_file("gpt2-350m")
    plan = Plan(A100, 1, 8, 4)
    peak = device_memory(config, plan).peak
    for spare, fits in ((1.001, True), (0.999, False)):
        gpu = dataclasses.replace(A100, memory=round(spare * peak / (1 - RESERVED)))
        assert roofline(config, dataclasses.replace(plan, device=gpu)).fits == fits


def test_the_slowest_unit_is_the_bound() -> None:
    config, plan = ModelConfig(1000, 64, 64, 2, 2), Plan(H100, 16, 4, 1)
    for unit, change in {
        "compute": {"flops": 1.0},
        "memory": {"memory_bandwidth": 1.0},
        "interconnect": {"network": 1.0},
    }.items():
        slow = dataclasses.replace(plan, device=dataclasses.replace(H100, **change))
        assert roofline(config, slow).bound == unit


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(512, 128, 128, 6, 4),
        ModelConfig(512, 128, 128, 6, 4, norm="layernorm", position="learned", ffn="gelu"),
        ModelConfig(8192, 64, 64, 3, 4, num_kv_heads=2),  # most of it logits
    ],
    ids=["llama", "gpt2", "logits"],
)
def test_checkpointing_keeps_what_a_step_really_keeps(config: ModelConfig) -> None:
    """Compare with the profiler's peak over a forward and backward pass in float32, within 15%."""
    torch.manual_seed(0)
    model = Transformer(config)
    recompute_activations(model.layers)
    objective = Objective(model)
    ids = torch.randint(config.vocab_size, (4, config.context_length))
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)  # so the step allocates only activations
    for last in (False, True):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=last) as profiled:
            loss, *_ = objective(ids, ids)
            loss.backward()
    assert profiled.profiler is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert checkpointed_bytes(config, ids.numel()) == pytest.approx(peak, rel=0.15)


@pytest.mark.parametrize(
    ("step", "ranks", "shared"),
    [
        ((16, 32), 1, (16, 32)),
        ((16, 32), 8, (16, 4)),
        ((16, 32), 64, (8, 1)),
        ((16, 32), 512, (1, 1)),
        ((15, 32), 12, (5, 8)),  # four groups of three
        ((1, 480), 24, (1, 20)),  # the page's
        ((1, 480), 32, (1, 15)),
    ],
)
def test_ranks_share_a_step(step: tuple[int, int], ranks: int, shared: tuple[int, int]) -> None:
    assert share(*step, ranks) == shared


def test_what_cannot_be_shared_is_refused() -> None:
    for step, ranks in (((16, 32), 6), ((16, 32), 1024), ((1, 512), 24)):
        with pytest.raises(ValueError, match=rf"sequences evenly \({ranks} ranks\); use"):
            share(*step, ranks)
    with pytest.raises(ValueError, match=r"ranks must be at least 1 \(0\)"):
        share(16, 32, 0)
    with pytest.raises(ValueError, match=r"micro_steps must be at least 1 \(0\)"):
        Plan(H100, 8, 1, 0)


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import roofline_table
    finally:
        sys.path.pop(0)
    return roofline_table


def test_the_pages_table_is_computed(script) -> None:
    assert script.table() in PAGE


def test_the_pages_devices_are_those_of_the_table() -> None:
    for device in DEVICES.values():
        cells = (
            device.name, f"{device.flops / 1e12:.0f}", f"{device.memory / GIB:.0f}",
            f"{device.memory_bandwidth / 1e9:,.0f}", f"{device.link / 1e9:.0f}",
            f"{device.network / 1e9:.0f}", f"{device.flops / device.memory_bandwidth:.0f}",
            f"{device.flops / device.ring(8):,.0f}", f"{device.flops / device.ring(9):,.0f}",
        )  # fmt: skip
        assert f"| {' | '.join(cells)} |" in PAGE
    assert f"{MFU:.0%}" in PAGE


def test_one_row_is_printed_for_a_run_of_ones_own(script, monkeypatch, capsys) -> None:
    config = str(ROOT / "configs" / "gpt2-1.5b.toml")
    words = ["roofline_table.py", config, "--ranks", "64", "--parallel", "fsdp"]
    monkeypatch.setattr(sys, "argv", [*words, "--batch_size", "8"])
    script.main()
    printed = capsys.readouterr().out
    found = roofline(from_file("gpt2-1.5b"), Plan(H100, 64, 8, 1, "fsdp"))
    assert re.search(rf"hides from +{found.tokens_to_hide:,}\n", printed)
    assert re.search(r"tokens a GPU +1 x 8,192\n", printed)
    monkeypatch.setattr(sys, "argv", [*words, "--batch_size", "7"])
    with pytest.raises(SystemExit):
        script.main()
    assert "micro-batches of 7 make no step of 512" in capsys.readouterr().err


def commands() -> list[list[str]]:
    """Return the words of each command in the page's shell blocks."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    lines = blocks.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words)[:40])
def test_the_pages_commands_are_understood(words: list[str], script, monkeypatch) -> None:
    """Parse with torchrun, the trainer and the script; build every key and value of the config."""
    monkeypatch.chdir(ROOT)
    if "torchrun" in words:
        found = torchrun().parse_args(words[words.index("torchrun") + 1 :])
        assert found.module
        assert found.training_script == "scratchlm.cli.train"
        words = ["scratchlm-train", *found.training_script_args]
    match words:
        case ["scratchlm-train", *flags]:
            given = parse(flags, "")
            tree = configuration.merge(
                {"model": {"vocab_size": 1024}, "data": {"train": "train.bin"}},
                configuration.read_toml(given.file),
                configuration.nest(given.flags),
            )
            configuration.build(TrainConfig, tree)
        case ["python", "scripts/roofline_table.py", *_]:
            monkeypatch.setattr(sys, "argv", words[1:])
            script.main()
        case ["bash", file]:
            assert Path(file).is_file()
        case _:
            assert words[0] in ("export", "pip") or words[0].startswith("host=")


def test_the_pages_flags_and_keys_are_known() -> None:
    """The flags and keys in its sentences belong to torchrun, the trainer or the configuration."""
    words = " ".join(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)))
    keys = {
        f"{section}.{field.name}"
        for section, config in typing.get_type_hints(TrainConfig).items()
        for field in dataclasses.fields(config)
    }
    ours = {
        "resume",
        "dry_run",
        "output",
        *(name for _, *names in FLAGS.values() for name in names),
    }
    theirs = {name[2:] for name in torchrun()._option_string_actions}
    flags = set(re.findall(r"--([\w.]+)", words))
    assert {"runtime.compile", "accumulate", "max_restarts"} <= flags
    assert flags <= keys | ours | theirs
    dotted = set(re.findall(r"\b(?:model|data|optim|train|runtime)\.\w+", words))
    assert {"train.batch_size", "runtime.dtype"} <= dotted
    assert dotted <= keys


def test_the_pages_configs_are_there() -> None:
    for name in re.findall(r"configs/([\w.-]+)\.toml", PAGE):
        assert (ROOT / "configs" / f"{name}.toml").is_file(), name


def test_the_page_counts_as_the_model_does() -> None:
    """Check the numbers of the row that the page computes by hand."""
    config = from_file("gpt2-124m")
    assert "798.5 MFLOP" in PAGE
    assert 3 * flops_per_token(config) == pytest.approx(798.5e6, abs=0.05e6)
    assert "124,475,904" in PAGE
    assert count_parameters(config).total == 124_475_904
    assert "0.4 MB of activations" in PAGE
    assert activation_bytes(config, precision="half") == pytest.approx(0.4e6, abs=0.05e6)
    for batch_size, size in ((64, "needs 26 GiB"), (16, "instead of 8.")):
        memory = training_memory(config, batch_size, precision="half", accumulate=8)
        assert size in PAGE
        assert f"{memory.peak / GIB:.0f}" in size
    for name, size in (("llama3-8b", "257 GB"), ("llama3-70b", "2.3 TB")):
        held = 8 * 4 * count_parameters(from_file(name)).total
        assert size in PAGE
        assert size in (f"{held / 1e9:.0f} GB", f"{held / 1e12:.1f} TB")


@pytest.mark.parametrize(("length", "fits"), [(16384, True), (32768, False)])
def test_where_one_sequence_does_not_fit(length: int, fits: bool) -> None:
    assert "70B at 32,768 tokens on 80 GB" in PAGE
    config = dataclasses.replace(from_file("llama3-70b"), context_length=length)
    plan = Plan(H100, 1024, 1, 1, "fsdp", activation_checkpointing=True)
    assert roofline(config, plan).fits == fits
