"""Find documents that share a long n-gram with an evaluation set.

A model that saw the questions of an evaluation set in training shows its memory, not its ability.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchlm.data.deduplication.ngrams import ngram_hashes
from scratchlm.data.deduplication.words import Hashes


def all_strings(value: Any) -> Iterator[str]:
    """Yield all strings inside a JSON value, without the keys of objects."""
    match value:
        case str():
            yield value
        case dict():
            for each in value.values():
                yield from all_strings(each)
        case list():
            for each in value:
                yield from all_strings(each)


def evaluation_ngrams(values: Iterable[Any], n: int) -> tuple[Hashes, int]:
    """Return the sorted hashes of all n-grams in the examples of an evaluation set, and the number
    of examples with fewer than n words, which have no n-gram.

    The strings of an example form one text, because a question and its answer often stand together.
    So the set needs no particular fields.
    """
    texts = ["\n".join(all_strings(value)) for value in values]
    hashes, counts = ngram_hashes(texts, n, whole=False)
    return np.unique(hashes), int((counts == 0).sum())


def overlaps(texts: Sequence[str], n: int, known: Hashes) -> npt.NDArray[np.bool_]:
    """Return for each text whether one of its n-grams is in `known`, which must be sorted."""
    hashes, counts = ngram_hashes(texts, n, whole=False)
    if not len(known):
        return np.zeros(len(texts), bool)
    places = np.searchsorted(known, hashes)
    found = known[np.minimum(places, len(known) - 1)] == hashes
    totals = np.concatenate([[0], np.cumsum(found)])
    ends = np.cumsum(counts)
    return totals[ends] > totals[ends - counts]
