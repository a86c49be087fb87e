"""TextGenerator: each of its methods gives the same text as the decoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import tiny
from helpers.twins import loud
from scratchlm import BPETokenizer, Transformer, generate, save_checkpoint
from scratchlm.convert.hf_folder import to_hf
from scratchlm.generation.beam import Beams, beam_search
from scratchlm.generation.decoder import Decoder
from scratchlm.generation.generator import TextGenerator, stream
from scratchlm.generation.sampling import generate_batch
from scratchlm.generation.strategies import Strategy

PROMPTS = ["the cat", "a mat and saw 12", "über 中文 😀"]
SAMPLED: dict[str, Any] = {"temperature": 1.2, "top_k": 40}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BPETokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"), 300)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return loud(tiny.model(context_length=80, vocab_size=310))  # padded past its tokenizer


@pytest.fixture(scope="module")
def draft() -> Transformer:
    return loud(tiny.model(1, context_length=60, num_layers=1))


@pytest.fixture(scope="module")
def writer(model: Transformer, tokenizer: BPETokenizer) -> TextGenerator:
    return TextGenerator(model, tokenizer)


def ids_of(model: Transformer, tokenizer: BPETokenizer, **how: Any) -> list[list[int]]:
    """The decoder's text for PROMPTS, 20 tokens."""
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
    more = {name: how.pop(name) for name in ("num_samples", "generator") if name in how}
    return generate_batch(
        model, prompts, 20, Strategy(**how), stop=[tokenizer.token_to_id("<|endoftext|>")],
        vocab_size=len(tokenizer), **more,
    )  # fmt: skip


@pytest.mark.parametrize("how", [{"temperature": 0}, SAMPLED], ids=["greedy", "sampled"])
def test_every_way_to_ask_gives_the_engines_text(
    writer: TextGenerator, model: Transformer, tokenizer: BPETokenizer, how: dict[str, Any]
) -> None:
    expected = ids_of(model, tokenizer, generator=seeded(), **how)
    done = writer.complete(PROMPTS, 20, generator=seeded(), **how)
    assert [text.ids for text in done] == expected
    assert [text.text for text in done] == [tokenizer.decode(ids) for ids in expected]
    assert [text.prompt for text in done] == PROMPTS
    assert max(map(max, expected)) < len(tokenizer)

    text = done[0].text
    assert writer.generate(PROMPTS[0], 20, generator=seeded(), **how) == text
    pieces = list(writer.stream(PROMPTS[0], 20, generator=seeded(), **how))
    assert "".join(pieces) == text
    assert "" not in pieces
    steps = list(writer.steps(tokenizer.encode(PROMPTS[0]), 20, generator=seeded(), **how))
    assert "".join(piece for piece, _ in steps) == text
    assert steps[-1][1].ids == expected[0]
    pieces = list(stream(model, tokenizer, PROMPTS[0], 20, generator=seeded(), **how))
    assert "".join(pieces) == text


def test_samples_stand_in_order_each_with_a_seed_of_its_own(
    writer: TextGenerator, model: Transformer, tokenizer: BPETokenizer
) -> None:
    done = writer.complete(PROMPTS, 20, num_samples=3, generator=seeded(5), **SAMPLED)
    assert [text.prompt for text in done] == [p for p in PROMPTS for _ in range(3)]
    expected = ids_of(model, tokenizer, num_samples=3, generator=seeded(5), **SAMPLED)
    assert [text.ids for text in done] == expected
    assert len({text.text for text in done}) == 9


@pytest.mark.parametrize("drafted", [False, True])
def test_a_row_is_asked_for_alone(
    model: Transformer, draft: Transformer, tokenizer: BPETokenizer, drafted: bool
) -> None:
    writer = TextGenerator(model, tokenizer, draft_model=draft if drafted else None)
    done = writer.complete(PROMPTS, 20, generator=seeded(), **SAMPLED)
    for row, prompt in enumerate(PROMPTS):
        ids = tokenizer.encode(prompt)
        *_, (_, text) = writer.steps(ids, 20, generator=seeded(), row=row, **SAMPLED)
        assert text.ids == done[row].ids


def test_the_seed_is_the_generators_or_torchs(writer: TextGenerator) -> None:
    def text(**how: Any) -> str:
        return writer.generate("the", 20, **SAMPLED, **how)

    assert text(generator=seeded(1)) == text(generator=seeded(1)) != text(generator=seeded(2))
    torch.manual_seed(7)
    first, second = text(), text()
    torch.manual_seed(7)
    assert text() == first != second


@pytest.mark.parametrize("drafted", [False, True])
def test_logprobs_are_the_models_and_not_the_strategys(
    model: Transformer, draft: Transformer, tokenizer: BPETokenizer, drafted: bool
) -> None:
    writer = TextGenerator(model, tokenizer, draft_model=draft if drafted else None)
    penalized = {**SAMPLED, "repetition_penalty": 1.5}
    for text in writer.complete(PROMPTS, 15, logprobs=True, **penalized):
        prompt = tokenizer.encode(text.prompt)
        logits = model(torch.tensor([prompt + text.ids]))[0, len(prompt) - 1 : -1].detach()
        log_p = logits[:, : len(tokenizer)].log_softmax(-1)
        expected = log_p.gather(-1, torch.tensor(text.ids)[:, None])[:, 0].tolist()
        assert text.logprobs == pytest.approx(expected, abs=1e-4)
        assert 0 < text.seconds_to_first_token <= text.seconds
    assert writer.complete(["the"], 3)[0].logprobs == []


def test_beams_are_those_of_each_prompt(
    writer: TextGenerator, model: Transformer, tokenizer: BPETokenizer
) -> None:
    beams = Beams(3, 0.7)
    done = writer.complete(PROMPTS, 12, num_samples=2, beams=beams, repetition_penalty=1.2)
    expected = []
    for prompt in PROMPTS:
        [texts] = beam_search(
            Decoder(model, 12), tokenizer.encode(prompt), beams, Strategy(repetition_penalty=1.2),
            num_return=2, stop=writer.end_ids, vocab_size=len(tokenizer),
        )  # fmt: skip
        expected += [
            (t.ids, tokenizer.decode(t.ids), pytest.approx(t.score, abs=1e-4)) for t in texts
        ]
    assert [(text.ids, text.text, text.score) for text in done] == expected
    assert [text.prompt for text in done] == [p for p in PROMPTS for _ in range(2)]


def test_fewer_texts_than_asked_for_are_refused(writer: TextGenerator) -> None:
    """With two ids left there are two texts of one token, and two beams more find none."""
    bias = {id: -math.inf for id in range(300) if id not in (65, 66)}
    how: dict[str, Any] = {"beams": Beams(4), "logit_bias": bias}
    assert len(writer.complete(["a"], 1, num_samples=2, **how)) == 2
    with pytest.raises(ValueError, match=r"found too few texts \(2 of 3\); request"):
        writer.complete(["a"], 1, num_samples=3, **how)


def test_a_draft_model_changes_nothing_but_the_time(
    writer: TextGenerator, model: Transformer, draft: Transformer, tokenizer: BPETokenizer
) -> None:
    """Greedy; sampled it draws other numbers, from the same distribution (test_speculative.py)."""
    drafted = TextGenerator(model, tokenizer, draft_model=draft, num_draft=3)
    how: dict[str, Any] = {"temperature": 0, "num_samples": 2}
    ours, plain = (w.complete(PROMPTS, 30, **how) for w in (drafted, writer))
    assert [(t.ids, t.text, t.finish_reason) for t in ours] == [
        (t.ids, t.text, t.finish_reason) for t in plain
    ]
    texts = [t.text for t in drafted.complete(["a"], 20, num_samples=3, generator=seeded())]
    assert len(set(texts)) == 3
    assert texts == [t.text for t in drafted.complete(["a"] * 3, 20, generator=seeded())]


@pytest.mark.parametrize("drafted", [False, True])
def test_a_stop_string_ends_the_text_before_it(
    model: Transformer, draft: Transformer, tokenizer: BPETokenizer, drafted: bool
) -> None:
    writer = TextGenerator(model, tokenizer, draft_model=draft if drafted else None)
    free = writer.complete(PROMPTS, 30, temperature=0)
    stop = free[0].text[9:12]
    done = writer.complete(PROMPTS, 30, temperature=0, stop=["never there", stop])
    for text, whole in zip(done, free, strict=True):
        assert text.text == whole.text.split(stop)[0]
        assert text.ids == whole.ids[: len(text.ids)]  # to the one that completed it
        ended = stop in whole.text
        assert text.finish_reason == ("stop" if ended else whole.finish_reason)
        assert (stop in tokenizer.decode(text.ids)) == ended
        assert stop not in tokenizer.decode(text.ids[:-1])
    assert done[0].finish_reason == "stop"
    assert "".join(writer.stream(PROMPTS[0], 30, temperature=0, stop=[stop])) == done[0].text


def test_end_ids_end_the_text(model: Transformer, tokenizer: BPETokenizer) -> None:
    free = TextGenerator(model, tokenizer, end_ids=[]).complete(["the"], 20, temperature=0)[0]
    end = free.ids[6]
    [text] = TextGenerator(model, tokenizer, end_ids=[end]).complete(["the"], 20, temperature=0)
    assert (text.ids, text.finish_reason) == (free.ids[: free.ids.index(end)], "stop")
    writer = TextGenerator(model, tokenizer)
    assert writer.complete(["the"], 20, temperature=0, stop_ids=[end])[0].ids == text.ids
    assert writer.end_ids == [tokenizer.token_to_id("<|endoftext|>")]


def test_start_ids_begin_every_prompt(model: Transformer, tokenizer: BPETokenizer) -> None:
    end = tokenizer.token_to_id("<|endoftext|>")
    writer = TextGenerator(model, tokenizer, start_ids=[7, 8])
    assert writer.encode("the") == [7, 8, *tokenizer.encode("the")]
    assert writer.encode("") == [7, 8]
    assert TextGenerator(model, tokenizer).encode("") == [end]
    assert TextGenerator(model, tokenizer).encode("a<|endoftext|>")[-1] == end
    with pytest.raises(ValueError, match=r"the prompt is empty \(''\).*; write a text"):
        TextGenerator(model, tokenizer, end_ids=[]).encode("")


@pytest.mark.parametrize("overflow", ["stop", "slide"])
def test_the_context_ends_the_text_or_slides(
    writer: TextGenerator, model: Transformer, tokenizer: BPETokenizer, overflow: Any
) -> None:
    [text] = writer.complete(["the cat"], 120, temperature=0, overflow=overflow)
    prompt = tokenizer.encode("the cat")
    expected = generate(
        model, prompt, 120, 0.0, stop=writer.end_ids, vocab_size=300, overflow=overflow
    )
    assert text.ids == expected
    assert text.finish_reason == ("context" if overflow == "stop" else "length")


def test_int8_weights_write_too(model: Transformer, tokenizer: BPETokenizer) -> None:
    [text] = TextGenerator(model, tokenizer, weights="int8").complete(["the"], 5, temperature=0)
    assert len(text.ids) == 5


def test_the_model_is_left_as_it_was(model: Transformer, tokenizer: BPETokenizer) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    TextGenerator(model, tokenizer).generate("the", 5)
    assert model.training
    model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_loads_a_model_with_its_draft(
    model: Transformer, draft: Transformer, tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    for name, each in (("model.pt", model), ("draft.pt", draft)):
        save_checkpoint(tmp_path / name, each, torch.optim.SGD(each.parameters()), 1)
    paths = tmp_path / "model.pt", tmp_path / "tokenizer.json", "cpu"
    expected = TextGenerator(model, tokenizer).generate("the", 10, temperature=0)
    assert TextGenerator.load(*paths).generate("the", 10, temperature=0) == expected
    drafted = TextGenerator.load(*paths, draft_path=tmp_path / "draft.pt")
    assert drafted.draft is not None
    assert drafted.generate("the", 10, temperature=0) == expected
    half = TextGenerator.load(*paths, dtype=torch.bfloat16)
    assert half.model.embedding.weight.dtype == torch.bfloat16


# Errors before the first token


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"compile": "yes"}, r"compile must be auto, on or off \('yes'\); use auto"),
        ({"num_draft": 0}, r"num_draft must be from 1 to 100 \(0\); try 4"),
        ({"num_draft": 101}, r"num_draft must be from 1 to 100 \(101\); try 4"),
        ({"weights": "int4"}, r"weights must be stored or int8 \('int4'\); use stored"),
        ({"draft_model": tiny.model(vocab_size=299)},
         r"the tokenizer has more ids than the draft model \(300 ids, vocab_size 299\); use"),
    ],
)  # fmt: skip
def test_a_generator_that_cannot_be_is_refused(
    model: Transformer, tokenizer: BPETokenizer, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TextGenerator(model, tokenizer, **how)


def test_a_tokenizer_of_another_model_is_refused(tokenizer: BPETokenizer) -> None:
    with pytest.raises(ValueError, match=r"more ids than the model \(300 ids, vocab_size 299\)"):
        TextGenerator(tiny.model(vocab_size=299), tokenizer)


LONG = "the cat sat " * 40


@pytest.mark.parametrize(
    ("prompts", "how", "message"),
    [
        ([], {}, r"there must be at least one prompt \(\[\]\); add a prompt"),
        ([LONG], {}, r"longer than the context \(\d+ tokens, 80 fit\); shorten the prompt, or set"),
        (["a"], {"max_tokens": -1}, r"max_tokens must be at least 0 \(-1\); try"),
        (["a"], {"overflow": "wrap"}, r"overflow must be stop or slide \('wrap'\); use stop"),
        (["a"], {"num_samples": 0}, r"num_samples must be from 1 to 10,000 \(0\); try 1"),
        (["a"], {"num_samples": 10_001}, r"num_samples must be from 1 to 10,000 \(10001\)"),
        (["a"], {"stop": [""]}, r"a stop string must not be empty \(''\); leave out"),
        (["a"], {"stop_ids": [300]}, r"a stop id is not in the vocabulary \(300, vocab_size 300\)"),
        (["a"], {"max_tokens": 5, "min_new_tokens": 6}, r"at most max_tokens \(6, max_tokens 5\)"),
        (["a"], {"temperature": -1}, r"temperature must be finite and at least 0 \(-1\)"),
        (["a"], {"top_k": 301}, r"top_k must be at most vocab_size \(301, vocab_size 300\)"),
        (["a"], {"logit_bias": {305: 1.0}}, r"not in the vocabulary \(305, vocab_size 300\)"),
        (["a"], {"beams": Beams(2), "num_samples": 3}, r"num_beams texts \(3, num_beams 2\)"),
        (["a"], {"beams": Beams(2), "top_p": 0.9}, r"does not sample \(top_p 0.9\); leave"),
        (["a"], {"beams": Beams(2), "stop": ["x"]}, r"not accept stop strings \(stop 'x'\); use"),
        (["a"], {"beams": Beams(2), "max_tokens": -1}, r"max_tokens must be at least 0 \(-1\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_completed_is_refused(
    writer: TextGenerator, prompts: list[str], how: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        writer.complete(prompts, **how)


@pytest.mark.parametrize("ask", [TextGenerator.stream, TextGenerator.generate])
def test_a_stream_is_refused_before_it_is_read(writer: TextGenerator, ask: Callable) -> None:
    with pytest.raises(ValueError, match="top_p must be from 0 to 1"):
        ask(writer, "a", top_p=math.nan)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"overflow": "slide"}, r"cannot slide the context \(overflow slide\); leave out"),
        (
            {"beams": Beams(2)},
            r"beam search does not accept a draft model \(draft_model\); leave out",
        ),
    ],
)
def test_what_speculation_does_not_do_is_refused(
    model: Transformer, draft: Transformer, tokenizer: BPETokenizer, how: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TextGenerator(model, tokenizer, draft_model=draft).complete(["a"], 5, **how)


def test_a_draft_with_another_tokenizer_is_refused(
    model: Transformer, tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    (tmp_path / "texts").mkdir()
    other = tiny.tokenizer(tmp_path / "texts", 290)
    to_hf(model, tmp_path / "one", tokenizer)
    to_hf(model, tmp_path / "other", other)
    with pytest.raises(
        ValueError, match=r"the draft model must have the model's tokenizer \(.*other.*\)"
    ):
        TextGenerator.load(tmp_path / "one", draft_path=tmp_path / "other")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_generator_writes_on_a_cpu_too(
    model: Transformer, tokenizer: BPETokenizer, dtype: torch.dtype
) -> None:
    twin = deepcopy(model).to(dtype)
    plain, compiled = (TextGenerator(twin, tokenizer, compile=how) for how in ("off", "on"))
    texts = compiled.generate("the cat", 12, temperature=0)
    if dtype == torch.float32:
        assert texts == plain.generate("the cat", 12, temperature=0)
    assert compiled.generate("a mat and", 9, temperature=0)


def test_one_text_may_stand_for_a_list_of_one(writer: TextGenerator) -> None:
    free = writer.generate("the cat", 20, temperature=0)
    cut = writer.generate("the cat", 20, temperature=0, stop=free[3])
    assert cut == free[: free.index(free[3])]
    [done] = writer.complete("the cat", 20, temperature=0)
    assert done.text == free


def test_ids_that_no_token_has_are_never_written(model: Transformer) -> None:
    vocab = {byte: bytes([byte]) for byte in range(256)} | {299: b"ab"}
    writer = TextGenerator(model, BPETokenizer(vocab, [(b"a", b"b")], []), end_ids=[])
    done = writer.complete(["ab"] * 4, 60, temperature=50.0, generator=seeded())
    assert all(id < 256 or id == 299 for each in done for id in each.ids)


def test_ids_beyond_the_tokenizer_are_refused(writer: TextGenerator) -> None:
    with pytest.raises(ValueError, match=r"not in the vocabulary \(305, vocab_size 300\)"):
        writer.steps([305], 3)
