"""Where the weights of a model start: one table, applied by name and shape.

Gains start at 1, biases at 0, and matrices (out, in) so:

| `init`      | draws                      | embedding, positions, lm_head | other matrices |
| ----------- | -------------------------- | ----------------------------- | -------------- |
| `truncated` | a normal cut at ±3 std     | 1/(2√d_model)                 | 1/√in          |
| `gpt2`      | a normal                   | 0.02                          | 0.02           |
| `xavier`    | a normal                   | √(2/(in + out))               | √(2/(in + out))|
| `kaiming`   | a normal                   | √(2/in)                       | √(2/in)        |

`residual_scale` multiplies what writes into the residual stream, `o_proj` and `down_proj`: 2 ·
layers branches add up there, so each starts with that fraction of the variance (GPT-2, section
2.3); or with none, where residual_init is zero.

1/√in keeps the variance of what passes through, at any width; the half of it at the vocabulary
starts the loss about 1/8 above ln(vocab_size). In the first hundred steps of a small model the
smaller draws of gpt2 are ahead: what a layer adds is then little beside the embedding. xavier
(Glorot and Bengio 2010) keeps the variance in between for the way forth and back, kaiming (arXiv
1502.01852) makes up for the half that a ReLU takes away; both were found for networks without norms
and residuals, and are here to compare. `scratchlm-plot init` draws all four.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from scratchlm.model.config import Init
from scratchlm.model.layers import truncated_normal_

_VOCABULARY = ("embedding.weight", "position_embedding.weight", "lm_head.weight")


@torch.no_grad()
def initialize(model: nn.Module, init: Init = "truncated", residual_scale: float = 1.0) -> None:
    """Start all weights of a model anew, in their order."""
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            nn.init.constant_(weight, 0.0 if name.endswith("bias") else 1.0)
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
