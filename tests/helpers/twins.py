"""Random models from scratchlm and `transformers`, with equal weights that are far from zero."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scratchlm import ModelConfig, Transformer
from scratchlm.convert.hf_folder import to_hf

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"num_kv_heads": 2},
    "gpt2": {"norm": "layernorm", "ffn": "gelu", "bias": True, "position": "learned",
             "tie_embeddings": True},
}  # fmt: skip
PROMPT = [5, 6, 7]


def loud(model: Transformer) -> Transformer:
    """With large random weights, gains and biases: no branch hides and no logits are nearly equal.

    They follow torch's seed.
    """
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
        else:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


@cache
def twins(name: str, seed: int = 0) -> tuple[Transformer, Any]:
    """Ours and theirs, with the same weights: 97 ids, a context of 160."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    ours = loud(Transformer(ModelConfig(97, 160, 32, 2, 4, **CONFIGS[name])))
    with tempfile.TemporaryDirectory() as folder:
        to_hf(ours, Path(folder) / "model")
        theirs = AutoModelForCausalLM.from_pretrained(Path(folder) / "model").eval()
    return ours, theirs


def theirs_generate(model: Any, prompt: list[int], num_new: int, **how: Any) -> Any:
    """Return the output of `generate` of transformers, without sampling. It includes the prompt."""
    ids: Tensor = torch.tensor([prompt])
    return model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_new, do_sample=False,
        pad_token_id=0, return_dict_in_generate=True, output_scores=True, **how,
    )  # fmt: skip
