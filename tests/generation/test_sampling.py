"""Sampling: compare with `transformers`, and with a simple loop without cache or batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from helpers import tiny
from helpers.decoding import CONTEXT, PROMPTS, VOCAB, name_of, random_ids, slid, uncached
from helpers.twins import PROMPT, loud, theirs_generate, twins
from helpers.variants import VARIANTS, small
from scratchlm import Transformer, generate
from scratchlm.errors import NumericalError
from scratchlm.generation.decoder import CompiledStep, Decoder, Overflow
from scratchlm.generation.sampling import (
    Continuation,
    Uniforms,
    decode,
    draw_seed,
    generate_batch,
    require_finite,
)
from scratchlm.generation.strategies import Strategy, draw

GREEDY = Strategy(temperature=0)
SAMPLED = Strategy(1.3, top_k=20, min_p=0.01)
EVERYTHING = Strategy(
    1.5, 40, 0.95, 0.001, 1.2, 0.98, 0.3, 0.2, {3: 1.0, 5: -math.inf}, 2, 3
)  # fmt: skip


@pytest.fixture(scope="module", params=VARIANTS, ids=name_of)
def model(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(0)
    return loud(small(**request.param))


@pytest.fixture(scope="module")
def llama() -> Transformer:
    torch.manual_seed(0)
    return loud(small())


def by_hand(
    model: Transformer, prompt: Sequence[int], num_new: int, strategy: Strategy, row: int,
    *, seed: int = 0, stop: Sequence[int] = (), overflow: Overflow = "stop",
) -> tuple[list[int], str]:  # fmt: skip
    """One text, the whole of it through the model at every step -> its ids, and why it ended."""
    uniforms = Uniforms(seed, row)
    text = view = list(prompt)
    if len(text) > CONTEXT:
        view = text[-(CONTEXT // 2) :]
    while len(text) < len(prompt) + num_new:
        if len(text) >= CONTEXT and overflow == "stop":
            return text[len(prompt) :], "context"
        logits = uncached(model, view)[-1]
        logits = strategy.penalize(logits, prompt, text[len(prompt) :], stop)
        if strategy.greedy:
            id = int(logits.argmax())
        else:
            uniform = torch.tensor(uniforms.next(), dtype=torch.float64)
            id = int(draw(strategy.filter(logits), uniform))
        if id in stop:
            return text[len(prompt) :], "stop"
        view = slid(text, view, id)
        text = [*text, id]
    return text[len(prompt) :], "length"


def run(decoder: Decoder, prompts: Sequence[Sequence[int]], how: Strategy, **more: Any) -> Any:
    *_, rows = decode(decoder, prompts, how, **more)
    return [(row.ids, row.finish_reason) for row in rows]


# Against transformers


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "strategy",
    [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2},
     {"no_repeat_ngram_size": 3, "repetition_penalty": 0.8}],
    ids=lambda strategy: "-".join(strategy) or "greedy",
)  # fmt: skip
def test_100_steps_are_those_of_transformers(name: str, strategy: dict[str, Any]) -> None:
    ours, theirs = twins(name)
    expected = theirs_generate(theirs, PROMPT, 100, eos_token_id=None, **strategy)
    new = expected.sequences[0, len(PROMPT) :].tolist()
    assert len(set(new)) > 3
    assert generate(ours, PROMPT, 100, temperature=0, **strategy) == new


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("min_new_tokens", [0, 7, 60])
def test_end_ids_are_those_of_transformers(name: str, min_new_tokens: int) -> None:
    """Two ids that the free text has end it, at the first that comes behind the minimum."""
    ours, theirs = twins(name)
    free = generate(ours, PROMPT, 20, temperature=0)
    stop = [free[3], free[12]]
    new = generate(ours, PROMPT, 100, 0.0, stop=stop, min_new_tokens=min_new_tokens)
    expected = theirs_generate(
        theirs, PROMPT, 100, eos_token_id=stop, min_new_tokens=min_new_tokens
    ).sequences[0, len(PROMPT) :].tolist()  # fmt: skip
    assert expected[: len(new)] == new
    assert len(new) == 100 or expected[len(new)] in stop
    assert len(new) >= min_new_tokens


# Against the loop by hand, for every variant


def check_batch(model: Transformer, strategy: Strategy, overflow: Overflow) -> None:
    """Rows finish at a stop id, at max_tokens and at the context, each at a time of its own."""
    prompts = PROMPTS if overflow == "stop" else [*PROMPTS[2:], random_ids(30), random_ids(CONTEXT)]
    stop = [4, 40]
    expected = [
        by_hand(model, prompt, 14, strategy, row, seed=7, stop=stop, overflow=overflow)
        for row, prompt in enumerate(prompts)
    ]
    decoder = Decoder(model, 14, overflow=overflow)
    assert run(decoder, prompts, strategy, seed=7, stop=stop) == expected


@pytest.mark.parametrize(
    ("strategy", "overflow"), [(GREEDY, "stop"), (SAMPLED, "slide")], ids=["greedy", "sampled"]
)
def test_a_batch_is_each_by_hand(
    model: Transformer, strategy: Strategy, overflow: Overflow
) -> None:
    check_batch(model, strategy, overflow)


@pytest.mark.parametrize("overflow", ["stop", "slide"])
@pytest.mark.parametrize(
    "strategy", [GREEDY, SAMPLED, EVERYTHING], ids=["greedy", "sampled", "all"]
)
def test_so_it_is_with_every_strategy(
    llama: Transformer, strategy: Strategy, overflow: Overflow
) -> None:
    check_batch(llama, strategy, overflow)


def test_rows_end_for_each_reason(llama: Transformer) -> None:
    """The test above needs this: all three reasons occur while other rows continue."""
    stop = [generate(llama, PROMPTS[0], 5, 0.0)[4]]
    rows = run(Decoder(llama, 20), PROMPTS, GREEDY, stop=stop)
    assert {reason for _, reason in rows} == {"stop", "length", "context"}
    assert rows == [by_hand(llama, p, 20, GREEDY, i, stop=stop) for i, p in enumerate(PROMPTS)]


@pytest.mark.parametrize("overflow", ["stop", "slide"])
def test_finished_rows_leave_the_batch(llama: Transformer, overflow: Overflow) -> None:
    """The decoder computes only the rows that are not finished."""
    sizes = []

    class Watched(Decoder):
        def step(self, ids: Sequence[int]) -> torch.Tensor:
            sizes.append(len(ids))
            return super().step(ids)

    rows = run(Watched(llama, 20, overflow=overflow), PROMPTS, SAMPLED, stop=[4, 40], seed=2)
    lasts = [len(ids) + (reason == "stop") for ids, reason in rows]
    assert sizes == [sum(last > n for last in lasts) for n in range(1, max(lasts))]
    assert len(set(sizes)) > 1


@pytest.mark.parametrize("overflow", ["stop", "slide"])
def test_a_compiled_step_changes_nothing_though_rows_finish(
    llama: Transformer, overflow: Overflow
) -> None:
    """Its batch keeps finished rows, even if such a row reaches the end of the context first."""
    stop = [generate(llama, PROMPTS[3], 5, 0.0)[4]]
    plain = run(Decoder(llama, 20, overflow=overflow), PROMPTS, GREEDY, stop=stop)
    assert plain[3][1] == "stop"
    assert "length" in {reason for _, reason in plain}
    compiled = CompiledStep(llama, "eager")
    decoder = Decoder(llama, 20, overflow=overflow, compiled=compiled)
    assert run(decoder, PROMPTS, GREEDY, stop=stop) == plain


# Seeds


def test_a_text_depends_on_its_seed_and_place_alone(llama: Transformer) -> None:
    def texts(prompts: list[list[int]], seed: int) -> list[list[int]]:
        return [ids for ids, _ in run(Decoder(llama, 12), prompts, SAMPLED, seed=seed)]

    one = texts([[1, 2], [3], [4, 5, 6]], 1)
    other = texts([[9] * 10, [3], [8]], 1)
    assert one[1] == other[1]
    assert one[0] != other[0]
    assert texts([[3], [3], [3]], 1)[1] == one[1]
    assert len(set(map(tuple, texts([[3]] * 4, 1)))) == 4
    assert texts([[1, 2], [3], [4, 5, 6]], 2)[1] != one[1]


def test_samples_are_rows(llama: Transformer) -> None:
    together = run(Decoder(llama, 12), PROMPTS, SAMPLED, num_samples=3, seed=4)
    repeated = [prompt for prompt in PROMPTS for _ in range(3)]
    assert together == run(Decoder(llama, 12), repeated, SAMPLED, seed=4)


def test_a_seed_gives_one_text_and_another_seed_another() -> None:
    model = tiny.model()
    texts = [
        generate(model, [1], 20, top_p=0.95, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_seeds_and_rows_give_unlike_numbers() -> None:
    """1,000 neighbours of both kinds: no number twice, and their mean within 4 standard errors."""
    pairs = [(seed, row) for seed in (0, 1, 2**63 - 2, 12345) for row in range(250)]
    numbers = torch.tensor([Uniforms(*pair).next() for pair in pairs], dtype=torch.float64)
    assert len(numbers.unique()) == 1_000
    assert abs(numbers.mean() - 0.5) < 4 * math.sqrt(1 / 12 / 1_000)
    assert Uniforms(5, 3).next() == Uniforms(5, 3).next() != Uniforms(3, 5).next()


def test_the_seed_is_torchs_own_by_default() -> None:
    torch.manual_seed(3)
    first, second = draw_seed(), draw_seed()
    torch.manual_seed(3)
    assert draw_seed() == first != second


# What decode gives


def test_every_step_is_given_and_whoever_iterates_may_end_a_row(llama: Transformer) -> None:
    expected = run(Decoder(llama, 10), PROMPTS, SAMPLED, seed=1)
    lengths = []
    for rows in decode(Decoder(llama, 10), PROMPTS, SAMPLED, seed=1):
        lengths.append([len(row.ids) for row in rows])
        if lengths[-1][2] == 4:
            rows[2].finish_reason = "stop"
    assert lengths[:5] == [[n] * 4 for n in range(5)]
    assert lengths[-1] == [10, 10, 4, 10]
    expected[2] = (expected[2][0][:4], "stop")
    assert [(row.ids, row.finish_reason) for row in rows] == expected


def test_logprobs_are_the_models_before_any_strategy(llama: Transformer) -> None:
    *_, rows = decode(Decoder(llama, 10), PROMPTS, EVERYTHING, logprobs=True, vocab_size=50)
    for row in rows:
        logits = uncached(llama, row.prompt + row.ids)[len(row.prompt) - 1 : -1, :50]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(row.ids)[:, None])[:, 0]
        assert row.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    *_, rows = decode(Decoder(llama, 10), PROMPTS, EVERYTHING)
    assert [row.logprobs for row in rows] == [[]] * 4


def test_nothing_is_computed_where_nothing_may_grow(llama: Transformer) -> None:
    assert run(Decoder(llama, 0), PROMPTS, GREEDY) == [([], "length")] * 4
    full = [[1] * CONTEXT, [2]]
    rows = run(Decoder(llama, 3), full, GREEDY)
    assert rows[0] == ([], "context")
    assert rows[1] == by_hand(llama, [2], 3, GREEDY, 1)
    steps = decode(Decoder(llama, 3), full[:1], GREEDY)
    assert [row.finish_reason for [row] in steps] == ["context"]


@pytest.mark.parametrize(("max_tokens", "reason"), [(3, "length"), (4, "context")])
def test_a_text_that_just_fits_ends_at_its_length(
    llama: Transformer, max_tokens: int, reason: str
) -> None:
    [(new, ended)] = run(Decoder(llama, max_tokens), [[1] * (CONTEXT - 3)], GREEDY)
    assert (len(new), ended) == (3, reason)


# What generate is


def test_a_prompt_longer_than_the_context_needs_to_slide(llama: Transformer) -> None:
    prompt = random_ids(CONTEXT + 9)
    with pytest.raises(ValueError, match=r"longer than the context \(33 tokens, 24 fit\); shorten"):
        generate(llama, prompt, 5)
    text, _ = by_hand(llama, prompt, 30, GREEDY, 0, overflow="slide")
    assert generate(llama, prompt, 30, 0.0, overflow="slide") == text


def test_generate_batch_is_generate_of_each() -> None:
    model = tiny.model()
    prompts = [[1, 2, 3], [4], list(range(20))]
    together = generate_batch(model, prompts, 12, GREEDY, num_samples=2, vocab_size=290, stop=[7])
    alone = [generate(model, p, 12, 0.0, stop=[7], vocab_size=290) for p in prompts]
    assert together == [text for text in alone for _ in range(2)]


def test_stop_ids_end_the_text_and_are_not_in_it() -> None:
    model = tiny.model().eval()
    free = generate(model, [5], 20, temperature=0)
    stop = free[7]
    assert generate(model, [5], 20, temperature=0, stop=[stop]) == free[: free.index(stop)]


def test_the_context_ends_the_text() -> None:
    model = tiny.model()  # context 32
    assert len(generate(model, list(range(30)), 20)) == 2
    assert generate(model, list(range(32)), 20) == []
    assert generate(model, [1], 0) == []


def test_padding_ids_are_never_drawn() -> None:
    model = tiny.model()
    seeded = torch.Generator().manual_seed(0)
    ids = generate(model, [1], 30, temperature=5.0, vocab_size=10, generator=seeded)
    assert max(ids) < 10


def test_dropout_is_off_and_the_mode_comes_back() -> None:
    model = tiny.model(dropout=0.5).train()
    first = generate(model, [5], 15, temperature=0)
    assert first == generate(model, [5], 15, temperature=0)
    assert model.training
    with pytest.raises(NumericalError):
        generate(model, [5], 15, logit_bias=dict.fromkeys(range(300), -math.inf))
    assert model.training


def test_a_temperature_near_zero_is_greedy() -> None:
    model = tiny.model().eval()
    cold = generate(model, [5], 10, temperature=1e-40)
    assert cold == generate(model, [5], 10, temperature=0)


def test_a_prompt_may_be_a_tensor() -> None:
    model = tiny.model()
    assert generate(model, torch.tensor([5, 6]), 5, 0.0) == generate(model, [5, 6], 5, 0.0)


def test_a_continuation_begins_empty() -> None:
    row = Continuation([1, 2])
    assert (row.ids, row.logprobs, row.finish_reason, row.score) == ([], [], None, None)


@pytest.mark.parametrize(
    ("ids", "arguments", "message"),
    [
        ([], {}, r"at least one id \(\[\]\)"),
        ([[1], [2]], {}, r"one row of ids \(shape \(2, 1\)\); write .*for row in ids"),
        (list(range(33)), {}, r"longer than the context \(33 tokens, 32 fit\)"),
        ([300], {}, r"not in the vocabulary \(300"),
        ([-1], {}, r"not in the vocabulary \(-1"),
        ([1], {"max_tokens": -1}, r"max_tokens must be at least 0 \(-1\)"),
        ([1], {"temperature": -0.5}, r"temperature must be .* \(-0.5\)"),
        ([1], {"top_k": 301}, r"top_k must be at most vocab_size \(301, vocab_size 300\)"),
        ([1], {"top_k": 11, "vocab_size": 10}, r"top_k must be at most .* \(11, vocab_size 10\)"),
        ([1], {"overflow": "wrap"}, r"overflow must be stop or slide \('wrap'\)"),
        ([1], {"logit_bias": {300: 1.0}}, r"not in the vocabulary \(300, vocab_size 300\)"),
    ],
)
def test_bad_arguments_are_named_with_their_value(
    ids: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tiny.model(), ids, **({"max_tokens": 3} | arguments))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [([], r"at least one prompt \(\[\]\)"), ([[1], []], r"at least one id \(\[\]\)")],
)
def test_bad_prompts_are_named(prompts: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_batch(tiny.model(), prompts, 3, GREEDY)


def test_a_context_of_one_token_cannot_slide() -> None:
    with pytest.raises(ValueError, match="context of 1 token cannot slide"):
        generate(small(context_length=1), [1], 3, overflow="slide")


@pytest.mark.parametrize(
    ("logits", "cause"),
    [
        ([-math.inf, -math.inf], r"-inf: every token is banned\); ban fewer"),
        ([math.nan, 1.0], r"nan: the model diverged\); use an earlier checkpoint"),
        ([math.inf, 1.0], r"inf: the model diverged\); use an earlier checkpoint"),
    ],
)
def test_where_no_token_is_left_it_says_why(logits: list[float], cause: str) -> None:
    require_finite(torch.tensor([[0.0, -math.inf], [1.0, 2.0]]))
    with pytest.raises(NumericalError, match=rf"no token can be chosen \(the .* is {cause}"):
        require_finite(torch.tensor([[0.0, 1.0], logits]))


def test_ids_are_of_the_vocabulary(llama: Transformer) -> None:
    [ids] = generate_batch(llama, [[1]], 20, Strategy(temperature=100.0))
    assert all(0 <= id < VOCAB for id in ids)
