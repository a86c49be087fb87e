"""The DPO trainer of trl, over the weights of two of our models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.twins import loud
from scratchlm import BPETokenizer, ModelConfig, Transformer
from scratchlm.convert.hf_folder import to_hf

PAIRS = [("1 + 1 = ", "2", "three"), ("the sky is ", "blue today", "green"), ("a", "b", "cd")]
BETA = 0.1


def trl_trainer(folder: Path) -> tuple[list[Transformer], Any]:
    """Return our model and its reference, and the trainer of trl over the same weights. One batch
    of the trainer has all PAIRS."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = BPETokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["<|endoftext|>"])
    ours = [loud(Transformer(ModelConfig(257, 64, 32, 2, 4))) for _ in range(2)]
    for model, name in zip(ours, ("policy", "reference"), strict=True):
        to_hf(model, folder / name, tokenizer)
    trainer = trl.DPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder / "policy"),
        AutoModelForCausalLM.from_pretrained(folder / "reference"),
        trl.DPOConfig(
            str(folder / "out"), per_device_train_batch_size=len(PAIRS), report_to=[],
            use_cpu=True, bf16=False, beta=BETA, gradient_checkpointing=False,
        ),
        train_dataset=datasets.Dataset.from_list(
            [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in PAIRS]
        ),
        processing_class=AutoTokenizer.from_pretrained(folder / "policy"),
    )  # fmt: skip
    return ours, trainer
