"""The mixture of experts, compared with its definition, a loop over experts, and the losses of
transformers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from scratchlm import functional
from scratchlm.model.config import MoEConfig
from scratchlm.model.moe import Jitter, MixtureOfExperts, grouped_linear, grouped_loop


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def mixture(num_experts: int = 5, num_active: int = 2, **more: Any) -> MixtureOfExperts:
    return MixtureOfExperts(16, 24, num_experts, num_active, **more)


def by_a_loop(moe: MixtureOfExperts, x: Tensor) -> Tensor:
    """Compute each chosen expert of each token, one after the other."""
    tokens = x.reshape(-1, x.shape[-1])
    y = torch.zeros_like(tokens)
    for i, token in enumerate(tokens):
        probabilities = (moe.router.weight @ token).softmax(-1)
        best = probabilities.argsort(descending=True)[: moe.num_active].tolist()
        for e in best:
            share = probabilities[e] / probabilities[best].sum()
            gate, up = moe.experts.gate_proj[e] @ token, moe.experts.up_proj[e] @ token
            y[i] += share * (moe.experts.down_proj[e] @ (gate.sigmoid() * gate * up))
    return y.view_as(x)


@pytest.mark.parametrize(("num_experts", "num_active"), [(5, 2), (8, 1), (4, 4), (1, 1)])
def test_equals_a_loop_over_experts_and_the_definition(num_experts: int, num_active: int) -> None:
    moe, x = mixture(num_experts, num_active), torch.randn(3, 7, 16)
    torch.testing.assert_close(moe(x), by_a_loop(moe, x), rtol=1e-5, atol=1e-6)
    weights = (moe.experts.gate_proj, moe.experts.up_proj, moe.experts.down_proj)
    defined = functional.mixture_of_experts(x, moe.router.weight, *weights, num_active)
    torch.testing.assert_close(moe(x), defined, rtol=1e-5, atol=1e-6)


def test_gradients_equal_those_of_the_loop() -> None:
    moe, x = mixture(), torch.randn(2, 9, 16)
    gradients = []
    for forward in (moe, lambda x: by_a_loop(moe, x)):
        moe.zero_grad()
        leaf = x.clone().requires_grad_()
        forward(leaf).square().sum().backward()
        gradients.append([leaf.grad, *(p.grad for p in moe.parameters())])
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_no_token_is_dropped_when_all_choose_the_same_expert() -> None:
    moe, x = mixture(4, 1), torch.rand(50, 16)
    with torch.no_grad():
        moe.router.weight.zero_()
        moe.router.weight[2] = 1.0
    gate, up, down = moe.experts.gate_proj[2], moe.experts.up_proj[2], moe.experts.down_proj[2]
    torch.testing.assert_close(moe(x), functional.swiglu(x, gate, up, down), rtol=1e-5, atol=1e-6)
    assert moe.load.tolist() == [0, 0, 1, 0]


def test_shared_experts_see_every_token() -> None:
    moe, x = mixture(num_shared=2), torch.randn(2, 5, 16)
    alone = mixture()
    assert moe.shared.up_proj.weight.shape == (48, 16)
    alone.load_state_dict({k: v for k, v in moe.state_dict().items() if "shared" not in k})
    torch.testing.assert_close(moe(x), alone(x) + moe.shared(x))


def test_the_losses_are_the_hubs() -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    x = torch.randn(3, 11, 16)
    moe = mixture(balance_weight=1.0, z_weight=0.0)
    moe(x)
    logits = moe.router(x).flatten(0, 1)
    balance = load_balancing_loss_func((logits,), num_experts=5, top_k=2)
    torch.testing.assert_close(moe.auxiliary_loss, balance)

    moe.balance_weight, moe.z_weight = 0.0, 1.0
    moe(x)
    by_hand = logits.exp().sum(-1).log().square().mean()  # arXiv 2202.08906, equation 5
    torch.testing.assert_close(moe.auxiliary_loss, by_hand)


def test_the_balance_loss_evens_the_load() -> None:
    moe, x = mixture(4, 1, balance_weight=1.0, z_weight=0.0), torch.randn(400, 16)
    with torch.no_grad():
        moe.router.weight[0] += 0.5 * x.mean(0) + 1.0
    moe(x)
    before = moe.load.max().item()
    optimizer = torch.optim.Adam([moe.router.weight], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        moe(x)
        moe.auxiliary_loss.backward()
        optimizer.step()
    assert before > 0.4
    assert moe.load.max().item() < 0.3


@pytest.mark.parametrize("grouped", [grouped_loop, grouped_linear])
@pytest.mark.parametrize("sizes", [(5, 6), (16, 8)])  # the kernel takes the second only
def test_grouped_linear_equals_one_product_a_row(grouped: Any, sizes: tuple[int, int]) -> None:
    x, weight = torch.randn(10, sizes[1]), torch.randn(4, *sizes)
    counts = torch.tensor([3, 0, 6, 1])
    owner = torch.arange(4).repeat_interleave(counts)
    expected = torch.stack([weight[e] @ row for e, row in zip(owner, x, strict=True)])
    torch.testing.assert_close(grouped(x, weight, counts), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_grouped_linear_equals_the_loop_with_gradients(device: str, dtype: torch.dtype) -> None:
    x = torch.randn(70, 32, device=device, dtype=dtype, requires_grad=True)
    weight = torch.randn(4, 64, 32, device=device, dtype=dtype, requires_grad=True)
    counts = torch.tensor([30, 0, 39, 1], device=device)
    direction = torch.randn(70, 64, device=device, dtype=dtype)
    results = []
    for grouped in (grouped_linear, grouped_loop):
        y = grouped(x, weight, counts)
        results.append([y, *torch.autograd.grad(y, (x, weight), direction)])
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    for fast, readable in zip(*results, strict=True):
        assert fast.dtype == dtype
        torch.testing.assert_close(fast, readable, rtol=tolerance, atol=tolerance)


def test_any_gradient_finds_its_way_back() -> None:
    moe, x = mixture(), torch.randn(2, 9, 16, requires_grad=True)
    moe(x).sum().backward()  # ones without strides
    assert x.grad is not None
    assert all(p.grad is not None for p in moe.parameters())


def test_jitter_acts_in_training_only_and_within_its_bounds() -> None:
    jitter, x = Jitter(0.1), torch.ones(1000)
    noisy = jitter(x)
    assert 0.9 <= noisy.min() < 0.92
    assert 1.08 < noisy.max() <= 1.1
    assert jitter.eval()(x) is x
    assert isinstance(mixture(jitter=0.1).jitter, Jitter)


def test_a_model_can_be_copied_after_a_forward_pass() -> None:
    moe, x = mixture(), torch.randn(2, 5, 16)
    assert mixture().load.tolist() == []
    y = moe(x)
    copied = copy.deepcopy(moe)
    assert copied.auxiliary_loss.item() == 0
    assert torch.equal(copied(x), y)
    assert torch.equal(copied.auxiliary_loss, moe.auxiliary_loss)


def test_it_compiles_in_parts() -> None:
    moe, x = mixture(), torch.randn(2, 5, 16)
    compiled = torch.compile(moe, backend="aot_eager")
    torch.testing.assert_close(compiled(x), moe(x), rtol=1e-5, atol=1e-6)


def test_under_autocast_it_computes_in_bf16() -> None:
    moe, x = mixture(), torch.randn(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = moe(x)
    torch.testing.assert_close(y.float(), moe(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1), r"moe.num_experts must be a positive integer \(0\)"),
        ((2, 3), r"num_active \(3\) must be at most moe.num_experts \(2\)"),
        ((2, 1, -1), r"num_shared must be an integer of at least 0 \(-1\)"),
        ((2, 1, 0, -1.0), r"balance_weight must be a finite number of at least 0 \(-1.0\)"),
        ((2, 1, 0, 0.0, 0.0, 1.0), r"jitter must be at least 0 and below 1 \(1.0\)"),
    ],
)
def test_config_refuses(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoEConfig(*values)
