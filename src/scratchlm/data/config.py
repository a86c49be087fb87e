"""`DataConfig`: the data that a run reads. This module does not import numpy."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from scratchlm.data.reading.settings import Reading
from scratchlm.tokenizer.special_tokens import END_OF_TEXT

_OF_TEXT = ("dtype", "field", "separator", "join", "fit_context", "documents", "rows", "verify")
_OF_DIALOGUES = ("format", "train_on", "min_target_tokens")
_OF_TEMPLATES = ("template", "row_length", "too_long", "packing", "system", "max_bad")
# The settings without an effect on each kind of data.
_WITHOUT_EFFECT = {
    "text": _OF_DIALOGUES + _OF_TEMPLATES,
    "sft": _OF_TEXT,
    "dpo": _OF_TEXT + _OF_DIALOGUES,
}


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

    With `kind = "sft"`, the files contain dialogues, and the model learns the answers. `template`
    turns a dialogue into ids; "auto" is the template of the weights if they record one. `format` is
    the form of the records. `system` is the system text of dialogues that have none. `Learning`
    explains `train_on`, `too_long` and `min_target_tokens`. A row of a batch has `row_length`
    tokens; None means the model's context. Without `packing`, a row has one dialogue. A run keeps
    up to `max_bad` bad records aside; one more is an error.

    With `kind = "dpo"`, the files contain pairs of a chosen and a rejected answer, and the model
    learns to prefer the chosen answers.

    The constructor raises ValueError for a setting that has no effect on this kind of data.
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
    kind: Literal["text", "sft", "dpo"] = "text"
    template: Literal["auto", "chatml", "llama3", "plain_alpaca"] = "auto"
    format: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "ultrachat"] = (
        "auto"
    )
    train_on: Literal["assistant", "last", "all"] = "assistant"
    row_length: int | None = None
    too_long: Literal["drop", "truncate", "error"] = "drop"
    min_target_tokens: int = 1
    packing: bool = True
    system: str | None = None
    max_bad: int = 0

    def __post_init__(self) -> None:
        for name, least in (("min_target_tokens", 1), ("max_bad", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"data.{name} must be at least {least} ({value}); use {least}")
        if self.row_length is not None and self.row_length < 1:
            raise ValueError(f"data.row_length must be at least 1 ({self.row_length}); use 512")
        defaults = {each.name: each.default for each in fields(self)}
        for name in _WITHOUT_EFFECT[self.kind]:
            value = getattr(self, name)
            if value != defaults[name]:
                kind = "text" if name in _OF_TEXT else "sft"
                raise ValueError(
                    f"data.{name} ({value!r}) has no effect on data of the kind {self.kind}; "
                    f"remove data.{name}, or set --kind {kind}"
                )

    @property
    def reading(self) -> Reading:
        return Reading(self.field, self.separator, self.join)

    @property
    def has_reference(self) -> bool:
        """Whether a run compares its model with a frozen copy of the model at the start."""
        return self.kind == "dpo"

    @property
    def finds_documents(self) -> bool:
        """Whether a run needs to know where documents end."""
        return self.documents == "separate" or self.rows == "aligned"
