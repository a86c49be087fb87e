"""The benchmarks for a GPU run on a CPU, with small sizes and torch's attention instead of ours."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from scratchlm.model.attention import sdpa

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    names: list[str] = []

    def load(name: str) -> ModuleType:
        names.append(name)
        return importlib.import_module(name)

    yield load
    for name in (*names, "bench_attention"):
        sys.modules.pop(name, None)


def rows_of(text: str) -> list[list[str]]:
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines]


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(
        "[model]\nvocab_size = 100\ncontext_length = 16\nd_model = 16\nnum_layers = 1\n"
        'num_heads = 2\nposition = "learned"\nnorm = "layernorm"\nffn = "gelu"\n'
    )
    return path


# --- attention ------------------------------------------------------------------------------------


def test_flops_are_those_of_the_causal_half(script) -> None:
    """Query i meets i keys, each product takes 2 · d_head FLOPs, and a pass has so many."""
    shape = script("bench_attention").Shape(3, 4, 1000, 16)
    forward = 3 * 4 * sum(2 * 2 * 16 * keys for keys in range(1, 1001))
    assert shape.flops(2) == pytest.approx(forward, rel=2e-3)
    assert shape.flops(5) == 2.5 * shape.flops(2)


def test_the_shapes_are_those_of_the_goals(script) -> None:
    shapes = script("bench_attention").SHAPES
    assert {shape.seq for shape in shapes} == {1024, 2048, 4096, 8192, 16384}
    assert {shape.d_head for shape in shapes} == {64, 128}
    assert {shape.batch * shape.seq for shape in shapes} == {16_384}
    assert {shape.heads * shape.d_head for shape in shapes} == {2_048}


def test_attention_prints_speeds_and_ratios(script, capsys: Capture) -> None:
    bench = script("bench_attention")
    bench.print_table(sdpa, CPU, [bench.Shape(2, 2, 32, 16)], rounds=2)
    head, *rows = rows_of(capsys.readouterr().out)
    assert head == ["TFLOP/s", "ours", "FlashAttention-2", "ratio", "cuDNN", "ratio"]
    assert [row[0].split(", ")[-1] for row in rows] == ["forward", "backward"]
    for row in rows:
        assert float(row[1]) > 0
        assert float(row[2]) > 0
        assert row[3].endswith("x")
        assert row[4:] == ["n/a", "n/a"]  # a CPU has no cuDNN


def test_a_peer_is_the_kernel_of_its_name(script) -> None:
    bench = script("bench_attention")
    q, k, v = (torch.randn(1, 2, 8, 16) for _ in range(3))
    torch.testing.assert_close(bench.PEERS["FlashAttention-2"](q, k, v), sdpa(q, k, v, causal=True))
    with pytest.raises(RuntimeError, match=r"No (viable|available)"):
        bench.pinned(SDPBackend.CUDNN_ATTENTION)(q, k, v)


def test_ratios_are_the_peers_time_over_ours(script, monkeypatch, capsys: Capture) -> None:
    bench = script("bench_attention")

    def slow(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(q, k, v, causal=True) + 0 * sum(q.sum() for _ in range(300))

    monkeypatch.setattr(bench, "PEERS", {"slow": slow})
    bench.print_table(sdpa, CPU, [bench.Shape(1, 2, 16, 16)], rounds=3)
    forward = rows_of(capsys.readouterr().out)[1]
    assert float(forward[3].rstrip("x")) > 3


def test_only_a_peer_may_be_missing(script, monkeypatch, capsys: Capture) -> None:
    bench = script("bench_attention")

    def broken(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(bench, "PEERS", {"peer": broken})
    bench.print_table(sdpa, CPU, [bench.Shape(1, 2, 16, 16)], rounds=1)
    assert [row[2:] for row in rows_of(capsys.readouterr().out)[1:]] == [["n/a", "n/a"]] * 2
    with pytest.raises(RuntimeError, match="no such kernel"):
        bench.print_table(broken, CPU, [bench.Shape(1, 2, 16, 16)], rounds=1)


def test_a_gpu_gets_many_calls_at_once(script, monkeypatch) -> None:
    """Between two calls, a GPU must not wait for Python. `do_bench` queues the calls."""
    triton = pytest.importorskip("triton")
    calls: list[object] = []

    def do_bench(job: Callable[[], object], *, return_mode: str, **options: int) -> float:
        calls.append(job)
        return 3.0 if return_mode == "median" else 4.0

    monkeypatch.setattr(triton.testing, "do_bench", do_bench)
    assert script("bench_attention").seconds(len, torch.device("cuda")) == 3e-3
    assert calls == [len]


# --- all parts ------------------------------------------------------------------------------------


def test_training_prints_a_row_for_each_way(
    script, tiny_config: Path, monkeypatch, capsys: Capture
) -> None:
    bench = script("bench_gpu")
    monkeypatch.setattr(bench, "ROUNDS", 2)
    monkeypatch.setattr(bench, "STEPS", 1)
    words = ["--device", "cpu", "--config", str(tiny_config), "--batch_size", "2"]
    with torch.compiler.set_stance("force_eager"):
        bench.main([*words, "--attention", "sdpa", "readable"])
    _, *rows = rows_of(capsys.readouterr().out)
    assert [row[0] for row in rows] == [
        "tiny, sdpa", "tiny, readable", "tiny, a nanoGPT-style loop"
    ]  # fmt: skip
    assert rows[-1][3] == "1.00x"
    assert all(float(row[1].replace(",", "")) > 0 for row in rows)
    assert {row[2] for row in rows} == {"n/a"}  # a CPU's peak is unknown


def test_no_part_begins_after_the_end(script, monkeypatch, capsys: Capture) -> None:
    bench = script("bench_gpu")
    done: list[str] = []
    for name in bench.PARTS:
        monkeypatch.setitem(bench.PARTS, name, lambda device, name=name: done.append(name))
    bench.run_parts(list(bench.PARTS), CPU, minutes=1)
    assert done == ["shapes", "fp8", "memory", "attention", "training-124m", "training-350m",
                    "decoding"]  # fmt: skip
    bench.run_parts(["decoding"], CPU, minutes=-1)
    assert len(done) == 7
    assert "not measured (the time is over)" in capsys.readouterr().out


def test_a_failed_part_does_not_end_the_others(script, monkeypatch, capsys: Capture) -> None:
    bench = script("bench_gpu")

    def failed(device: torch.device) -> None:
        raise RuntimeError("WRONG: a case")

    monkeypatch.setitem(bench.PARTS, "shapes", failed)
    monkeypatch.setitem(bench.PARTS, "memory", lambda device: print("memory is right"))
    words = ["--device", "cpu", "--parts"]
    with pytest.raises(SystemExit) as ended:
        bench.main([*words, "shapes", "memory"])
    assert ended.value.code == "these parts failed: shapes"  # Python's exit code is then 1
    printed = capsys.readouterr().out
    assert "FAILED: shapes: WRONG: a case" in printed
    assert "memory is right" in printed
    bench.main([*words, "memory"])


def test_shapes_are_compared_with_their_bounds(script, capsys: Capture) -> None:
    check = script("bench_gpu").check_cases
    errors = {"a": 0.5, "b": 0.25, "c": 1.5, "d": float("nan")}
    dtypes: list[torch.dtype] = []

    def errors_of(case: str, dtype: torch.dtype) -> dict[str, float]:
        dtypes.append(dtype)
        return {"output": 0.1, "grad_q": errors[case]}

    check("abab", errors_of, 1)
    assert capsys.readouterr().out == "4 of 4 cases, largest error 0.50 of its bound\n"
    assert dtypes == [torch.bfloat16, torch.float16, torch.float32, torch.bfloat16]
    with pytest.raises(RuntimeError, match=r"^WRONG: c, torch\.float32$"):
        check("abc", errors_of, 1)
    assert capsys.readouterr().out == "3 of 3 cases, largest error 1.50 of its bound\n"
    with pytest.raises(RuntimeError, match=r"^WRONG: d, torch\.float16$"):
        check("ad", errors_of, 1)
    capsys.readouterr()
    check("ab", errors_of, -1)  # the time is over
    assert capsys.readouterr().out.startswith("1 of 2 cases")


def test_a_programs_output_and_failure(script) -> None:
    bench = script("bench_gpu")
    code = "import os, sys; print(os.environ['K'], sys.argv[1]); sys.exit(int(sys.argv[1]))"
    assert bench.output_of((sys.executable, "-c", code, "0"), K="one") == "one 0"
    with pytest.raises(RuntimeError, match=r"exit code 3\):\none 3"):
        bench.output_of((sys.executable, "-c", code, "3"), K="one")


@pytest.mark.parametrize(
    ("lines", "passes"),
    [
        ("========= ERROR SUMMARY: 0 errors", True),
        ("========= ERROR SUMMARY: 1 error", False),
        ("========= Target application returned an error", False),
    ],
)
def test_memory_needs_the_sanitizer_and_its_summary(
    lines: str, passes: bool, script, monkeypatch, tmp_path: Path, capsys: Capture
) -> None:
    bench = script("bench_gpu")
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    bench.check_memory(CPU)
    assert "compute-sanitizer is not installed" in capsys.readouterr().out
    tool = tmp_path / "compute-sanitizer"
    own = '[ "$PYTORCH_NO_CUDA_MEMORY_CACHING" = 1 ] || exit 5'  # torch's cache hides the borders
    tool.write_text(f"#!/bin/sh\n{own}\necho '{lines}'\n")
    tool.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name, path: str(tool))
    if passes:
        bench.check_memory(CPU)
        assert "ERROR SUMMARY: 0 errors" in capsys.readouterr().out
    else:
        with pytest.raises(RuntimeError, match="no summary without errors"):
            bench.check_memory(CPU)


@pytest.mark.slow
def test_decoding_prints_its_row(script, monkeypatch, capsys: Capture) -> None:
    pytest.importorskip("transformers")
    bench, generation = script("bench_gpu"), script("bench_generate")
    monkeypatch.setattr(generation, "VOCAB", 64)
    monkeypatch.setattr(generation, "NEW", 4)
    small = {"d_model": 16, "num_layers": 1, "num_heads": 2}
    monkeypatch.setattr(generation, "SHAPES", {"124M": small})
    bench.measure_decoding(CPU)
    head, row = rows_of(capsys.readouterr().out)
    assert len(head) == len(row)
    assert row[:4] == ["124M", "bfloat16", "1", "transformers"]
