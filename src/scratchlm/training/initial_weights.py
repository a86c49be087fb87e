"""Begin a run from the weights of another model, whose vocabulary may be smaller."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from scratchlm.checkpoint.models import load_model
from scratchlm.checkpoint.save_and_load import restore
from scratchlm.errors import Notice
from scratchlm.model.lora import is_adapter
from scratchlm.model.transformer import Transformer

_TABLES = ("embedding.weight", "lm_head.weight")


def initialize(model: Transformer, path: str, new_ids: Sequence[int] = ()) -> None:
    """Load the weights of a checkpoint, a run or a Hugging Face folder into the model.

    The model begins with the outputs of the loaded model. So adapters with other settings are
    merged into the weights first. New adapters keep their initial values. The embedding and
    `lm_head` may have more rows than the loaded ones. Each row of `new_ids` begins as the mean of
    the rows before them (J. Hewitt, Initializing New Word Embeddings for Pretrained Language
    Models, 2021). So a new token begins as an average token.

    Raise ValueError if new ids have rows that are frozen.
    """
    if new_ids:
        _check_learning(model, new_ids)
    source = load_model(path, "cpu")
    grows = model.config.padded_vocab_size > source.config.padded_vocab_size
    if source.config.lora is not None and (grows or source.config.lora != model.config.lora):
        source.merge_lora()
        warnings.warn(
            f"the adapters of {path} have other settings, so they are merged into the weights",
            Notice,
            stacklevel=2,
        )
    state = source.state_dict()
    for name in _TABLES if new_ids else ():
        state[name] = _with_new_rows(state[name], new_ids, model.config.padded_vocab_size)
    new = {name: tensor for name, tensor in model.state_dict().items() if is_adapter(name)}
    restore({"model": new | state}, model, None, name=path)


def _with_new_rows(table: Tensor, new_ids: Sequence[int], rows: int) -> Tensor:
    """table (vocab, d_model) -> (rows, d_model): the rows `new_ids` are the mean of the rows before
    them. Other rows that are not in `table` are 0, and belong to no token."""
    grown = table.new_zeros(max(rows, len(table)), table.shape[1])
    grown[: len(table)] = table
    grown[list(new_ids)] = table[: new_ids[0]].mean(0, dtype=torch.float32).to(table.dtype)
    return grown


def _check_learning(model: Transformer, new_ids: Sequence[int]) -> None:
    tables = {"embedding": model.embedding.weight, "lm_head": model.lm_head.weight}
    frozen = [name for name, weight in tables.items() if not weight.requires_grad]
    if frozen:
        raise ValueError(
            f"the rows of new tokens must learn ({len(new_ids)} new tokens, and LoRA freezes "
            f"{' and '.join(frozen)}); add --lora_full embedding,lm_head, or choose --template "
            "plain_alpaca, which adds no token"
        )
