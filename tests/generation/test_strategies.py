"""Strategies: compare each one with the logits processors of `transformers`, and check their order
and the sampling."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation import logits_process as hf

from helpers import chi_square
from scratchlm.generation.strategies import (
    Strategy,
    ban_repeated_ngrams,
    bias_logits,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_top_p_quickly,
    keep_typical,
    penalize_frequency,
    penalize_presence,
    penalize_repetition,
    scale_temperature,
)

VOCAB = 40


def cases(n: int = 200, ties: bool = True) -> Iterator[Tensor]:
    """Logits (vocab,), and every fourth (2, vocab); of whole numbers, so with ties, every third."""
    generator = torch.Generator().manual_seed(0)
    for i in range(n):
        shape = (2, VOCAB) if i % 4 == 0 else (VOCAB,)
        logits = 3 * torch.randn(shape, generator=generator)
        yield logits.round() if ties and i % 3 == 0 else logits


def by_theirs(processor: Any, logits: Tensor, ids: list[int] | None = None) -> Tensor:
    rows = logits.reshape(-1, VOCAB)
    before = torch.tensor([ids or []], dtype=torch.long).expand(len(rows), -1)
    return processor(before, rows).view_as(logits)


# One at a time


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.5, 30.0])
def test_temperature_is_that_of_transformers_but_for_a_constant(temperature: float) -> None:
    """Ours takes the largest logit off: equal when it is added again, to 1e-6 of the largest."""
    for logits in cases():
        ours = scale_temperature(logits, temperature)
        theirs = by_theirs(hf.TemperatureLogitsWarper(temperature), logits)
        added = ours + logits.amax(-1, keepdim=True) / temperature
        torch.testing.assert_close(added, theirs, rtol=0, atol=1e-6 * float(theirs.abs().max()))
        torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("temperature", [1e-45, 1e-50, 5e-324])
def test_a_temperature_however_small_overflows_nothing(temperature: float) -> None:
    scaled = scale_temperature(torch.tensor([3.0, 5.0, 4.9]), temperature)
    assert scaled.tolist() == [-math.inf, 0.0, -math.inf]


@pytest.mark.parametrize("k", [1, 2, 7, 40, 100])
def test_top_k_is_that_of_transformers(k: int) -> None:
    for logits in cases():
        assert torch.equal(keep_top_k(logits, k), by_theirs(hf.TopKLogitsWarper(k), logits))


@pytest.mark.parametrize("p", [0.01, 0.1, 0.3, 0.5, 0.9, 0.99, 0.999])
def test_top_p_is_that_of_transformers(p: float) -> None:
    for logits in cases():
        ours, theirs = keep_top_p(logits, p), by_theirs(hf.TopPLogitsWarper(p), logits)
        if torch.equal(logits, logits.round()):  # which of equals stays differs between sorts
            ours, theirs = ours.sort().values, theirs.sort().values
        assert torch.equal(ours, theirs)


def test_top_p_zero_keeps_the_likeliest() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0])
    assert keep_top_p(logits, 0.0).tolist() == [-math.inf, 2.0, -math.inf]


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.95, 1.0])
def test_min_p_is_that_of_transformers(p: float) -> None:
    for logits in cases():
        assert torch.equal(keep_min_p(logits, p), by_theirs(hf.MinPLogitsWarper(p), logits))


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.9, 0.99])
def test_typical_is_that_of_transformers(p: float) -> None:
    for logits in cases():
        assert torch.equal(keep_typical(logits, p), by_theirs(hf.TypicalLogitsWarper(p), logits))


def test_typical_passes_over_what_is_banned() -> None:
    for i, logits in enumerate(cases(ties=False)):
        logits[..., i % VOCAB :: 3] = -math.inf
        assert torch.equal(
            keep_typical(logits, 0.7), by_theirs(hf.TypicalLogitsWarper(0.7), logits)
        )


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    processor = hf.RepetitionPenaltyLogitsProcessor(penalty)
    for i, case in enumerate(cases()):
        logits = case.reshape(-1, VOCAB)[0]
        seen = list(range(0, VOCAB, i % 5 + 1)) * 2  # ids said twice are penalized once
        ours = penalize_repetition(logits, torch.tensor(seen), penalty)
        assert torch.equal(ours, by_theirs(processor, logits, seen))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_repeat_ngram_is_that_of_transformers(size: int) -> None:
    rng = random.Random(size)
    banned = 0
    for i, case in enumerate(cases()):
        logits = case.reshape(-1, VOCAB)[0]
        ids = [rng.randrange(3) for _ in range(i % 30)]
        ours = ban_repeated_ngrams(logits, ids, size)
        assert torch.equal(ours, by_theirs(hf.NoRepeatNGramLogitsProcessor(size), logits, ids))
        banned += int(ours.isinf().sum())
    assert banned > 50


def test_logit_bias_is_that_of_transformers() -> None:
    rng = random.Random(0)
    for logits in cases():
        bias = {rng.randrange(VOCAB): rng.uniform(-9, 9) for _ in range(5)} | {7: -math.inf}
        processor = hf.SequenceBiasLogitsProcessor({(id,): value for id, value in bias.items()})
        assert torch.equal(bias_logits(logits, bias), by_theirs(processor, logits))


@pytest.mark.parametrize("num_new", [0, 2, 3, 4])
def test_min_new_tokens_is_that_of_transformers(num_new: int) -> None:
    processor = hf.MinNewTokensLengthLogitsProcessor(2, 3, torch.tensor([5, 9]))
    prompt, new = [5, 1], [9, 8, 5, 5][:num_new]
    strategy = Strategy(min_new_tokens=3)
    for case in cases():
        logits = case.reshape(-1, VOCAB)[0]
        ours = strategy.penalize(logits, prompt, new, [5, 9])
        assert torch.equal(ours, by_theirs(processor, logits, prompt + new))
    banned = [i for i, x in enumerate(ours.tolist()) if x == -math.inf]
    assert banned == ([5, 9] if num_new < 3 else [])


def test_presence_and_frequency_are_openais_formula() -> None:
    """logit - count · frequency - (count > 0) · presence, over what was written, not the prompt."""
    rng = random.Random(0)
    for i, case in enumerate(cases()):
        logits = case.reshape(-1, VOCAB)[0]
        new = [rng.randrange(VOCAB // 4) for _ in range(i % 25)]
        count = Counter(new)
        strategy = Strategy(presence_penalty=0.75, frequency_penalty=-0.5)  # exact in fp32
        expected = [
            float(logit - (-0.5 * count[id] + 0.75 * (count[id] > 0)))
            for id, logit in enumerate(logits.double())
        ]
        ours = strategy.penalize(logits, [1, 2, 3], new)
        assert torch.allclose(ours, torch.tensor(expected), rtol=0, atol=2e-6)
        ids = torch.tensor(new, dtype=torch.long)
        alone = penalize_frequency(penalize_presence(logits, ids, 0.75), ids, -0.5)
        assert torch.equal(ours, alone)


# Together


@pytest.fixture(scope="module")
def hub_model() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCAB, n_embd=8, n_layer=1, n_head=1, n_positions=8)
    return GPT2LMHeadModel._from_config(config)


def test_the_order_of_all_is_that_of_transformers(hub_model: Any) -> None:
    """Every strategy that `generate` of transformers has, on at once, with 200 random settings."""
    from transformers import GenerationConfig

    rng = random.Random(0)
    stop = [3, 11]
    kept, banned_ends = [], 0
    for case in cases(ties=False):
        logits = case.reshape(-1, VOCAB)[0]
        bias = {rng.randrange(VOCAB): rng.uniform(-4, 4) for _ in range(4)}
        prompt, new = ([rng.randrange(8) for _ in range(n)] for n in (6, rng.randrange(8)))
        shared: dict[str, Any] = {
            "temperature": rng.uniform(0.3, 2.5),
            "top_k": rng.randrange(5, 30),
            "top_p": rng.uniform(0.5, 0.99),
            "min_p": rng.uniform(0.01, 0.2),
            "typical_p": rng.uniform(0.5, 0.99),
            "repetition_penalty": rng.uniform(0.6, 1.8),
            "no_repeat_ngram_size": rng.randrange(1, 4),
            "min_new_tokens": rng.randrange(1, 8),
        }
        config = GenerationConfig(
            do_sample=True, sequence_bias=[[[id], x] for id, x in bias.items()], **shared
        )
        config._eos_token_tensor = torch.tensor(stop)
        processors = hub_model._get_logits_processor(config, input_ids_seq_length=len(prompt))
        theirs = by_theirs(processors, logits, prompt + new)
        strategy = Strategy(logit_bias=bias, **shared)
        ours = strategy.filter(strategy.penalize(logits, prompt, new, stop))
        assert torch.equal(ours.isinf(), theirs.isinf())
        torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1), rtol=1e-5, atol=1e-7)
        kept.append(int(theirs.isfinite().sum()))
        banned_ends += len(new) < shared["min_new_tokens"]
    assert min(kept) == 1
    assert max(kept) > 10
    assert 50 < banned_ends < 150


def test_strategies_at_their_defaults_do_nothing() -> None:
    logits = torch.randn(VOCAB)
    off = Strategy(top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0)
    for strategy in (Strategy(), off):
        assert not strategy.looks_back
        assert strategy.penalize(logits, [1], [2], [3]) is logits
        assert torch.equal(strategy.filter(logits), logits - logits.max())


@pytest.mark.parametrize(
    "field",
    [
        {"logit_bias": {3: 1.0}},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 9},
    ],
)
def test_whatever_looks_back_says_so(field: dict[str, Any]) -> None:
    logits = torch.ones(VOCAB)
    strategy = Strategy(**field)
    assert strategy.looks_back
    assert not torch.equal(strategy.penalize(logits, [3], [3], [3]), logits)


# The quick nucleus


def nuclei() -> Iterator[tuple[Tensor, float]]:
    """300 distributions with a p: flat and peaked, small and large, tied, filtered, batched."""
    generator = torch.Generator().manual_seed(0)
    rng = random.Random(0)
    for i in range(300):
        vocab = (40, 300, 5_000)[i % 3]
        shape = (3, vocab) if i % 5 == 0 else (vocab,)
        logits = rng.choice([0.01, 1.0, 4.0, 20.0]) * torch.randn(shape, generator=generator)
        if i % 7 == 0:
            logits = logits.round()
        if i % 4 == 0:
            logits = keep_top_k(logits, rng.choice([1, 5, 255, 256, 257]))
        yield logits, rng.choice([0.0, 0.05, 0.5, 0.9, 0.99, 0.999, 0.9999, 1 - 2**-20, 1.0, 1.0])


def test_the_quick_nucleus_is_the_nucleus() -> None:
    for logits, p in nuclei():
        assert torch.equal(keep_top_p_quickly(logits, p), keep_top_p(logits, p))


def test_the_quick_nucleus_sorts_only_where_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat and tied distributions are sorted; a nucleus below 256 ids is not."""
    sorted_ones = []

    def watched(logits: Tensor, p: float) -> Tensor:
        sorted_ones.append(p)
        return keep_top_p(logits, p)

    monkeypatch.setattr("scratchlm.generation.strategies.keep_top_p", watched)
    peaked, flat = 4 * torch.randn(5_000), 0.01 * torch.randn(5_000)
    tied = torch.cat([torch.ones(4), torch.randn(4_996) - 9])
    keep_top_p_quickly(peaked, 0.5)
    assert not sorted_ones
    keep_top_p_quickly(flat, 0.5)
    keep_top_p_quickly(torch.stack([peaked, flat]), 0.6)
    keep_top_p_quickly(tied, 0.3)
    assert sorted_ones == [0.5, 0.6, 0.3]


# The draw


@pytest.mark.parametrize(
    ("strategy", "warper"),
    [
        ({}, None),
        ({"top_k": 6}, hf.TopKLogitsWarper(6)),
        ({"top_p": 0.8}, hf.TopPLogitsWarper(0.8)),
        ({"min_p": 0.1}, hf.MinPLogitsWarper(0.1)),
        ({"typical_p": 0.7}, hf.TypicalLogitsWarper(0.7)),
    ],
    ids=lambda value: "-".join(value) or "plain" if isinstance(value, dict) else "",
)
def test_draws_follow_the_probabilities(strategy: dict[str, Any], warper: Any) -> None:
    """100,000 draws at temperature 0.7 and Pearson's test at the 99.9th percentile."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(12, generator=generator)
    scores = Strategy(temperature=0.7, **strategy).filter(logits)
    uniform = torch.rand(100_000, generator=generator, dtype=torch.float64)
    counts = draw(scores.expand(100_000, 12), uniform).bincount(minlength=12)
    expected = logits[None] / 0.7
    expected = expected if warper is None else warper(None, expected)
    assert (expected[0].isfinite().sum() < 12) == bool(strategy)
    assert chi_square.p_value(counts, expected[0].double().softmax(-1)) > 0.001


def test_the_extremes_of_the_uniform_never_draw_the_impossible() -> None:
    """Probabilities of 0 stand first, last and between, over sums that rounding leaves off 1."""
    generator = torch.Generator().manual_seed(0)
    for vocab in (3, 50, 4_000):
        logits = 5 * torch.randn(200, vocab, generator=generator)
        logits[torch.rand(logits.shape, generator=generator) < 0.5] = -math.inf
        logits[:, 0] = logits[:, -1] = -math.inf
        logits[:, vocab // 2] = 0.0  # one is left
        for uniform in (0.0, 1 - 2**-53):
            ids = draw(logits, torch.full((200,), uniform, dtype=torch.float64))
            probabilities = logits.double().softmax(-1).gather(-1, ids[:, None])
            assert (probabilities > 0).all()


def test_the_draw_is_the_inverse_of_the_distribution() -> None:
    logits = torch.tensor([1.0, 0.0, 4.0, 5.0]).log()  # 0.1, 0, 0.4, 0.5
    uniform = torch.tensor([0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.9999], dtype=torch.float64)
    assert draw(logits.expand(6, 4), uniform).tolist() == [0, 0, 2, 2, 3, 3]
    assert draw(logits, torch.tensor(0.3)).item() == 2


def test_a_rare_id_of_many_has_its_share() -> None:
    """One id of probability 1e-7 in front of 200,000: in fp32 the sum would swallow it."""
    logits = torch.full((200_001,), math.log(1 / 200_000))
    logits[-1] = math.log(1e-7)
    share = 1e-7 / (1 + 1e-7)
    for inside, uniform in ((False, 1 - 1.01 * share), (True, 1 - 0.99 * share)):
        id = draw(logits, torch.tensor(uniform, dtype=torch.float64)).item()
        assert (id == 200_000) == inside


# Errors


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"temperature": -0.5}, r"temperature must be .* \(-0.5\)"),
        ({"temperature": math.nan}, r"temperature must be .* \(nan\)"),
        ({"temperature": math.inf}, r"temperature must be .* \(inf\)"),
        ({"top_k": -1}, r"top_k must be at least 0, .*\(-1\)"),
        ({"top_p": 1.5}, r"top_p must be from 0 to 1 \(1.5\)"),
        ({"top_p": math.nan}, r"top_p must be from 0 to 1 \(nan\)"),
        ({"min_p": -0.1}, r"min_p must be from 0 to 1 \(-0.1\)"),
        ({"typical_p": 0}, r"typical_p must be above 0 and at most 1 \(0\)"),
        ({"typical_p": 1.1}, r"typical_p must be above 0 and at most 1 \(1.1\)"),
        ({"repetition_penalty": 0}, r"repetition_penalty must be from 0.01 .*\(0\)"),
        ({"presence_penalty": 101}, r"presence_penalty must be from -100 to 100, .*\(101\)"),
        ({"frequency_penalty": math.nan}, r"frequency_penalty must be from -100 .*\(nan\)"),
        ({"no_repeat_ngram_size": -1}, r"no_repeat_ngram_size must be at least 0, .*\(-1\)"),
        ({"min_new_tokens": -2}, r"min_new_tokens must be at least 0, .*\(-2\)"),
        ({"logit_bias": {3: math.nan}}, r"logit_bias of id 3 must be a number or -inf \(nan\)"),
        ({"logit_bias": {3: math.inf}}, r"logit_bias of id 3 must be a number or -inf \(inf\)"),
    ],
)
def test_a_value_out_of_its_range_is_named(field: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Strategy(**field)
    [name] = field
    [text] = re.findall(r"; use e\.g\. ([\d.-]+)", str(caught.value))
    example = float(text) if "." in text else int(text)
    assert Strategy(**{name: {3: example} if name == "logit_bias" else example}) != Strategy()


def test_what_a_vocabulary_or_so_many_tokens_have_no_place_for_is_named() -> None:
    Strategy(top_k=40, logit_bias={39: 1.0}, min_new_tokens=5).check(40, 5)
    with pytest.raises(ValueError, match=r"top_k must be at most vocab_size \(41, vocab_size 40\)"):
        Strategy(top_k=41).check(40, 5)
    for id in (40, -1):
        with pytest.raises(ValueError, match=rf"not in the vocabulary \({id}, vocab_size 40\)"):
            Strategy(logit_bias={id: 1.0}).check(40, 5)
    with pytest.raises(
        ValueError, match=r"at most max_tokens \(6, max_tokens 5\); increase max_tokens"
    ):
        Strategy(min_new_tokens=6).check(40, 5)
