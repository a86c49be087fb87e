"""`DataConfig`: the data that a run reads. This module does not import numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scratchlm.data.reading.settings import Reading
from scratchlm.tokenizer.special_tokens import END_OF_TEXT


@dataclass(frozen=True)
class DataConfig:
    """Specify the data of a run and how to read the data.

    `train` and `val` each specify a file, folder or glob of token files (.bin, .npy, .h5), or of
    text, JSON, JSON lines or Parquet. They may also specify a mixture of these, each with its
    weight: `books/:0.7,code.h5:0.3`. `field`, `separator` and `join` are the fields of `Reading`;
    `separator` is also the special token between documents. `tokenizer` is the path of a
    tokenizer.json. Without this path, a run uses the tokenizer of its initial or resumed weights.
    If the weights have no tokenizer, the sidecar of a token file specifies the tokenizer. For a
    text, the run then trains a new tokenizer. `verify` hashes whole token files at the start;
    without `verify`, a run trusts a token file whose size and time did not change. `dtype` is the
    type of the ids in a .bin without a sidecar. `fit_context` shortens the model's context if the
    text is short.

    A row of a batch may contain several documents. With `documents = "separate"`, each token
    attends only to its own document, whose positions start at 0. With `rows = "aligned"`, the rows
    of training begin at the start of a document.
    """

    train: str
    val: str | None = None
    tokenizer: str | None = None
    verify: bool = False
    dtype: Literal["uint16", "uint32"] | None = None
    field: str = "text"
    separator: str = END_OF_TEXT
    join: str | None = None
    fit_context: bool = False
    documents: Literal["ignore", "separate"] = "ignore"
    rows: Literal["stream", "aligned"] = "stream"

    @property
    def reading(self) -> Reading:
        return Reading(self.field, self.separator, self.join)

    @property
    def finds_documents(self) -> bool:
        """Whether a run needs to know where documents end."""
        return self.documents == "separate" or self.rows == "aligned"
