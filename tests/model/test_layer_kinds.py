"""Layers of several kinds: windows, layers without positions, two rotary bases, and their cache."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import small_runs, tiny
from helpers.exact_runs import difference
from helpers.twins import loud
from helpers.variants import SMALL, small
from scratchlm import KVCache, ModelConfig, Transformer
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.costs import model_costs
from scratchlm.generation.decoder import Decoder
from scratchlm.model.config import RopeScaling
from scratchlm.model.kv_cache import REWIND, stored_positions
from scratchlm.model.layers import NoPositions

KINDS: dict[str, Any] = {
    "num_layers": 4, "context_length": 160, "window": 5, "window_pattern": "SSL", "nope_every": 4,
    "local_rope_theta": 50.0, "num_kv_heads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    return loud(small(**KINDS))


def ids_of(seq: int, seed: int = 0) -> list[int]:
    return torch.randint(61, (seq,), generator=torch.Generator().manual_seed(seed)).tolist()


def close(ours: Tensor, theirs: Tensor) -> None:
    """Check to 1e-5 of the largest logit, as in test_decoder."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


# The layers


def test_each_layer_has_its_kind() -> None:
    config = ModelConfig(**SMALL | KINDS)
    assert config.windows == [5, 5, None, 5]
    assert config.rotary == [True, True, True, False]
    layers = small(**KINDS).layers
    assert isinstance(layers[3].attn.rope, NoPositions)
    assert layers[0].attn.rope is layers[1].attn.rope
    assert [layers[n].attn.rope.theta for n in (0, 2)] == [50.0, 10_000.0]
    assert ModelConfig(**SMALL, window=3).windows == [3, 3]


@torch.no_grad()
def test_a_layer_sees_its_window_and_no_more() -> None:
    """The gradient of an output reaches exactly the tokens of the window."""
    model = small(**KINDS | {"num_layers": 1, "window_pattern": "SL"})
    x = torch.randn(1, 12, 32)
    with torch.enable_grad():
        x.requires_grad_()
        model.layers[0](x)[0, 9].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    assert seen == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_pattern": "SSL"}, r"window_pattern \(SSL\) has no effect without window; set"),
        ({"window": 4, "window_pattern": "SSX"}, r"must contain the letters S and L \('SSX'\)"),
        ({"window": 4, "window_pattern": "SS"}, r"S and L \('SS'\); use e.g. 'SSSL', or remove"),
        ({"nope_every": 1}, r"nope_every must be at least 2 \(1\); set position to none"),
        ({"nope_every": 0}, r"nope_every must be a positive integer \(0\)"),
        ({"nope_every": 2, "position": "none"}, r"nope_every \(2\) has no effect with position"),
        ({"local_rope_theta": 10.0}, r"local_rope_theta \(10.0\) has no effect without window_p"),
        ({"local_rope_theta": 0}, r"local_rope_theta must be positive and finite \(0\)"),
    ],
)
def test_settings_without_effect_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**SMALL | changes)


# The cache


def test_the_cache_holds_what_each_layer_needs_and_no_more() -> None:
    config = ModelConfig(**SMALL | KINDS | {"context_length": 4096})
    cache = Transformer(config).new_cache(3)
    positions = [4 + 32, 4 + 32, 4096, 4 + 32]
    assert [stored_positions(window, 4096) for window in config.windows] == positions
    assert cache.nbytes == 2 * 3 * 2 * 8 * 4 * sum(positions)
    assert model_costs.cache_bytes(config, 4096, 3, 4) == cache.nbytes
    full = model_costs.cache_bytes(ModelConfig(**SMALL | {"num_layers": 4}), 4096, 3, 4)
    assert cache.nbytes < 0.52 * full / 2 + full / 100  # one full layer of four, half the heads


def test_flops_count_the_keys_of_each_layer() -> None:
    config = ModelConfig(**SMALL | KINDS)
    plain = ModelConfig(**SMALL | {"num_layers": 4, "num_kv_heads": 2, "context_length": 160})
    keys = 3 * (5 - 25 / 320) + 80
    more = model_costs.flops_per_token(plain) - 4 * 32 * 4 * 80
    assert model_costs.flops_per_token(config) == pytest.approx(more + 4 * 32 * keys)


@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_cached_equals_uncached_in_passes_of_any_length(model: Transformer, seed: int) -> None:
    """With `first`, a mask, and tokens that are forgotten, after every pass."""
    rng = random.Random(seed)
    ids = torch.tensor([ids_of(150, seed), ids_of(150, seed + 10)])
    padding = torch.tensor([[0], [3]])
    positions = (torch.arange(150) - padding).clamp(min=0)
    mask = (torch.arange(150) >= padding)[:, None, None]
    first = padding.expand(2, 150).clamp(max=torch.arange(150))
    masked = model(ids, positions=positions, mask=mask)
    starting = model(ids, positions=positions, first=first)
    caches = [model.new_cache(2) for _ in range(2)]
    at = 0
    while at < 150:
        part = slice(at, min(150, at + rng.choice([1, 1, 1, 2, 7, 30, 45])))
        how = [
            {"mask": mask[..., : part.stop], "positions": positions[:, part]},
            {"first": first[:, part], "positions": positions[:, part]},
        ]
        for cache, keywords, expected in zip(caches, how, (masked, starting), strict=True):
            got = model(ids[:, part], cache=cache, **keywords)
            kept = (torch.arange(150)[part] >= padding)[..., None]  # padding has no logits
            close(got * kept, expected[:, part] * kept)
        at = part.stop
        if rng.random() < 0.3:
            at -= (count := rng.randint(0, min(REWIND, at)))
            for cache in caches:
                cache.length -= count


def test_one_who_forgets_too_much_is_told(model: Transformer) -> None:
    cache = model.new_cache(1)
    model(torch.tensor([ids_of(100)]), cache=cache)
    cache.length -= REWIND + 20
    with pytest.raises(ValueError, match=r"must have the last 4 tokens .*forget at most 16 tokens"):
        model(torch.tensor([[1]]), cache=cache)
    cache.reset()
    ids = torch.tensor([ids_of(9, 3)])
    close(model(ids, cache=cache), model(ids))


def expected_of(model: Transformer, text: list[int]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([text]))[0, -1]


@pytest.mark.parametrize("chunk", [7, 64])
def test_a_decoder_equals_each_text_alone(model: Transformer, chunk: int) -> None:
    """Padding, chunks, steps, selection and rewinding, far beyond the window."""
    rng = random.Random(chunk)
    texts = [ids_of(n, n) for n in (50, 3, 71)]
    decoder = Decoder(model, 80, chunk=chunk)
    logits = decoder.prefill(texts)
    for step in range(75):
        for text, row in zip(texts, logits, strict=True):
            close(row, expected_of(model, text))
        if step % 20 == 12:
            rows = rng.choices(range(len(texts)), k=rng.choice([2, 3, 4]))
            decoder.select(rows)
            texts = [list(texts[row]) for row in rows]
        if step % 20 == 5:
            count = rng.randint(1, 9)
            decoder.extend([ids_of(count, row) for row in range(len(texts))])
            decoder.rewind(count)
        new = [rng.randrange(61) for _ in texts]
        for text, id in zip(texts, new, strict=True):
            text.append(id)
        logits = decoder.step(new)


def test_a_full_context_slides(model: Transformer) -> None:
    texts = [ids_of(150, 1), ids_of(20, 2)]
    decoder = Decoder(model, 300, overflow="slide")
    logits = decoder.prefill(texts)
    for step in range(200):
        for text, row, length in zip(texts, logits, decoder.lengths, strict=True):
            if step % 7 == 0 or length < 90:
                close(row, expected_of(model, text[-length:]))
        new = [step % 61, (7 * step) % 61]
        logits = decoder.step(new)
        for text, id in zip(texts, new, strict=True):
            text.append(id)
    assert [len(text) for text in texts] == [350, 220]


def test_a_cache_is_copied_with_its_places(model: Transformer) -> None:
    ids = torch.tensor([ids_of(77), ids_of(77, 1)])
    cache, copy = model.new_cache(2), model.new_cache(3)
    with torch.no_grad():
        model(ids, cache=cache)
        copy.take(cache, torch.tensor([1, 0, 1]))
        new = torch.tensor([[3], [3], [3]])
        whole = torch.cat((ids[[1, 0, 1]], new), 1)
        close(model(new, cache=copy), model(whole)[:, -1:])


def test_a_cache_without_windows_is_one_stack() -> None:
    cache = KVCache(3, 2, 2, 8, 4)
    assert cache.keys.shape == cache.values.shape == (3, 2, 2, 8, 4)
    assert cache.nbytes == 2 * cache.keys.nbytes


# Training


def test_a_resumed_run_equals_an_uninterrupted_run(tmp_path: Any) -> None:
    def trainer(out: str) -> Any:
        kinds = {"window": 4, "window_pattern": "SL", "nope_every": 2, "local_rope_theta": 9.0}
        limits = {"attention_sinks": True, "logit_softcap": 10.0}
        yarn = {"rope_scaling": RopeScaling("yarn", 4.0, original_context_length=16)}
        return small_runs.trainer(tmp_path / out, model=tiny.model(**kinds, **limits, **yarn))

    trainer("whole").fit()
    resumed = trainer("resumed")
    resumed.resume(tmp_path / "whole" / "checkpoints" / "step-00000004")
    resumed.fit()
    payloads = [read_checkpoint(tmp_path / out / "checkpoints" / "step-00000008")
                for out in ("whole", "resumed")]  # fmt: skip
    for payload in payloads:
        del payload["pending"]  # contains the speed
    assert difference(*payloads) is None
