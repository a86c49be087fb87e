"""Steps that drop a document because of its length or its characters, or at random."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Literal

from scratchlm.data.cleaning.characters import count
from scratchlm.data.cleaning.step import Filter, check_share
from scratchlm.data.scripts import SCRIPTS, count_scripts

_CLASSES = {"alpha": r"\p{L}", "digit": r"\p{Nd}", "symbol": r"[^\p{L}\p{Nd}\s]", "space": r"\s"}


@dataclass(frozen=True)
class Length(Filter):
    """Drop texts with fewer than `min_chars` or more than `max_chars` characters."""

    kind: ClassVar[str] = "length"
    min_chars: int = 1
    max_chars: int | None = None

    def __post_init__(self) -> None:
        if self.min_chars < 0:
            raise ValueError(
                f"length.min_chars must be at least 0 ({self.min_chars}); use e.g. 100"
            )
        if self.max_chars is not None and self.max_chars < max(self.min_chars, 1):
            raise ValueError(
                f"length.max_chars must be at least 1, and at least min_chars ({self.max_chars}); "
                "increase max_chars"
            )

    def reason(self, text: str) -> str | None:
        if len(text) < self.min_chars:
            return "too short"
        if self.max_chars is not None and len(text) > self.max_chars:
            return "too long"
        return None


@dataclass(frozen=True)
class Ratio(Filter):
    """Drop texts whose fraction of one class of characters is below `min` or above `max`.

    A character is a letter (alpha), a decimal digit, a space, or a symbol.
    """

    kind: ClassVar[str] = "ratio"
    what: Literal["alpha", "digit", "symbol", "space"]
    min: float = 0.0
    max: float = 1.0

    def __post_init__(self) -> None:
        check_share("ratio.min", self.min)
        check_share("ratio.max", self.max)
        if self.min > self.max:
            raise ValueError(
                f"ratio.min must be at most ratio.max ({self.min} and {self.max}); exchange them"
            )

    def reason(self, text: str) -> str | None:
        share = count(text, _CLASSES[self.what]) / max(len(text), 1)
        if share < self.min:
            return f"too little {self.what}"
        return f"too much {self.what}" if share > self.max else None


@dataclass(frozen=True)
class Script(Filter):
    """Drop texts with less than `min` of their letters in the scripts `scripts`.

    Digits, signs and spaces do not count. A text without letters is dropped.
    """

    kind: ClassVar[str] = "script"
    scripts: tuple[str, ...]
    min: float = 0.5

    def __post_init__(self) -> None:
        known = [script.lower() for script in SCRIPTS]
        if not self.scripts:
            raise ValueError(
                f"script.scripts must not be empty ([]); choose from: {', '.join(known)}"
            )
        for name in self.scripts:
            if name not in known:
                raise ValueError(
                    f"script.scripts must list scripts ({name!r}); choose from: {', '.join(known)}"
                )
        check_share("script.min", self.min)

    def reason(self, text: str) -> str | None:
        counts = count_scripts(text)
        letters = sum(counts.values())
        own = sum(counts.get(name, 0) for name in set(self.scripts))
        return None if letters and own / letters >= self.min else "other script"


@dataclass(frozen=True)
class Sample(Filter):
    """Keep each text with probability `rate`. A hash of `seed` and the text decides.

    So equal texts have the same fate, in any file, in any order and on any machine.
    """

    kind: ClassVar[str] = "sample"
    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_share("sample.rate", self.rate)

    def reason(self, text: str) -> str | None:
        data = f"{self.seed} {text}".encode()
        number = int.from_bytes(hashlib.blake2b(data, digest_size=6).digest(), "big")
        return None if number < self.rate * (1 << 48) else "not sampled"
