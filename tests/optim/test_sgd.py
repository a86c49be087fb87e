"""SGD against `torch.optim.SGD`; SGDDecay against arithmetic."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from scratchlm.optim.config import OptimConfig
from scratchlm.optim.recipe import build_optimizer, build_schedule
from scratchlm.optim.sgd import SGD, SGDDecay


def parameters(seed: int = 0) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(shape)) for shape in [(4, 3), (3,), ()]]


def run(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator) + 0.1 * param.detach()
        optimizer.step()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.1},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ],
)
def test_matches_torch_for_100_steps(settings: dict[str, float]) -> None:
    ours, theirs = parameters(), parameters()
    for cls, params in ((SGD, ours), (torch.optim.SGD, theirs)):
        groups = [{"params": params[:1], "lr": 0.05}, {"params": params[1:]}]
        run(cls(groups, lr=torch.tensor(0.01), **settings), params, range(100))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_gradients_are_left_as_they_were(weight_decay: float) -> None:
    """The first momentum is the gradient: a copy of it, not the tensor the next backward fills."""
    param = nn.Parameter(torch.ones(2))
    param.grad = torch.full((2,), 3.0)
    optimizer = SGD([param], lr=0.1, momentum=0.9, weight_decay=weight_decay)
    optimizer.step()
    optimizer.step()
    assert torch.equal(param.grad, torch.full((2,), 3.0))


def test_decay_by_hand() -> None:
    """Constant gradient 1 and lr 1: θ after 3 steps is −(1 + 1/√2 + 1/√3)."""
    param, late = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
    optimizer = SGDDecay([param, late], lr=1.0)
    for step in range(3):
        param.grad = torch.ones(())
        late.grad = torch.ones(()) if step == 2 else None
        optimizer.step()
    assert param.item() == pytest.approx(-(1 + 1 / math.sqrt(2) + 1 / math.sqrt(3)), rel=1e-6)
    assert late.item() == -1.0  # t counts a parameter's own steps


@pytest.mark.parametrize("cls", [SGD, SGDDecay])
def test_resumed_is_bit_exact(cls: type[torch.optim.Optimizer]) -> None:
    settings = {"momentum": 0.9} if cls is SGD else {}
    whole, halves = parameters(), parameters()
    run(cls(whole, lr=0.1, **settings), whole, range(10))
    first = cls(halves, lr=0.1, **settings)
    run(first, halves, range(5))
    second = cls(halves, lr=0.7)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, halves, range(5, 10))
    for a, b in zip(whole, halves, strict=True):
        assert torch.equal(a, b)


def test_reads_torchs_state() -> None:
    """torch keeps `momentum_buffer: None` where it has no momentum."""
    params = parameters()
    theirs = torch.optim.SGD(params, lr=0.1)
    run(theirs, params, range(1))
    ours = SGD(params, lr=0.1)
    ours.load_state_dict(theirs.state_dict())
    ours.param_groups[0]["momentum"] = 0.9
    run(ours, params, range(1, 3))
    assert all("momentum_buffer" in ours.state[param] for param in params)


def test_parameters_without_a_gradient_are_skipped() -> None:
    param = nn.Parameter(torch.ones(2))
    SGD([param], lr=0.1, weight_decay=0.5).step()
    SGDDecay([param], lr=0.1).step()
    assert torch.equal(param.detach(), torch.ones(2))


def test_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match=r"momentum must be .* \(-0.5\); pass 0.9"):
        SGD(parameters(), momentum=-0.5)
    with pytest.raises(ValueError, match=r"momentum \(0.0\) must be above 0 .*; pass"):
        SGD(parameters(), nesterov=True)
    with pytest.raises(ValueError, match=r"lr must be .* \(-1.0\); pass 0.001"):
        SGDDecay(parameters(), lr=-1.0)
    with pytest.raises(TypeError):  # torch's fourth is dampening: by keyword or not at all
        SGD(parameters(), 0.1, 0.9, 0.01)  # type: ignore[misc]


def test_sgddecay_is_the_librarys_alone():
    config = OptimConfig("sgddecay", lr=0.5)
    assert (config.weight_decay, config.schedule) == (None, "constant")
    model = torch.nn.Linear(2, 1, bias=False)
    start = model.weight.detach().clone()
    optimizer = build_optimizer(config, model)
    assert type(optimizer) is SGDDecay
    for _ in range(3):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
    expected = start - 0.5 * (1 + 1 / math.sqrt(2) + 1 / math.sqrt(3))
    torch.testing.assert_close(model.weight.detach(), expected)
    assert [build_schedule(config, 4)(step) for step in range(4)] == [1.0] * 4
