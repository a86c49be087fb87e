"""The settings of generation that /set changes."""

from __future__ import annotations

import difflib
from dataclasses import fields, replace
from typing import Any

import torch

from scratchlm.cli.command import check_seed
from scratchlm.generation.strategies import Strategy

DEFAULTS: dict[str, Any] = {"max_tokens": 256, "seed": None}
DEFAULTS |= {name: getattr(Strategy(), name) for name in (f.name for f in fields(Strategy))}
DEFAULTS["temperature"] = 0.8
WHOLE = ("max_tokens", "seed", "top_k", "no_repeat_ngram_size", "min_new_tokens")
OFF = "none"


class Settings:
    """The settings. `values` contains the value of each name. An invalid value changes nothing."""

    def __init__(self) -> None:
        self.values = dict(DEFAULTS)
        self.vocab_size: int | None = None  # None until the model is loaded
        self.generator = torch.Generator()
        self.generator.seed()

    def set(self, name: str, text: str) -> None:
        """Set the setting `name` to the value in `text`. The text "none" sets the default.

        Raise ValueError for an unknown name or an invalid value.
        """
        if name not in self.values:
            close = difflib.get_close_matches(name, self.values, n=1)
            hint = f"did you mean {close[0]}?" if close else "/set lists the settings"
            raise ValueError(f"no such setting ({name}); {hint}")
        value = DEFAULTS[name] if text.lower() == OFF else _parsed(name, text)
        self._check(self.values | {name: value})
        self.values[name] = value
        if name == "seed":
            self.generator.seed() if value is None else self.generator.manual_seed(value)

    def fit(self, vocab_size: int) -> None:
        """Check the settings against the vocabulary, now and at each later `set`.

        Raise ValueError for an id outside the vocabulary.
        """
        self.vocab_size = vocab_size
        self._check(self.values)

    def how(self) -> dict[str, Any]:
        """Return the arguments of `Conversation.reply`."""
        values = {name: value for name, value in self.values.items() if name != "seed"}
        return values | {"generator": self.generator}

    def __str__(self) -> str:
        rows = [f"{name:<22}{_shown(value)}" for name, value in self.values.items()]
        return "\n".join(rows)

    def _check(self, values: dict[str, Any]) -> None:
        names = {field.name for field in fields(Strategy)}
        strategy = replace(Strategy(), **{name: values[name] for name in names})
        if self.vocab_size is not None:
            strategy.check(self.vocab_size, values["max_tokens"])
        if values["max_tokens"] < 1:
            raise ValueError(
                f"max_tokens must be at least 1 ({values['max_tokens']}); use e.g. 256"
            )
        check_seed(values["seed"])


def _parsed(name: str, text: str) -> Any:
    kind, example = ("whole number", "1") if name in WHOLE else ("number", "0.5")
    try:
        if name == "logit_bias":
            kind, example = "list of ID=BIAS", "262=-1"
            pairs = [pair.split("=") for pair in text.replace(",", " ").split()]
            return {int(id): float(bias) for id, bias in pairs}
        return int(text) if name in WHOLE else float(text)
    except ValueError:
        raise ValueError(
            f"{name} must be a {kind} ({text!r}); write e.g. {example}, or {OFF} for the default"
        ) from None


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{id}={bias:g}" for id, bias in value.items()) or OFF
    return OFF if value is None else str(value)
