"""The function of attention in a run: its name, its numbers, and where it cannot run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import exact_runs, tiny
from helpers.refusals import check_refusal
from scratchlm import functional
from scratchlm.cli.train import main as train
from scratchlm.devices.ranks import ALONE
from scratchlm.kernels import flash_blocks
from scratchlm.kernels.flash_blocks import Blocks
from scratchlm.model.attention import sdpa
from scratchlm.training import recipe, resume, run_config
from scratchlm.training.attention_choice import resolve_attention

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def started(folder: Path, out: str, **changes: Any) -> tuple[list[str], dict[str, Any]]:
    """Train, or resume the run in `out`. Return the printed lines, and the checkpoint."""
    said: list[str] = []
    given = exact_runs.flags(folder, out, **{
        "train.epochs": None, "train.iterations": 3, "optim.warmup_steps": 1,
        "runtime.dtype": "float32", "model.dropout": 0.0, **changes,
    })  # fmt: skip
    config, checkpoint = run_config.resolve(None, given, "auto", say=said.append)
    recipe.build(config, resume=checkpoint, say=said.append).fit()
    return said, exact_runs.final(folder / out)


def test_names() -> None:
    assert resolve_attention("auto", CPU, 64) is sdpa
    assert resolve_attention("sdpa", CPU, 64) is sdpa
    assert resolve_attention("readable", CPU, 64) is functional.scaled_dot_product_attention


@pytest.mark.parametrize("window", [None, 5])
def test_a_run_uses_the_chosen_function(window: int | None, tmp_path: Path) -> None:
    more = {"model.window": window, "data.documents": "ignore"}
    _, fused = started(tmp_path, "auto", **more)
    _, readable = started(tmp_path, "readable", **more, **{"runtime.attention": "readable"})
    assert fused["environment"]["attention"] == "sdpa"
    assert fused["recipe"]["runtime"]["attention"] == "sdpa"
    assert readable["environment"]["attention"] == "readable"
    losses = [
        [line["loss"] for line in exact_runs.log_of(tmp_path / out)] for out in ("auto", "readable")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    # Another function rounds in another way.
    assert exact_runs.difference(fused["model"], readable["model"]) is not None


def test_a_resumed_run_keeps_it_and_reports_a_change(tmp_path: Path) -> None:
    started(tmp_path, "run", **{"runtime.attention": "readable"})
    exact = {"train.iterations": 4}
    said, payload = started(tmp_path, "run", **exact)
    assert payload["environment"]["attention"] == "readable"
    assert not [line for line in said if "bit-exact" in line]
    said, _ = started(tmp_path, "run", **{"train.iterations": 5, "runtime.attention": "sdpa"})
    assert "runtime.attention: readable -> sdpa" in said
    assert "the run is not bit-exact: attention readable -> sdpa" in said


def test_other_blocks_and_another_triton_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    model = tiny.model()

    def environment(name: str = "triton") -> dict[str, Any]:
        return resume.environment(model, torch.bfloat16, True, False, ALONE, name)

    saved = environment()
    old = "forward:128x64x4x2 grad_q:128x64x8x2 grad_kv:32x128x8x2"
    assert saved["blocks"] == old  # of 8.6, which a CPU gets too
    assert resume.news_of({}, False, saved, environment()) == []
    monkeypatch.setitem(flash_blocks.TABLE, ("8.6", "grad_kv", 128), Blocks(16, 16, 4, 1))
    assert resume.differences(saved, environment()) == ""  # the model's heads are not so wide
    monkeypatch.setitem(flash_blocks.TABLE, ("8.6", "grad_kv", 64), Blocks(16, 32, 4, 1))
    new = "forward:128x64x4x2 grad_q:128x64x8x2 grad_kv:16x32x4x1"
    line = f"the run is not bit-exact: blocks {old} -> {new}"
    assert resume.news_of({}, False, saved, environment()) == [line]
    monkeypatch.setattr(triton, "__version__", "9.9.9")
    changed = resume.differences(saved, environment())
    assert changed == f"triton {saved['triton']} -> 9.9.9, blocks {old} -> {new}"
    assert not {"triton", "blocks"} & environment("sdpa").keys()


def test_a_checkpoint_without_a_name_used_sdpa() -> None:
    assert resume.differences({"threads": 1}, {"threads": 1, "attention": "sdpa"}) == ""
    changed = resume.differences({}, {"attention": "readable"})
    assert changed == "attention sdpa -> readable"


def test_a_cpu_without_triton_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = tiny.corpus(tmp_path)
    words = ["--train_data", str(corpus), "--device", "cpu", "--attention", "triton"]
    message = "attention triton needs an NVIDIA GPU of compute capability 8.0 or higher (cpu); "
    check_refusal(train, words, 2, message, capsys)


@pytest.mark.parametrize(
    ("capability", "d_head", "package", "message"),
    [
        ((7, 5), 64, True, r"capability 8\.0 or higher \(cuda has 7\.5\); choose --attention sdpa"),
        ((9, 0), 257, True, r"heads of at most 256 numbers \(257\); choose --attention sdpa"),
        (
            (9, 0),
            64,
            False,
            r"needs triton \(not installed\); .*'scratchlm\[gpu\]' on Linux x86-64",
        ),
    ],
)
def test_a_gpu_that_cannot_run_the_kernel_is_refused(
    capability: tuple[int, int], d_head: int, package: bool, message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if package else None)
    with pytest.raises(ValueError, match=message):
        resolve_attention("triton", CUDA, d_head)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.attention_sinks", "true"], "triton cannot compute sinks (model.attention_sinks"),
        (["--model.head_dim", "258"], "needs heads of at most 256 numbers (258); choose"),
        (["--device", "cpu"], "attention triton needs an NVIDIA GPU of compute capability 8.0"),
    ],
)
def test_a_dry_run_refuses_what_no_gpu_can_change(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = ["--vocab_size", "300", "--dry_run", "--attention", "triton"]
    check_refusal(train, [*given, *words], 2, message, capsys)
    assert train(given) == 0  # of another machine


def test_sinks_are_refused_before_the_data_is_prepared(tmp_path: Path) -> None:
    given = exact_runs.flags(
        tmp_path, "run", **{"runtime.attention": "triton", "model.attention_sinks": True}
    )
    config, _ = run_config.resolve(None, given)
    with pytest.raises(ValueError, match="triton cannot compute sinks"):
        recipe.build(config)
    assert not (tmp_path / "run").exists()
