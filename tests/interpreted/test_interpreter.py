"""The mended interpreter computes as torch does. Triton's own does not, so the mend is needed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from helpers import interpreter

EVERY_16_BITS = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
TYPES = {
    torch.bfloat16: tl.bfloat16, torch.float16: tl.float16,
    torch.float8_e4m3fn: tl.float8e4nv, torch.float8_e5m2: tl.float8e5,
}  # fmt: skip


def same(x: Tensor, y: Tensor) -> bool:
    x, y = x.float(), y.float()
    return torch.equal(x.isnan(), y.isnan()) and torch.equal(x.nan_to_num(), y.nan_to_num())


@pytest.mark.parametrize("dtype", TYPES)
def test_casts_round_as_torch_rounds(dtype: torch.dtype) -> None:
    """Each pattern of 16 bits is the upper half of one fp32 number. The lower half is random."""
    low = torch.randint(0, 2**16, (2**16,), generator=torch.Generator().manual_seed(0))
    x = (torch.arange(2**16) * 2**16 + low).to(torch.int32).view(torch.float32)
    bits = interpreter.convert(x.numpy().view(np.uint32), tl.float32, TYPES[dtype])
    ours = torch.from_numpy(bits.view(f"int{8 * dtype.itemsize}")).view(dtype)
    assert same(ours, x.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_casts_to_fp32_are_exact(dtype: torch.dtype) -> None:
    bits = interpreter.convert(EVERY_16_BITS.numpy().view(np.uint16), TYPES[dtype], tl.float32)
    assert same(torch.from_numpy(bits.view(np.float32)), EVERY_16_BITS.view(dtype))


@triton.jit
def product(x, y, out, N: tl.constexpr):
    row, column = tl.arange(0, N)[:, None] * N, tl.arange(0, N)[None, :]
    at = row + column
    tl.store(out + at, tl.dot(tl.load(x + at), tl.load(y + at)).to(out.dtype.element_ty))


def wrong_numbers() -> float:
    """Return the part of a product's numbers that differ from torch's, in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(32, 32, generator=generator).bfloat16() for _ in range(2))
    out = torch.empty_like(x)
    product[(1,)](x, y, out, N=32)
    return (out != (x.float() @ y.float()).bfloat16()).float().mean().item()


def test_products_of_bfloat16_are_right_only_with_the_mend() -> None:
    assert wrong_numbers() == 0
    code = "from interpreted.test_interpreter import wrong_numbers; print(wrong_numbers())"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, 'tests'); {code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(done.stdout) > 0.9
