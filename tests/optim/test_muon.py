"""Muon against `torch.optim.Muon`, and Newton–Schulz against the SVD it approximates."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from scratchlm.optim.groups import muon_groups
from scratchlm.optim.muon import Muon, muon_update, muon_update_stacked, orthogonalize, stacks

SHAPES = [(8, 8), (24, 8), (8, 24)]


def matrices(seed: int = 0) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def run(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator) + 0.1 * param.detach()
        optimizer.step()


@pytest.mark.parametrize("nesterov", [True, False])
def test_matches_torch_for_100_steps(nesterov: bool) -> None:
    ours, theirs = matrices(), matrices()
    settings = {"lr": 0.02, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1}
    run(Muon(ours, **settings, ns_dtype="bfloat16"), ours, range(100))
    # torch's Newton–Schulz is always in bfloat16
    run(torch.optim.Muon(theirs, **settings, adjust_lr_fn="original"), theirs, range(100))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_newton_schulz_maps_singular_values_by_its_polynomial(shape: tuple[int, int]) -> None:
    """In float64 the iteration is the quintic on each singular value, U and V as they were."""
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / matrix.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    expected = u @ torch.diag(s) @ vh
    torch.testing.assert_close(orthogonalize(matrix, 5, torch.float64), expected, rtol=0, atol=1e-8)


def test_newton_schulz_nearly_orthogonalizes() -> None:
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalize(torch.randn(64, 32)))
    assert singular.min() > 0.6
    assert singular.max() < 1.3


def test_newton_schulz_in_bfloat16_is_near_float32() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(32, 64)
    exact = orthogonalize(matrix, dtype=torch.float32)
    rounded = orthogonalize(matrix, dtype=torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    assert (exact - rounded.float()).norm() / exact.norm() < 0.05  # bfloat16 has 8 bits


def test_newton_schulz_of_zero_is_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 4)), torch.zeros(3, 4))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stack_of_matrices_is_updated_one_by_one(shape: tuple[int, int]) -> None:
    """A tensor of matrices, like the experts of a mixture."""
    torch.manual_seed(0)
    stack = nn.Parameter(torch.randn(3, *shape))
    alone = [nn.Parameter(matrix.detach().clone()) for matrix in stack]
    ours = Muon([stack], lr=0.02, weight_decay=0.1)
    one_by_one = Muon(alone, lr=0.02, weight_decay=0.1)
    for _ in range(10):
        stack.grad = torch.randn(stack.shape)
        for matrix, grad in zip(alone, stack.grad, strict=True):
            matrix.grad = grad
        ours.step()
        one_by_one.step()
    torch.testing.assert_close(stack.detach(), torch.stack([*alone]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [*SHAPES, (3, 8, 24)])
def test_stacked_agrees_with_the_readable_update(shape: tuple[int, ...], nesterov: bool) -> None:
    torch.manual_seed(0)
    settings = {"lr": 0.02, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1,
                "ns_steps": 5, "ns_dtype": torch.float64}  # fmt: skip
    for number in (1, 4):
        grads, params, buffers = torch.randn(3, number, *shape, dtype=torch.float64).unbind()
        one, many = (params.clone(), buffers.clone()), (params, buffers)
        for param, grad, buffer in zip(one[0], grads, one[1], strict=True):
            muon_update(param, grad, buffer, **settings)
        muon_update_stacked(*(list(t.unbind()) for t in (params, grads, buffers)), **settings)
        torch.testing.assert_close(many, one, rtol=1e-12, atol=1e-12)


def test_a_stack_has_one_shape_and_dtype_and_a_bound() -> None:
    square, tall, double = torch.ones(4, 4), torch.ones(8, 2), torch.ones(4, 4).double()
    many = [square, tall, square, double, square, square.to("meta")]
    sizes = [(len(some), some[0].shape, some[0].dtype) for some in stacks(many, elements=32)]
    assert sizes == [
        (2, (4, 4), torch.float32), (1, (4, 4), torch.float32), (1, (8, 2), torch.float32),
        (1, (4, 4), torch.float64), (1, (4, 4), torch.float32),
    ]  # fmt: skip
    assert all(len(some) == 1 for some in stacks(many, elements=1))


def test_adamw_groups_match_torchs_adamw() -> None:
    ours, theirs = matrices(), matrices()
    settings = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.2}
    groups = [{"params": ours[:1]}, {"params": ours[1:], "algorithm": "adamw", **settings}]
    run(Muon(groups), ours, range(50))
    run(torch.optim.AdamW(theirs[1:], **settings), theirs, range(50))
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_adamw_group_has_adamws_settings_and_no_others() -> None:
    param = matrices()
    optimizer = Muon([{"params": param[:1]}, {"params": param[1:], "algorithm": "adamw"}], lr=0.5)
    adamw = optimizer.param_groups[1]
    settings = {"lr", "betas", "eps", "weight_decay", "foreach", "fused"}
    assert set(adamw) == settings | {"params", "algorithm"}
    assert adamw["lr"] == torch.optim.AdamW(param).defaults["lr"]  # not Muon's, 50 times as high


def test_one_step_moves_by_lr() -> None:
    """Every singular value of the update is about lr·√(rows/cols)."""
    param = nn.Parameter(torch.zeros(32, 8))
    param.grad = torch.linalg.qr(torch.randn(32, 8))[0]
    Muon([param], lr=0.1).step()
    singular = torch.linalg.svdvals(param.detach())
    assert singular.min() > 0.1 * 2 * 0.6
    assert singular.max() < 0.1 * 2 * 1.3


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "embedding": nn.Embedding(10, 6),
            "layers": nn.ModuleList([nn.Linear(6, 6, bias=True) for _ in range(2)]),
            "norm": nn.LayerNorm(6),
            "lm_head": nn.Linear(6, 10, bias=False),
        }
    )


def loss_of(network: nn.ModuleDict, ids: Tensor) -> Tensor:
    x = network["embedding"](ids)
    for layer in network["layers"]:
        x = x + torch.relu(layer(x))
    logits = network["lm_head"](network["norm"](x))
    return nn.functional.cross_entropy(logits[:-1], ids[1:])


def test_overfits_one_sequence() -> None:
    network = model()
    ids = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9, 0])
    optimizer = Muon(muon_groups(network.named_parameters(), adamw_lr=0.02))
    for _ in range(100):
        optimizer.zero_grad()
        loss = loss_of(network, ids)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_resumed_is_bit_exact_for_both_algorithms() -> None:
    ids = torch.arange(10)

    def train(network: nn.ModuleDict, optimizer: Muon, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(network, ids).backward()
            optimizer.step()

    whole, halves = model(), model()
    train(whole, Muon(muon_groups(whole.named_parameters())), 6)
    first = Muon(muon_groups(halves.named_parameters()))
    train(halves, first, 3)
    second = Muon(muon_groups(halves.named_parameters()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(halves, second, 3)
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({}, "must be matrices or stacks of matrices (shape (3,)); put other"),
        ({"algorithm": "lion"}, "algorithm must be 'muon' or 'adamw' ('lion'); pass 'muon'"),
        (
            {"algorithm": "adamw", "momentum": 0.9},
            "algorithm='adamw' must not have the setting momentum",
        ),
        ({"betas": (0.9, 0.9)}, "algorithm='muon' must not have the setting betas"),
        ({"algorithm": "adamw", "eps": -1.0}, "eps must be at least 0 and below inf (-1.0)"),
        ({"ns_dtype": "float16"}, "ns_dtype must be 'auto', 'float32' or 'bfloat16' ('float16')"),
        ({"ns_steps": 0}, "ns_steps must be at least 1 and below inf (0)"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1 (1.0)"),
    ],
)
def test_refuses_what_it_cannot_use(group: dict[str, object], message: str) -> None:
    optimizer = Muon(matrices())
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))], **group})
    assert len(optimizer.param_groups) == 1
