"""Gradient clipping against `torch.nn.utils.clip_grad_norm_`."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scratchlm.errors import NumericalError
from scratchlm.optim.clip import clip_grad_norm, scale_gradients


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    torch.manual_seed(0)
    params = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in [(5, 4), (4,), (), (3,)]]
    for param in params[:-1]:  # the last has no gradient
        param.grad = torch.randn(param.shape, dtype=dtype)
    return params


@pytest.mark.parametrize("max_norm", [0.5, 1e-3, 1e6, math.inf])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("clip", [clip_grad_norm, scale_gradients])
def test_equals_torchs(clip: Callable[..., Tensor], max_norm: float, mixed: bool) -> None:
    ours, theirs = parameters(), parameters()
    if mixed:
        ours, theirs = ours + parameters(torch.float64), theirs + parameters(torch.float64)
    norm = clip(iter(ours), max_norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert norm.shape == ()
    torch.testing.assert_close(norm, expected, rtol=1e-7, atol=0)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-7, atol=0)


def test_by_hand() -> None:
    param = nn.Parameter(torch.zeros(2))
    param.grad = torch.tensor([3.0, 4.0])
    assert clip_grad_norm(param, 1.0).item() == 5.0  # one tensor instead of a list
    torch.testing.assert_close(param.grad, torch.tensor([0.6, 0.8]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scaling_alone_does_not_hide_what_is_not_finite(bad: float) -> None:
    params = parameters()
    assert params[1].grad is not None
    params[1].grad[2] = bad
    assert not scale_gradients(params, 1.0).isfinite()
    assert not torch.cat([p.grad.flatten() for p in params if p.grad is not None]).isfinite().all()


@pytest.mark.parametrize(
    ("before", "norm", "after"),
    [
        ([1.0, math.inf, 2.0], math.inf, [0.0, math.nan, 0.0]),
        ([1e30, 1e30, 1e30], math.inf, [0.0, 0.0, 0.0]),  # the squares overflow
        ([1.0, math.nan, 2.0], math.nan, [math.nan, math.nan, math.nan]),
    ],
)
def test_a_norm_that_is_not_finite_makes_gradients_zero_or_nan(
    before: list[float], norm: float, after: list[float]
) -> None:
    param = nn.Parameter(torch.zeros(3))
    param.grad = torch.tensor(before)
    assert float(scale_gradients([param], 1.0)) == pytest.approx(norm, nan_ok=True)
    assert param.grad.tolist() == pytest.approx(after, nan_ok=True)


@pytest.mark.gpu
def test_scaling_waits_for_no_gpu() -> None:
    param = nn.Parameter(torch.zeros(2, device="cuda"))
    param.grad = torch.tensor([3.0, 4.0], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        norm = scale_gradients([param], 1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert norm.item() == 5.0
    torch.testing.assert_close(param.grad.cpu(), torch.tensor([0.6, 0.8]), rtol=1e-6, atol=0)


def test_without_gradients_the_norm_is_zero() -> None:
    assert clip_grad_norm([nn.Parameter(torch.ones(2))], 1.0).item() == 0.0
    assert clip_grad_norm([], 1.0).item() == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_raises_and_leaves_the_gradients(bad: float) -> None:
    params = parameters()
    assert params[0].grad is not None
    assert params[1].grad is not None
    params[1].grad[2] = bad
    before = params[0].grad.clone()
    with pytest.raises(NumericalError, match=r"the gradient norm is not finite \((nan|inf)\); "):
        clip_grad_norm(params, 1.0)
    assert torch.equal(params[0].grad, before)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("clip", [clip_grad_norm, scale_gradients])
def test_refuses_a_bound_that_bounds_nothing(clip: Callable[..., Tensor], max_norm: float) -> None:
    with pytest.raises(ValueError, match=r"max_norm must be above 0 \(.*\); pass inf"):
        clip(parameters(), max_norm)
