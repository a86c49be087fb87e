"""Each strategy for choosing the next token is a pure function on logits.

A strategy maps logits (..., vocab) float -> (..., vocab). A strategy that depends on earlier ids
needs one sequence: logits (vocab,) and ids (n,). An id that must not be chosen gets -inf.
`docs/sampling.md` shows what each strategy does to a distribution. `Strategy` applies the
functions in the order of this file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scratchlm.config import takes_synonyms

CANDIDATES = 256  # a nucleus is first searched among this many likeliest ids


def bias_logits(logits: Tensor, bias: Mapping[int, float]) -> Tensor:
    """logits (..., vocab): l_i + bias_i for each id i in `bias`."""
    ids = torch.tensor(list(bias), device=logits.device)
    added = torch.tensor(list(bias.values()), dtype=logits.dtype, device=logits.device)
    return logits.index_add(-1, ids, added.expand(*logits.shape[:-1], -1))


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """logits (vocab,), seen ids (n,): l -> l / penalty where l > 0, l * penalty where l < 0.

    `seen`: the ids of the prompt and of the text after it.  CTRL, Keskar et al. 2019 (arXiv
    1909.05858, 4.1).
    """
    chosen = logits[seen]
    return logits.scatter(0, seen, torch.where(chosen > 0, chosen / penalty, chosen * penalty))


def penalize_presence(logits: Tensor, new: Tensor, penalty: float) -> Tensor:
    """logits (vocab,), new ids (n,) without the prompt: l - penalty for each id that occurs.

    This formula and the formula of `penalize_frequency` are from OpenAI's API reference.
    """
    return logits.index_put((new,), logits[new] - penalty)


def penalize_frequency(logits: Tensor, new: Tensor, penalty: float) -> Tensor:
    """logits (vocab,), new ids (n,) without the prompt: l - penalty · (how often the id occurs)."""
    return logits.index_add(0, new, torch.full_like(new, -penalty, dtype=logits.dtype))


def ban_repeated_ngrams(logits: Tensor, seen: Sequence[int], size: int) -> Tensor:
    """logits (vocab,), all ids so far: no run of `size` ids occurs twice.

    It bans each id that would complete a run that occurred before.  Paulus et al. 2017 (arXiv
    1705.04304, 2.5).
    """
    start = tuple(seen[len(seen) - size + 1 :]) if size > 1 else ()
    ends = [
        seen[i + size - 1]
        for i in range(len(seen) - size + 1)
        if tuple(seen[i : i + size - 1]) == start
    ]
    return ban(logits, ends)


def ban(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """logits (..., vocab): these ids become -inf."""
    return logits.index_fill(
        -1, torch.tensor(list(ids), dtype=torch.long).to(logits.device), -math.inf
    )


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """logits (..., vocab): l / T, which sharpens p to p^(1/T) for T below 1 and flattens it above.

    Ackley, Hinton and Sejnowski 1985. The largest logit is subtracted first. This changes no
    probability. The largest logit is then 0, so even a tiny T does not make all logits infinite.
    """
    return (logits - logits.amax(-1, keepdim=True)) / max(temperature, 2**-149)  # the smallest fp32


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """logits (..., vocab): all but the k largest become -inf.

    Fan et al. 2018 (arXiv 1805.04833).
    """
    smallest_kept = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < smallest_kept, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """logits (..., vocab): keep the fewest likeliest ids whose probabilities sum to at least p.

    Nucleus sampling, Holtzman et al. 2020 (arXiv 1904.09751). The likeliest id is always kept.
    """
    ordered, ids = logits.sort(descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    mass_before = probabilities.cumsum(-1) - probabilities
    drop = mass_before >= p
    drop[..., 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, ids, drop), -math.inf)


def keep_top_p_quickly(logits: Tensor, p: float) -> Tensor:
    """logits (..., vocab): the result of `keep_top_p`. A small nucleus needs no full sort."""
    vocab = logits.shape[-1]
    if vocab <= CANDIDATES:
        return keep_top_p(logits, p)
    ordered, ids = logits.topk(CANDIDATES)
    mass = logits.softmax(-1).gather(-1, ids).cumsum(-1)
    last = (mass < p).sum(-1, keepdim=True)  # the rank of the id that reaches p
    if (last >= CANDIDATES - 1).any() or ((mass - p).abs() < 1e-6).any():  # rounding would decide
        return keep_top_p(logits, p)
    border = ordered.gather(-1, last)
    if (ordered.gather(-1, last + 1) == border).any():  # for equal logits the sort decides
        return keep_top_p(logits, p)
    return logits.masked_fill(logits < border, -math.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """logits (..., vocab): keep ids at least p times as likely as the likeliest.

    Nguyen et al. 2024 (arXiv 2407.01082).
    """
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -math.inf)


def keep_typical(logits: Tensor, p: float) -> Tensor:
    """logits (..., vocab): keep the ids whose surprise is nearest the mean surprise, up to mass p.

    It orders ids by | -log p_i - H |, least first, where H = -Σ p log p. It also keeps the id that
    reaches p, and ids with an equal distance.  Locally typical sampling, Meister et al. 2022 (arXiv
    2202.00666)
    """
    log_p = logits.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).nansum(-1, keepdim=True)
    distance = (-log_p - entropy).abs()
    ordered, ids = distance.sort()
    mass = logits.gather(-1, ids).softmax(-1).cumsum(-1)
    last = (mass < p).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    drop = ordered > ordered.gather(-1, last)
    drop[..., 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, ids, drop), -math.inf)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """logits (..., vocab), uniform (...) in [0, 1) -> ids (...), by inverse transform sampling.

    It returns the first id whose cumulative probability exceeds the uniform number. It computes in
    fp64. So among 100,000 ids, an id of probability 1e-7 is sampled as often as it should be.
    """
    if logits.device.type == "mps":  # MPS has no fp64
        logits = logits.cpu()
    mass = logits.double().softmax(-1).cumsum(-1)
    uniform = uniform.to(mass)
    threshold = uniform.unsqueeze(-1) * mass[..., -1:]  # rounding may make the sum less than 1
    return torch.searchsorted(mass, threshold, right=True).squeeze(-1)


@takes_synonyms()
@dataclass(frozen=True)
class Strategy:
    """The settings for the choice of the next id. Raise ValueError for a value outside its range.

    Temperature 0 is greedy, and top_p 0 keeps the likeliest id. A field at its default is off. The
    values top_k 0, top_p 1, typical_p 1 and min_p 0 are off too.

    The fields act in the order of Hugging Face `generate` (which has no presence and frequency
    penalties): logit_bias, repetition_penalty, presence_penalty, frequency_penalty,
    no_repeat_ngram_size, min_new_tokens; then, unless greedy, temperature, top_k, top_p, min_p,
    typical_p. The fields before the temperature also change greedy decoding and beam search.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    typical_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        temperature, penalty = self.temperature, self.repetition_penalty
        rules: list[tuple[bool, str, object, str]] = [
            (0 <= temperature < math.inf, "temperature must be finite and at least 0", temperature,
             "e.g. 0.8, or 0 for greedy decoding"),
            (self.top_k is None or self.top_k >= 0,
             "top_k must be at least 0, where 0 means off", self.top_k, "e.g. 50"),
            (0.01 <= penalty <= 100,
             "repetition_penalty must be from 0.01 to 100, where 1 means off", penalty, "e.g. 1.1"),
            (self.typical_p is None or 0 < self.typical_p <= 1,
             "typical_p must be above 0 and at most 1", self.typical_p, "e.g. 0.95"),
        ]  # fmt: skip
        for name, example in (("top_p", "e.g. 0.9"), ("min_p", "e.g. 0.05")):
            value = getattr(self, name)
            holds = value is None or 0 <= value <= 1
            rules.append((holds, f"{name} must be from 0 to 1", value, example))
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            rule = f"{name} must be from -100 to 100, where 0 means off"
            rules.append((-100 <= value <= 100, rule, value, "e.g. 0.5"))
        for name, example in (("no_repeat_ngram_size", "e.g. 3"), ("min_new_tokens", "e.g. 10")):
            value = getattr(self, name)
            rule = f"{name} must be at least 0, where 0 means off"
            rules.append((value >= 0, rule, value, example))
        for id, bias in self.logit_bias.items():
            holds = not math.isnan(bias) and bias < math.inf
            rule = f"logit_bias of id {id} must be a number or -inf"
            rules.append((holds, rule, bias, "e.g. -1, or -inf to ban the id"))
        for holds, rule, value, example in rules:
            if not holds:
                raise ValueError(f"{rule} ({value}); use {example}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def check(self, vocab_size: int, max_tokens: int) -> None:
        """Raise ValueError if a field does not fit this vocabulary or `max_tokens`."""
        if self.min_new_tokens > max_tokens:
            raise ValueError(
                f"min_new_tokens must be at most max_tokens ({self.min_new_tokens}, max_tokens "
                f"{max_tokens}); increase max_tokens"
            )
        if self.top_k is not None and self.top_k > vocab_size:
            raise ValueError(
                f"top_k must be at most vocab_size ({self.top_k}, vocab_size {vocab_size}); "
                f"use at most {vocab_size}, or 0 to turn top_k off"
            )
        for id in self.logit_bias:
            if not 0 <= id < vocab_size:
                raise ValueError(
                    f"logit_bias has an id that is not in the vocabulary ({id}, vocab_size "
                    f"{vocab_size}); find ids with scratchlm-tokenize --show"
                )

    def penalize(
        self, logits: Tensor, prompt: Sequence[int], new: Sequence[int], stop: Iterable[int] = ()
    ) -> Tensor:
        """logits (vocab,) after the ids of `prompt` and `new` -> (vocab,).

        It applies the fields before the temperature. stop: the ids that end a text.
        """
        if self.logit_bias:
            logits = bias_logits(logits, self.logit_bias)
        if self.repetition_penalty != 1:
            seen = torch.tensor([*prompt, *new], device=logits.device)
            logits = penalize_repetition(logits, seen, self.repetition_penalty)
        if new and (self.presence_penalty or self.frequency_penalty):
            added = torch.tensor(new, device=logits.device)
            logits = penalize_presence(logits, added, self.presence_penalty)
            logits = penalize_frequency(logits, added, self.frequency_penalty)
        if self.no_repeat_ngram_size:
            ids = [*prompt, *new]
            logits = ban_repeated_ngrams(logits, ids, self.no_repeat_ngram_size)
        if len(new) < self.min_new_tokens:
            logits = ban(logits, [id for id in stop if id < len(logits)])
        return logits

    def filter(self, logits: Tensor) -> Tensor:
        """logits (..., vocab) -> (..., vocab). Its softmax is the distribution of the next id.

        It applies the temperature and the fields after it.
        """
        logits = scale_temperature(logits, self.temperature)
        if self.top_k:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None and self.top_p < 1:
            logits = keep_top_p_quickly(logits, self.top_p)
        if self.min_p:
            logits = keep_min_p(logits, self.min_p)
        if self.typical_p is not None and self.typical_p < 1:
            logits = keep_typical(logits, self.typical_p)
        return logits

    @property
    def samples(self) -> tuple[str, object] | None:
        """Return the name and value of the first field that is set and only affects sampling."""
        for name in ("temperature", "top_k", "top_p", "min_p", "typical_p"):
            if (value := getattr(self, name)) != (1.0 if name == "temperature" else None):
                return name, value
        return None

    @property
    def looks_back(self) -> bool:
        """Return whether `penalize` changes anything."""
        return bool(
            self.logit_bias
            or self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
            or self.no_repeat_ngram_size
            or self.min_new_tokens
        )
