"""FP8 training: put layers with 8-bit products in the place of a model's linear layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm.kernels.fp8_linear import MULTIPLE, Product, fp8_linear, scaled_product
from scratchlm.model.config import ModelConfig
from scratchlm.model.layers import Linear
from scratchlm.model.lora import LoRALinear
from scratchlm.model.moe import Experts
from scratchlm.model.transformer import Transformer


class FP8Linear(Linear):
    """x (..., in_features) -> (..., out_features):  `fp8_linear` in training.

    The layer has the parameters of `linear`, so the model's state stays the same. In evaluation, it
    is an ordinary `Linear`, because the finished model computes without FP8.
    """

    def __init__(self, linear: Linear, product: Product = scaled_product) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        y = fp8_linear(x, self.weight, product=self.product)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def use_fp8(blocks: nn.ModuleList, product: Product = scaled_product) -> None:
    """Replace each linear layer of the blocks by an `FP8Linear`, in place.

    The embedding, the head and the norms stay as they are. Raise ValueError for a layer whose
    sizes are not multiples of 16, for adapters, and for the experts of a mixture.
    """
    modules = dict(blocks.named_modules(prefix="layers"))
    for name, module in modules.items():
        if isinstance(module, LoRALinear | Experts):
            kind = "adapters (LoRA)" if isinstance(module, LoRALinear) else "experts"
            raise ValueError(f"{kind} must not use FP8 ({name}); choose --dtype bfloat16")
    linear = {name: module for name, module in modules.items() if isinstance(module, Linear)}
    for name, layer in linear.items():
        if layer.in_features % MULTIPLE or layer.out_features % MULTIPLE:
            raise ValueError(
                f"the sizes of a layer with FP8 must be multiples of {MULTIPLE} ({name}: "
                f"{layer.in_features} to {layer.out_features}); change the sizes of the model, or "
                "choose --dtype bfloat16"
            )
    for name, layer in linear.items():
        parent, _, last = name.rpartition(".")
        new = FP8Linear(layer, product)
        new.train(layer.training)
        setattr(modules[parent], last, new)


def check_layers(config: ModelConfig) -> None:
    """Raise the ValueError of `use_fp8` without allocating a model."""
    with torch.device("meta"):
        use_fp8(Transformer(config).layers)


def uses_fp8(model: nn.Module) -> bool:
    """Return whether a layer of the model is an `FP8Linear`."""
    return any(isinstance(module, FP8Linear) for module in model.modules())


def check_tokens(sequences: int, context_length: int) -> None:
    """Raise ValueError if the tokens of a micro-batch on one rank are no multiple of 16."""
    if sequences * context_length % MULTIPLE:
        raise ValueError(
            f"with fp8, the tokens of a rank's micro-batch must be a multiple of {MULTIPLE} "
            f"({sequences} x {context_length}); change --batch_size or --context_length"
        )
