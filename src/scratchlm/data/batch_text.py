"""Show a batch as text: its rows, the documents in each row, and the targets of the loss.

    row 0: 2 documents, 12 inputs, 11 targets
       1  ⟨The⟩ cat sat.<|endoftext|>
       2  ⟨A⟩ dog ran away

A line is one document, or a part of one. ⟨⟩ contains the tokens that the loss does not predict: the
first token of a row, because no token comes before it; and, with separate documents, the first
token of each document. With colours, each document has its own background, and these tokens are
grey instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from scratchlm.devices.batch import Batch
from scratchlm.functional import IGNORED
from scratchlm.tokenizer.playground.page import BACKGROUNDS, BLACK, GREY, painted, visible


class _Token(NamedTuple):
    id: int
    is_target: bool


def batch_text(
    batch: Batch,
    vocab: Mapping[int, bytes] | None,
    separator: int | None,
    *,
    colour: bool = False,
) -> Iterator[list[str]]:
    """Yield the lines of each row: first its counts, then a line for each document.

    vocab: the bytes of each id; None shows the ids. A document begins where `batch.first` says so.
    Without `first`, a document begins after each separator.
    """
    for row, (inputs, targets) in enumerate(
        zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)
    ):
        first = None if batch.first is None else batch.first[row].tolist()
        size = _size(inputs, targets)
        documents = list(_documents(inputs[:size], targets[:size], first, separator))
        counts = [
            _counted(len(documents), "document"),
            _counted(size, "input"),
            _counted(sum(token.is_target for tokens in documents for token in tokens), "target"),
        ]
        counts += [f"{len(inputs) - size:,} places of padding"] * (size < len(inputs))
        lines = [", ".join(counts)]
        backgrounds = itertools.cycle(BACKGROUNDS)
        for number, document in enumerate(documents, 1):
            text = _shown(document, vocab, next(backgrounds) if colour else None)
            lines.append(f"{number:>4}  {text}")
        yield lines


def _size(inputs: list[int], targets: list[int]) -> int:
    """Return the number of inputs that are not padding: input 0 with target -100 at the end."""
    size = len(inputs)
    while size and inputs[size - 1] == 0 and targets[size - 1] == IGNORED:
        size -= 1
    return size


def _documents(
    inputs: list[int], targets: list[int], first: list[int] | None, separator: int | None
) -> Iterator[list[_Token]]:
    """Yield the tokens of each document.

    With `first`, the last target of a document is not the input after it. Without `first`, the
    targets are the inputs, one place later.
    """
    places = range(len(inputs))
    starts = [place for place in places if place == 0 or (first and first[place] == place)]
    for start, end in itertools.pairwise([*starts, len(inputs)]):
        tokens = [_Token(inputs[start], False)]
        for place in range(start + 1, end):
            tokens.append(_Token(inputs[place], targets[place - 1] != IGNORED))
        if targets[end - 1] != IGNORED:  # this target is no input
            tokens.append(_Token(targets[end - 1], True))
        yield from [tokens] if first else _cut(tokens, separator)


def _cut(tokens: list[_Token], separator: int | None) -> Iterator[list[_Token]]:
    """Cut the tokens after each separator."""
    ends = [place for place, token in enumerate(tokens, 1) if token.id == separator]
    for start, end in itertools.pairwise([0, *ends, len(tokens)]):
        if start < end:
            yield tokens[start:end]


def _shown(
    document: list[_Token], vocab: Mapping[int, bytes] | None, background: int | None
) -> str:
    shown = ""
    for is_target, group in itertools.groupby(document, lambda token: token.is_target):
        if vocab is None:
            text = "".join(f" {token.id}" for token in group)
        else:
            text = visible(b"".join(vocab.get(token.id, b"<%d>" % token.id) for token in group))
        if background is not None:
            shown += painted(text, background, BLACK if is_target else GREY)
        else:
            shown += text if is_target else f"⟨{text}⟩"
    return shown


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'s' * (number != 1)}"
