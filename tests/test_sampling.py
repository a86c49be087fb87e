from __future__ import annotations

import math

import pytest
import torch
from transformers.generation import logits_process as hf

import tiny
from scratchlm import generate
from scratchlm.strategies import (
    Strategy,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
)
from scratchlm.text_stream import text_pieces


def cases(n=50, vocab=40):
    generator = torch.Generator().manual_seed(0)
    for i in range(n):
        logits = 3 * torch.randn(vocab, generator=generator)
        if i % 3 == 0:
            logits = logits.round()  # ties
        yield i, logits


@pytest.mark.parametrize("k", [1, 2, 7, 40, 100])
def test_top_k_is_that_of_transformers(k):
    for _, logits in cases():
        theirs = hf.TopKLogitsWarper(k)(None, logits[None])[0]
        assert torch.equal(keep_top_k(logits, k), theirs)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
def test_top_p_is_that_of_transformers(p):
    for i, logits in cases():
        if i % 3 == 0:
            continue  # which of equals at the border stays differs between sorts
        theirs = hf.TopPLogitsWarper(p)(None, logits[None])[0]
        assert torch.equal(keep_top_p(logits, p), theirs)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_min_p_is_that_of_transformers(p):
    for _, logits in cases():
        theirs = hf.MinPLogitsWarper(p)(None, logits[None])[0]
        assert torch.equal(keep_min_p(logits, p), theirs)


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_repetition_penalty_is_that_of_transformers(penalty):
    for i, logits in cases():
        seen = torch.arange(0, 40, i % 5 + 1).repeat(2)  # ids said twice are penalized once
        theirs = hf.RepetitionPenaltyLogitsProcessor(penalty)(seen[None], logits[None])[0]
        assert torch.allclose(penalize_repetition(logits, seen, penalty), theirs, rtol=1e-6)


def test_top_p_zero_keeps_the_likeliest():
    logits = torch.tensor([0.0, 2.0, 1.0])
    assert keep_top_p(logits, 0.0).tolist() == [-math.inf, 2.0, -math.inf]


def test_draws_follow_the_probabilities():
    """Chi-square over 100,000 draws with temperature 0.7 and top-k 6: 5 degrees of freedom."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(10, generator=generator)
    scores = Strategy(temperature=0.7, top_k=6).filter(logits)
    uniform = torch.rand(100_000, generator=generator, dtype=torch.float64)
    counts = draw(scores.expand(100_000, 10), uniform).bincount(minlength=10)
    expected = keep_top_k(logits / 0.7, 6).softmax(-1) * 100_000
    kept = expected > 0
    assert counts[~kept].sum() == 0
    chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi_square < 20.5  # the 99.9th percentile


def uncached_greedy(model, ids, n):
    for _ in range(n):
        ids = [*ids, int(model(torch.tensor([ids]))[0, -1].argmax())]
    return ids


def test_greedy_equals_the_uncached_argmax():
    model = tiny.model().eval()
    assert (
        generate(model, [5, 6, 7], 20, temperature=0) == uncached_greedy(model, [5, 6, 7], 20)[3:]
    )


def test_a_seed_gives_one_text_and_another_seed_another():
    model = tiny.model()
    texts = [
        generate(model, [1], 20, top_p=0.95, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_stop_ids_end_the_text_and_are_not_in_it():
    model = tiny.model().eval()
    free = generate(model, [5], 20, temperature=0)
    stop = free[7]
    assert generate(model, [5], 20, temperature=0, stop=[stop]) == free[: free.index(stop)]


def test_the_context_ends_the_text():
    model = tiny.model()  # context 32
    assert len(generate(model, list(range(30)), 20)) == 2
    assert generate(model, list(range(32)), 20) == []
    assert generate(model, [1], 0) == []


def test_padding_ids_are_never_drawn():
    model = tiny.model()
    seeded = torch.Generator().manual_seed(0)
    ids = generate(model, [1], 30, temperature=5.0, vocab_size=10, generator=seeded)
    assert max(ids) < 10


def test_dropout_is_off_and_the_mode_comes_back():
    model = tiny.model(dropout=0.5).train()
    first = generate(model, [5], 15, temperature=0)
    assert first == generate(model, [5], 15, temperature=0)
    assert model.training


def test_a_temperature_near_zero_is_greedy():
    model = tiny.model().eval()
    cold = generate(model, [5], 10, temperature=1e-40)
    assert cold == generate(model, [5], 10, temperature=0)


def test_a_prompt_may_be_a_tensor():
    model = tiny.model()
    assert generate(model, torch.tensor([5, 6]), 5, 0.0) == generate(model, [5, 6], 5, 0.0)


@pytest.mark.parametrize(
    ("ids", "arguments", "message"),
    [
        ([], {}, r"not empty \(shape \(0,\)\)"),
        ([[1, 2]], {}, r"one sequence of ids, not empty \(shape \(1, 2\)\)"),
        (list(range(33)), {}, r"longer than the context \(33 tokens, 32 fit\)"),
        ([300], {}, r"not in the vocabulary \(300"),
        ([-1], {}, r"not in the vocabulary \(-1"),
        ([1], {"max_tokens": -1}, r"max_tokens is at least 0 \(-1\)"),
        ([1], {"temperature": -0.5}, r"temperature is .* \(-0.5\)"),
        ([1], {"temperature": math.nan}, r"temperature is .* \(nan\)"),
        ([1], {"temperature": math.inf}, r"temperature is .* \(inf\)"),
        ([1], {"top_k": -1}, r"top_k is at least 0 .*\(-1\)"),
        ([1], {"top_p": 1.5}, r"top_p is from 0 to 1 \(1.5\)"),
        ([1], {"top_p": math.nan}, r"top_p is from 0 to 1 \(nan\)"),
        ([1], {"min_p": -0.1}, r"min_p is from 0 to 1 \(-0.1\)"),
        ([1], {"repetition_penalty": 0}, r"repetition_penalty is from 0.01 .*\(0\)"),
    ],
)
def test_bad_arguments_are_named_with_their_value(ids, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(tiny.model(), ids, **({"max_tokens": 3} | arguments))


def test_pieces_never_cut_a_character(tmp_path):
    tokenizer = tiny.tokenizer(tmp_path, 257)  # bytes alone: every character is cut
    text = "a中😀é\u0301!"
    pieces = list(text_pieces(tokenizer.encode(text), tokenizer))
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    cut = tokenizer.encode(text)[:2] + tokenizer.encode("x") + [0x80]
    assert "".join(text_pieces(cut, tokenizer)) == tokenizer.decode(cut)
