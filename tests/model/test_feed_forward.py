"""The feed-forward layers, compared with their definitions and with the Llama of transformers."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from scratchlm import SwiGLU, functional
from scratchlm.model.config import FeedForward, default_d_ff
from scratchlm.model.feed_forward import new_feed_forward


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


def test_gelu_matches_the_hubs_gpt2() -> None:
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    x = torch.randn(2, 3, 16)
    ours = new_feed_forward("gelu", 16, 40, bias=True)
    torch.nn.init.normal_(ours.up_proj.bias)
    torch.nn.init.normal_(ours.down_proj.bias)
    theirs = GPT2MLP(40, GPT2Config(n_embd=16)).eval()
    names = {"c_fc": ours.up_proj, "c_proj": ours.down_proj}
    for name, linear in names.items():  # GPT-2 keeps matrices as (in, out)
        getattr(theirs, name).weight.data = linear.weight.data.T
        getattr(theirs, name).bias.data = linear.bias.data
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_gelu_equals_its_definition() -> None:
    x = torch.randn(2, 3, 16)
    ours = new_feed_forward("gelu", 16, 40, bias=False)
    hidden = functional.gelu(functional.linear(x, ours.up_proj.weight), tanh=True)
    definition = functional.linear(hidden, ours.down_proj.weight)
    torch.testing.assert_close(ours(x), definition, rtol=1e-5, atol=1e-6)


def test_relu_squared_equals_its_definition() -> None:
    x = torch.randn(2, 3, 16)
    ours = new_feed_forward("relu2", 16, 40, bias=False)
    assert set(ours.state_dict()) == {"up_proj.weight", "down_proj.weight"}
    definition = functional.relu_squared(x, ours.up_proj.weight, ours.down_proj.weight)
    torch.testing.assert_close(ours(x), definition, rtol=1e-5, atol=1e-6)


def test_relu_squared_by_hand() -> None:
    ours = new_feed_forward("relu2", 1, 2, bias=False)
    ours.up_proj.weight.data = torch.tensor([[2.0], [-1.0]])
    ours.down_proj.weight.data = torch.tensor([[1.0, 10.0]])
    out = ours(torch.tensor([[3.0], [-3.0]]))  # 6² + 0, then 0 + 10 · 3²
    assert torch.equal(out, torch.tensor([[36.0], [90.0]]))


def test_silu_is_swiglu_without_its_gate() -> None:
    x = torch.randn(2, 3, 16)
    ours = new_feed_forward("silu", 16, 40, bias=False)
    expected = functional.silu(x @ ours.up_proj.weight.T) @ ours.down_proj.weight.T
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ffn", get_args(FeedForward))
def test_bias_device_and_dtype_reach_the_projections(ffn: FeedForward) -> None:
    layer = new_feed_forward(ffn, 8, 16, True).to(torch.float64)
    assert all(p.dtype == torch.float64 for p in layer.parameters())
    assert {"up_proj.bias", "down_proj.bias"} <= set(layer.state_dict())
    assert layer(torch.randn(3, 8, dtype=torch.float64)).shape == (3, 8)


def test_default_width() -> None:
    assert default_d_ff(512) == 1408  # 1365.3 up to 22 · 64
    assert default_d_ff(768) == 2048  # 8/3 of it exactly
    assert default_d_ff(768, "relu2") == 3072
