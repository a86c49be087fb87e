"""The ids that begin and end a text: the default, and checks against a vocabulary."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Sequence

from scratchlm.errors import FileFormatError, Notice
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.special_tokens import END_OF_TEXT


def default_end_ids(tokenizer: BPETokenizer) -> list[int]:
    """Return a list with the id of <|endoftext|>, or an empty list if there is no such token."""
    return [tokenizer.token_to_id(END_OF_TEXT)] if END_OF_TEXT in tokenizer.special_tokens else []


def check_ids(
    tokenizer: BPETokenizer | None,
    ends: Sequence[int],
    starts: Sequence[int],
    vocab_size: int,
    name: str = "model",
) -> None:
    """Raise ValueError if the tokenizer or an id does not fit a model with `vocab_size` ids."""
    if tokenizer is not None and len(tokenizer) > vocab_size:
        raise ValueError(
            f"the tokenizer has more ids than the {name} ({len(tokenizer)} ids, vocab_size "
            f"{vocab_size}); use the tokenizer that the {name} was trained with"
        )
    for name, ids in (("end_ids", ends), ("start_ids", starts)):
        if not all(0 <= id < vocab_size for id in ids):
            raise ValueError(
                f"{name} must be in the vocabulary ({list(ids)}); use ids from 0 to "
                f"{vocab_size - 1}"
            )
        if tokenizer is not None and not all(id in tokenizer.vocab for id in ids):
            raise ValueError(
                f"{name} must be ids of tokens ({list(ids)}); use ids of the tokenizer's tokens"
            )


def known_ids(
    ids: Sequence[int], vocabulary: Collection[int], key: str, path: StrPath
) -> list[int]:
    """Return the `ids` that are in the vocabulary. Print the other ids in a Notice."""
    unknown = [id for id in ids if id not in vocabulary]
    if unknown:
        warnings.warn(
            f"{key} {', '.join(map(str, unknown))} is not in the vocabulary ({os.fspath(path)}: "
            f"ids are 0 to {max(vocabulary)}); it is ignored",
            Notice,
            stacklevel=2,
        )
    return [id for id in ids if id not in unknown]


def check_start_ids(ids: Sequence[int], vocabulary: Collection[int], path: StrPath) -> None:
    """Raise FileFormatError if an id before a text is not in the vocabulary."""
    if not all(type(id) is int and id in vocabulary for id in ids):
        raise FileFormatError(
            f"the ids before a text must be in the vocabulary ({os.fspath(path)}: {ids!r:.40}, "
            f"ids are 0 to {max(vocabulary)}); use the model's own tokenizer"
        )
