"""`decode` is the loop that turns logits into tokens, and `generate` calls it for one prompt.

`strategies.py` chooses each token. `decoder.py` runs the model and its cache.
"""

from __future__ import annotations

import math
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
from scratchlm.model.config import ModelConfig
from scratchlm.model.transformer import Transformer, as_ids
from scratchlm.model.weight_names import unwrapped

# Packing takes as long as 5 tokens. Then each token is up to a fifth faster (124M, bf16).
PACK_FROM = 32
FinishReason = Literal["stop", "length", "context"]


class Uniforms:
    """The random numbers of one row. Each row has its own generator.

    The seed is (seed, row), so a text does not depend on the other rows of its batch. Numpy mixes
    both numbers into 128 bits. torch's generator uses 32 bits, which are too few for 10,000 rows.
    """

    def __init__(self, seed: int, row: int) -> None:
        self.bits = np.random.PCG64([seed, row])

    def next(self) -> float:
        """Return the next number in [0, 1), with 53 bits."""
        return int(self.bits.random_raw() >> 11) * 2.0**-53


@dataclass
class Continuation:
    """The ids that follow one prompt so far, without the id that stopped them.

    logprobs: the log-probability of each id, in nats, before any strategy. finish_reason: "stop" (a
    stop id or a stop string), "length" (max_tokens), "context" (no room), or None while the text
    grows.
    """

    prompt: list[int]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    score: float | None = None  # the score of a beam


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
    """Yield all continuations before the first step and after each step.

    Each prompt has `num_samples` continuations. The caller may set the `finish_reason` of a
    continuation to end it. Finished continuations leave the batch.

    `stop` and `vocab_size` are the same as in `generate`. The decoder has the model, `max_tokens`
    and `overflow`, and `strategy` has the settings of the sampling. seed, first_row: the random
    numbers of continuation i depend only on (seed, first_row + i). logprobs: whether to fill
    `Continuation.logprobs`.
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
    batch = list(range(len(rows)))  # sequence i of the decoder belongs to row batch[i]
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
    """Return whether finished rows may leave the batch.

    A compiled step has a fixed batch size. So finished rows stay in the batch until the context is
    full. Their new ids are ignored.
    """
    full = decoder.overflow == "stop" and max(decoder.lengths) >= decoder.context_length
    return decoder.compiled is None or full


def _finish(rows: Sequence[Continuation], decoder: Decoder) -> None:
    for row in rows:
        room, at_room = room_behind(row.prompt, decoder)
        if row.finish_reason is None and len(row.ids) >= room:
            row.finish_reason = at_room


def room_behind(prompt: Sequence[int], decoder: Decoder) -> tuple[int, FinishReason]:
    """Return how many ids may follow the prompt, and the limit that decides this."""
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
    """logits (..., vocab). Raise NumericalError if a row's largest logit is not finite."""
    largest = logits.amax(-1)
    if largest.isfinite().all():
        return
    worst = float(largest[~largest.isfinite()][0])
    if worst == -math.inf:
        raise NumericalError(
            f"no token can be chosen (the largest logit is {worst}: every token is banned); "
            "ban fewer ids (logit_bias, no_repeat_ngram_size, min_new_tokens)"
        )
    raise NumericalError(
        f"no token can be chosen (the largest logit is {worst}: the model diverged); use an "
        "earlier checkpoint, or train with a lower learning rate"
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
    """Return the ids that follow the prompt `ids`, which is one sequence of at least one id.

    The text ends after `max_tokens`, before a `stop` id, or at the end of the context. `overflow`
    "slide" continues after the context is full (see `Decoder`). generator: the source of the seed,
    by default torch's own generator. vocab_size: only ids below this number are chosen. Set it
    if the embedding is larger than the tokenizer. more: other fields of `Strategy`.

    Raise ValueError before the first id if the prompt is empty, is too long, or has an id that is
    not in the vocabulary. Each call for `PACK_FROM` tokens or more repacks the weights;
    `TextGenerator` repacks them once. `TextGenerator` continues text; `generate_batch` accepts
    several prompts.
    """
    prompt = _one_row(ids)
    if isinstance(stop, str | int):
        remedy = f"[{stop}]" if isinstance(stop, int) else "[tokenizer.token_to_id(token)]"
        raise ValueError(f"stop must be a list of ids ({stop!r}); write stop={remedy}")
    strategy = Strategy(temperature, top_k, top_p, min_p, repetition_penalty, **more)
    [new] = generate_batch(
        model, [prompt], max_tokens, strategy, stop=stop, generator=generator,
        vocab_size=vocab_size, overflow=overflow,
    )  # fmt: skip
    return new


def _one_row(ids: Sequence[int] | Tensor) -> list[int]:
    """ids (seq,) or (1, seq) -> a list of ids. Raise ValueError for any other value."""
    prompt = ids if isinstance(ids, Tensor) else as_ids(ids, torch.device("cpu"))
    if prompt.is_floating_point():
        raise ValueError(f"ids must be whole numbers ({prompt.dtype}); use the ids of a tokenizer")
    rows = prompt[None] if prompt.dim() == 1 else prompt
    if rows.dim() != 2 or len(rows) != 1:
        raise ValueError(
            f"a prompt must be one row of ids (shape {tuple(prompt.shape)}); write "
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
    """Return the new ids of `num_samples` texts for each prompt, all from one batch.

    The prompts may have different lengths. A text does not depend on the other texts, up to
    rounding: its random numbers depend only on its place in the batch.
    """
    model = transformer_of(model)
    check_prompts(prompts, max_tokens, model.config, overflow, vocab_size)
    strategy.check(vocab_size or model.config.vocab_size, max_tokens)
    # Each call makes a new twin, because the weights may change between two calls.
    alone = len(prompts) * num_samples == 1
    twin = packed(model, repack=max_tokens >= PACK_FROM, one_row=alone)
    *_, rows = decode(
        Decoder(twin, max_tokens, overflow=overflow), prompts, strategy,
        num_samples=num_samples, stop=stop, seed=draw_seed(generator), vocab_size=vocab_size,
    )  # fmt: skip
    return [row.ids for row in rows]


def draw_seed(generator: torch.Generator | None = None) -> int:
    """Return the generator's next seed. `manual_seed` makes the generator repeat its seeds."""
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(
            f"generator must be a torch.Generator ({generator!r:.40}); use "
            "torch.Generator().manual_seed(1)"
        )
    device = None if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def transformer_of(model: nn.Module) -> Transformer:
    """Return the model inside wrappers such as `torch.compile` and DDP.

    The wrappers do not make decoding faster.
    """
    inner = unwrapped(model)
    if not isinstance(inner, Transformer):
        raise ValueError(
            f"the model must be a scratchlm Transformer ({type(inner).__name__}); load a model "
            "with load_model"
        )
    return inner


def check_prompts(
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    config: ModelConfig,
    overflow: Overflow,
    vocab_size: int | None = None,
) -> None:
    """Raise ValueError if a model with this config cannot continue the prompts."""
    vocab_size = config.vocab_size if vocab_size is None else vocab_size
    if not 1 <= vocab_size <= config.vocab_size:
        raise ValueError(
            f"vocab_size must be from 1 to the model's {config.vocab_size} ({vocab_size}); use the "
            "tokenizer's vocab_size"
        )
    if not isinstance(max_tokens, int):
        raise ValueError(f"max_tokens must be a whole number ({max_tokens!r}); try 100")
    if max_tokens < 0:
        raise ValueError(f"max_tokens must be at least 0 ({max_tokens}); try 100")
    if overflow not in get_args(Overflow):
        raise ValueError(f"overflow must be stop or slide ({overflow!r}); use stop")
    if overflow == "slide" and config.context_length < 2:
        raise ValueError("a context of 1 token cannot slide (overflow slide); leave out overflow")
    if not prompts:
        raise ValueError("there must be at least one prompt ([]); add a prompt")
    for prompt in prompts:
        if not prompt:
            raise ValueError("a prompt must have at least one id ([]); add an id")
        if len(prompt) > config.context_length and overflow == "stop":
            raise ValueError(
                f"the prompt is longer than the context ({len(prompt)} tokens, "
                f"{config.context_length} fit); shorten the prompt, or set overflow to slide"
            )
        for worst in (min(prompt), max(prompt)):
            if not 0 <= worst < vocab_size:
                raise ValueError(
                    f"an id of the prompt is not in the vocabulary ({worst}, vocab_size "
                    f"{vocab_size}); use the tokenizer that the model was trained with"
                )
