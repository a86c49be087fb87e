"""Flash attention without the interpreter: the table of blocks, and the kernels on a GPU."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

pytest.importorskip("triton")

from helpers.flash_cases import LIMITS, Case, cases, errors, run
from scratchlm.kernels.flash_attention import flash_attention
from scratchlm.kernels.flash_blocks import FP32, TABLE, blocks_for, blocks_of

KERNELS = ("forward", "grad_q", "grad_kv")
SIZES = [
    Case(2, 4, 2, length, length, width, width, window=window, blocks=None)
    for length in (1, 63, 129, 500, 1024)
    for width in (16, 64, 80, 128, 256)
    for window in (None, 100)
]


def test_the_table_has_each_gpu_kernel_and_width() -> None:
    gpus = {gpu for gpu, _, _ in TABLE}
    assert {"8.0", "8.6", "9.0"} <= gpus
    every = {(kernel, width) for kernel in KERNELS for width in (64, 128, 256)}
    assert TABLE.keys() == {(gpu, *row) for gpu in gpus for row in every}
    assert FP32.keys() == every
    for blocks in (*TABLE.values(), *FP32.values()):
        assert all(size & (size - 1) == 0 for size in blocks[:3])
        assert min(blocks[:2]) >= 16
        assert max(blocks[:2]) <= 128  # 32-bit offsets in a block


def test_the_choice_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert blocks_for("grad_q", 65, torch.bfloat16, cpu) == TABLE["8.6", "grad_q", 128]
    assert blocks_for("grad_q", 64, torch.float32, cpu) == FP32["grad_q", 64]
    for capability, row in {(9, 0): "9.0", (10, 0): "9.0", (8, 0): "8.0", (8, 9): "8.6",
                            (12, 0): "8.6"}.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert blocks_for("forward", 16, torch.float16, gpu) == TABLE[row, "forward", 64]
        assert blocks_of("grad_kv", 65, torch.float32, capability) == FP32["grad_kv", 128]


def test_a_missing_triton_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, flash_attention.__module__)
    message = r"needs triton \(not installed\); run pip install 'scratchlm\[gpu\]' on Linux x86-64"
    with pytest.raises(ModuleNotFoundError, match=message):
        importlib.import_module(flash_attention.__module__)


def test_a_cpu_is_refused() -> None:
    x = torch.zeros(4, 8)
    with pytest.raises(ValueError, match=r"needs a CUDA device \(cpu\); move the tensors"):
        flash_attention(x, x, x)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", LIMITS)
def test_on_a_gpu_each_number_is_near_fp64(dtype: torch.dtype) -> None:
    wrong = {
        case: found
        for case in (*cases(200), *SIZES)
        if max((found := errors(case, dtype, "cuda")).values()) > 1
    }
    assert not wrong


@pytest.mark.gpu
def test_on_a_gpu_equal_inputs_give_equal_bits() -> None:
    for case in (*cases(60), *SIZES):
        first = run(case, torch.bfloat16, "cuda").results
        for _ in range(5):
            again = run(case, torch.bfloat16, "cuda").results
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), case


@pytest.mark.gpu
def test_on_a_gpu_compiled_equals_eager() -> None:
    q, k, v = (
        torch.randn(2, 100, 4, 64, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        for _ in range(3)
    )
    compiled = torch.compile(flash_attention, fullgraph=True)
    assert torch.equal(compiled(q, k, v, causal=True), flash_attention(q, k, v, causal=True))
