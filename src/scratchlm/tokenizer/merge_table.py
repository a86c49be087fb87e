"""A table of merges by the ids of their tokens, and the rules for merges.

A modern vocabulary has hundreds of thousands of merges, and Python loops over them would take most
of its loading time. So this module looks ids up by `map` and checks whole arrays. It builds pairs
of bytes only on demand. Only after a check fails does a loop find the first bad merge.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
BytePair = tuple[bytes, bytes]

_ID_BITS = 31

BYTES = [bytes([byte]) for byte in range(256)]


class MergeTable(Sequence[BytePair]):
    """The merges of a vocabulary, as a sequence of pairs of bytes.

    The table stores ids: `pairs` (merges, 2), and `products` (merges,), the ids of the merged
    tokens.
    """

    def __init__(self, vocab: Mapping[int, bytes], pairs: Ids, products: Ids) -> None:
        self.vocab, self.pairs, self.products = vocab, pairs, products

    @classmethod
    def of(cls, vocab: Mapping[int, bytes], id_of: Mapping[bytes, int], merges: Any) -> Self:
        """Build the table from pairs of bytes. Raise ValueError for a merge of an unknown token."""
        firsts, seconds = [a for a, _ in merges], [b for _, b in merges]
        table = cls._looked_up(vocab, id_of, firsts, seconds)
        if table is None:
            rank, token = next(
                (rank, token)
                for rank, (a, b) in enumerate(zip(firsts, seconds, strict=True))
                for token in (a, b, a + b)
                if token not in id_of
            )
            raise ValueError(
                f"merge {rank} needs a token that is not in the vocabulary ({token!r}); "
                "use the vocabulary and the merges of the same tokenizer"
            )
        return table

    @classmethod
    def of_names(
        cls, vocab: Mapping[int, bytes], ids: Mapping[str, int], merges: list[Any]
    ) -> Self | None:
        """Build the table from the merges of a file, "a b" or ["a", "b"]. Return None if a merge
        has another form, or needs a token that is not in `ids`."""
        kinds = set(map(type, merges))
        if kinds == {str}:
            lines = "\n".join(merges)
            data = np.frombuffer(lines.encode(), np.uint8)
            separators = data[(data == ord(" ")) | (data == ord("\n"))]
            if len(separators) != 2 * len(merges) - 1 or (separators[::2] != ord(" ")).any():
                return None  # a merge has no space, or several
            if "\n#version" in "\n" + lines:
                return None  # `tokenizers` skips such a merge, like a header
            flat = lines.replace("\n", " ").split(" ")
        elif kinds == {list} and set(map(len, merges)) == {2}:
            flat = list(chain.from_iterable(merges))
            if set(map(type, flat)) != {str}:
                return None
        else:
            return None
        return cls._looked_up(vocab, ids, flat[::2], flat[1::2])

    @classmethod
    def _looked_up(
        cls, vocab: Mapping[int, bytes], ids: Mapping[Any, int], firsts: Any, seconds: Any
    ) -> Self | None:
        try:
            columns = [
                np.fromiter(map(ids.__getitem__, tokens), np.int64, len(firsts))
                for tokens in (firsts, seconds, map(operator.add, firsts, seconds))
            ]
        except KeyError:
            return None
        return cls(vocab, np.stack(columns[:2], axis=1), columns[2])

    def with_vocab(self, vocab: Mapping[int, bytes]) -> Self:
        """Return the same merges for a larger vocabulary, which contains the old one."""
        table = type(self)(vocab, self.pairs, self.products)
        table.__dict__["_by_key"] = self._by_key
        return table

    @cached_property
    def ranks(self) -> dict[tuple[int, int], int]:
        """The rank of each pair of ids. Python needs a tenth of a second to build this dict."""
        first, second = self.pairs.T.tolist()
        return dict(zip(zip(first, second, strict=True), range(len(first)), strict=True))

    def get(self, pair: tuple[int, int], default: int) -> int:
        """Return the rank of a pair of ids, like `ranks.get`, but without building `ranks`."""
        keys, order = self._by_key
        key = pair[0] << _ID_BITS | pair[1]
        place = int(keys.searchsorted(key))
        return int(order[place]) if place < len(keys) and keys[place] == key else default

    def check_once(self) -> None:
        """Raise ValueError if a merge is listed twice."""
        keys, _ = self._by_key
        if (keys[1:] == keys[:-1]).any():
            pair, times = Counter(self.as_bytes).most_common(1)[0]
            raise ValueError(f"a merge is listed {times} times ({pair!r}); list it once")

    @cached_property
    def _by_key(self) -> tuple[Ids, Ids]:
        """The sorted keys (merges,), each one number for a pair of ids, and the rank of each."""
        keys = self.pairs[:, 0] << _ID_BITS | self.pairs[:, 1]
        order = np.argsort(keys)
        return keys[order], order

    @cached_property
    def as_bytes(self) -> list[BytePair]:
        """The merges as pairs of bytes."""
        first, second = (map(self.vocab.__getitem__, ids.tolist()) for ids in self.pairs.T)
        return list(zip(first, second, strict=True))

    def check_order(self, id_of: Mapping[bytes, int]) -> None:
        """Raise ValueError if no merge of a product comes after both its parts.

        One such merge is enough for each product. A file made from tiktoken's ranks (Llama 3's)
        lists every split of a token at the token's rank, even a split into parts that only later
        merges make.
        """
        size = 1 + max(self.vocab, default=0)
        never = len(self.products)
        made_at = np.full(size, never)
        ranks = np.arange(len(self.products))
        made_at[self.products[::-1]] = ranks[::-1]  # keeps the first merge of a product
        made_at[[id_of[byte] for byte in BYTES if byte in id_of]] = -1
        first = made_at[self.products] == ranks
        if (made_at[self.pairs[first]] < ranks[first, None]).all():
            return  # each product's first merge comes after both its parts
        self._check_order_one_by_one(id_of)

    def _check_order_one_by_one(self, id_of: Mapping[bytes, int]) -> None:
        made = {token for token in id_of if len(token) == 1}
        early: dict[bytes, int] = {}  # product -> rank of a merge that comes before a part
        for rank, (a, b) in enumerate(self.as_bytes):
            if a in made and b in made:
                made.add(a + b)
            else:
                early.setdefault(a + b, rank)
        for product, rank in early.items():
            if product not in made:
                a, b = self.as_bytes[rank]
                raise ValueError(
                    f"merge {rank} joins a token that no earlier merge makes ({a!r} + {b!r}); "
                    "list the merges in the order in which they were learned"
                )

    def check_without(self, special_ids: Mapping[str, int]) -> None:
        """Raise ValueError if a special token is a part or the product of a merge."""
        used = np.zeros(1 + max(self.vocab, default=0), bool)
        used[self.pairs] = used[self.products] = True
        for special, id in special_ids.items():
            if used[id] and len(special.encode()) > 1:
                found = (self.pairs == id).any(axis=1) | (self.products == id)
                raise ValueError(
                    f"merge {found.argmax()} must not contain a special token ({special!r}), which "
                    "the encoder cuts out before it merges; remove the merge, or choose another "
                    "special token"
                )

    def __len__(self) -> int:
        return len(self.products)

    def __iter__(self) -> Iterator[BytePair]:
        return iter(self.as_bytes)

    @overload
    def __getitem__(self, index: int) -> BytePair: ...
    @overload
    def __getitem__(self, index: slice) -> list[BytePair]: ...
    def __getitem__(self, index: int | slice) -> BytePair | list[BytePair]:
        return self.as_bytes[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.as_bytes == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.as_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.vocab, self.pairs, self.products)
