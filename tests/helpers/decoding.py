"""The reference for decoding: the model without a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from helpers.variants import SMALL
from scratchlm import Transformer

CONTEXT = SMALL["context_length"]

VOCAB = SMALL["vocab_size"]

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [9], [3, 4, 5], [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]]


def name_of(variant: dict[str, Any]) -> str:
    return "-".join(list(variant)[:2]) or "llama"


@torch.no_grad()
def uncached(model: Transformer, ids: Sequence[int]) -> Tensor:
    """Return logits (seq, vocab): the model reads the whole text, without a cache or a batch."""
    return model(torch.tensor([list(ids)]))[0]


def random_ids(*shape: int, seed: int = 0) -> list[Any]:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed)).tolist()


def slid(text: list[int], view: list[int], id: int) -> list[int]:
    """Return the ids in the context after `id` is added. A full context first keeps only its last
    half."""
    if len(view) == CONTEXT:
        view = text[-(CONTEXT // 2) :]
    return [*view, id]
