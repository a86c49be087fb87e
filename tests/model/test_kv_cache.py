"""The cache of keys and values: it returns stored values as views, and refuses wrong input."""

from __future__ import annotations

import pytest
import torch

from scratchlm import KVCache


def filled(batch: int, seq: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 2, seq, 4), torch.randn(batch, 2, seq, 4)


def test_returns_all_that_was_written_in_order() -> None:
    cache = KVCache(num_layers=2, batch_size=3, num_kv_heads=2, context_length=8, d_head=4)
    parts = [[filled(3, seq) for _ in range(2)] for seq in (3, 1, 4)]
    for step, layers in enumerate(parts):
        for layer, (k, v) in enumerate(layers):
            keys, values = cache.update(layer, k, v)
            past = [part[layer] for part in parts[: step + 1]]
            assert torch.equal(keys, torch.cat([k for k, _ in past], dim=2))
            assert torch.equal(values, torch.cat([v for _, v in past], dim=2))
            assert keys.untyped_storage().data_ptr() == cache.keys.untyped_storage().data_ptr()
        cache.advance(layers[0][0].shape[2])
    assert cache.length == 8


def test_length_moves_once_a_pass_not_once_a_layer() -> None:
    cache = KVCache(3, 1, 2, 8, 4)
    for layer in cache.layers:
        layer.update(*filled(1, 5))
        assert layer.length == 0
    cache.advance(5)
    assert [layer.length for layer in cache.layers] == [5, 5, 5]


def test_overflow_is_refused_and_changes_nothing() -> None:
    cache = KVCache(1, 1, 2, 8, 4)
    cache.update(0, *filled(1, 6))
    cache.advance(6)
    before = cache.keys.clone()
    with pytest.raises(
        ValueError, match=r"for 3 more tokens \(6 of 8 positions are filled\); call"
    ):
        cache.update(0, *filled(1, 3))
    with pytest.raises(ValueError, match="must have room"):
        cache.advance(3)
    assert torch.equal(cache.keys, before)
    assert cache.length == 6


def test_reset_forgets() -> None:
    cache = KVCache(1, 1, 2, 8, 4)
    cache.update(0, *filled(1, 8))
    cache.advance(8)
    cache.reset()
    k, v = filled(1, 2)
    keys, values = cache.update(0, k, v)
    assert torch.equal(keys, k)
    assert torch.equal(values, v)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(\(2, 2, 3, 4\)\) .* \(\(1, 2, 3, 4\)\); make a cache"):
        KVCache(1, 1, 2, 8, 4).update(0, *filled(2, 3))


def test_holds_no_graph() -> None:
    cache = KVCache(1, 1, 2, 8, 4)
    k, v = (t.requires_grad_() for t in filled(1, 3))
    assert not any(t.requires_grad for t in cache.update(0, k, v))


def test_device_and_dtype() -> None:
    cache = KVCache(1, 1, 2, 8, 4, device="meta", dtype=torch.bfloat16)
    assert cache.values.is_meta
    assert cache.values.dtype == torch.bfloat16
    assert cache.context_length == 8
