"""Speculative decoding: a small model drafts tokens, and the large model checks them in one pass.

The draft model samples an id x from its distribution q. The large model has the distribution p, and
keeps x with probability min(1, p(x) / q(x)). If it rejects x, the next id is sampled from
max(p - q, 0), normalized. The other drafted ids are dropped. The result has the distribution p for
every draft model. A better draft model only makes decoding faster.  Leviathan et al. 2022 (arXiv
2211.17192, algorithm 1)

The strategy is part of p and q. Greedy decoding puts all mass on one id. Its text is the same as
the text of the large model alone, up to the rounding of a pass over several tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from scratchlm.generation.decoder import Decoder
from scratchlm.generation.sampling import Continuation, Uniforms, require_finite, room_behind
from scratchlm.generation.strategies import Strategy, draw


def speculate(
    decoder: Decoder,
    draft: Decoder,
    prompt: Sequence[int],
    strategy: Strategy,
    *,
    num_draft: int = 4,
    stop: Sequence[int] = (),
    seed: int = 0,
    first_row: int = 0,
    vocab_size: int | None = None,
    logprobs: bool = False,
) -> Iterator[list[Continuation]]:
    """Yield the same as `sampling.decode` for one prompt. `draft` makes decoding faster.

    draft: a smaller model with the same vocabulary. num_draft: how many ids the draft guesses
    before each check. Neither decoder may slide (`overflow` "stop"). When the draft's context is
    full, the large model continues alone.
    """
    text = Continuation(list(prompt))
    uniforms = Uniforms(seed, first_row)

    def distribution(logits: Tensor, drafted: Sequence[int]) -> Tensor:
        """logits (vocab,) after the text and `drafted` -> probabilities (vocab,)."""
        logits = logits[:vocab_size].float()
        logits = strategy.penalize(logits, text.prompt, [*text.ids, *drafted], stop)
        require_finite(logits)
        if strategy.greedy:
            return torch.zeros_like(logits).scatter(0, logits.argmax(0, keepdim=True), 1.0)
        return strategy.filter(logits).softmax(-1)

    room, at_room = room_behind(prompt, decoder)
    text.finish_reason = at_room if room <= 0 else None
    yield [text]
    logits = torch.empty(0)
    while text.finish_reason is None:
        whole = [*text.prompt, *text.ids]
        count = min(num_draft, room - len(text.ids) - 1, draft.context_length - len(whole) + 1)
        drafted: list[int] = []
        guesses: list[Tensor] = []
        while len(drafted) < count:
            unread = [*whole, *drafted][len(draft.ids[0]) if draft.ids else 0 :]
            ahead = draft.extend([unread])[0, -1] if draft.ids else draft.prefill([unread])[0]
            guesses.append(distribution(ahead, drafted))
            drafted.append(_draw(guesses[-1], uniforms))
        # One pass of the large model checks all drafted ids and adds one more id.
        if not decoder.ids:
            logits = decoder.prefill([whole])
            logits = torch.cat((logits, decoder.extend([drafted])[0])) if drafted else logits
        else:
            logits = decoder.extend([[whole[-1], *drafted]])[0]
        kept, last = judge(logits, drafted, guesses, distribution, uniforms)
        decoder.rewind(len(drafted) - kept)
        if draft.ids:
            draft.rewind(max(0, len(draft.ids[0]) - len(whole) - kept))

        for place, id in enumerate([*drafted[:kept], last]):
            if id in stop:
                text.finish_reason = "stop"
            else:
                text.ids.append(id)
                if logprobs:
                    text.logprobs.append(
                        float(logits[place, :vocab_size].float().log_softmax(-1)[id])
                    )
                if len(text.ids) == room:
                    text.finish_reason = at_room
            yield [text]
            if text.finish_reason is not None:
                return


def judge(
    logits: Tensor,
    drafted: Sequence[int],
    guesses: Sequence[Tensor],
    distribution: Callable[[Tensor, Sequence[int]], Tensor],
    uniforms: Uniforms,
) -> tuple[int, int]:
    """logits (1 + drafted, vocab) -> how many drafted ids are kept, and the id after them.

    `guesses` contains the distribution q of each drafted id, and `distribution` returns p.
    """
    for place, (id, q) in enumerate(zip(drafted, guesses, strict=True)):
        p = distribution(logits[place], drafted[:place])
        if uniforms.next() * float(q[id]) >= float(p[id]):
            rest = (p - q).clamp(min=0)
            if not rest.any():  # p = q up to rounding
                rest = p
            return place, _draw(rest, uniforms)
    return len(drafted), _draw(distribution(logits[len(drafted)], drafted), uniforms)


def _draw(weights: Tensor, uniforms: Uniforms) -> int:
    """weights (vocab,), all at least 0 -> an id, sampled in proportion to its weight."""
    return int(draw(weights.log(), torch.tensor(uniforms.next(), dtype=torch.float64)))
