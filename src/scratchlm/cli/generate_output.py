"""Generate texts by the flags of `scratchlm-generate`, and write them in several formats."""

from __future__ import annotations

import json
import math
import random
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch

from scratchlm.generation.beam import Beams
from scratchlm.generation.generator import Completion, TextGenerator
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.inspection import CONTROLS, printable
from scratchlm.tokenizer.playground.page import painted, visible

_SHADES = (210, 216, 222, 228, 192, 157)  # from improbable to certain, for `painted`


def beams(args: Namespace) -> Beams | None:
    if args.num_beams is None:
        return None
    names = ("num_beams", "length_penalty", "early_stopping")
    return Beams(**{name: v for name in names if (v := getattr(args, name)) is not None})


def dtype(args: Namespace) -> torch.dtype | None:
    return None if args.dtype == "stored" else getattr(torch, args.dtype)


def seed(args: Namespace) -> int:
    """Return the given seed, or a random seed. --json shows the seed."""
    return random.SystemRandom().randrange(2**32) if args.seed is None else args.seed


def stream(
    writer: TextGenerator, prompts: Sequence[str], args: Namespace, seed: int, how: dict[str, Any]
) -> None:
    """Write each text while the model generates it. `complete` returns the same texts."""
    each = [prompt for prompt in prompts for _ in range(args.num_samples)]
    begun = [  # this checks all prompts before the first text is written
        writer.steps(
            writer.encode(prompt),
            args.max_tokens,
            generator=torch.Generator().manual_seed(seed),
            row=row,
            **how,
        )
        for row, prompt in enumerate(each)
    ]
    for row, (prompt, steps) in enumerate(zip(each, begun, strict=True)):
        _head(row + 1, len(each))
        print(_shown(prompt), end="", flush=True)
        try:
            for piece, text in steps:
                print(_shown(piece), end="", flush=True)
                reason, count = text.finish_reason, len(text.ids)
        finally:  # also after Ctrl-C
            print()
        _say_where_it_ended(reason, count, args.max_tokens)


def complete(
    writer: TextGenerator,
    prompts: Sequence[str],
    args: Namespace,
    seed: int,
    beams: Beams | None,
    how: dict[str, Any],
) -> list[Completion]:
    """Generate all texts together, with a progress bar on a terminal."""
    done = writer.complete(
        prompts,
        args.max_tokens,
        num_samples=args.num_samples,
        beams=beams,
        logprobs=args.json or args.show_tokens,
        generator=torch.Generator().manual_seed(seed),
        progress=sys.stderr.isatty(),
        **how,
    )
    for each in done:
        _say_where_it_ended(each.finish_reason, len(each.ids), args.max_tokens)
    return done


def write_texts(done: Sequence[Completion]) -> None:
    for number, each in enumerate(done, start=1):
        _head(number, len(done), each.score)
        print(_shown(each.prompt + each.text))


def write_json(done: Sequence[Completion], tokenizer: BPETokenizer, seed: int) -> None:
    """Write one JSON object per line.

    `tokens` are the texts of `ids`, with U+FFFD for an incomplete character. `logprobs` are the
    model's log-probabilities in nats, before any strategy. The seconds and the tokens per second
    belong to all texts that were generated together.
    """
    for each in done:
        together = sum(len(other.ids) for other in done if other.seconds == each.seconds)
        record = {
            "prompt": each.prompt,
            "text": each.text,
            "finish_reason": each.finish_reason,
            "ids": each.ids,
            "tokens": [tokenizer.decode([id]) for id in each.ids],
            "logprobs": [round(value, 6) for value in each.logprobs],
            "seed": seed,
            "seconds_to_first_token": round(each.seconds_to_first_token, 6),
            "seconds": round(each.seconds, 6),
            "tokens_per_second": round(together / each.seconds, 3) if each.seconds else 0.0,
        }
        print(json.dumps(record if each.score is None else record | {"score": each.score},
                         ensure_ascii=False))  # fmt: skip


def write_tokens(done: Sequence[Completion], tokenizer: BPETokenizer, *, coloured: bool) -> None:
    """Write every token with its probability: as a colour, or as `token(0.53)` without colours."""
    if coloured:
        scale = "".join(_shaded(f" {i / 6:.2f}+ ", i / 6) for i in range(6))
        print(f"probability: {scale}")
    for number, each in enumerate(done, start=1):
        _head(number, len(done), each.score)
        tokens = [visible(tokenizer.vocab[id]) for id in each.ids]
        pairs = list(zip(tokens, map(math.exp, each.logprobs), strict=True))
        if coloured:
            print(visible(each.prompt.encode()) + "".join(_shaded(*pair) for pair in pairs))
        else:
            print(visible(each.prompt.encode()), *(f"{token}({p:.2f})" for token, p in pairs))


def _shaded(token: str, probability: float) -> str:
    return painted(token, _SHADES[min(int(probability * len(_SHADES)), len(_SHADES) - 1)])


def _shown(text: str) -> str:
    """Return the text to print. On a terminal, replace the control characters in it."""
    return printable(text, CONTROLS) if sys.stdout.isatty() else text


def _say_where_it_ended(finish_reason: str | None, count: int, max_tokens: int) -> None:
    """Print a line on standard error if the context had no room for all requested tokens."""
    if finish_reason == "context":
        print(
            f"the context was full after {count} of {max_tokens} tokens; to continue, add "
            "--overflow slide",
            file=sys.stderr,
        )


def _head(number: int, total: int, score: float | None = None) -> None:
    if total > 1 or score is not None:
        print(f"--- {number} of {total}" + ("" if score is None else f", score {score:.4f}"))
