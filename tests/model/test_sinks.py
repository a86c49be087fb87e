"""Attention sinks: compare with gpt-oss in transformers, and with the readable definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.twins import loud
from helpers.variants import SMALL, small
from scratchlm import ModelConfig, MultiHeadAttention, Transformer, functional, generate
from scratchlm.model.attention import sdpa
from scratchlm.optim.groups import adamw_groups


class Alone(nn.Module):
    """A feed-forward layer where gpt-oss has experts, whose scores it returns too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.layer(x), None


@pytest.fixture(scope="module")
def both() -> tuple[Transformer, Any]:
    """Ours and a gpt-oss: sinks, biases of q, k and v, YaRN, and a window in every other layer.

    The feed-forward layers are ours in both, because gpt-oss has other experts.
    """
    import transformers

    torch.manual_seed(0)
    rope = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "truncate": False,
            "original_max_position_embeddings": 24}  # fmt: skip
    hub = transformers.GptOssConfig(
        vocab_size=61, hidden_size=32, intermediate_size=16, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=6, num_local_experts=2,
        max_position_embeddings=96, rope_parameters=rope, rms_norm_eps=1e-5, pad_token_id=None,
        bos_token_id=None, eos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    theirs = transformers.GptOssForCausalLM._from_config(hub, attn_implementation="eager").eval()
    scaling = {"kind": "yarn", "factor": 4.0, "original_context_length": 24, "truncate": False}
    ours = loud(small(
        context_length=96, num_kv_heads=2, window=6, window_pattern="SL", rope_theta=1000.0,
        rope_scaling=scaling, qkv_bias=True, attention_sinks=True,
    ))  # fmt: skip
    with torch.no_grad():
        theirs.model.embed_tokens.weight.copy_(ours.embedding.weight)
        theirs.model.norm.weight.copy_(ours.norm.weight)
        theirs.lm_head.weight.copy_(ours.lm_head.weight)
        for mine, layer in zip(ours.layers, theirs.model.layers, strict=True):
            mine.attn.sinks.add_(torch.randn(4))
            layer.mlp = Alone(mine.ffn)
            layer.input_layernorm.weight.copy_(mine.attn_norm.weight)
            layer.post_attention_layernorm.weight.copy_(mine.ffn_norm.weight)
            layer.self_attn.o_proj.bias.zero_()
            names = dict(layer.self_attn.named_parameters())
            for name, weight in mine.attn.named_parameters():
                names[name].copy_(weight)
    return ours, theirs


def test_logits_gradients_and_text_are_those_of_gpt_oss(both: tuple[Transformer, Any]) -> None:
    ours, theirs = both
    ids = torch.randint(61, (2, 70))
    mine, other = ours(ids), theirs(ids).logits
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5 * other.abs().max().item())
    found = []
    for logits, model in ((mine, ours), (other, theirs)):
        layers = model.layers if model is ours else model.model.layers
        attention = [layer.attn if model is ours else layer.self_attn for layer in layers]
        wanted = [each for layer in attention for each in (layer.sinks, layer.q_proj.weight)]
        loss = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
        found.append(torch.autograd.grad(loss, wanted))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
        assert one.abs().max() > 1e-4
    prompt = ids[:1, :5]
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip
    assert generate(ours, prompt[0].tolist(), 64, temperature=0) == expected[0, 5:].tolist()


@pytest.mark.parametrize("shape", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("lengths", [(9, 9), (1, 9), (4, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize(
    "how", ["all", "causal", "window", "mask", "keys", "first", "no key", "wide values"]
)
def test_equals_its_definition_with_gradients(
    how: str, lengths: tuple[int, int], shape: tuple[int, int]
) -> None:
    """In float64, for 3 · 5 · 8 cases; where a query has no key, all weight goes to the sink."""
    torch.manual_seed(0)
    (query, key), (head, kv_head) = lengths, shape
    wide = 20 if how == "wide values" else 8
    sizes = ((2, head, query, 8), (2, kv_head, key, 8), (2, kv_head, key, wide), (head,))
    leaves = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    keywords: dict[str, Any] = {"causal": how not in ("all", "mask", "keys") and key >= query}
    if how == "window":
        keywords["window"] = 3
    elif how == "mask":
        keywords["mask"] = torch.rand(2, 1, query, key) > 0.4
    elif how == "keys":
        keywords["mask"] = (torch.arange(key) > 1)[None, None, None]
    elif how == "no key":
        keywords["mask"] = torch.zeros(2, 1, 1, 1, dtype=torch.bool)
    elif how == "first":
        keywords["first"] = torch.randint(0, 2, (2, query)).clamp(max=key - 1)
    q, k, v, sinks = leaves
    ours = sdpa(q, k, v, sinks=sinks, **keywords)
    theirs = functional.scaled_dot_product_attention(q, k, v, sinks=sinks, **keywords)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    direction = torch.randn_like(ours)
    for one, two in zip(
        torch.autograd.grad(ours, leaves, direction),
        torch.autograd.grad(theirs, leaves, direction),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_the_definition_by_hand() -> None:
    """Two keys with the scores 1 and 2, a sink of 3, and the values 10 and 20."""
    q, k = torch.tensor([[[1.0]]]), torch.tensor([[[1.0], [2.0]]])
    v, sinks = torch.tensor([[[10.0], [20.0]]]), torch.tensor([3.0])
    e = torch.arange(1.0, 4).exp()
    expected = (10 * e[0] + 20 * e[1]) / e.sum()
    for attend in (functional.scaled_dot_product_attention, sdpa):
        torch.testing.assert_close(attend(q, k, v, sinks=sinks).squeeze(), expected)
        far = attend(q, k, v, sinks=torch.tensor([-1e4]))
        torch.testing.assert_close(far, attend(q, k, v))


def test_sinks_begin_at_0_and_do_not_decay() -> None:
    model = small(attention_sinks=True)
    sinks = [layer.attn.sinks for layer in model.layers]
    assert all(not each.any() for each in sinks)
    groups = adamw_groups(model.named_parameters(), weight_decay=0.1)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert not decayed & {id(each) for each in sinks}


def test_what_cannot_compute_sinks_is_refused() -> None:
    flash = functional.flash_attention
    message = r"must accept sinks \(flash_attention\); choose --attention sdpa"
    with pytest.raises(ValueError, match=message):
        Transformer(ModelConfig(**SMALL, attention_sinks=True), attend=flash)
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(32, 4, sinks=True, attend=flash, window=4)
    q = torch.randn(2, 4, 3, 8)
    for attend in (functional.scaled_dot_product_attention, sdpa):
        with pytest.raises(ValueError, match=r"one number for each head of q \(\(3,\), q has"):
            attend(q, q, q, sinks=torch.zeros(3))
    with pytest.raises(ValueError, match="attention_sinks must be a bool"):
        ModelConfig(**SMALL, attention_sinks=1)
