"""Compile flash attention without a GPU: limits, and the table in docs/kernels.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "compile_kernels.py"
sys.path.insert(0, str(SCRIPT.parent))

from compile_kernels import Compiled, Job, jobs  # noqa: E402

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
    job = Job("8.6", "forward", 64, "bf16", False)
    assert GOOD._replace(**change).broken_limits(job) == limits


def test_limits_of_fp32_and_wide_heads() -> None:
    job = Job("8.6", "forward", 64, "fp32", False)
    assert GOOD._replace(tensor_cores=0, copies=0, stack=999).broken_limits(job) == []
    assert GOOD._replace(tf32=True).broken_limits(job) == ["TF32"]
    assert GOOD._replace(stack=999).broken_limits(job._replace(dtype="fp16", width=256)) == []


def test_the_page_has_the_sizes_of_the_table() -> None:
    lines = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = {tuple(row[:8]) for row in rows if len(row) == 13 and row[2].isdigit()}
    expected = set()
    for job in jobs():
        if job.dtype != "fp16":  # which compiles to the same numbers
            blocks, kind = job.blocks, "window, first" if job.intervals else "causal"
            sizes = f"{blocks.queries} × {blocks.keys}", str(blocks.warps), str(blocks.stages)  # noqa: RUF001
            expected.add((job.kernel, job.gpu, str(job.width), job.dtype, kind, *sizes))
    assert found == expected


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
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_each_kernel_compiles_within_the_limits(gpu: str, width: str, dtype: str) -> None:
    flags = ["--gpu", gpu, "--width", width, "--dtype", dtype]
    done = subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n| ") == (6 if dtype == "bf16" else 3)
