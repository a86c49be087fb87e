"""8-bit floats and the linear layer of them: a table by hand, float64, and torch's own product."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from scratchlm import functional
from scratchlm.functional import FP8, fp8_product, round_to_fp8, to_fp8
from scratchlm.kernels import fp8_linear as kernel
from scratchlm.kernels.fp8_linear import E4M3, E5M2, fp8_linear, scaled_product

# {dtype: bits of the exponent}. The other 7 bits follow the leading 1 of a number.
EXPONENT = {E4M3: 4, E5M2: 5}
DTYPES = pytest.mark.parametrize("dtype", [E4M3, E5M2], ids=["e4m3", "e5m2"])
Floats = npt.NDArray[np.float32]
OURS = SimpleNamespace(
    round_to_fp8=round_to_fp8, to_fp8=to_fp8, fp8_product=fp8_product, fp8_linear=fp8_linear
)


def value_of(code: int, dtype: torch.dtype) -> float:
    """The number of an 8-bit code, by the definition of the format (arXiv 2209.05433, table 1)."""
    bits = 7 - EXPONENT[dtype]
    bias = 2 ** (EXPONENT[dtype] - 1) - 1
    sign = -1.0 if code & 0x80 else 1.0
    exponent, fraction = (code & 0x7F) >> bits, code & (2**bits - 1)
    if dtype == E4M3 and code & 0x7F == 0x7F:  # e4m3 has no infinity
        return math.nan
    if dtype == E5M2 and exponent == 31:
        return math.nan if fraction else sign * math.inf
    if exponent == 0:
        return sign * fraction * 2.0 ** (1 - bias - bits)
    return sign * (1 + fraction / 2**bits) * 2.0 ** (exponent - bias)


def finite(dtype: torch.dtype) -> Floats:
    """The numbers of the codes 0, 1, 2, …, without a sign, as far as they are finite."""
    numbers = [value_of(code, dtype) for code in range(128)]
    return np.array([x for x in numbers if math.isfinite(x)], dtype=np.float32)


def codes(x: Tensor) -> list[int]:
    return x.view(torch.uint8).tolist()


def rounded_by_hand(x: Tensor, dtype: torch.dtype) -> tuple[npt.NDArray[np.float64], float]:
    """The numbers (...) of the table that are nearest to x / scale, and the scale."""
    table = finite(dtype)
    scale = np.float32(np.abs(x.double().numpy()).max() / table[-1])
    scaled = np.minimum(np.abs(x.numpy()) / scale, table[-1])  # in fp32
    above = np.searchsorted(table, scaled).clip(1)
    low, high = table[above - 1].astype(np.float64), table[above].astype(np.float64)
    to_low, to_high = scaled - low, high - scaled
    nearest = np.where((to_low < to_high) | ((to_low == to_high) & (above % 2 == 1)), low, high)
    return np.copysign(nearest, x.numpy()), float(scale)


def check_rounding(ours: Any = OURS) -> None:
    for dtype in EXPONENT:
        table = finite(dtype)
        for sign in (1, -1):
            numbers = torch.from_numpy(sign * table)
            signs = 0 if sign == 1 else 128
            expected = [signs + code for code in range(len(table))]
            assert codes(ours.round_to_fp8(numbers, dtype)) == expected
            halfway = torch.from_numpy(sign * (table[:-1] + table[1:]) / 2)
            even = [signs + code + code % 2 for code in range(len(table) - 1)]
            assert codes(ours.round_to_fp8(halfway, dtype)) == even
            beyond = torch.nextafter(halfway, halfway * 2)
            assert codes(ours.round_to_fp8(beyond, dtype)) == expected[1:]
            before = torch.nextafter(halfway, torch.zeros(()))
            assert codes(ours.round_to_fp8(before, dtype)) == expected[:-1]


def check_saturation(ours: Any = OURS) -> None:
    for dtype in EXPONENT:
        largest = float(finite(dtype)[-1])
        x = torch.tensor([largest * 1.01, largest * 1.2, 1e6, 1e30, math.inf])
        for sign in (1, -1):
            assert ours.round_to_fp8(sign * x, dtype).tolist() == [sign * largest] * 5
        assert ours.round_to_fp8(torch.tensor([math.nan]), dtype).isnan().all()


def check_scales(ours: Any = OURS) -> None:
    """Compare codes and scales to the bit. The matrices have very different sizes."""
    for dtype in EXPONENT:
        for size in (1e-25, 1e-3, 1.0, 1e4):
            x = size * torch.randn(48, 32)
            codes, scale = ours.to_fp8(x, dtype)
            by_hand, scale_by_hand = rounded_by_hand(x, dtype)
            assert scale.dtype == torch.float32
            assert scale.item() == scale_by_hand
            assert codes.dtype == dtype
            assert np.array_equal(codes.double().numpy(), by_hand)


def check_product(ours: Any = OURS) -> None:
    """Compare with float64. The bound is the bound of a sum of 96 products in fp32."""
    for dtypes in ((E4M3, E4M3), (E5M2, E4M3)):
        a, b = (
            ours.to_fp8(torch.randn(64, 96), dtypes[0]),
            ours.to_fp8(torch.randn(96, 80), dtypes[1]),
        )
        factors = [each.codes.double() * each.scale.double() for each in (a, b)]
        exact, bound = factors[0] @ factors[1], factors[0].abs() @ factors[1].abs()
        error = (ours.fp8_product(a, b).double() - exact).abs()
        assert (error <= 100 * 2**-24 * bound).all()


def check_linear(ours: Any = OURS, product: Any = None) -> None:
    """Compare y, dX and dW with products of the rounded matrices, in float64."""
    product = product or ours.fp8_product
    x, weight = 3 * torch.randn(48, 32), 0.1 * torch.randn(64, 32)
    direction = 1e-4 * torch.randn(48, 64)
    x.requires_grad_()
    weight.requires_grad_()
    y = ours.fp8_linear(x, weight, product=product)
    grad_x, grad_weight = torch.autograd.grad(y, (x, weight), direction)
    x64, scale_x = rounded_by_hand(x.detach(), E4M3)
    w64, scale_w = rounded_by_hand(weight.detach(), E4M3)
    g64, scale_g = rounded_by_hand(direction, E5M2)
    for mine, exact in (
        (y.detach(), x64 @ w64.T * scale_x * scale_w),
        (grad_x, g64 @ w64 * scale_g * scale_w),
        (grad_weight, g64.T @ x64 * scale_g * scale_x),
    ):
        assert mine.dtype == torch.float32
        size = np.abs(exact).max()
        np.testing.assert_allclose(mine.numpy(), exact, rtol=0, atol=1e-6 * size)


CHECKS = (check_rounding, check_saturation, check_scales, check_product, check_linear)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("check", CHECKS)
def test_the_definition(check: Callable[[], None]) -> None:
    check()


# name -> (module, text, faulty text)
FAULTS = {
    "gradients in e4m3": (kernel, "to_fp8(grad_y, E5M2)", "to_fp8(grad_y, E4M3)"),
    "no clamp": (functional, "x.clamp(-largest, largest).to(dtype)", "x.to(dtype)"),
    "scale not inverted": (functional, "_wide(x) / scale", "_wide(x) * scale"),
    "inverse scale returned": (functional, "dtype), scale)", "dtype), 1 / scale)"),
    "the scale of X for W": (
        kernel,
        "product(rounded, to_fp8(weight, E4M3).T, dtype)",
        "product(rounded, FP8(to_fp8(weight, E4M3).codes.T, rounded.scale), dtype)",
    ),
    "the scale of W for X": (
        kernel,
        "FP8(*x), weight.dtype",
        "FP8(x[0], grad.scale), weight.dtype",
    ),
    "W rounded as a gradient": (kernel, "to_fp8(weight, E4M3), ctx", "to_fp8(weight, E5M2), ctx"),
    "one scale left out": (functional, "(a.scale * b.scale)", "a.scale"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str) -> None:
    module, text, faulty = FAULTS[name]
    found: dict[str, Any] = {"__name__": module.__name__}
    assert module.__file__ is not None
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(text) == 1
    exec(source.replace(text, faulty), found)
    ours = SimpleNamespace(
        **{**vars(OURS), **{key: found[key] for key in vars(OURS) if key in found}}
    )
    if module is functional:  # the kernel of the package calls the functions of the package
        failed = [check for check in CHECKS[:-1] if fails(check, ours)]
    else:
        failed = [check for check in CHECKS if fails(check, ours)]
    assert failed


def fails(check: Callable[[Any], None], ours: Any) -> bool:
    try:
        check(ours)
    except AssertionError:
        return True
    return False


@DTYPES
def test_a_matrix_of_zeros_stays_zero(dtype: torch.dtype) -> None:
    zeros = to_fp8(torch.zeros(16, 16), dtype)
    assert zeros.scale.isfinite()
    ones = to_fp8(torch.ones(16, 16), E4M3)
    assert torch.equal(fp8_product(zeros, ones), torch.zeros(16, 16))


@DTYPES
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_number_that_is_not_finite_reaches_the_result(dtype: torch.dtype, bad: float) -> None:
    """The trainer then stops. A saturated infinity would hide the error."""
    x = torch.randn(16, 16)
    x[3, 5] = bad
    other = to_fp8(torch.randn(16, 16), E4M3)
    assert fp8_product(to_fp8(x, dtype), other).isnan().all()
    assert scaled_product(to_fp8(x, dtype), other, torch.float32).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_numbers_are_scaled_in_fp32(dtype: torch.dtype) -> None:
    x = torch.randn(32, 32).to(dtype)
    ours, wide = to_fp8(x, E4M3), to_fp8(x.float(), E4M3)
    assert ours.scale == wide.scale
    assert codes(ours.codes) == codes(wide.codes)


@pytest.mark.parametrize("dtypes", [(E4M3, E4M3), (E5M2, E4M3)], ids=["forward", "gradients"])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_torchs_product_is_the_definition(dtypes: tuple[torch.dtype, ...], layout: str) -> None:
    """The kernel of a CPU. The kernel of a GPU has the same contract."""
    a, b = to_fp8(torch.randn(64, 96), dtypes[0]), to_fp8(torch.randn(96, 128), dtypes[1])
    if layout == "columns":
        a, b = (FP8(each.codes.T.contiguous().T, each.scale) for each in (a, b))
    exact = fp8_product(a, b)
    ours = scaled_product(a, b, torch.float32)
    torch.testing.assert_close(ours, exact, rtol=0, atol=2e-5)
    half = scaled_product(a, b, torch.bfloat16)
    torch.testing.assert_close(half, exact.bfloat16(), rtol=2**-7, atol=1e-4)
    check_linear(product=scaled_product)


def test_a_gradient_of_one_entry_selects_a_row() -> None:
    """dY has a 1 at (i, j), so row i of dX is row j of W, and row j of dW is row i of X."""
    x, weight = torch.randn(16, 32, requires_grad=True), torch.randn(48, 32, requires_grad=True)
    direction = torch.zeros(16, 48)
    direction[5, 7] = 1.0
    y = fp8_linear(x, weight, product=fp8_product)
    grad_x, grad_weight = torch.autograd.grad(y, (x, weight), direction)
    for grad, at, other, row in ((grad_x, 5, weight, 7), (grad_weight, 7, x, 5)):
        rounded = to_fp8(other.detach(), E4M3)
        expected = torch.zeros_like(grad)
        expected[at] = rounded.codes[row].float() * rounded.scale
        torch.testing.assert_close(grad, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("product", [fp8_product, scaled_product])
def test_dtypes_under_autocast(product: kernel.Product) -> None:
    x, weight = torch.randn(2, 16, 32, requires_grad=True), torch.randn(48, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = fp8_linear(x, weight, product=product)
        wide = fp8_linear(x.flatten(0, 1), weight, product=product).unflatten(0, (2, 16))
    assert y.dtype == torch.bfloat16
    assert y.shape == (2, 16, 48)
    assert torch.equal(y, wide)
    exact = fp8_linear(x, weight, product=product)
    assert exact.dtype == torch.float32
    assert torch.equal(y, exact.bfloat16())  # autocast does not reach the factors
    grads = torch.autograd.grad(y, (x, weight), torch.randn_like(y))
    assert [grad.dtype for grad in grads] == [torch.float32] * 2
    assert [grad.shape for grad in grads] == [x.shape, weight.shape]


def test_a_frozen_weight_gets_no_gradient() -> None:
    x, weight = torch.randn(16, 32, requires_grad=True), torch.randn(48, 32)
    (grad,) = torch.autograd.grad(fp8_linear(x, weight).sum(), x)
    assert grad.shape == x.shape
    y = fp8_linear(x.detach(), weight.requires_grad_())
    assert torch.autograd.grad(y.sum(), weight)[0].shape == weight.shape


def test_backward_keeps_x_in_8_bits_and_no_copy_of_the_weight() -> None:
    x, weight = torch.randn(64, 32, requires_grad=True), torch.randn(48, 32, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        fp8_linear(x, weight)
    assert [(each.dtype, each.numel()) for each in kept if each is not weight] == [
        (E4M3, x.numel()),
        (torch.float32, 1),
    ]


def test_a_second_derivative_is_refused() -> None:
    x = torch.randn(16, 32, requires_grad=True)
    y = fp8_linear(x, torch.randn(16, 32), product=fp8_product)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("x", "weight"),
    [((16, 24), (32, 24)), ((16, 32), (20, 32)), ((3, 5, 32), (32, 32)), ((0, 32), (32, 32))],
)
def test_sizes_that_the_hardware_cannot_multiply_are_refused(
    x: tuple[int, ...], weight: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"multiples of 16 \(weight .*rows of x\); "):
        fp8_linear(torch.randn(x), torch.randn(weight))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("product", [fp8_product, scaled_product])
def test_it_compiles_without_a_graph_break(product: kernel.Product, backend: str) -> None:
    def layer(x: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return fp8_linear(x, weight, product=product)

    compiled = torch.compile(layer, fullgraph=True, dynamic=False, backend=backend)
    x, weight = torch.randn(2, 16, 32, requires_grad=True), torch.randn(48, 32, requires_grad=True)
    direction = torch.randn(2, 16, 48).bfloat16()
    for one, other in zip(
        (layer(x, weight), *torch.autograd.grad(layer(x, weight), (x, weight), direction)),
        (compiled(x, weight), *torch.autograd.grad(compiled(x, weight), (x, weight), direction)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [16, 48, 1024])
def test_the_tensor_cores_compute_the_definition(rows: int) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no FP8")
    x = torch.randn(rows, 256, device="cuda", requires_grad=True)
    weight = torch.randn(512, 256, device="cuda", requires_grad=True)
    direction = torch.randn(rows, 512, device="cuda")
    results = []
    for product in (scaled_product, fp8_product):
        y = fp8_linear(x, weight, product=product)
        results.append((y, *torch.autograd.grad(y, (x, weight), direction)))
    for ours, exact in zip(*results, strict=True):
        # The fast sums of the forward pass keep 14 bits of each partial sum.
        torch.testing.assert_close(ours, exact, rtol=0, atol=2**-10 * exact.abs().max().item())
