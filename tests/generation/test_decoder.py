"""The decoder: compare with the model without a cache, for every variant: batches of different
lengths, chunks, sliding, reordering, rewinding, and the compiled step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.decoding import CONTEXT, PROMPTS, VOCAB, name_of, random_ids, slid, uncached
from helpers.twins import loud
from helpers.variants import VARIANTS, small
from scratchlm import KVCache, Transformer, generate
from scratchlm.generation.decoder import CompiledStep, Decoder
from scratchlm.generation.sampling import decode
from scratchlm.generation.strategies import Strategy


@pytest.fixture(scope="module", params=VARIANTS, ids=name_of)
def model(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(0)
    return loud(small(**request.param))


def check(logits: Tensor, model: Transformer, texts: Sequence[Sequence[int]]) -> None:
    """Check that logits (batch, vocab) follow each text, to 1e-5 of the largest logit."""
    expected = torch.stack([uncached(model, text)[-1] for text in texts])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_a_batch_with_a_cache_equals_each_alone_without(model: Transformer) -> None:
    decoder = Decoder(model, 12)
    check(decoder.prefill(PROMPTS), model, PROMPTS)
    texts = [list(prompt) for prompt in PROMPTS]
    for new in random_ids(12, len(PROMPTS)):  # the longest ends at the context's last place
        logits = decoder.step(new)
        for text, id in zip(texts, new, strict=True):
            text.append(id)
        check(logits, model, texts)
        assert decoder.ids == texts
    assert PROMPTS[1] == [9]  # the caller's lists are not touched


def test_a_prompt_in_chunks_equals_one_in_one(model: Transformer) -> None:
    for chunk in (1, 3, 12):
        decoder = Decoder(model, 3, chunk=chunk)
        check(decoder.prefill(PROMPTS), model, PROMPTS)
        check(decoder.step([1, 2, 3, 4]), model, [[*p, i + 1] for i, p in enumerate(PROMPTS)])


def test_extending_by_several_equals_one_pass(model: Transformer) -> None:
    """Over a ragged batch, after every new id."""
    decoder = Decoder(model, 10)
    decoder.prefill(PROMPTS)
    texts = [list(prompt) for prompt in PROMPTS]
    for count in (4, 1, 5):
        new = random_ids(len(texts), count, seed=count)
        logits = decoder.extend(new)
        assert logits.shape == (len(texts), count, VOCAB)
        texts = [text + more for text, more in zip(texts, new, strict=True)]
        for place in range(count):
            ends = [text[: len(text) - count + place + 1] for text in texts]
            check(logits[:, place], model, ends)


@pytest.mark.parametrize("rows", [[3, 2, 1, 0], [2, 2, 0, 2, 1, 3, 3], [2, 1], [0], [1, 1, 1, 1]])
def test_selecting_reorders_multiplies_and_drops(model: Transformer, rows: list[int]) -> None:
    decoder = Decoder(model, 12)
    decoder.prefill(PROMPTS)
    decoder.step([5, 6, 7, 8])
    decoder.select(rows)
    texts = [[*PROMPTS[row], row + 5] for row in rows]
    for new in random_ids(6, len(rows), seed=1):  # copies part ways
        for text, id in zip(texts, new, strict=True):
            text.append(id)
        check(decoder.step(new), model, texts)
    assert decoder.ids == texts
    assert decoder.cache.length == max(map(len, texts))  # the padding all have is gone


def test_rewinding_forgets(model: Transformer) -> None:
    decoder = Decoder(model, 12)
    decoder.prefill(PROMPTS)
    drafted = random_ids(len(PROMPTS), 5)
    decoder.extend(drafted)
    decoder.rewind(0)
    decoder.rewind(3)
    texts = [p + new[:2] for p, new in zip(PROMPTS, drafted, strict=True)]
    assert decoder.ids == texts
    check(decoder.step([7, 8, 9, 10]), model, [[*t, i + 7] for i, t in enumerate(texts)])


def test_sliding_reads_the_last_half_anew(model: Transformer) -> None:
    """The texts have different lengths, so each slides at its own time. One prompt fills the
    context, and one is longer."""
    texts = [*map(list, PROMPTS[1:]), random_ids(CONTEXT), random_ids(CONTEXT + 7, seed=1)]
    views = [text if len(text) <= CONTEXT else text[-(CONTEXT // 2) :] for text in texts]
    decoder = Decoder(model, 24, overflow="slide", chunk=5)
    check(decoder.prefill(texts), model, views)
    slides = []
    for new in random_ids(24, len(texts), seed=2):
        before = list(map(len, views))
        views = [slid(*row) for row in zip(texts, views, new, strict=True)]
        slides.append(sum(len(view) < n for view, n in zip(views, before, strict=True)))
        logits = decoder.step(new)
        for text, id in zip(texts, new, strict=True):
            text.append(id)
        check(logits, model, views)
        assert decoder.lengths == list(map(len, views))
    assert decoder.ids == texts
    assert sum(slides) >= len(texts)
    assert max(slides) < len(texts)


def test_a_full_context_is_refused_and_changes_nothing(model: Transformer) -> None:
    decoder = Decoder(model, 9)
    decoder.prefill([[1] * (CONTEXT - 2), [2]])
    with pytest.raises(
        ValueError, match=r"context is full \(22 of 24 tokens, 3 to add\); add fewer"
    ):
        decoder.extend([[1, 2, 3]] * 2)
    decoder.step([3, 4])
    check(decoder.step([5, 6]), model, [[1] * (CONTEXT - 2) + [3, 5], [2, 4, 6]])
    with pytest.raises(ValueError, match=r"context is full \(24 of 24 tokens, 1 to add\)"):
        decoder.step([1, 1])
    assert decoder.ids[1] == [2, 4, 6]


def test_several_ids_at_once_do_not_slide() -> None:
    decoder = Decoder(small().eval(), 9, overflow="slide")
    decoder.prefill([[1] * CONTEXT])
    with pytest.raises(ValueError, match="2 to add"):
        decoder.extend([[1, 2]])


def test_a_prompt_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at most context_length tokens \(25 > 24\)"):
        Decoder(small().eval(), 1).prefill([[1] * (CONTEXT + 1)])


@pytest.mark.parametrize(("max_tokens", "room"), [(0, 7), (5, 12), (100, CONTEXT)])
def test_max_tokens_bounds_the_memory(max_tokens: int, room: int) -> None:
    decoder = Decoder(small().eval(), max_tokens)
    decoder.prefill(PROMPTS[:2])
    assert decoder.cache.context_length == room


def test_nothing_keeps_a_graph() -> None:
    decoder = Decoder(small().eval(), 5)
    assert not decoder.prefill(PROMPTS).requires_grad
    assert not decoder.step([1, 2, 3, 4]).requires_grad


# The compiled step


@pytest.fixture
def counter() -> Any:
    """A backend that counts its graphs and runs them as they are."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    yield CompileCounter()
    torch._dynamo.reset()


@pytest.mark.parametrize("variant", [VARIANTS[i] for i in (1, 4, 6)], ids=name_of)
def test_the_compiled_step_is_the_step_in_one_graph(variant: dict[str, Any], counter: Any) -> None:
    """Grouped heads, learned positions, gates: 20 steps of a ragged batch that slides."""
    torch.manual_seed(0)
    model = loud(small(**variant))
    plain = Decoder(model, 20, overflow="slide")
    compiled = Decoder(model, 20, overflow="slide", compiled=CompiledStep(model, counter))
    expected, logits = plain.prefill(PROMPTS), compiled.prefill(PROMPTS)
    held = logits
    for step in range(20):
        new = expected.argmax(-1).tolist()
        assert logits.argmax(-1).tolist() == new
        kept = held.clone()
        if step == 9:  # as beams do
            plain.select([1, 0, 3, 2])
            compiled.select([1, 0, 3, 2])
            new = [new[i] for i in (1, 0, 3, 2)]
        expected, logits = plain.step(new), compiled.step(new)
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)
        assert torch.equal(held, kept)  # what was given is not written again
        held = logits
    assert counter.frame_count == 1
    assert compiled.ids == plain.ids


def test_a_compiled_step_serves_prompts_of_other_lengths_by_turns(counter: Any) -> None:
    """All decoders use one graph, and each has its own cache."""
    model = loud(small())
    step = CompiledStep(model, counter)
    plain = [generate(model, prompt, 8, temperature=0) for prompt in ([1, 2, 3], [4] * 6, [9])]
    rows = [
        decode(Decoder(model, 8, compiled=step), [prompt], Strategy(temperature=0))
        for prompt in ([1, 2, 3], [4] * 6)
    ]
    for pair in zip(*rows, strict=True):
        texts = [row.ids for [row] in pair]
    del rows, pair
    *_, [third] = decode(Decoder(model, 8, compiled=step), [[9]], Strategy(temperature=0))
    assert [*texts, third.ids] == plain
    assert counter.frame_count == 1


def test_a_smaller_batch_has_a_graph_of_its_own(counter: Any) -> None:
    model = loud(small())
    decoder = Decoder(model, 10, compiled=CompiledStep(model, counter))
    decoder.prefill(PROMPTS)
    decoder.step([1, 2, 3, 4])
    decoder.select([2, 0])
    texts = [[*PROMPTS[2], 3, 8], [*PROMPTS[0], 1, 9]]
    check(decoder.step([8, 9]), model, texts)
    assert counter.frame_count == 2


def test_windows_do_not_compile() -> None:
    with pytest.raises(ValueError, match=r"sliding window cannot be compiled \(window 5\); use"):
        CompiledStep(small(window=5))


@pytest.mark.slow
@pytest.mark.parametrize("variant", [VARIANTS[i] for i in (1, 4)], ids=name_of)
def test_the_inductors_code_is_the_step(variant: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = loud(small(**variant))
    decoder = Decoder(model, 12, compiled=CompiledStep(model))
    decoder.prefill(PROMPTS)
    texts = [list(prompt) for prompt in PROMPTS]
    for new in random_ids(12, len(PROMPTS)):
        for text, id in zip(texts, new, strict=True):
            text.append(id)
        check(decoder.step(new), model, texts)


def test_a_compiled_step_keeps_few_caches_of_wider_batches_too(
    counter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loud(small())
    made: list[int] = []
    new_cache = model.new_cache

    def noted(batch_size: int, *arguments: Any, **options: Any) -> KVCache:
        made.append(batch_size)
        return new_cache(batch_size, *arguments, **options)

    monkeypatch.setattr(model, "new_cache", noted)
    step = CompiledStep(model, counter)
    for _ in range(8):
        *_, rows = decode(Decoder(model, 5, compiled=step), [[1, 2]], Strategy(), num_samples=3)
    assert made == [1, 3]
    plain = decode(Decoder(model, 5), [[1, 2]], Strategy(), num_samples=3)
    *_, expected = plain
    assert [row.ids for row in rows] == [row.ids for row in expected]
    assert counter.frame_count == 1
