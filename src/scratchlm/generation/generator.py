"""`TextGenerator` continues texts. It keeps a model and its tokenizer ready for many prompts.

writer = TextGenerator.load("runs/shakespeare")
writer.generate("ROMEO:", max_tokens=50, temperature=0.8)
for piece in writer.stream("ROMEO:"): print(piece, end="", flush=True)
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from tqdm import tqdm

from scratchlm.checkpoint.models import load_with_tokenizer
from scratchlm.config import takes_synonyms
from scratchlm.devices.runtime import resolve_device
from scratchlm.files.paths import StrPath
from scratchlm.generation.beam import Beams, beam_search
from scratchlm.generation.decoder import CompiledStep, Decoder, Overflow
from scratchlm.generation.low_precision import Weights, packed
from scratchlm.generation.sampling import (
    Continuation,
    check_prompts,
    decode,
    draw_seed,
    transformer_of,
)
from scratchlm.generation.speculative import speculate
from scratchlm.generation.strategies import Strategy
from scratchlm.generation.text_stream import check_stop, with_text
from scratchlm.model.kv_cache import REWIND
from scratchlm.model.transformer import Transformer
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.chat_template import ChatTemplate
from scratchlm.tokenizer.start_and_end_ids import check_ids, default_end_ids

Compile = Literal["auto", "on", "off"]
COMPILE_FROM = 1_000  # tokens; for fewer tokens, compiling takes longer than it saves


@dataclass(frozen=True)
class Completion:
    """The text that the model wrote after a prompt.

    text: the text before a stop string. ids: all ids that the model chose. logprobs: the ids'
    log-probabilities in nats, before any strategy, if the caller requested them. score: the score
    of a beam, otherwise None. seconds: the time until the last token.
    """

    prompt: str
    text: str
    ids: list[int]
    logprobs: list[float]
    finish_reason: str
    score: float | None
    seconds_to_first_token: float
    seconds: float


@dataclass(frozen=True)
class _Job:
    """The arguments of one call of `TextGenerator.complete`."""

    prompts: list[list[int]]
    max_tokens: int
    num_samples: int
    stop: Sequence[str]
    overflow: Overflow
    logprobs: bool
    strategy: Strategy
    stop_ids: Sequence[int]
    first_row: int = 0


@takes_synonyms()
class TextGenerator:
    """A model that is ready to generate: on its device, with repacked weights.

    model: the generator moves the model to the device and keeps a packed copy. Make a new generator
    after you change the weights. device: by default the model's device. end_ids: ids that end a
    text (`<|endoftext|>`). start_ids: ids that begin a prompt. template: the name of the chat
    template that the model was trained with, for a chat. weights: "stored", or "int8", which
    takes a quarter of the bytes of fp32 (`generation.low_precision`). compile: "auto" compiles on
    CUDA for 1,000 tokens or more; on a CPU, compiling never saved time. draft_model: a smaller
    model with the same tokenizer, which guesses `num_draft` tokens at a time.

    Invalid arguments raise ValueError before the first token.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: BPETokenizer,
        device: str | torch.device | None = None,
        *,
        end_ids: Sequence[int] | None = None,
        start_ids: Sequence[int] = (),
        template: str | None = None,
        weights: Weights = "stored",
        compile: Compile = "auto",
        draft_model: Transformer | None = None,
        num_draft: int = 4,
    ) -> None:
        if compile not in get_args(Compile):
            raise ValueError(f"compile must be auto, on or off ({compile!r}); use auto")
        if not 1 <= num_draft <= 100:
            raise ValueError(f"num_draft must be from 1 to 100 ({num_draft}); try 4")
        self.end_ids = default_end_ids(tokenizer) if end_ids is None else list(end_ids)
        self.start_ids = list(start_ids)
        self.template = None if template is None else ChatTemplate(template, tokenizer)
        model = transformer_of(model)
        check_ids(tokenizer, self.end_ids, self.start_ids, model.config.vocab_size)
        place = model.embedding.weight.device if device is None else resolve_device(str(device))
        self.model = packed(model.to(place), weights, repack=compile != "on")
        self.draft = None
        if draft_model is not None:
            draft_model = transformer_of(draft_model)
            check_ids(tokenizer, (), (), draft_model.config.vocab_size, "draft model")
            self.draft = packed(draft_model.to(place), weights)
            windows = {model.config.window, draft_model.config.window}
            if windows != {None} and num_draft > REWIND:
                raise ValueError(
                    f"num_draft must be at most {REWIND} for models with a window ({num_draft}); "
                    "decrease num_draft"
                )
        self.num_draft = num_draft
        self.tokenizer = tokenizer
        # A tokenizer may skip numbers. No token has these ids.
        self.holes = {i: -math.inf for i in range(len(tokenizer)) if i not in tokenizer.vocab}
        self.compile = compile
        self._compiled = CompiledStep(self.model) if compile == "on" else None

    @classmethod
    def load(
        cls,
        path: StrPath,
        tokenizer_path: StrPath | None = None,
        device: str = "auto",
        *,
        dtype: torch.dtype | None = None,
        draft_path: StrPath | None = None,
        **more: Any,
    ) -> TextGenerator:
        """Load a run, a checkpoint, a `.pt` file, or a Hugging Face folder.

        dtype: the weights' dtype, by default the stored dtype. more: other arguments of the class.
        Raise ValueError if the draft model has another tokenizer.
        """
        place = resolve_device(device)
        loaded = load_with_tokenizer(path, tokenizer_path)
        if draft_path is not None:
            draft = load_with_tokenizer(draft_path, tokenizer_path)
            if draft.tokenizer.hash != loaded.tokenizer.hash:
                raise ValueError(
                    f"the draft model must have the model's tokenizer ({draft_path}); use another "
                    "draft model"
                )
            more["draft_model"] = draft.model.to(dtype=dtype)
        return cls(
            loaded.model.to(dtype=dtype),
            loaded.tokenizer,
            place,
            end_ids=loaded.end_ids,
            start_ids=loaded.start_ids,
            template=loaded.template,
            **more,
        )

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prompt. Each special token in the prompt becomes one id.

        An empty prompt starts a new document.
        """
        ids = self.start_ids + self.tokenizer.encode(prompt) or self.end_ids[:1]
        if not ids:
            raise ValueError("the prompt is empty (''), and there is no start token; write a text")
        return ids

    @takes_synonyms()
    def generate(self, prompt: str, max_tokens: int = 100, **how: Any) -> str:
        """Return the text that follows the prompt. how: other arguments of `complete`."""
        return self.complete([prompt], max_tokens, **how)[0].text

    @takes_synonyms()
    def stream(self, prompt: str, max_tokens: int = 100, **how: Any) -> Iterator[str]:
        """Yield the text that follows the prompt in pieces of whole characters.

        how: other arguments of `steps`.
        """
        steps = self.steps(self.encode(prompt), max_tokens, **how)
        return (piece for piece, _ in steps if piece)

    @takes_synonyms(Strategy)
    def steps(
        self,
        ids: Sequence[int],
        max_tokens: int,
        *,
        stop: str | Sequence[str] = (),
        overflow: Overflow = "stop",
        logprobs: bool = False,
        generator: torch.Generator | None = None,
        stop_ids: Sequence[int] = (),
        row: int = 0,
        **strategy: Any,
    ) -> Iterator[tuple[str, Continuation]]:
        """After each step, yield the new piece of text, and the continuation so far.

        The piece is empty while a character is incomplete. With the same seed, the text equals
        text number `row` of a batch.
        """
        how, whole = self._strategy(strategy), [int(id) for id in ids]
        job = _Job([whole], max_tokens, 1, _listed(stop), overflow, logprobs, how, stop_ids, row)
        [batch] = self._batches(job, generator)
        return ((piece, row) for [piece], [row] in with_text(batch, self.tokenizer, job.stop))

    @takes_synonyms(Strategy)
    def complete(
        self,
        prompts: str | Sequence[str],
        max_tokens: int = 100,
        *,
        num_samples: int = 1,
        stop: str | Sequence[str] = (),
        beams: Beams | None = None,
        overflow: Overflow = "stop",
        logprobs: bool = False,
        generator: torch.Generator | None = None,
        stop_ids: Sequence[int] = (),
        progress: bool = False,
        **strategy: Any,
    ) -> list[Completion]:
        """Return `num_samples` texts for each prompt, in order, all from one batch.

        strategy: fields of `Strategy`. stop: strings that end a text. stop_ids: ids that end a
        text, in addition to end_ids. beams: settings of a beam search, which finds the num_samples
        best texts instead of sampling. overflow: see `Decoder`. generator: the source of the seed,
        by default torch's own generator. progress: True shows a progress bar.
        """
        prompts, stop = _listed(prompts), _listed(stop)
        ids = [self.encode(prompt) for prompt in prompts]
        how = self._strategy(strategy)
        job = _Job(ids, max_tokens, num_samples, stop, overflow, logprobs, how, stop_ids)
        batches = self._batches(job, generator) if beams is None else self._searches(job, beams)
        done: list[tuple[str, Continuation, float, float]] = []
        for batch in batches:
            done += self._collect(with_text(batch, self.tokenizer, stop), max_tokens, progress)
        named = [prompt for prompt in prompts for _ in range(num_samples)]
        return [
            Completion(
                prompt, text, row.ids, row.logprobs, row.finish_reason or "", row.score, *times
            )
            for prompt, (text, row, *times) in zip(named, done, strict=True)
        ]

    def _batches(
        self, job: _Job, generator: torch.Generator | None
    ) -> list[Iterator[list[Continuation]]]:
        """Return one batch for all texts, or with a draft model one batch for each text."""
        self._check(job)
        common: dict[str, Any] = {
            "stop": [*self.end_ids, *job.stop_ids],
            "seed": draw_seed(generator),
            "vocab_size": len(self.tokenizer),
            "logprobs": job.logprobs,
        }
        if self.draft is None:
            decoder = self._decoder(job, len(job.prompts) * job.num_samples)
            how = {"num_samples": job.num_samples, "first_row": job.first_row, **common}
            return [decode(decoder, job.prompts, job.strategy, **how)]
        if job.overflow == "slide":
            raise ValueError(
                "a draft model cannot slide the context (overflow slide); "
                "leave out the draft model or overflow"
            )
        each = [prompt for prompt in job.prompts for _ in range(job.num_samples)]
        large, small = self.model, self.draft
        pairs = [(Decoder(large, job.max_tokens), Decoder(small, job.max_tokens)) for _ in each]
        common["num_draft"] = self.num_draft
        return [
            speculate(*pair, prompt, job.strategy, first_row=row, **common)
            for row, (pair, prompt) in enumerate(zip(pairs, each, strict=True), job.first_row)
        ]

    def _searches(self, job: _Job, beams: Beams) -> list[Iterator[list[Continuation]]]:
        """Return one search for each prompt."""
        self._check(job)
        beams.check(job.strategy, job.num_samples)
        if job.stop:
            raise ValueError(
                f"beam search does not accept stop strings (stop {job.stop[0]!r}); use stop ids"
            )
        if self.draft is not None:
            raise ValueError(
                "beam search does not accept a draft model (draft_model); leave out the draft model"
            )
        how: dict[str, Any] = {"num_return": job.num_samples, "vocab_size": len(self.tokenizer)}
        how["stop"] = [*self.end_ids, *job.stop_ids]
        return [
            beam_search(self._decoder(job, beams.num_beams), prompt, beams, job.strategy, **how)
            for prompt in job.prompts
        ]

    def _strategy(self, fields: dict[str, Any]) -> Strategy:
        how = Strategy(**fields)
        return replace(how, logit_bias=how.logit_bias | self.holes) if self.holes else how

    def _check(self, job: _Job) -> None:
        vocab_size = len(self.tokenizer)
        check_prompts(job.prompts, job.max_tokens, self.model.config, job.overflow, vocab_size)
        job.strategy.check(len(self.tokenizer), job.max_tokens)
        check_stop(job.stop, job.stop_ids, len(self.tokenizer))
        if not 1 <= job.num_samples <= 10_000:
            raise ValueError(f"num_samples must be from 1 to 10,000 ({job.num_samples}); try 1")

    def _decoder(self, job: _Job, rows: int) -> Decoder:
        worth_it = self.model.embedding.weight.is_cuda and job.max_tokens * rows >= COMPILE_FROM
        if self.compile == "auto" and worth_it and self.model.config.window is None:
            self._compiled = self._compiled or CompiledStep(self.model)
        compiled = self._compiled if self.compile == "on" or worth_it else None
        return Decoder(self.model, job.max_tokens, overflow=job.overflow, compiled=compiled)

    def _collect(
        self,
        written: Iterator[tuple[list[str], list[Continuation]]],
        max_tokens: int,
        progress: bool,
    ) -> list[tuple[str, Continuation, float, float]]:
        """Run all steps, and return each text, its continuation, and two times.

        The times are the seconds until the first and until the last token.
        """
        start, first = time.perf_counter(), 0.0
        texts: list[str] = []
        rows: list[Continuation] = []
        with tqdm(total=max_tokens, unit="token", disable=not progress, leave=False) as bar:
            for pieces, rows in written:
                texts = texts or [""] * len(pieces)
                texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
                longest = max(len(row.ids) for row in rows)
                first = first or (time.perf_counter() - start if longest else 0.0)
                bar.update(longest - bar.n)
        last = time.perf_counter() - start
        return [(text, row, first, last) for text, row in zip(texts, rows, strict=True)]


@takes_synonyms()
def stream(
    model: Transformer, tokenizer: BPETokenizer, prompt: str, max_tokens: int = 100, **how: Any
) -> Iterator[str]:
    """Yield the text that a model writes after one prompt. It calls `TextGenerator.stream`."""
    return TextGenerator(model, tokenizer).stream(prompt, max_tokens, **how)


def _listed(texts: str | Sequence[str]) -> Sequence[str]:
    return [texts] if isinstance(texts, str) else texts
