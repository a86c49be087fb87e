"""Beam search: compare with the beam search of `transformers`, and check its rules by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from helpers.twins import PROMPT, loud, theirs_generate, twins
from helpers.variants import small
from scratchlm import Transformer
from scratchlm.generation.beam import Beams, beam_search
from scratchlm.generation.decoder import Decoder
from scratchlm.generation.sampling import Continuation
from scratchlm.generation.strategies import Strategy

PENALTIES: list[dict[str, Any]] = [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}]


def search(model: Transformer, num_new: int, beams: Beams, **how: Any) -> list[Continuation]:
    decoder = Decoder(model, num_new, overflow=how.pop("overflow", "stop"))
    strategy = Strategy(**how.pop("strategy", {}))
    [texts] = beam_search(decoder, how.pop("prompt", PROMPT), beams, strategy, **how)
    return texts


def agrees(
    name: str, num_new: int, beams: Beams, stop: list[int], strategy: dict[str, Any], width: int = 3
) -> list[str | None]:
    """Check that ids and scores (to 1e-4) equal theirs. Return why our texts ended."""
    ours, theirs = twins(name)
    texts = search(ours, num_new, beams, num_return=width, stop=stop, strategy=strategy)
    expected = theirs_generate(
        theirs, PROMPT, num_new, num_beams=beams.num_beams, num_return_sequences=width,
        length_penalty=beams.length_penalty, early_stopping=beams.early_stopping,
        eos_token_id=stop or None, **strategy,
    )  # fmt: skip
    rows = zip(texts, expected.sequences.tolist(), expected.sequences_scores.tolist(), strict=True)
    for text, row, score in rows:
        new = row[len(PROMPT) :]
        assert text.ids == new[: len(text.ids)]
        if text.finish_reason == "stop":
            assert new[len(text.ids)] in stop
        else:
            assert (len(text.ids), text.finish_reason) == (num_new, "length")
        assert text.score == pytest.approx(score, abs=1e-4)
    return [text.finish_reason for text in texts]


def ends(name: str) -> list[list[int]]:
    """Return no end id, one and two end ids, chosen from the ids of a search without ends."""
    ours, _ = twins(name)
    free = search(ours, 20, Beams(4))[0].ids
    return [[], [free[8]], [free[5], free[11]]]


@pytest.mark.parametrize("length_penalty", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_texts_and_scores_are_those_of_transformers(name: str, length_penalty: float) -> None:
    """Search with 4 beams for 14 tokens: every rule to stop early, no, one and two end ids, with
    and without penalties. Two models divide the 27 settings. Some texts end, and some do not."""
    reasons: list[str | None] = []
    settings = itertools.product([False, True, "never"], ends(name), PENALTIES)
    for i, (early_stopping, stop, strategy) in enumerate(settings):
        if (i % 2 == 0) == (name == "llama"):
            reasons += agrees(name, 14, Beams(4, length_penalty, early_stopping), stop, strategy)
    assert min(reasons.count("stop"), reasons.count("length")) >= 9


@pytest.mark.parametrize("beams", [Beams(2, -1.0), Beams(7, 0.0, "never")])
def test_other_widths_and_penalties_are_those_of_transformers(beams: Beams) -> None:
    for stop in ends("gpt2"):
        agrees("gpt2", 12, beams, stop, {"min_new_tokens": 3} if stop else {}, beams.num_beams)


class Constant:
    """A decoder that always returns these logits (vocab,)."""

    overflow, max_tokens, context_length = "stop", 20, 1_000

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def prefill(self, prompts: list[list[int]]) -> torch.Tensor:
        return self.logits[None]

    def step(self, ids: list[int]) -> torch.Tensor:
        return self.logits.expand(len(ids), -1)

    def select(self, rows: list[int]) -> None:
        pass


def test_where_the_likeliest_all_end_the_others_go_on() -> None:
    """Two end ids of probability 0.45 lead in every beam, and ten of 0.01 follow: with candidates
    for the end ids alone the search would be over. The square of the length favours 19 of the
    ten and an end: (19 log 0.01 + log 0.45) / 400 = -0.22; an end at once: log 0.45 = -0.80."""
    decoder = Constant(torch.tensor([0.45, 0.45] + [0.01] * 10).log())
    [texts] = beam_search(
        decoder, [5], Beams(4, 2.0, "never"), Strategy(), num_return=4, stop=[0, 1]
    )  # type: ignore[arg-type]
    assert (len(texts[0].ids), texts[0].finish_reason) == (19, "stop")
    assert not {0, 1} & set(texts[0].ids)
    assert texts[0].score == pytest.approx((19 * math.log(0.01) + math.log(0.45)) / 400, rel=1e-5)


def test_a_long_search_is_that_of_transformers() -> None:
    assert agrees("llama", 100, Beams(4, 1.0), [], {"repetition_penalty": 1.1}) == ["length"] * 3


def test_as_many_beams_as_texts_find_the_likeliest_text() -> None:
    """7 ids, 3 steps, and 49 beams: nothing is cut, so all 343 texts are compared."""
    torch.manual_seed(0)
    model = loud(small(vocab_size=7))
    totals = {}
    for new in itertools.product(range(7), repeat=3):
        log_p = model(torch.tensor([[1, 2, *new]])).detach().log_softmax(-1)[0]
        totals[new] = sum(float(log_p[1 + i, id]) for i, id in enumerate(new))
    best = sorted(totals, key=lambda new: -totals[new])[:5]
    texts = search(model, 3, Beams(49, 0.0), prompt=[1, 2], num_return=5)
    assert [tuple(text.ids) for text in texts] == best
    assert [text.score for text in texts] == pytest.approx([totals[new] for new in best], abs=1e-5)
    for text in texts:
        assert sum(text.logprobs) == pytest.approx(totals[tuple(text.ids)], abs=1e-5)


def test_logprobs_are_the_models_whatever_is_penalized() -> None:
    ours, _ = twins("llama")
    strategy = {"repetition_penalty": 1.5, "logit_bias": {4: 3.0}}
    for text in search(ours, 12, Beams(3), num_return=3, strategy=strategy, stop=[3, 17]):
        logits = ours(torch.tensor([PROMPT + text.ids]))[0, len(PROMPT) - 1 : -1].detach()
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(text.ids)[:, None])[:, 0]
        assert text.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_one_beam_is_greedy() -> None:
    ours, theirs = twins("gpt2")
    greedy = theirs_generate(theirs, PROMPT, 40, eos_token_id=None).sequences[0, 3:].tolist()
    assert search(ours, 40, Beams(1))[0].ids == greedy


def test_the_context_ends_the_search_unless_it_slides() -> None:
    ours, _ = twins("llama")
    prompt = [i % 97 for i in range(157)]
    stopped = search(ours, 9, Beams(2), prompt=prompt)[0]
    assert (len(stopped.ids), stopped.finish_reason) == (3, "context")
    slid = search(ours, 9, Beams(2), prompt=prompt, overflow="slide")[0]
    assert (len(slid.ids), slid.finish_reason) == (9, "length")
    full = search(ours, 9, Beams(2), prompt=[1] * 160, num_return=2)
    assert [(text.ids, text.finish_reason) for text in full] == [([], "context")] * 2
    none = search(ours, 0, Beams(2))
    assert [(text.ids, text.finish_reason) for text in none] == [([], "length")]


def test_ids_of_the_padding_are_never_searched() -> None:
    ours, _ = twins("llama")
    for text in search(ours, 12, Beams(4), num_return=4, vocab_size=10):
        assert max(text.ids) < 10


@pytest.mark.parametrize(
    ("beams", "message"),
    [
        ({"num_beams": 0}, r"num_beams must be from 1 to 1000 \(0\); try 4"),
        ({"num_beams": 1001}, r"num_beams must be from 1 to 1000 \(1001\); try 4"),
        ({"length_penalty": 21}, r"length_penalty must be from -20 to 20 \(21\); use 1 to compare"),
        (
            {"length_penalty": math.nan},
            r"length_penalty must be from -20 to 20 \(nan\); use 1 to compare",
        ),
        ({"early_stopping": "soon"}, r"early_stopping must be true, false or never \(soon\); use"),
    ],
)
def test_a_value_out_of_its_range_is_named(beams: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Beams(**beams)


@pytest.mark.parametrize(
    ("strategy", "num_return", "message"),
    [
        ({"temperature": 0.5}, 1, r"does not sample \(temperature 0.5\); leave out"),
        ({"top_k": 5}, 1, r"does not sample \(top_k 5\); leave out"),
        ({"typical_p": 0.5}, 1, r"does not sample \(typical_p 0.5\); leave out"),
        ({}, 0, r"from 1 to num_beams texts \(0, num_beams 4\); increase num_beams"),
        ({}, 5, r"from 1 to num_beams texts \(5, num_beams 4\); increase num_beams"),
    ],
)
def test_beams_say_what_they_do_not_do(
    strategy: dict[str, Any], num_return: int, message: str
) -> None:
    Beams(4).check(Strategy(repetition_penalty=1.2), 4)
    with pytest.raises(ValueError, match=message):
        Beams(4).check(Strategy(**strategy), num_return)


def test_a_beam_without_a_way_on_ends_and_the_others_go_on() -> None:
    """No pair of ids twice, and two ids alone: one beam is stuck at the fourth."""
    ours, theirs = twins("llama")
    bias = {id: -math.inf for id in range(ours.config.vocab_size) if id > 1}
    strategy = Strategy(no_repeat_ngram_size=2, logit_bias=bias)
    [found] = beam_search(Decoder(ours, 4), [0], Beams(4), strategy)
    expected = theirs.generate(
        torch.tensor([[0]]), attention_mask=torch.ones(1, 1), max_new_tokens=4, num_beams=4,
        do_sample=False, eos_token_id=None, pad_token_id=0, no_repeat_ngram_size=2,
        sequence_bias=[[[id], value] for id, value in bias.items()],
    )  # fmt: skip
    assert found[0].ids == expected[0, 1:].tolist()
