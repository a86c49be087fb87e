"""Logits -> tokens: the strategies, each a function on logits, and the loop that calls the model.

The order is that of Hugging Face `generate`: repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from scratchlm.model.transformer import ModelConfig, Transformer
from scratchlm.tokenizer.bpe import BPETokenizer


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """logits (vocab,), seen ids (n,): l -> l / penalty where l > 0, l * penalty where l < 0.

    CTRL, Keskar et al. 2019 (arXiv 1909.05858), section 4.1.
    """
    chosen = logits[seen]
    return logits.scatter(0, seen, torch.where(chosen > 0, chosen / penalty, chosen * penalty))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """logits (vocab,): all but the k largest become -inf (Fan et al. 2018, arXiv 1805.04833)."""
    smallest_kept = logits.topk(min(k, logits.shape[-1])).values[-1]
    return logits.masked_fill(logits < smallest_kept, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """logits (vocab,): keep the fewest likeliest ids whose probabilities sum to at least p.

    Nucleus sampling, Holtzman et al. 2020 (arXiv 1904.09751). The likeliest id is always kept.
    """
    ordered, ids = logits.sort(descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    mass_before = probabilities.cumsum(-1) - probabilities
    drop = mass_before >= p
    drop[0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(0, ids, drop), -math.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """logits (vocab,): keep ids at least p times as likely as the likeliest (arXiv 2407.01082)."""
    return logits.masked_fill(logits < logits.max() + math.log(p), -math.inf)


@dataclass(frozen=True)
class Strategy:
    """How the next id is drawn; ValueError for a value out of its range.

    temperature 0 is greedy; top_k None or 0, top_p None or 1, min_p None or 0 and
    repetition_penalty 1 are off.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        temperature, penalty = self.temperature, self.repetition_penalty
        rules = [
            (0 <= temperature < math.inf, "temperature is finite and at least 0", temperature),
            (self.top_k is None or self.top_k >= 0, "top_k is at least 0 (0 is off)", self.top_k),
            (self.top_p is None or 0 <= self.top_p <= 1, "top_p is from 0 to 1", self.top_p),
            (self.min_p is None or 0 <= self.min_p <= 1, "min_p is from 0 to 1", self.min_p),
            (0.01 <= penalty <= 100, "repetition_penalty is from 0.01 to 100 (1 is off)", penalty),
        ]
        for holds, rule, value in rules:
            if not holds:
                raise ValueError(f"{rule} ({value}); give a value in that range")

    def draw(self, logits: Tensor, seen: Tensor, generator: torch.Generator | None = None) -> int:
        """One id from logits (vocab,), after the ids `seen` (n,)."""
        if self.repetition_penalty != 1:
            logits = penalize_repetition(logits, seen, self.repetition_penalty)
        if self.temperature == 0:
            return int(logits.argmax())
        logits = (logits - logits.max()) / self.temperature  # no temperature overflows them
        if self.top_k:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None and self.top_p < 1:
            logits = keep_top_p(logits, self.top_p)
        if self.min_p:
            logits = keep_min_p(logits, self.min_p)
        return int(torch.multinomial(logits.softmax(-1), 1, generator=generator))


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
) -> list[int]:
    """The ids that follow the prompt `ids`: `stream`, with the `Strategy` spelled out."""
    strategy = Strategy(temperature, top_k, top_p, min_p, repetition_penalty)
    return list(stream(model, ids, max_tokens, strategy, stop=stop, generator=generator))


def stream(
    model: Transformer,
    ids: Sequence[int] | Tensor,
    max_tokens: int,
    strategy: Strategy,
    *,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
    vocab_size: int | None = None,
) -> Iterator[int]:
    """Yield new ids, each as it is drawn, until `max_tokens`, a stop id, or a full context.

    ids: the prompt, one sequence of at least one id. The id that stops is not yielded.
    generator: draws on the CPU, so that a seed gives one text on every device.
    vocab_size: ids at or above it are never drawn (an embedding padded past its tokenizer).
    ValueError, before the first id, for a prompt that is empty, too long, or of other ids.
    """
    prompt = torch.as_tensor(ids, dtype=torch.long)
    _check(prompt, max_tokens, model.config)
    return _stream(model, prompt, max_tokens, strategy, set(stop), generator, vocab_size)


def _stream(
    model: Transformer,
    seen: Tensor,
    max_tokens: int,
    strategy: Strategy,
    stop: set[int],
    generator: torch.Generator | None,
    vocab_size: int | None,
) -> Iterator[int]:
    device = model.embedding.weight.device
    new = seen
    with _evaluating(model):
        cache = model.new_cache(1)
        for _ in range(min(max_tokens, model.config.context_length - len(seen))):
            with torch.inference_mode():
                logits = model(new[None].to(device), cache=cache)[0, -1]
                drawn = strategy.draw(logits.float().cpu()[:vocab_size], seen, generator)
            if drawn in stop:
                return
            yield drawn
            new = torch.tensor([drawn])
            seen = torch.cat([seen, new])


def text_pieces(ids: Iterable[int], tokenizer: BPETokenizer) -> Iterator[str]:
    """The text of a stream of ids, in pieces that never cut a character.

    A token may end in the middle of a UTF-8 sequence: its bytes wait for the next. What is left at
    the end, or is not UTF-8, becomes U+FFFD, as in `tokenizer.decode`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for each in ids:
        if piece := decoder.decode(tokenizer.decode_bytes([each])):
            yield piece
    if piece := decoder.decode(b"", final=True):
        yield piece


@contextmanager
def _evaluating(model: Transformer) -> Iterator[None]:
    """Without dropout, and back to the mode it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _check(prompt: Tensor, max_tokens: int, config: ModelConfig) -> None:
    if max_tokens < 0:
        raise ValueError(f"max_tokens is at least 0 ({max_tokens}); give how many tokens to add")
    if prompt.dim() != 1 or not prompt.numel():
        shape = tuple(prompt.shape)
        raise ValueError(f"a prompt is one sequence of ids, not empty (shape {shape}); give one")
    if len(prompt) > config.context_length:
        raise ValueError(
            f"the prompt is longer than the context ({len(prompt)} tokens, "
            f"{config.context_length} fit); cut it"
        )
    for worst in (int(prompt.min()), int(prompt.max())):
        if not 0 <= worst < config.vocab_size:
            raise ValueError(
                f"an id of the prompt is not in the vocabulary ({worst}, of "
                f"{config.vocab_size}); use the tokenizer the model was trained with"
            )
