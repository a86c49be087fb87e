"""Beam search looks for the likeliest whole texts, not for the likeliest next token.

The search follows the rules of Hugging Face `generate`. Each step extends every running beam by
every token. The candidates are the max(2, 1 + number of stop ids) · num_beams extensions with the
highest sums of log-probabilities. At least num_beams of these candidates do not end at a stop id. A
candidate ends at a stop id or at max_tokens. If a candidate that ends is among the first num_beams,
it is kept as a finished text. The best candidates that did not end become the running beams. The
score of a finished text is

    (sum of log-probabilities) / (number of new ids, the stop id included) ^ length_penalty

The search is from Graves 2012 (arXiv 1211.3711). The penalty is from Wu et al. 2016 (arXiv
1609.08144).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from scratchlm.config import takes_synonyms
from scratchlm.generation.decoder import Decoder
from scratchlm.generation.sampling import Continuation, FinishReason, require_finite, room_behind
from scratchlm.generation.strategies import Strategy


@takes_synonyms()
@dataclass(frozen=True)
class Beams:
    """The settings of a beam search. Raise ValueError for a value outside its range.

    early_stopping: True ends the search when there are num_beams finished texts. False also waits
    until the best running beam has no better score than the worst of these texts. The score uses
    the beam's present length. "never" uses the length that is best for the beam: max_tokens if
    length_penalty is positive.
    """

    num_beams: int = 4
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        if not 1 <= self.num_beams <= 1000:
            raise ValueError(f"num_beams must be from 1 to 1000 ({self.num_beams}); try 4")
        if not -20 <= self.length_penalty <= 20:
            raise ValueError(
                f"length_penalty must be from -20 to 20 ({self.length_penalty}); use 1 to compare "
                "means, a larger value for longer texts, or a smaller value for shorter texts"
            )
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(
                f"early_stopping must be true, false or never ({self.early_stopping}); use false"
            )

    def check(self, strategy: Strategy, num_return: int) -> None:
        """Raise ValueError if `strategy` samples, or if `num_return` is not in 1..num_beams."""
        if strategy.samples:
            name, value = strategy.samples
            raise ValueError(
                f"beam search does not sample ({name} {value}); leave out {name} or num_beams"
            )
        if not 1 <= num_return <= self.num_beams:
            raise ValueError(
                f"beam search can return from 1 to num_beams texts ({num_return}, num_beams "
                f"{self.num_beams}); increase num_beams"
            )


class _Beam(NamedTuple):
    """A running beam.

    total: the sum of log-probabilities after the penalties. ids: the new ids. logprobs: the
    log-probabilities of the new ids before the penalties.
    """

    total: float
    ids: list[int]
    logprobs: list[float]

    def continuation(
        self, prompt: Sequence[int], reason: FinishReason, score: float
    ) -> Continuation:
        return Continuation(list(prompt), self.ids, self.logprobs, reason, score)


def beam_search(
    decoder: Decoder,
    prompt: Sequence[int],
    beams: Beams,
    strategy: Strategy,
    *,
    num_return: int = 1,
    stop: Sequence[int] = (),
    vocab_size: int | None = None,
) -> Iterator[list[Continuation]]:
    """Yield one list: the `num_return` best texts, best first, with their scores.

    It is a generator because callers use it in place of `sampling.decode`.

    The fields of `strategy` before the temperature change the log-probabilities. The search does
    not normalize the changed values. It reorders the cache with the beams and never recomputes it.
    """
    room, at_room = room_behind(prompt, decoder)
    if room <= 0:
        yield [Continuation(list(prompt), finish_reason=at_room) for _ in range(num_return)]
        return

    width = beams.num_beams
    running = [_Beam(0.0, [], [])]
    finished: list[tuple[float, Continuation]] = []  # (score, text), best first
    logits = decoder.prefill([prompt])
    for length in range(1, room + 1):
        plain = log_p = logits[:, :vocab_size].float().log_softmax(-1)
        if strategy.looks_back:
            each = zip(log_p, running, strict=True)
            log_p = torch.stack([strategy.penalize(x, prompt, b.ids, stop) for x, b in each])
        require_finite(log_p.flatten())  # at least one beam must have an allowed token
        sums = torch.tensor([beam.total for beam in running], device=log_p.device)
        totals = (log_p + sums[:, None]).flatten()
        count = min(max(2, 1 + len(stop)) * width, len(totals))
        best, places = totals.topk(count)
        columns = (best.tolist(), places.tolist(), plain.flatten()[places].tolist())
        origins: list[int] = []
        going: list[_Beam] = []
        for rank, (total, place, log_prob) in enumerate(zip(*columns, strict=True)):
            origin, id = divmod(place, log_p.shape[-1])
            beam = running[origin]
            longer = _Beam(total, [*beam.ids, id], [*beam.logprobs, log_prob])
            if id in stop or length == room:
                if rank < width and total > -math.inf:
                    score = total / length**beams.length_penalty
                    whole = beam if id in stop else longer
                    reason: FinishReason = "stop" if id in stop else at_room
                    finished.append((score, whole.continuation(prompt, reason, score)))
            elif len(going) < width:
                going.append(longer)
                origins.append(origin)
        finished = sorted(finished, key=lambda scored: -scored[0])[:width]
        scores = [score for score, _ in finished]
        if not going or _settled(beams, scores, going[0].total, length, room):
            break
        running = going
        decoder.select(origins)
        logits = decoder.step([beam.ids[-1] for beam in running])
    if len(finished) < num_return:
        raise ValueError(
            f"beam search found too few texts ({len(finished)} of {num_return}); request fewer "
            "texts, or ban fewer ids"
        )
    yield [text for _, text in finished[:num_return]]


def _settled(beams: Beams, scores: list[float], best: float, length: int, room: int) -> bool:
    """Return whether the search may end.

    scores: the scores of the finished texts, best first. best: the largest sum of a running beam.
    """
    if len(scores) < beams.num_beams:
        return False
    if beams.early_stopping is True:
        return True
    if beams.early_stopping == "never" and beams.length_penalty > 0:
        length = room
    return best / length**beams.length_penalty <= scores[-1]
