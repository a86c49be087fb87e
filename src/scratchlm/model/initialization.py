"""The initial weights of a model: one table, applied by name and shape.

Gains start at 1, and biases and attention sinks at 0. Matrices (out, in) start as in this table:

| `init`      | distribution           | std of embedding, positions, lm_head | std of the others |
| ----------- | ---------------------- | ------------------------------------ | ----------------- |
| `truncated` | a normal cut at ±3 std | 1/(2√d_model)                        | 1/√in             |
| `gpt2`      | a normal               | 0.02                                 | 0.02              |
| `xavier`    | a normal               | √(2/(in + out))                      | √(2/(in + out))   |
| `kaiming`   | a normal               | √(2/in)                              | √(2/in)           |

`residual_scale` multiplies the std of `o_proj` and `down_proj`, which write into the residual
stream. The residual stream is the sum of 2 · layers branches, so each branch starts with
1/(2 · layers) of the variance (GPT-2, section 2.3). With `residual_init` zero, these matrices start
at 0.

- `truncated`: 1/√in keeps the variance of the activations at any width. `lm_head` starts with half
  of this std, so the first loss is about ln(vocab_size) + 1/8.
- `gpt2` has the lowest loss in the first hundred steps of a small model. Its weights are smaller,
  so a layer adds little to the embedding.
- `xavier` (Glorot and Bengio 2010) is a compromise: the forward pass and the backward pass need
  different variances.
- `kaiming` (arXiv 1502.01852) doubles the variance, because a ReLU removes half of it.

`xavier` and `kaiming` were made for networks without norms and residuals. They are here for
comparison. `scratchlm-plot init` plots all four.

The matrices of adapters start as in the module `lora`, after all others. So the others are the same
as in a model without adapters.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from scratchlm.model.config import Init
from scratchlm.model.layers import truncated_normal_
from scratchlm.model.lora import adapted_layers, is_adapter

_VOCABULARY = ("embedding.weight", "position_embedding.weight", "lm_head.weight")


@torch.no_grad()
def initialize(model: nn.Module, init: Init = "truncated", residual_scale: float = 1.0) -> None:
    """Set all weights of a model to new initial values, in the order of `named_parameters`."""
    for name, weight in model.named_parameters():
        if is_adapter(name):
            continue
        if weight.ndim < 2:
            nn.init.constant_(weight, 0.0 if name.endswith(("bias", "sinks")) else 1.0)
            continue
        out, fan_in = weight.shape[-2:]
        in_vocabulary = name in _VOCABULARY
        match init:
            case "truncated":
                std = (0.5 if in_vocabulary else 1) / math.sqrt(fan_in)
            case "gpt2":
                std = 0.02
            case "xavier":
                std = math.sqrt(2 / (fan_in + out))
            case "kaiming":
                std = math.sqrt(2 / fan_in)
        if name.removesuffix(".weight").endswith(("o_proj", "down_proj")):
            std *= residual_scale
        if init == "truncated":
            truncated_normal_(weight, std)
        else:
            nn.init.normal_(weight, std=std)
    for _, layer in adapted_layers(model):
        layer.reset_parameters()
