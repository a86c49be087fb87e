"""Compile flash attention without a GPU: limits, and the table in docs/kernels.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from scratchlm.kernels.flash_blocks import Kernel

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "compile_kernels.py"
sys.path.insert(0, str(SCRIPT.parent))

from compile_kernels import Compiled, Job, compiled, jobs  # noqa: E402

GOOD = Compiled(
    registers=255, stack=64, shared=2**16, tensor_cores=24, copies=24, tf32=False
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "limits"),
    [
        ({}, []),
        ({"stack": 65}, ["stack is above 64 bytes"]),
        ({"shared": 99 * 1024 + 1}, ["shared memory is above 99 KB"]),
        ({"tensor_cores": 0, "copies": 0}, ["no tensor cores", "no asynchronous copies"]),
    ],
)
def test_limits(change: dict[str, int], limits: list[str]) -> None:
    job = Job("8.6", "forward", 64, "bf16", "causal")
    assert GOOD._replace(**change).broken_limits(job) == limits


def test_limits_of_fp32_and_wide_heads() -> None:
    job = Job("8.6", "forward", 64, "fp32", "causal")
    assert GOOD._replace(tensor_cores=0, copies=0, stack=999).broken_limits(job) == []
    assert GOOD._replace(tf32=True).broken_limits(job) == ["TF32"]
    assert GOOD._replace(stack=999).broken_limits(job._replace(dtype="fp16", width=256)) == []


def rows(text: str) -> set[tuple[str, ...]]:
    """Return the rows of the table in a page, or in what the script prints."""
    found = (
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.split("\n")
    )
    return {row for row in found if len(row) == 13 and row[2].isdigit()}


PAGE = rows((ROOT / "docs" / "kernels.md").read_text(encoding="utf-8"))


def test_the_page_has_the_sizes_of_the_table() -> None:
    expected = set()
    for job in jobs():
        if job.dtype != "fp16":  # which compiles to the same numbers
            blocks = job.blocks
            sizes = f"{blocks.queries} × {blocks.keys}", str(blocks.warps), str(blocks.stages)  # noqa: RUF001
            expected.add((job.kernel, job.gpu, str(job.width), job.dtype, job.keys, *sizes))
    assert {row[:8] for row in PAGE} == expected


def test_a_gpu_without_rows_uses_those_of_another() -> None:
    for gpu, other in (("8.9", "8.6"), ("12.0", "8.6"), ("10.0", "9.0")):
        own = [job for job in jobs([gpu]) if job.gpu == gpu]
        assert len(own) == 36
        assert all(job.blocks == job._replace(gpu=other).blocks for job in own)


def test_a_missing_triton_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text("raise ModuleNotFoundError('triton')", encoding="utf-8")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import runpy; "
    code += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("the script needs triton (not installed); run pip install ")


@pytest.mark.slow
@pytest.mark.parametrize("gpu", ["8.0", "9.0"])
@pytest.mark.parametrize("width", ["64", "128"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_each_kernel_compiles_within_the_limits_as_the_page_says(
    gpu: str, width: str, dtype: str
) -> None:
    """fp16 compiles to the same numbers as bf16, so the page has one row for both."""
    flags = ["--gpu", gpu, "--width", width, "--dtype", dtype]
    done = subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = dtype.replace("fp16", "bf16")
    expected = {row for row in PAGE if row[1:4] == (gpu, width, shown)}
    assert {tuple(shown if x == dtype else x for x in row) for row in rows(done.stdout)} == expected
    assert len(expected) == (3 if dtype == "fp32" else 6)


@pytest.mark.slow
@pytest.mark.parametrize("gpu", ["8.0", "9.0"])
@pytest.mark.parametrize("kernel", ["forward", "grad_q", "grad_kv"])
def test_a_padded_width_without_a_causal_edge_compiles_within_the_limits(
    gpu: str, kernel: Kernel
) -> None:
    job = Job(gpu, kernel, 80, "bf16", "all keys")
    assert compiled(job).broken_limits(job) == []
