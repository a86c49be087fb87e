"""`DataConfig`: what a run reads, without numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """`train` and `val`: a token shard (.bin, .npy), or a file, a folder or a glob of text, JSON,
    JSON lines or Parquet. `field` holds the text of a JSON or Parquet document, and `separator`
    is the special token between documents. `tokenizer`: a tokenizer.json; where none is named, that
    of the weights that training begins with or goes on from, else the one that a shard's sidecar
    names, and for text one that is trained. `verify` hashes whole shards at start instead of
    trusting an unchanged size and time. `dtype`: the ids' type in a .bin that has no sidecar.
    `fit_context` shrinks the model's context to what a short text allows."""

    train: str
    val: str | None = None
    tokenizer: str | None = None
    verify: bool = False
    dtype: Literal["uint16", "uint32"] | None = None
    field: str = "text"
    separator: str = "<|endoftext|>"
    fit_context: bool = False
