"""The head and the loss in one function, compared with two steps of torch and autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scratchlm import functional
from scratchlm.kernels.linear_cross_entropy import linear_cross_entropy

TOKENS, VOCAB, WIDTH = 23, 41, 8


def inputs(dtype: torch.dtype = torch.float64, device: str = "cpu") -> tuple[Tensor, ...]:
    """Return hidden, weight and targets. Some targets do not count."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, VOCAB, (TOKENS,), generator=generator)
    targets[[0, 7, 8, 22]] = -100
    leaves = (x.to(device, dtype).requires_grad_() for x in (hidden, weight))
    return *leaves, targets.to(device)


def torchs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    cross_entropy = F.cross_entropy(logits, targets, reduction="sum")
    squares = logits.logsumexp(-1).square()[targets != -100]
    return cross_entropy + z_loss * squares.sum(), cross_entropy


def check(ours: Any, theirs: Any, leaves: tuple[Tensor, ...], rtol: float, atol: float) -> None:
    """Equal losses, and equal gradients when the loss is divided, as a mean over targets is."""
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
    for mine, other in zip(
        torch.autograd.grad(ours[0] / 19, leaves),
        torch.autograd.grad(theirs[0] / 19, leaves),
        strict=True,
    ):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [1, 5, 23, 512])
def test_equals_torchs_two_steps(chunk: int, z_loss: float, softcap: float | None) -> None:
    for dtype, tolerance in [(torch.float64, 1e-10), (torch.float32, 1e-5)]:
        hidden, weight, targets = inputs(dtype)
        ours = linear_cross_entropy(
            hidden, weight, targets, z_loss=z_loss, softcap=softcap, chunk=chunk
        )
        theirs = torchs(hidden, weight, targets, z_loss, softcap)
        check(ours, theirs, (hidden, weight), tolerance, tolerance)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_the_definition_equals_torchs_two_steps(z_loss: float, softcap: float | None) -> None:
    hidden, weight, targets = inputs()
    ours = functional.linear_cross_entropy(hidden, weight, targets, z_loss=z_loss, softcap=softcap)
    theirs = torchs(hidden, weight, targets, z_loss, softcap)
    check(ours, theirs, (hidden, weight), 1e-10, 1e-10)
    assert not ours[1].requires_grad


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_gradients_equal_differences_of_the_loss(softcap: float | None) -> None:
    hidden, weight, targets = inputs()

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        keywords = {"z_loss": 0.1, "softcap": softcap, "chunk": 5}
        return linear_cross_entropy(hidden, weight, targets, **keywords)[0]

    assert torch.autograd.gradcheck(loss, (hidden, weight), fast_mode=True)


@pytest.mark.parametrize("leaf", [0, 1])
def test_one_gradient_alone(leaf: int) -> None:
    leaves = inputs()
    leaves[1 - leaf].requires_grad_(False)
    check(linear_cross_entropy(*leaves, chunk=5), torchs(*leaves), leaves[leaf : leaf + 1],
          1e-10, 1e-10)  # fmt: skip


def test_the_cross_entropy_has_no_gradient() -> None:
    assert not linear_cross_entropy(*inputs())[1].requires_grad


def test_no_target_at_all() -> None:
    hidden, weight, targets = inputs()
    loss, cross_entropy = linear_cross_entropy(hidden, weight, targets.fill_(-100), z_loss=0.1)
    loss.backward()
    assert loss == cross_entropy == 0.0
    assert hidden.grad is not None
    assert weight.grad is not None
    assert hidden.grad.count_nonzero() == weight.grad.count_nonzero() == 0


def test_what_does_not_count_may_be_anything() -> None:
    hidden, weight, targets = inputs()
    loss, _ = linear_cross_entropy(hidden, weight, targets, z_loss=0.1)
    expected = torch.autograd.grad(loss, (hidden, weight))
    with torch.no_grad():
        hidden[targets == -100] = torch.nan
    again, _ = linear_cross_entropy(hidden, weight, targets, z_loss=0.1)
    assert loss == again
    for mine, other in zip(torch.autograd.grad(again, (hidden, weight)), expected, strict=True):
        assert torch.equal(mine, other)


def test_large_logits_overflow_nothing() -> None:
    hidden, weight, targets = inputs(torch.float32)
    hidden = (hidden * 1e4).detach().requires_grad_()
    check(linear_cross_entropy(hidden, weight, targets), torchs(hidden, weight, targets),
          (hidden, weight), 1e-5, 1e-5)  # fmt: skip


def test_batches_of_sequences() -> None:
    hidden, weight, targets = inputs()
    flat = linear_cross_entropy(hidden[:20], weight, targets[:20])
    folded = hidden[:20].unflatten(0, (4, 5)), weight, targets[:20].unflatten(0, (4, 5))
    for a, b in zip(linear_cross_entropy(*folded), flat, strict=True):
        assert torch.equal(a, b)
    one = linear_cross_entropy(hidden[1], weight, targets[1])
    torch.testing.assert_close(one, torchs(hidden[1], weight, targets[1]), rtol=1e-10, atol=0)


def test_padded_rows_of_the_head_stay_out() -> None:
    """A head has padding rows, and passes only the rows of tokens."""
    hidden, weight, targets = inputs()
    padded = torch.cat([weight.detach(), torch.ones(7, WIDTH)]).requires_grad_()
    loss, _ = linear_cross_entropy(hidden, padded[:VOCAB], targets)
    loss.backward()
    expected = torch.autograd.grad(torchs(hidden, weight, targets)[0], weight)[0]
    assert padded.grad is not None
    torch.testing.assert_close(padded.grad[:VOCAB], expected, rtol=1e-10, atol=1e-10)
    assert padded.grad[VOCAB:].count_nonzero() == 0


def test_autocast_is_torchs_autocast() -> None:
    """Products in bfloat16, exponentials and sums in fp32, gradients of the weights' dtype."""
    hidden, weight, targets = inputs(torch.float32)
    hidden, weight = hidden.bfloat16().detach().requires_grad_(), weight
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_cross_entropy(hidden, weight, targets, chunk=5)
        theirs = torchs(hidden, weight, targets)
        definition = functional.linear_cross_entropy(hidden, weight, targets)
    assert ours[0].dtype == torch.float32
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=0)  # the very same logits
    torch.testing.assert_close(definition[0], theirs[0], rtol=1e-6, atol=0)
    check(ours, theirs, (hidden, weight), 2e-2, 2e-2)  # bfloat16 has 8 bits


def test_a_model_in_bfloat16_sums_the_chunks_in_fp32() -> None:
    """1,024 chunks of one token: a sum in bfloat16 stops growing at 2 ** 8 of its parts."""
    hidden = torch.ones(1024, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(1024, dtype=torch.long)
    linear_cross_entropy(hidden, weight, targets, chunk=1)[0].backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [-512.0, 512.0]


class Outputs(TorchDispatchMode):
    """Notes the elements of the largest output, and the names of the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.names = 0, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.append(func.overloadpacket.__name__)
        for out in result if isinstance(result, tuple | list) else [result]:
            if isinstance(out, Tensor):
                self.largest = max(self.largest, out.numel())
        return result


def test_no_tensor_is_larger_than_the_logits_of_a_chunk() -> None:
    hidden = torch.randn(256, 4, requires_grad=True)
    weight = torch.randn(1000, 4, requires_grad=True)
    targets = torch.randint(0, 1000, (256,))
    for function, largest in [
        (lambda: linear_cross_entropy(hidden, weight, targets, chunk=16)[0], 16 * 1000),
        (lambda: torchs(hidden, weight, targets)[0], 256 * 1000),
    ]:
        with Outputs() as outputs:
            function().backward()
        assert outputs.largest == largest


def test_tokens_without_a_target_need_no_logits() -> None:
    hidden = torch.randn(4, 64, 4, requires_grad=True)
    weight = torch.randn(1000, 4, requires_grad=True)
    targets = torch.full((4, 64), -100)
    targets[1, :40] = targets[3, 60:] = 7
    with Outputs() as outputs:
        linear_cross_entropy(hidden, weight, targets, chunk=512)[0].backward()
    assert outputs.largest == 44 * 1000


def test_without_gradients_only_the_loss_is_computed() -> None:
    hidden, weight, targets = inputs()
    with torch.no_grad(), Outputs() as outputs:
        ours = linear_cross_entropy(hidden, weight, targets, z_loss=0.1)
    assert sum(name in ("mm", "addmm_", "exp_") for name in outputs.names) == 1
    torch.testing.assert_close(ours, torchs(hidden, weight, targets, 0.1), rtol=1e-10, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("vocab", [40, 50_257])  # torch has a softmax kernel for each
def test_on_a_gpu_equals_torchs_two_steps(vocab: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(100, 64, device="cuda", requires_grad=True)
    weight = torch.randn(vocab, 64, device="cuda", requires_grad=True)
    targets = torch.randint(0, vocab, (100,), device="cuda")
    targets[3] = -100
    ours = linear_cross_entropy(hidden, weight, targets, z_loss=1e-4, chunk=32)
    check(ours, torchs(hidden, weight, targets, 1e-4), (hidden, weight), 1e-4, 1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        ours = linear_cross_entropy(hidden, weight, targets, chunk=32)
        theirs = torchs(hidden, weight, targets)
    check(ours, theirs, (hidden, weight), 2e-2, 2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_equals_torchs_two_steps_when_compiled(z_loss: float) -> None:
    hidden, weight, targets = inputs(torch.float32)
    ours = torch.compile(linear_cross_entropy)(hidden, weight, targets, z_loss=z_loss)
    check(ours, torchs(hidden, weight, targets, z_loss), (hidden, weight), 1e-5, 1e-5)
    assert not ours[1].requires_grad


@pytest.mark.parametrize("target", [VOCAB, -1])
def test_a_target_outside_the_vocabulary_is_refused(target: int) -> None:
    hidden, weight, targets = inputs()
    targets[4] = target
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        linear_cross_entropy(hidden, weight, targets)


def test_refuses_shapes_that_do_not_belong_together() -> None:
    hidden, weight, targets = inputs()
    with pytest.raises(
        ValueError, match=r"hidden \(23, 8\), targets \(22,\), weight \(41, 8\)\); reshape"
    ):
        linear_cross_entropy(hidden, weight, targets[1:])
    with pytest.raises(
        ValueError, match=r"hidden \(23, 8\), targets \(23,\), weight \(8, 41\)\); reshape"
    ):
        linear_cross_entropy(hidden, weight.T, targets)
    with pytest.raises(ValueError, match=r"chunk must be at least 1 token \(0\); pass"):
        linear_cross_entropy(hidden, weight, targets, chunk=0)
