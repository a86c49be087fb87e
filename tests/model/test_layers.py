"""Linear, Embedding and the norms: torch's modules as oracle, the definitions as twins."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from scratchlm import Embedding, LayerNorm, Linear, RMSNorm, functional


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def assert_twins(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """Check that values and gradients are equal after the torch module gets our parameters."""
    theirs.load_state_dict(ours.state_dict())
    outputs = []
    for module in (ours, theirs):
        module.zero_grad()
        leaf = x.clone().requires_grad_(x.is_floating_point())
        y = module(leaf)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        outputs.append([y, leaf.grad, *(p.grad for p in module.parameters())])
    for mine, other in zip(*outputs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_linear_matches_torch(bias: bool) -> None:
    ours = Linear(6, 5, bias)
    assert ours.weight.shape == (5, 6)
    assert_twins(ours, nn.Linear(6, 5, bias=bias), torch.randn(2, 3, 6))


def test_embedding_matches_torch() -> None:
    assert_twins(Embedding(7, 4), nn.Embedding(7, 4), torch.randint(7, (2, 3)))


def test_rms_norm_matches_torch() -> None:
    ours = RMSNorm(16, 1e-3)
    nn.init.normal_(ours.weight)
    assert_twins(ours, nn.RMSNorm(16, 1e-3), torch.randn(2, 3, 16))


@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm_matches_torch(bias: bool) -> None:
    ours = LayerNorm(16, 1e-3, bias)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    assert_twins(ours, nn.LayerNorm(16, 1e-3, bias=bias), torch.randn(2, 3, 16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_equal_their_definitions(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 64).to(dtype)
    tolerance = {"rtol": max(torch.finfo(dtype).eps, 1e-6), "atol": 1e-5}
    rms, layer = RMSNorm(64).to(dtype), LayerNorm(64).to(dtype)
    for parameter in (*rms.parameters(), *layer.parameters()):
        nn.init.normal_(parameter)
    torch.testing.assert_close(rms(x), functional.rms_norm(x, rms.weight, 1e-5), **tolerance)
    definition = functional.layer_norm(x, layer.weight, layer.bias, 1e-5)
    torch.testing.assert_close(layer(x), definition, **tolerance)


@pytest.mark.parametrize("module", [RMSNorm, LayerNorm])
@pytest.mark.filterwarnings("error")  # torch warns where a mixture costs it the fused kernel
def test_norms_take_another_dtype_than_their_weight(module: type[nn.Module]) -> None:
    norm = module(64)
    nn.init.normal_(norm.weight)
    x = torch.randn(8, 64, dtype=torch.bfloat16)
    assert norm(x).dtype == torch.bfloat16
    assert torch.equal(norm(x), norm(x.float()).bfloat16())  # as under autocast
    wide = torch.randn(8, 64)
    assert norm.bfloat16()(wide).dtype == torch.float32


def test_initial_values() -> None:
    linear = Linear(256, 1024, bias=True)
    # A normal cut at 3 σ has 0.9866 of its standard deviation.
    assert linear.weight.std().item() == pytest.approx(0.9866 / 16, rel=0.01)
    assert linear.weight.abs().max().item() <= 3.0001 / 16
    assert linear.bias is not None
    assert not linear.bias.any()
    assert Embedding(1000, 64).weight.std().item() == pytest.approx(0.9866 / 16, rel=0.02)
    assert torch.equal(RMSNorm(4).weight, torch.ones(4))
    assert torch.equal(torch.cat(list(LayerNorm(2).parameters())), torch.tensor([1.0, 1, 0, 0]))


@pytest.mark.parametrize("module", [Linear, Embedding, RMSNorm, LayerNorm])
def test_torch_device_places_a_module(module: type[nn.Module]) -> None:
    sizes = (4,) if module in (RMSNorm, LayerNorm) else (4, 3)
    with torch.device("meta"):
        made = module(*sizes).to(torch.float64)
    for parameter in made.parameters():
        assert parameter.is_meta
        assert parameter.dtype == torch.float64


def test_meta_module_is_filled_by_reset_parameters() -> None:
    with torch.device("meta"):
        linear = Linear(64, 64)
    linear = linear.to_empty(device="cpu")
    linear.reset_parameters()
    assert linear.weight.std().item() == pytest.approx(1 / math.sqrt(64), rel=0.1)
