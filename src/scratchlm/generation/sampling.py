"""Logits -> tokens: `decode` is the loop, `generate` the call.

How a token is chosen is in `strategies.py`, the model and its cache are behind `decoder.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from scratchlm.config import takes_synonyms
from scratchlm.errors import NumericalError
from scratchlm.generation.decoder import Decoder, Overflow
from scratchlm.generation.low_precision import packed
from scratchlm.generation.strategies import Strategy, draw
from scratchlm.model.transformer import ModelConfig, Transformer, as_ids
from scratchlm.model.weight_names import unwrapped

# Packing takes as long as 5 tokens, and then each is up to a fifth faster (124M, bf16).
PACK_FROM = 32
FinishReason = Literal["stop", "length", "context"]


class Uniforms:
    """A row's random numbers: one a step, from a generator of its own.

    Seeded with (seed, row), so that a text does not depend on what is generated beside it. Numpy
    mixes both into 128 bits; torch's generator takes 32, too few for 10,000 rows.
    """

    def __init__(self, seed: int, row: int) -> None:
        self.bits = np.random.PCG64([seed, row])

    def next(self) -> float:
        """In [0, 1): 53 bits."""
        return int(self.bits.random_raw() >> 11) * 2.0**-53


@dataclass
class Continuation:
    """One text in the making: the ids behind a prompt, without the one that stopped it.

    logprobs: of each id, in nats, as the model gave it, before any strategy. finish_reason: "stop"
    (a stop id or a stop string), "length" (max_tokens), "context" (no room), None while it grows.
    """

    prompt: list[int]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    score: float | None = None  # of a beam


@takes_synonyms()
def decode(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    strategy: Strategy,
    *,
    num_samples: int = 1,
    stop: Sequence[int] = (),
    seed: int = 0,
    first_row: int = 0,
    vocab_size: int | None = None,
    logprobs: bool = False,
) -> Iterator[list[Continuation]]:
    """Yield all continuations, before the first step and after each: `num_samples` of each prompt.

    Whoever iterates may set a `finish_reason`: that one grows no more. What is finished leaves the
    batch. The arguments are those of `generate`; the decoder says how many tokens, at most, and the
    rows count from `first_row`.
    """
    rows = [Continuation(list(prompt)) for prompt in prompts for _ in range(num_samples)]
    uniforms = [Uniforms(seed, first_row + i) for i in range(len(rows))]
    _finish(rows, decoder)
    yield rows
    if all(row.finish_reason for row in rows):
        return
    logits = decoder.prefill(prompts)
    if num_samples > 1:
        which = [i // num_samples for i in range(len(rows))]
        decoder.select(which)
        logits = logits[which]
    batch = list(range(len(rows)))  # which row each sequence of the decoder is
    while True:
        logits = logits[:, :vocab_size].float()
        growing = [rows[i] for i in batch]
        drawn = _draw(logits, growing, strategy, stop, [uniforms[i] for i in batch])
        if logprobs:
            ids = torch.tensor(drawn, device=logits.device)[:, None]
            chosen = logits.log_softmax(-1).gather(-1, ids)[:, 0].tolist()
        for place, row in enumerate(growing):
            if row.finish_reason is not None:
                continue
            if drawn[place] in stop:
                row.finish_reason = "stop"
                continue
            row.ids.append(drawn[place])
            if logprobs:
                row.logprobs.append(chosen[place])
        _finish(rows, decoder)
        yield rows
        live = [i for i in batch if rows[i].finish_reason is None]
        if not live:
            return
        if live != batch and _may_shrink(decoder):
            decoder.select([batch.index(i) for i in live])
            batch = live
        logits = decoder.step([(rows[i].ids or rows[i].prompt)[-1] for i in batch])


def _may_shrink(decoder: Decoder) -> bool:
    """A compiled step is for one batch size: what is finished goes on unread, while it has room."""
    full = decoder.overflow == "stop" and max(decoder.lengths) >= decoder.context_length
    return decoder.compiled is None or full


def _finish(rows: Sequence[Continuation], decoder: Decoder) -> None:
    for row in rows:
        room, at_room = room_behind(row.prompt, decoder)
        if row.finish_reason is None and len(row.ids) >= room:
            row.finish_reason = at_room


def room_behind(prompt: Sequence[int], decoder: Decoder) -> tuple[int, FinishReason]:
    """How many ids may follow the prompt, and what is to blame that there are no more."""
    room = decoder.context_length - len(prompt)
    if decoder.overflow == "stop" and room < decoder.max_tokens:
        return room, "context"
    return decoder.max_tokens, "length"


def _draw(
    logits: Tensor,
    rows: Sequence[Continuation],
    strategy: Strategy,
    stop: Sequence[int],
    uniforms: Sequence[Uniforms],
) -> list[int]:
    """logits (batch, vocab) -> one id for each row."""
    if strategy.looks_back:
        each = zip(logits, rows, strict=True)
        logits = torch.stack([strategy.penalize(x, row.prompt, row.ids, stop) for x, row in each])
    require_finite(logits)
    if strategy.greedy:
        return logits.argmax(-1).tolist()
    numbers = torch.tensor([u.next() for u in uniforms], dtype=torch.float64)
    return draw(strategy.filter(logits), numbers).tolist()


def require_finite(logits: Tensor) -> None:
    """logits (..., vocab); NumericalError where nothing, or no number, is left to choose from."""
    largest = logits.amax(-1)
    if not largest.isfinite().all():
        cause = "every token is banned" if largest.isneginf().any() else "the model diverged"
        raise NumericalError(
            f"no token can be chosen (the largest logit is {largest.min().item()}: {cause}); "
            "loosen logit_bias and no_repeat_ngram_size, or take another checkpoint"
        )


@takes_synonyms(Strategy)
def generate(
    model: Transformer,
    ids: Sequence[int] | Tensor,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
    *,
    vocab_size: int | None = None,
    overflow: Overflow = "stop",
    **more: Any,
) -> list[int]:
    """The ids that follow the prompt `ids`, one sequence of at least one id.

    It ends after `max_tokens`, before a `stop` id, or where the context is full, unless `overflow`
    is "slide" (see `Decoder`). generator: gives the seed of the text, by default torch's own.
    vocab_size: ids at or above it are never chosen (an embedding padded past its tokenizer). more:
    further fields of `Strategy`.

    ValueError, before the first id, for a prompt that is empty, too long, or of other ids.
    From `PACK_FROM` tokens on it packs the weights anew at each call, as `TextGenerator` does once.
    `TextGenerator` takes and gives text; `generate_batch` takes several prompts.
    """
    prompt = _one_row(ids)
    if isinstance(stop, str | int):
        remedy = f"[{stop}]" if isinstance(stop, int) else "[tokenizer.token_to_id(token)]"
        raise ValueError(f"stop holds ids ({stop!r}); write stop={remedy}")
    strategy = Strategy(temperature, top_k, top_p, min_p, repetition_penalty, **more)
    [new] = generate_batch(
        model, [prompt], max_tokens, strategy, stop=stop, generator=generator,
        vocab_size=vocab_size, overflow=overflow,
    )  # fmt: skip
    return new


def _one_row(ids: Sequence[int] | Tensor) -> list[int]:
    """A prompt (seq,) or (1, seq) as a list; ValueError for anything else."""
    prompt = ids if isinstance(ids, Tensor) else as_ids(ids, torch.device("cpu"))
    if prompt.is_floating_point():
        raise ValueError(f"ids are whole numbers ({prompt.dtype}); give those of a tokenizer")
    rows = prompt[None] if prompt.dim() == 1 else prompt
    if rows.dim() != 2 or len(rows) != 1:
        raise ValueError(
            f"a prompt is one row of ids (shape {tuple(prompt.shape)}); write "
            "[generate(model, row, max_tokens) for row in ids]"
        )
    return [int(each) for each in rows[0].tolist()]


def generate_batch(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    strategy: Strategy,
    *,
    num_samples: int = 1,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
    vocab_size: int | None = None,
    overflow: Overflow = "stop",
) -> list[list[int]]:
    """`generate` for prompts of any lengths together: the new ids of each, `num_samples` times.

    Each is what it would be alone, up to rounding; its random numbers depend on its place alone.
    """
    model = transformer_of(model)
    check_prompts(prompts, max_tokens, model.config, overflow, vocab_size)
    strategy.check(vocab_size or model.config.vocab_size, max_tokens)
    # A twin that lives no longer than the call: weights may change between two calls.
    alone = len(prompts) * num_samples == 1
    twin = packed(model, repack=max_tokens >= PACK_FROM, one_row=alone)
    *_, rows = decode(
        Decoder(twin, max_tokens, overflow=overflow), prompts, strategy,
        num_samples=num_samples, stop=stop, seed=draw_seed(generator), vocab_size=vocab_size,
    )  # fmt: skip
    return [row.ids for row in rows]


def draw_seed(generator: torch.Generator | None = None) -> int:
    """The next seed that a generator gives: another at every call, the same after `manual_seed`."""
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(
            f"generator is a torch.Generator ({generator!r:.40}); give "
            "torch.Generator().manual_seed(1)"
        )
    device = None if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def transformer_of(model: nn.Module) -> Transformer:
    """The model inside `torch.compile`, DDP and the like, which decode no faster than it."""
    inner = unwrapped(model)
    if not isinstance(inner, Transformer):
        raise ValueError(
            f"only a scratchlm Transformer generates here ({type(inner).__name__}); load one with "
            "load_model"
        )
    return inner


def check_prompts(
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    config: ModelConfig,
    overflow: Overflow,
    vocab_size: int | None = None,
) -> None:
    """ValueError for what no model of this shape can continue."""
    vocab_size = config.vocab_size if vocab_size is None else vocab_size
    if not 1 <= vocab_size <= config.vocab_size:
        raise ValueError(
            f"vocab_size is from 1 to the model's {config.vocab_size} ({vocab_size}); give that of "
            "the tokenizer"
        )
    if not isinstance(max_tokens, int):
        raise ValueError(f"max_tokens is a whole number ({max_tokens!r}); give one, like 100")
    if max_tokens < 0:
        raise ValueError(f"max_tokens is at least 0 ({max_tokens}); give how many tokens to add")
    if overflow not in get_args(Overflow):
        raise ValueError(f"overflow is stop or slide ({overflow!r}); give one of them")
    if overflow == "slide" and config.context_length < 2:
        raise ValueError("a context of 1 token cannot slide (overflow slide); leave it out")
    if not prompts:
        raise ValueError("there is no prompt ([]); give one or more")
    for prompt in prompts:
        if not prompt:
            raise ValueError("a prompt is one sequence of ids, not empty ([]); give one")
        if len(prompt) > config.context_length and overflow == "stop":
            raise ValueError(
                f"the prompt is longer than the context ({len(prompt)} tokens, "
                f"{config.context_length} fit); cut it, or set overflow to slide"
            )
        for worst in (min(prompt), max(prompt)):
            if not 0 <= worst < vocab_size:
                raise ValueError(
                    f"an id of the prompt is not in the vocabulary ({worst}, of "
                    f"{vocab_size}); use the tokenizer the model was trained with"
                )
