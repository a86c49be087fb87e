"""Rotary embedding: compare with its definition and the Llama of transformers, and check what
rotations must not change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from scratchlm import RotaryEmbedding, functional
from scratchlm.convert.hf_folder import read_hf_config
from scratchlm.model.config import RopeScaling


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def half_split_from_interleaved(d_head: int) -> torch.Tensor:
    """Return the index of each entry of a half-split vector in the interleaved vector: 0 2 4 … 1 3
    5 …"""
    return torch.arange(d_head).unflatten(0, (-1, 2)).T.flatten()


def test_matches_the_hubs_llama() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    q, k = torch.randn(2, 4, 32, 16), torch.randn(2, 2, 32, 16)
    positions = torch.arange(32)
    rope_parameters = {"rope_type": "default", "rope_theta": 500.0}
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=4, rope_theta=500.0, rope_parameters=rope_parameters
    )
    cos, sin = LlamaRotaryEmbedding(config)(q, positions[None])
    ours = RotaryEmbedding(16, 32, theta=500.0)
    for mine, theirs in zip(
        (ours(q, positions), ours(k, positions)), apply_rotary_pos_emb(q, k, cos, sin), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_interleaved_matches_complex_multiplication() -> None:
    # The paper's equation 34 as complex numbers: (a + ib) · exp(i · position · theta_i)
    x = torch.randn(3, 10, 8)
    positions = torch.arange(10)
    angles = torch.outer(positions.double(), 10_000.0 ** (-torch.arange(4).double() / 4))
    turned = torch.view_as_complex(x.double().unflatten(-1, (4, 2))) * torch.exp(1j * angles)
    expected = torch.view_as_real(turned).flatten(-2).float()
    ours = RotaryEmbedding(8, 10, interleaved=True)(x, positions)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_its_definition(interleaved: bool, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 10, 8).to(dtype)
    positions = torch.randperm(100_000)[:10]
    ours = RotaryEmbedding(8, 100_000, 500_000.0, interleaved)(x, positions)
    theirs = functional.rotate(x, positions, 500_000.0, interleaved)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=max(torch.finfo(dtype).eps, 1e-6), atol=1e-6)


def test_half_split_is_interleaved_with_its_entries_reordered() -> None:
    x, positions = torch.randn(5, 8), torch.arange(5)
    order = half_split_from_interleaved(8)
    interleaved = RotaryEmbedding(8, 5, interleaved=True)(x, positions)
    half_split = RotaryEmbedding(8, 5)(x[:, order], positions)
    assert torch.equal(half_split, interleaved[:, order])


@pytest.mark.parametrize("interleaved", [False, True])
def test_keeps_lengths_and_sees_only_distances(interleaved: bool) -> None:
    rope = RotaryEmbedding(16, 200, interleaved=interleaved)
    q, k = torch.randn(1, 16), torch.randn(1, 16)

    def score(query: int, key: int) -> float:
        return (rope(q, torch.tensor([query])) @ rope(k, torch.tensor([key])).T).item()

    assert score(7, 3) == pytest.approx(score(107, 103), abs=1e-4)
    assert max(score(7, key) for key in range(7)) > min(score(7, key) for key in range(7)) + 0.1
    turned = rope(q, torch.tensor([150]))
    torch.testing.assert_close(turned.norm(), q.norm(), rtol=1e-5, atol=0)
    assert torch.equal(rope(q, torch.tensor([0])), q)


def test_positions_broadcast_over_leading_axes() -> None:
    rope = RotaryEmbedding(8, 20)
    x = torch.randn(2, 3, 4, 8)  # (batch, head, seq, d_head)
    positions = torch.tensor([[0, 1, 2, 3], [9, 8, 7, 19]])
    turned = rope(x, positions[:, None])
    for row in range(2):
        assert torch.equal(turned[row], rope(x[row], positions[row]))


@pytest.mark.parametrize("position", [-1, 20])
def test_position_outside_the_table_is_refused(position: int) -> None:
    rope = RotaryEmbedding(8, 20)
    with pytest.raises(ValueError, match=r"positions must be in 0…19 .*; shorten"):
        rope(torch.randn(2, 8), torch.tensor([3, position]))


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"d_head must be even"):
        RotaryEmbedding(7, 20)
    with pytest.raises(ValueError, match=r"last axis of x \(16\) must be d_head \(8\)"):
        RotaryEmbedding(8, 20)(torch.randn(2, 16), torch.arange(2))


def test_tables_stay_fp32_and_out_of_checkpoints() -> None:
    rope = RotaryEmbedding(8, 20)
    exact = rope.table.clone()
    assert not rope.state_dict()
    rope.bfloat16()
    assert torch.equal(rope.table, exact)
    assert rope(torch.randn(2, 8).bfloat16(), torch.arange(2)).dtype == torch.bfloat16


def test_tables_are_right_after_the_meta_device() -> None:
    with torch.device("meta"):
        rope = RotaryEmbedding(8, 20)
    assert rope.table.is_meta
    assert torch.equal(rope.to_empty(device="cpu").table, RotaryEmbedding(8, 20).table)


@pytest.mark.parametrize("d_head", [2, 16, 64])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"truncate": False},
        {"beta_fast": 8.0, "beta_slow": 2.0},
        {"beta_slow": 0.02},
        {"attention_factor": 0.7},
        {"mscale": 1.0, "mscale_all_dim": 0.8},
        {"factor": 0.5},
    ],
)
def test_yarn_matches_the_hub(settings: dict[str, float], d_head: int, tmp_path: Path) -> None:
    """Angles and temperature, as Hugging Face computes them from its own settings."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 16.0,
            "original_max_position_embeddings": 128} | settings  # fmt: skip
    hub = LlamaConfig(
        hidden_size=d_head * 4, num_attention_heads=4, rope_parameters=rope, vocab_size=61
    )
    cos, sin = LlamaRotaryEmbedding(hub)(torch.zeros(1), torch.arange(200)[None])
    hub.save_pretrained(tmp_path)
    config = read_hf_config(tmp_path)
    ours = RotaryEmbedding(d_head, 200, config.rope_theta, scaling=config.rope_scaling)
    mine, signed = ours.table.chunk(2, -1)
    torch.testing.assert_close(mine, cos[0], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(signed[:, d_head // 2 :], sin[0, :, : d_head // 2],
                               rtol=1e-5, atol=2e-5)  # fmt: skip


def test_yarn_changes_the_temperature_of_the_scores() -> None:
    """Every vector gets longer by 0.1 ln(factor) + 1. Pairs with many turns keep their angles."""
    scaling = RopeScaling("yarn", 8.0, original_context_length=64)
    assert scaling.attention_factor == pytest.approx(0.1 * math.log(8) + 1)
    rope, plain = RotaryEmbedding(64, 50, scaling=scaling), RotaryEmbedding(64, 50)
    x = torch.randn(50, 64)
    turned, before = rope(x, torch.arange(50)), plain(x, torch.arange(50))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1) * scaling.attention_factor)
    torch.testing.assert_close(turned[:, 0], before[:, 0] * scaling.attention_factor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"original_context_length": None}, r"original_context_length must be positive"),
        ({"beta_slow": 40}, r"beta_slow \(40\) must be below beta_fast \(32.0\); use 1 and 32"),
        ({"low_freq_factor": 1}, r"low_freq_factor \(1\) has no effect with kind yarn; remove"),
        ({"truncate": 1}, r"truncate must be a bool \(1\); use true or false"),
        ({"attention_factor": 0}, r"attention_factor must be positive and finite \(0\)"),
        ({"kind": "linear", "original_context_length": None, "beta_fast": 32},
         r"beta_fast \(32\) has no effect with kind linear"),
    ],
)  # fmt: skip
def test_wrong_settings_of_yarn_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RopeScaling(**{"kind": "yarn", "factor": 4.0, "original_context_length": 64} | changes)
