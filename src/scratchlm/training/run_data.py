"""Prepare the data of a run with the tokenizer and the template of the run's weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scratchlm.checkpoint.models import OwnTexts, other_template, read_own_texts
from scratchlm.data.config import DataConfig
from scratchlm.data.conversations.prepared import PreparedDialogues
from scratchlm.data.prepare import Prepared, prepare
from scratchlm.devices.ranks import ALONE, Ranks, agreed
from scratchlm.errors import FileFormatError
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.chat_template import FORMS
from scratchlm.tokenizer.start_and_end_ids import default_end_ids
from scratchlm.training.train_config import TrainConfig


def prepare_for(
    config: TrainConfig,
    weights: StrPath | None,
    out: Path,
    say: Callable[[str], None],
    ranks: Ranks = ALONE,
) -> tuple[TrainConfig, Prepared]:
    """Return the data of a run, and the configuration with the values that the data decides: the
    model's context length and vocabulary, and the template of dialogues.

    weights: the model that the run begins or continues from. The data uses the tokenizer of these
    weights, and dialogues use their template, unless `config` specifies others. out: the run's
    folder.

    Rank 0 prepares the data first. Then the other ranks read the tokens of a text from the disk.
    Each rank encodes dialogues for itself.
    """
    model = config.model
    with agreed(ranks):
        own = None if weights is None else _own_texts(config.data, weights, say)
        has_dialogues = config.data.kind != "text"
        if own and has_dialogues and config.data.template == "auto":
            config = _with_template(config, own.template)
    tokenizer = None if own is None else own.tokenizer
    arguments = (config.data, model.vocab_size, model.context_length, out / "data", say, tokenizer)
    with agreed(ranks):
        data = prepare(*arguments) if ranks.first else None
    data = data or prepare(*arguments)
    vocab_size = max(model.vocab_size, len(data.tokenizer or ()))  # a template adds its markers
    model = dataclasses.replace(model, context_length=data.context_length, vocab_size=vocab_size)
    config = dataclasses.replace(config, model=model)
    if isinstance(data, PreparedDialogues):  # the run keeps its template, also if it was "auto"
        config = _with_template(config, data.template.name)
        if weights is not None and other_template(weights):
            say(
                f"the chat template of {weights} is none of {', '.join(FORMS)}; the run uses "
                f"{data.template.name} instead"
            )
    return config, _with_ids(data, own)


def _own_texts(config: DataConfig, weights: StrPath, say: Callable[[str], None]) -> OwnTexts | None:
    try:
        return read_own_texts(weights)
    except FileFormatError as error:  # a Hugging Face folder may have another kind of tokenizer
        if config.tokenizer is None:
            raise
        say(f"the run does not use the weights' own tokenizer ({error})")
        return None


def _with_template(config: TrainConfig, name: Any) -> TrainConfig:
    data = dataclasses.replace(config.data, template=name or "auto")
    return dataclasses.replace(config, data=data)


def _with_ids(data: Prepared, own: OwnTexts | None) -> Prepared:
    """Return the data with the ids that begin and end a text of the weights.

    The weights of a text may have another tokenizer. Then their ids have another meaning.
    """
    if own is None:
        return data
    ends, starts = own.end_ids, own.start_ids
    if isinstance(data, PreparedDialogues):
        ends = data.template.with_end_of_answer(ends or default_end_ids(own.tokenizer))
    elif data.tokenizer is None or data.tokenizer.hash != own.tokenizer.hash:
        return data
    return dataclasses.replace(data, end_ids=ends, start_ids=starts)
