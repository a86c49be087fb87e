"""MinHash: estimate how many n-grams two documents share, and find the pairs that share many.

The similarity of two documents is the number of n-grams that both have, divided by the number of
n-grams that at least one of them has (Jaccard). A random permutation of all hashes maps the n-grams
of a document to numbers. With probability s, the similarity, both documents have the same smallest
number. Each band contains the smallest numbers of `rows` permutations. Two documents that agree in
at least one of the bands form a pair. The probability of a pair is 1 - (1 - s^rows)^bands.

Sources: Broder 1997, "On the Resemblance and Containment of Documents"; Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scratchlm.data.deduplication.equal_records import BLOCK_RECORDS, Columns, equal_pairs
from scratchlm.data.deduplication.groups import Groups
from scratchlm.data.deduplication.ngrams import ngram_hashes
from scratchlm.data.deduplication.signatures import count_signatures, signature_blocks
from scratchlm.data.deduplication.words import Counts, Hashes, mixed
from scratchlm.files.paths import StrPath

_BLOCK = 1024  # n-grams in the matrix of all permutations, which then stays in the cache
_STEP = np.uint64(0xA0761D6478BD642F)  # odd, as a factor of the hash of a band


def threshold(bands: int, rows: int) -> float:
    """Return (1/bands)^(1/rows): the similarity where the probability of a pair rises fastest."""
    return (1 / bands) ** (1 / rows)


def probability_found(similarity: float, bands: int, rows: int) -> float:
    """Return 1 - (1 - s^rows)^bands: the probability of finding a pair with the similarity s."""
    return 1 - (1 - similarity**rows) ** bands


def permutations(count: int, seed: int) -> tuple[Hashes, Hashes]:
    """Return the factors and the summands of `count` functions h -> a h + b modulo 2^64.

    An odd factor makes each function a permutation of the 64-bit numbers.
    """
    start = mixed(np.array([seed], np.uint64))
    numbers = np.arange(1, 2 * count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    random = mixed(start + numbers).reshape(2, count, 1)
    return random[0] | np.uint64(1), random[1]


def minima(hashes: Hashes, counts: Counts, count: int, seed: int) -> npt.NDArray[np.uint64]:
    """Return (texts, count): the smallest permuted hash of each text, for each permutation.

    The first `counts[0]` hashes belong to text 0, and so on. A text without hashes has the largest
    number.
    """
    factors, summands = permutations(count, seed)
    smallest = np.full((len(counts), count), 2**64 - 1, np.uint64)
    used = np.flatnonzero(counts)
    begins = (np.cumsum(counts) - counts)[used]
    matrix = np.empty((count, _BLOCK), np.uint64)
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK]
        permuted = np.multiply(factors, block, out=matrix[:, : len(block)])
        np.add(permuted, summands, out=permuted)
        first = np.searchsorted(begins, start, "right") - 1  # this text may begin before the block
        last = np.searchsorted(begins, start + len(block))
        inside = np.maximum(begins[first:last] - start, 0)
        found = np.minimum.reduceat(permuted, inside, axis=1).T
        texts = used[first:last]
        smallest[texts] = np.minimum(smallest[texts], found)
    return smallest


def band_keys(
    texts: Sequence[str], ngram: int, bands: int, rows: int, seed: int
) -> npt.NDArray[np.uint64]:
    """Return (texts, bands): the hash of each band. It is 0 for a text without words."""
    hashes, counts = ngram_hashes(texts, ngram, whole=True)
    numbers = minima(hashes, counts, bands * rows, seed).reshape(-1, bands, rows)
    keys = np.zeros((len(texts), bands), np.uint64)
    for row in range(rows):
        keys = mixed(keys * _STEP + numbers[:, :, row])
    keys[counts == 0] = 0
    return keys


def similar_documents(paths: Sequence[StrPath], bands: int, scratch: Path) -> npt.NDArray[np.int64]:
    """Return the numbers of the documents that are similar to an earlier document, in order.

    The files contain the keys of `band_keys` for all documents, as little-endian numbers. Documents
    that agree in a band form a group, and so do groups with a common document. The first document
    of a group stays. So the result depends neither on the order of the pairs nor on the blocks.
    """
    groups = Groups(count_signatures(paths, bands))

    def blocks() -> Iterator[Columns]:
        for first, keys in signature_blocks(paths, bands, max(BLOCK_RECORDS // bands, 1)):
            documents = np.arange(first, first + len(keys), dtype=np.uint64)
            columns = np.stack([keys.ravel(), np.repeat(documents, bands)])
            yield columns[:, columns[0] != 0]

    for pair in equal_pairs(blocks(), scratch):
        groups.join(*pair)
    return groups.repeated()
