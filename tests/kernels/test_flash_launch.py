"""Launches of flash attention, compiled but not run: Triton makes a variant of a kernel for each
length or stride that is 1, or a multiple of 16, and each variant must compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from helpers.flash_cases import Case
from scratchlm.kernels import flash_launch
from scratchlm.kernels.flash_blocks import TABLE


class AbsentGpu:
    """What Triton asks about the current device, for a GPU that is not here."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that gets each compiled kernel. A launch only compiles."""
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    kernels: list[Any] = []
    run = JITFunction.run

    def only_compile(self: Any, *arguments: Any, **keywords: Any) -> None:
        kernels.append(run(self, *arguments, **keywords | {"warmup": True}))

    monkeypatch.setattr(JITFunction, "run", only_compile)
    monkeypatch.setattr(driver, "_active", AbsentGpu())
    return kernels


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case(1, 1, 1, 1, 1, 16, 16),
        Case(1, 1, 1, 1, 1, 1, 1, causal=False, first="any"),
        Case(1, 2, 1, 1, 64, 64, 64, window=1, first="any"),
        Case(2, 2, 2, 33, 1, 24, 16, first="any"),
        Case(2, 4, 2, 64, 64, 64, 64, window=16, first="any"),
        Case(2, 4, 2, 65, 67, 64, 128, window=3),
    ],
)
def test_each_variant_of_a_launch_compiles(case: Case, compiled: list[Any]) -> None:
    def heads(count: int, seq: int, width: int) -> Tensor:
        return torch.empty(case.batch, seq, count, width, dtype=torch.bfloat16).transpose(1, 2)

    q, grad = (heads(case.heads, case.queries, width) for width in (case.d_head, case.d_v))
    k, v = (heads(case.kv_heads, case.keys, width) for width in (case.d_head, case.d_v))
    first = torch.zeros(case.batch, case.queries, dtype=torch.int32)
    x = flash_launch.Inputs(
        q, k, v, None if case.first == "none" else first, case.causal, case.window
    )
    log_sums = torch.empty(case.batch, case.heads, case.queries)
    blocks = TABLE["9.0", "grad_kv", 128]
    flash_launch.forward(x, grad, log_sums, blocks)
    flash_launch.backward(x, grad, grad, log_sums, (q, k, v), blocks)
    assert len(compiled) == 4
    assert all("mma" in kernel.asm["ptx"] for kernel in (compiled[0], *compiled[2:]))


@pytest.mark.slow
def test_inputs_of_any_layout_use_one_kernel(compiled: list[Any]) -> None:
    """Strides or addresses that are no multiples of 16 would need a slower kernel."""
    output = torch.empty(1, 2, 32, 64, dtype=torch.bfloat16)
    for width, start in ((64, 0), (80, 16), (71, 0), (80, 1)):
        x = torch.empty(1, 2, 32, width, dtype=torch.bfloat16)[..., start : start + 64]
        inputs = flash_launch.Inputs(x, x, x, None, True, None)
        log_sums = torch.empty(1, 2, 32)
        flash_launch.forward(inputs, output, log_sums, TABLE["9.0", "forward", 64])
    assert len({kernel.hash for kernel in compiled}) == 1


def test_a_result_is_never_a_copy() -> None:
    """A copy of a result would be lost."""
    x = torch.zeros(1, 1, 16, 16)
    inputs = flash_launch.Inputs(x, x, x, None, True, None)
    with pytest.raises(AssertionError):
        flash_launch.forward(inputs, x.mT, torch.zeros(1, 1, 16))
