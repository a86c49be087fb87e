"""Speculative decoding: the text of the large model if it is greedy, and its distribution if it
samples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import chi_square
from helpers.twins import loud
from helpers.variants import small
from scratchlm import BPETokenizer, TextGenerator, Transformer, generate
from scratchlm.generation.decoder import Decoder
from scratchlm.generation.sampling import Continuation
from scratchlm.generation.speculative import judge, speculate
from scratchlm.generation.strategies import Strategy
from scratchlm.model.kv_cache import REWIND

GREEDY = Strategy(temperature=0)


class Counting(Decoder):
    """Count the passes, and the most tokens in a pass."""

    passes = 0

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        self.passes += 1
        return super().prefill(prompts)

    def extend(self, ids: Sequence[Sequence[int]]) -> Tensor:
        self.passes += 1
        return super().extend(ids)


@pytest.fixture(scope="module")
def large() -> Transformer:
    torch.manual_seed(0)
    return loud(small(context_length=80))


@pytest.fixture(scope="module")
def other() -> Transformer:
    torch.manual_seed(1)
    return loud(small(context_length=80, num_layers=1))


@pytest.fixture(scope="module")
def alike(large: Transformer) -> Transformer:
    """Often right, but not always."""
    torch.manual_seed(0)
    model = loud(small(context_length=80))
    for parameter in model.parameters():
        parameter.data += 0.03 * torch.randn_like(parameter)
    return model


def finished(decoder: Any, draft: Any, prompt: list[int], how: Strategy, **more: Any) -> Any:
    *_, [text] = speculate(decoder, draft, prompt, how, **more)
    return text


# Greedy


@pytest.mark.parametrize(
    ("draft", "num_draft", "strategy"),
    [
        ("large", 1, {}),
        ("large", 5, {}),
        ("alike", 4, {}),
        ("alike", 1, {}),
        ("other", 4, {}),
        ("alike", 4, {"repetition_penalty": 1.4, "frequency_penalty": 0.5}),
        ("alike", 4, {"no_repeat_ngram_size": 2}),
    ],
)
def test_greedy_text_is_the_large_models(
    large: Transformer, draft: str, num_draft: int, strategy: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    decoder = Counting(large, 60)
    text = finished(
        decoder, Decoder(request.getfixturevalue(draft), 60), [1, 2, 3],
        Strategy(temperature=0, **strategy), num_draft=num_draft,
    )  # fmt: skip
    assert text.ids == generate(large, [1, 2, 3], 60, temperature=0, **strategy)
    assert text.finish_reason == "length"
    if draft == "large":  # every guess is right; the first check is a prefill and an extend
        assert decoder.passes == 1 + -(-60 // (num_draft + 1))
    elif draft == "alike":
        assert decoder.passes < 60


@pytest.mark.parametrize("num_new", range(8))
@pytest.mark.parametrize("draft", ["large", "other"])
def test_max_tokens_are_exact(
    large: Transformer, draft: str, num_new: int, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(draft)
    text = finished(Decoder(large, num_new), Decoder(model, num_new), [1, 2], GREEDY)
    assert text.ids == generate(large, [1, 2], num_new, temperature=0)
    assert (len(text.ids), text.finish_reason) == (num_new, "length")


@pytest.mark.parametrize("room", range(7))
def test_the_context_ends_the_text(large: Transformer, room: int) -> None:
    prompt = [i % 61 for i in range(80 - room)]
    text = finished(Decoder(large, 20), Decoder(large, 20), prompt, GREEDY)
    assert text.ids == generate(large, prompt, 20, temperature=0)
    assert (len(text.ids), text.finish_reason) == (room, "context")


@pytest.mark.parametrize("context_length", [2, 3, 4, 13, 14])
def test_behind_the_drafts_context_the_large_model_goes_on_alone(
    large: Transformer, context_length: int
) -> None:
    """With a draft that is right, and with one that is not; the prompt may be too long for it."""
    torch.manual_seed(0)
    right = loud(small(context_length=80))
    right.config = small(context_length=context_length).config
    assert torch.equal(right(torch.tensor([[1, 2]])), large(torch.tensor([[1, 2]])))
    torch.manual_seed(2)
    for model in (right, loud(small(context_length=context_length))):
        decoder, draft = Counting(large, 30), Counting(model, 30)
        text = finished(decoder, draft, [1, 2, 3], GREEDY)
        assert text.ids == generate(large, [1, 2, 3], 30, temperature=0)
        assert bool(draft.passes) == (context_length >= 3)


def test_models_with_windows_can_forget_few_tokens() -> None:
    """The text is that of the large model alone. More guesses than the cache can forget are
    refused."""
    torch.manual_seed(0)
    large, draft = (
        loud(small(context_length=160, num_layers=n, window=3, window_pattern="SL")) for n in (3, 1)
    )
    decoders = Decoder(large, 100), Decoder(draft, 100)
    text = finished(*decoders, [1, 2, 3], GREEDY, num_draft=REWIND)
    assert text.ids == generate(large, [1, 2, 3], 100, temperature=0)
    tokenizer = BPETokenizer({byte: bytes([byte]) for byte in range(61)}, [])
    with pytest.raises(ValueError, match=r"num_draft must be at most 16 .* a window \(17\); dec"):
        TextGenerator(large, tokenizer, draft_model=draft, num_draft=REWIND + 1)


@pytest.mark.parametrize("num_draft", [1, 4])
@pytest.mark.parametrize("place", [0, 1, 2, 5, 11])
def test_a_stop_id_ends_the_text_wherever_it_stands_in_a_draft(
    large: Transformer, place: int, num_draft: int
) -> None:
    free = generate(large, [4], 20, temperature=0)
    stop = [free[place]]
    more: dict[str, Any] = {"stop": stop, "num_draft": num_draft}
    text = finished(Decoder(large, 20), Decoder(large, 20), [4], GREEDY, **more)
    assert text.ids == free[: free.index(free[place])]
    assert text.finish_reason == "stop"


def test_every_id_is_given_and_whoever_iterates_may_end_it(large: Transformer) -> None:
    lengths = []
    for [text] in speculate(Decoder(large, 20), Decoder(large, 20), [4], GREEDY):
        lengths.append(len(text.ids))
        if len(text.ids) == 7:
            text.finish_reason = "stop"
    assert lengths == list(range(8))


def test_logprobs_are_the_large_models(large: Transformer, alike: Transformer) -> None:
    text = finished(
        Decoder(large, 40), Decoder(alike, 40), [1, 2, 3], Strategy(0.8, repetition_penalty=1.2),
        logprobs=True, vocab_size=50,
    )  # fmt: skip
    logits = large(torch.tensor([[1, 2, 3, *text.ids]]))[0, 2:-1, :50].detach()
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(text.ids)[:, None])[:, 0]
    assert max(text.ids) < 50
    assert text.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_seed_and_a_row_give_one_text(large: Transformer, other: Transformer) -> None:
    def ids(seed: int, row: int) -> list[int]:
        decoders = Decoder(large, 20), Decoder(other, 20)
        return finished(*decoders, [1], Strategy(2.0), seed=seed, first_row=row).ids

    assert ids(1, 0) == ids(1, 0)
    assert len({tuple(ids(*pair)) for pair in ((1, 0), (1, 1), (2, 0))}) == 3


# Sampling


class Table:
    """A decoder whose logits are in a table, by the last two ids (vocab, vocab, vocab)."""

    context_length = 1_000
    overflow = "stop"
    max_tokens = 3

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.ids: list[list[int]] = []

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        self.ids = [list(prompts[0])]
        return self.table[self.ids[0][-2], self.ids[0][-1]][None]

    def extend(self, ids: Sequence[Sequence[int]]) -> Tensor:
        rows = []
        for id in ids[0]:
            self.ids[0].append(id)
            rows.append(self.table[self.ids[0][-2], self.ids[0][-1]])
        return torch.stack(rows)[None]

    def rewind(self, count: int) -> None:
        del self.ids[0][len(self.ids[0]) - count :]


@pytest.mark.parametrize(
    ("num_draft", "strategy"),
    [
        (1, {}),
        (4, {}),
        (4, {"top_k": 2}),
        (2, {"temperature": 1.5, "frequency_penalty": 1.0}),
    ],
)
def test_samples_follow_the_large_models_distribution(
    strategy: dict[str, Any], num_draft: int
) -> None:
    """The first three ids of 600 texts against their 27 probabilities, by Pearson's test at the
    99.9th percentile; the draft thinks differently."""
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 3, 3, 3, generator=generator)
    how = Strategy(**strategy)
    exact = torch.zeros(3, 3, 3, dtype=torch.float64)
    for new in itertools.product(range(3), repeat=3):
        text, probability = [0, 1], 1.0
        for n, id in enumerate(new):
            logits = how.filter(how.penalize(p[text[-2], text[-1]], [0, 1], new[:n]))
            probability *= float(logits.double().softmax(-1)[id])
            text.append(id)
        exact[new] = probability
    assert exact.sum() == pytest.approx(1)
    counts = torch.zeros(3, 3, 3)
    for row in range(600):
        text = finished(Table(p), Table(q), [0, 1], how, num_draft=num_draft, first_row=row)
        counts[tuple(text.ids)] += 1
    # Texts too rare for the test are counted as one.
    rare = exact * 600 < 10
    cells = [counts[~rare], counts[rare].sum()[None]], [exact[~rare], exact[rare].sum()[None]]
    observed, expected = (torch.cat(parts) for parts in cells)
    kept = (expected == 0) | (expected * 600 >= 5)
    assert observed[expected == 0].sum() == 0
    assert chi_square.p_value(observed[kept], expected[kept] / expected[kept].sum()) > 0.001


def test_a_rejection_that_rounding_alone_made_keeps_the_models_choice() -> None:
    """p is a rounding below q, so that nothing of p - q is above 0."""

    class Largest:
        def next(self) -> float:
            return 1 - 2**-53

    q = torch.tensor([0.5, 0.5])
    p = torch.tensor([0.5 - 2**-25, 0.5])
    none = torch.zeros(2, 2)
    kept, last = judge(none, [0], [q], lambda *_: p, Largest())  # type: ignore[arg-type]
    assert kept == 0
    assert last in (0, 1)


def test_a_text_begins_empty(large: Transformer) -> None:
    first = next(iter(speculate(Decoder(large, 3), Decoder(large, 3), [1], GREEDY)))
    assert first == [Continuation([1])]
