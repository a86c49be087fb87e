"""The steps of a config that drop repeated, similar and contaminated documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from scratchlm.data.cleaning.step import Comparison, Filter
from scratchlm.data.deduplication.exact import DIGEST_BYTES, digests, equal_documents
from scratchlm.data.deduplication.minhash import (
    band_keys,
    probability_found,
    similar_documents,
    threshold,
)
from scratchlm.data.deduplication.overlap import evaluation_ngrams, overlaps
from scratchlm.data.deduplication.words import Hashes
from scratchlm.data.reading.records import read_records
from scratchlm.data.reading.settings import Reading
from scratchlm.data.sources import find_files

_MOST = 1000  # of words, bands or rows: memory and time grow with these numbers


def _check_number(name: str, value: int, example: int) -> None:
    if not 1 <= value <= _MOST:
        raise ValueError(f"{name} must be from 1 to {_MOST} ({value}); use e.g. {example}")


@dataclass(frozen=True)
class Exact(Comparison):
    """Drop documents with the text of an earlier document. White space does not matter."""

    kind: ClassVar[str] = "exact"

    @property
    def signature_size(self) -> int:
        return DIGEST_BYTES

    def signatures(self, texts: Sequence[str]) -> bytes:
        return digests(texts)

    def repeated(self, signatures: Sequence[Path], scratch: Path) -> npt.NDArray[np.int64]:
        return equal_documents(signatures, scratch)


@dataclass(frozen=True)
class MinHash(Comparison):
    """Drop documents that share most n-grams of `ngram` words with an earlier document."""

    kind: ClassVar[str] = "minhash"
    ngram: int = 5
    bands: int = 14
    rows: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        for name, example in (("ngram", 5), ("bands", 14), ("rows", 8)):
            _check_number(f"minhash.{name}", getattr(self, name), example)
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"minhash.seed must be from 0 to 2**63 - 1 ({self.seed}); use e.g. 1")

    def about(self) -> str:
        chance = probability_found(0.8, self.bands, self.rows)
        return (
            f"minhash: b = {self.bands} bands of r = {self.rows} rows, n-grams of {self.ngram} "
            f"words; threshold (1/b)^(1/r) = {threshold(self.bands, self.rows):.3f}; a pair with "
            f"similarity 0.8 is found with probability {chance:.3f}"
        )

    @property
    def signature_size(self) -> int:
        return 8 * self.bands

    def signatures(self, texts: Sequence[str]) -> bytes:
        keys = band_keys(texts, self.ngram, self.bands, self.rows, self.seed)
        return keys.astype("<u8").tobytes()

    def repeated(self, signatures: Sequence[Path], scratch: Path) -> npt.NDArray[np.int64]:
        return similar_documents(signatures, self.bands, scratch)


@dataclass(frozen=True)
class DropOverlap(Filter):
    """Drop documents that share an n-gram of `ngram` words with the evaluation files `against`."""

    kind: ClassVar[str] = "drop_overlap"
    against: str
    ngram: int = 13

    def __post_init__(self) -> None:
        _check_number("drop_overlap.ngram", self.ngram, 13)

    def files(self) -> Sequence[Path]:
        return find_files(self.against)

    def prepare(self) -> None:
        if not len(self._known_and_short[0]):
            raise ValueError(
                f"an evaluation set must have an example with at least {self.ngram} words "
                f"({self.against}); choose another file, or a smaller n-gram"
            )

    def about(self) -> str:
        known, short = self._known_and_short
        return (
            f"drop_overlap: {len(known):,} n-grams of {self.ngram} words in {self.against}; "
            f"{short:,} examples have fewer words"
        )

    @cached_property
    def _known_and_short(self) -> tuple[Hashes, int]:
        records = read_records(self.files(), Reading(field=None))
        return evaluation_ngrams((record.value for record in records), self.ngram)

    def reason(self, text: str) -> str | None:
        known, _ = self._known_and_short
        return "overlap" if overlaps([text], self.ngram, known)[0] else None
