"""`DataConfig`: the data that a run reads. This module does not import numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scratchlm.tokenizer.special_tokens import END_OF_TEXT


@dataclass(frozen=True)
class DataConfig:
    """Name the data of a run and say how to read it.

    `train` and `val` name a token shard (.bin, .npy), or a file, folder or glob of text, JSON,
    JSON lines or Parquet. `field` holds the text of a JSON or Parquet document. `separator` is the
    special token between documents. `tokenizer` names a tokenizer.json. Without it, a run uses the
    tokenizer of its initial or resumed weights. If they have none, a shard's sidecar names the
    tokenizer, and a text gets a newly trained one. `verify` hashes whole shards at start instead of
    trusting an unchanged size and time. `dtype` is the type of the ids in a .bin without a sidecar.
    `fit_context` shortens the model's context to fit a short text.
    """

    train: str
    val: str | None = None
    tokenizer: str | None = None
    verify: bool = False
    dtype: Literal["uint16", "uint32"] | None = None
    field: str = "text"
    separator: str = END_OF_TEXT
    fit_context: bool = False
