"""Gated attention, QK-norm and windows against a few lines of plain torch, with gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scratchlm import ModelConfig, MultiHeadAttention, RotaryEmbedding, Transformer, generate
from scratchlm.model.config import Init

BATCH, SEQ, WIDTH, HEADS, KV_HEADS, D_HEAD = 2, 9, 32, 4, 2, 8


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def plain(layer: MultiHeadAttention, x: Tensor, gate: str, window: int | None) -> Tensor:
    """One head after another, softmax and all."""

    def normed(t: Tensor, norm: Any) -> Tensor:
        if isinstance(norm, torch.nn.Identity):
            return t
        t = t / (t.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
        return t if norm.weight is None else t * norm.weight

    def turned(t: Tensor) -> Tensor:  # as complex numbers, coordinate i with i + d_head / 2
        if not isinstance(layer.rope, RotaryEmbedding):
            return t
        rates = 10_000.0 ** (-torch.arange(0, D_HEAD, 2) / D_HEAD)
        angles = torch.arange(SEQ)[:, None] * rates
        z = torch.complex(*t.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([z.real, z.imag], -1)

    i, j = torch.arange(SEQ)[:, None], torch.arange(SEQ)
    near = (j <= i) & (j > i - (window or SEQ))
    outputs = []
    for head in range(HEADS):
        rows = slice(head * D_HEAD, (head + 1) * D_HEAD)
        group = head * KV_HEADS // HEADS
        shared = slice(group * D_HEAD, (group + 1) * D_HEAD)
        q = turned(normed(x @ layer.q_proj.weight[rows].T, layer.q_norm))
        k = turned(normed(x @ layer.k_proj.weight[shared].T, layer.k_norm))
        v = x @ layer.v_proj.weight[shared].T
        scores = (q @ k.mT / math.sqrt(D_HEAD)).masked_fill(~near, -math.inf)
        y = scores.exp() / scores.exp().sum(-1, keepdim=True) @ v
        if gate != "none":
            weight = layer.gate.proj.weight
            w = weight[rows] if gate == "elementwise" else weight[head : head + 1]
            y = y / (1 + (-(x @ w.T)).exp())
        outputs.append(y)
    return torch.cat(outputs, -1) @ layer.o_proj.weight.T


@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("qk_norm", ["no", "gains", "without gains"])
@pytest.mark.parametrize("gate", ["none", "elementwise", "headwise"])
def test_equals_plain_torch(gate: Any, qk_norm: str, window: int | None, rope: bool) -> None:
    layer = MultiHeadAttention(
        WIDTH,
        HEADS,
        KV_HEADS,
        rope=RotaryEmbedding(D_HEAD, SEQ) if rope else None,
        qk_norm=qk_norm != "no",
        qk_norm_gain=qk_norm != "without gains",
        gate=gate,
        window=window,
    )
    for norm in (layer.q_norm, layer.k_norm):
        for gain in norm.parameters():
            torch.nn.init.normal_(gain)
    x = torch.randn(BATCH, SEQ, WIDTH, requires_grad=True)
    ours, theirs = layer(x), plain(layer, x, gate, window)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    inputs, direction = (x, *layer.parameters()), torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, direction),
        torch.autograd.grad(theirs, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_without_gains_there_is_nothing_to_learn() -> None:
    layer = MultiHeadAttention(WIDTH, HEADS, qk_norm=True, qk_norm_gain=False)
    assert {name.split(".")[0] for name, _ in layer.named_parameters()} == {
        f"{p}_proj" for p in "qkvo"
    }


@pytest.mark.parametrize("init", ["gpt2", "xavier", "kaiming"])
def test_initial_values_are_those_of_the_table(init: Init) -> None:
    config = ModelConfig(512, 64, 256, 2, 4, d_ff=1024, position="learned", ffn="gelu", init=init)
    shapes = {"embedding": (512, 256), "position_embedding": (64, 256), "lm_head": (512, 256),
              "up_proj": (1024, 256), "down_proj": (256, 1024)}  # fmt: skip
    for name, weight in Transformer(config).named_parameters():
        kind = name.split(".")[-2]
        if weight.ndim == 1:
            continue
        rows, columns = shapes.get(kind, (256, 256))
        std = {
            "gpt2": 0.02,
            "xavier": math.sqrt(2 / (rows + columns)),
            "kaiming": math.sqrt(2 / columns),
        }[init]
        if kind in ("o_proj", "down_proj"):
            std /= math.sqrt(2 * 2)
        assert weight.std().item() == pytest.approx(std, rel=0.03), name
        assert weight.mean().item() == pytest.approx(0, abs=0.05 * std), name
        assert weight.abs().max() > 3.1 * std, name  # not cut


def test_an_id_of_the_padding_is_never_sampled() -> None:
    model = Transformer(ModelConfig(5, 300, 16, 1, 2, vocab_multiple=64)).eval()
    with torch.no_grad():  # without the rule, padding rows would be likeliest
        model.lm_head.weight[5::2], model.lm_head.weight[6::2] = 100.0, -100.0
    generator = torch.Generator().manual_seed(1)
    assert max(generate(model, [1, 2], 200, temperature=5.0, generator=generator)) < 5
    assert max(generate(model, [1, 2], 20, temperature=0)) < 5
