"""The head and the log-probability of each target in one function, compared with torch's steps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scratchlm.functional import sequence_log_probs
from scratchlm.kernels.linear_log_probs import linear_log_probs

TOKENS, VOCAB, WIDTH = 23, 41, 8


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden, weight, targets, and a weight for the log-probability of each token."""
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, VOCAB, (TOKENS,))
    targets[[0, 7, 8, 22]] = -100
    return hidden, weight, targets, torch.randn(TOKENS, dtype=dtype)


def torchs(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None) -> Tensor:
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return -F.cross_entropy(logits, targets, reduction="none")


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("chunk", [1, 5, 23, 512])
def test_equals_torchs_steps_with_any_weight_of_a_token(chunk: int, softcap: float | None) -> None:
    for dtype, tolerance in [(torch.float64, 1e-10), (torch.float32, 1e-5)]:
        hidden, weight, targets, factors = inputs(dtype)
        ours = linear_log_probs(hidden, weight, targets, softcap=softcap, chunk=chunk)
        theirs = torchs(hidden, weight, targets, softcap)
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
        gradients = (
            torch.autograd.grad((each * factors).sum().div(50).tanh(), (hidden, weight))
            for each in (ours, theirs)
        )
        for mine, other in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_gradients_equal_differences_of_the_log_probabilities(softcap: float | None) -> None:
    hidden, weight, targets, _ = inputs()
    assert torch.autograd.gradcheck(
        lambda *leaves: linear_log_probs(*leaves, targets, softcap=softcap, chunk=5),
        (hidden, weight),
    )


@pytest.mark.parametrize("frozen", [0, 1])
def test_one_gradient_alone(frozen: int) -> None:
    hidden, weight, targets, factors = inputs()
    (hidden, weight)[frozen].requires_grad_(False)
    leaf = (hidden, weight)[1 - frozen]
    ours, theirs = (
        torch.autograd.grad((function(hidden, weight, targets) * factors).sum(), leaf)[0]
        for function in (linear_log_probs, torchs)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_sums_of_rows_are_the_definition() -> None:
    hidden, weight, targets, _ = inputs()
    hidden, targets = hidden[:20].unflatten(0, (4, 5)), targets[:20].unflatten(0, (4, 5))
    ours = linear_log_probs(hidden, weight, targets, chunk=3).sum(-1)
    torch.testing.assert_close(
        ours, sequence_log_probs(hidden @ weight.T, targets), rtol=1e-10, atol=1e-10
    )


def test_what_does_not_count_may_be_anything() -> None:
    hidden, weight, targets, _ = inputs()
    with torch.no_grad():
        hidden[targets == -100] = torch.nan
    found = linear_log_probs(hidden, weight, targets, chunk=5)
    assert (found[targets == -100] == 0).all()
    for gradient in torch.autograd.grad(found.sum(), (hidden, weight)):
        assert gradient.isfinite().all()


def test_autocast_is_torchs_autocast() -> None:
    """Products in bfloat16, exponentials and sums in fp32, gradients of the weights' dtype."""
    hidden, weight, targets, factors = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (f(hidden, weight, targets) for f in (linear_log_probs, torchs))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # the very same logits
    gradients = (
        torch.autograd.grad((each * factors).sum(), (hidden, weight)) for each in (ours, theirs)
    )
    for mine, other in zip(*gradients, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other, rtol=2e-2, atol=3e-2)  # bfloat16 has 8 bits


def test_wrong_shapes_are_refused() -> None:
    hidden, weight, targets, _ = inputs()
    with pytest.raises(ValueError, match=r"hidden must be \(\.\.\., d_model\) for targets"):
        linear_log_probs(hidden[1:], weight, targets)
    with pytest.raises(ValueError, match=r"chunk must be at least 1 token \(0\)"):
        linear_log_probs(hidden, weight, targets, chunk=0)
