"""The feed-forward layers against their definitions and the hub's Llama."""

from __future__ import annotations

import pytest
import torch

from scratchlm import SwiGLU, functional
from scratchlm.model.config import default_d_ff
from scratchlm.model.feed_forward import ReluSquared


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_swiglu_matches_the_hubs_llama_and_its_definition() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    x = torch.randn(2, 3, 16)
    ours = SwiGLU(16, 40)
    theirs = LlamaMLP(LlamaConfig(hidden_size=16, intermediate_size=40, num_attention_heads=2))
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)
    weights = (ours.gate_proj.weight, ours.up_proj.weight, ours.down_proj.weight)
    torch.testing.assert_close(ours(x), functional.swiglu(x, *weights), rtol=1e-5, atol=1e-6)


def test_relu_squared_equals_its_definition() -> None:
    x = torch.randn(2, 3, 16)
    ours = ReluSquared(16, 40)
    assert set(ours.state_dict()) == {"up_proj.weight", "down_proj.weight"}
    definition = functional.relu_squared(x, ours.up_proj.weight, ours.down_proj.weight)
    torch.testing.assert_close(ours(x), definition, rtol=1e-5, atol=1e-6)


def test_relu_squared_by_hand() -> None:
    ours = ReluSquared(1, 2)
    ours.up_proj.weight.data = torch.tensor([[2.0], [-1.0]])
    ours.down_proj.weight.data = torch.tensor([[1.0, 10.0]])
    out = ours(torch.tensor([[3.0], [-3.0]]))  # 6² + 0, then 0 + 10 · 3²
    assert torch.equal(out, torch.tensor([[36.0], [90.0]]))


@pytest.mark.parametrize("module", [SwiGLU, ReluSquared])
def test_bias_std_device_and_dtype_reach_the_projections(module: type[torch.nn.Module]) -> None:
    ffn = module(8, 16, True, std_out=0.0, dtype=torch.float64)
    assert not ffn.down_proj.weight.any()
    assert ffn.up_proj.weight.any()
    assert all(p.dtype == torch.float64 for p in ffn.parameters())
    assert "down_proj.bias" in ffn.state_dict()


def test_default_width() -> None:
    assert default_d_ff(512) == 1408  # 1365.3 up to 22 · 64
    assert default_d_ff(768) == 2048  # 8/3 of it exactly
    assert default_d_ff(768, "relu2") == 3072
