"""LoRA: adapters of low rank beside frozen linear layers.  arXiv 2106.09685

    y = W x + b + alpha / r · B A x        W (out, in) is frozen; A (r, in) and B (out, r) learn

B starts at 0, so a model with new adapters computes the same as without them. A starts uniform in
±1/√in, as in `peft`. `merged_state` adds the adapters to the weights: W + alpha / r · B A.

A and B have at least fp32, even if W has 16 bits, because a step changes them by less than bf16 can
store. The stacked matrices of a mixture's experts have no adapters. An adapter on a tied head is an
error: the head and the embedding are one matrix, and the adapter would change only one use of it.
`LoRAConfig.full` lets such a weight learn without an adapter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm.model.config import LoRAConfig
from scratchlm.model.layers import Linear
from scratchlm.model.moe import Experts
from scratchlm.model.weight_names import tied_names

ALL = "all-linear"
_NOT_IN_ALL = ("lm_head", "router")  # as in peft with transformers 5


class LoRALinear(nn.Module):
    """x (..., in_features) -> (..., out_features):  y = W x + b + alpha / r · B A dropout(x).

    W and b are the parameters of `linear`. The names of W and b in the model's state stay the same.
    """

    def __init__(self, linear: Linear, config: LoRAConfig) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.config = config
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        new = partial(torch.empty, device=self.weight.device, dtype=wide)
        self.lora_A = nn.Parameter(new(config.r, self.in_features))
        self.lora_B = nn.Parameter(new(self.out_features, config.r))
        self.dropout: nn.Module = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set new initial values for A and B."""
        if not self.lora_A.is_meta:
            bound = 1 / math.sqrt(self.in_features)
            nn.init.uniform_(self.lora_A, -bound, bound)
            nn.init.zeros_(self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return (y + F.linear(self._low(x), self.lora_B)).to(y.dtype)

    def _low(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., r):  alpha / r · A dropout(x)."""
        x = self.dropout(x).to(self.lora_A.dtype)
        return self.config.scale * F.linear(x, self.lora_A)

    def as_one(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., in) -> z (..., in + r), W' (out, in + r) with W' z = y, for a layer without bias.

        z = (x, alpha / r · A dropout(x)) and W' = (W, B). A loss that fuses the head needs these.
        """
        weight = torch.cat((self.weight, self.lora_B.to(self.weight.dtype)), dim=1)
        return torch.cat((x, self._low(x).to(x.dtype)), dim=-1), weight

    def merged(self) -> Linear:
        """Return a new `Linear` that computes the same without an adapter. It shares the bias."""
        with torch.device("meta"):
            linear = Linear(self.in_features, self.out_features)
        weight = merged_weight(self.weight, self.lora_A, self.lora_B, self.config.scale)
        linear.weight, linear.bias = nn.Parameter(weight), self.bias
        return linear

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, bias={bias}, {self.config}"


@torch.no_grad()
def merged_weight(weight: Tensor, lora_A: Tensor, lora_B: Tensor, scale: float) -> Tensor:  # noqa: N803
    """weight (out, in), lora_A (r, in), lora_B (out, r) -> weight + scale · B A (out, in).

    The sum has the dtype of A and B, and rounds once to the dtype of `weight`.
    """
    return (weight.to(lora_A.dtype) + scale * (lora_B @ lora_A)).to(weight.dtype)


def merged_state(state: Mapping[str, Tensor], config: LoRAConfig) -> dict[str, Tensor]:
    """Return a model's state with each adapter merged into its weight."""
    merged = {name: tensor for name, tensor in state.items() if not is_adapter(name)}
    for name in state:
        if name.endswith(".lora_A"):
            layer = name.removesuffix(".lora_A")
            weight, a, b = (state[f"{layer}.{each}"] for each in ("weight", "lora_A", "lora_B"))
            merged[f"{layer}.weight"] = merged_weight(weight, a, b, config.scale)
    return merged


def is_adapter(name: str) -> bool:
    """Return whether this is the name of a matrix of an adapter."""
    return name.endswith((".lora_A", ".lora_B"))


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Yield (name, layer) for each layer with an adapter."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def check_without_adapters(model: nn.Module) -> None:
    """Raise ValueError if the model has adapters already."""
    for name, _ in adapted_layers(model):
        raise ValueError(
            f"the model must not have adapters already ({name} has one); merge the adapters first, "
            "with merge_lora()"
        )


def add_adapters(model: nn.Module, config: LoRAConfig) -> None:
    """Replace the target layers by layers with adapters. Freeze the other parameters, except those
    in `config.full`.

    Raise ValueError if a target fits no linear layer, if a target is a tied head or the stacked
    matrices of experts, or if the model has adapters already.
    """
    check_without_adapters(model)
    names = _target_names(model, config.targets)
    learning = _full_parameters(model, config.full, names)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in learning:
        parameter.requires_grad_(True)
    for name in names:
        linear = model.get_submodule(name)
        assert isinstance(linear, Linear)
        _put(model, name, LoRALinear(linear, config))


def merge_adapters(model: nn.Module) -> None:
    """Merge each adapter into its layer. All parameters of the model can learn again."""
    for name, layer in list(adapted_layers(model)):
        _put(model, name, layer.merged())
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def _put(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    new.train(model.training)
    setattr(model.get_submodule(parent), last, new)


def _target_names(model: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Return the names of the layers that the targets describe, in the order of the model."""
    linear = [name for name, module in model.named_modules() if type(module) is Linear]
    stacked = [
        f"{name}.{matrix}"
        for name, module in model.named_modules()
        if isinstance(module, Experts)
        for matrix, _ in module.named_parameters()
    ]
    found: set[str] = set()
    for target in targets:
        if target == ALL:
            found.update(name for name in linear if not _ends(name, *_NOT_IN_ALL))
            continue
        if any(_ends(name, target) for name in stacked):
            raise ValueError(
                f"the stacked matrices of experts cannot have adapters (lora.targets: {target}); "
                "use layers of the attention, or shared." + target
            )
        fitting = [name for name in linear if _ends(name, target)]
        if not fitting:
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise ValueError(
                f"a target must be the end of a linear layer's name (lora.targets: {target}); use "
                f"{ALL}, or some of {', '.join(known)}"
            )
        found.update(fitting)
    _check_untied(model, found)
    return [name for name in linear if name in found]


def _full_parameters(
    model: nn.Module, full: tuple[str, ...], adapted: list[str]
) -> list[nn.Parameter]:
    """Return the parameters of the modules whose names end with one of `full`."""
    found: list[nn.Parameter] = []
    for end in full:
        modules = [name for name, _ in model.named_modules() if _ends(name, end)]
        own = [each for name in modules for each in model.get_submodule(name).parameters()]
        if not own:
            raise ValueError(
                f"a module that learns fully must be in the model and have weights (lora.full: "
                f"{end}); use e.g. embedding or lm_head"
            )
        for name in adapted:
            if any(f"{name}.".startswith(f"{module}.") for module in modules):
                raise ValueError(
                    f"a layer with an adapter cannot learn fully too (lora.full: {end} contains "
                    f"{name}); remove it from one of lora.full and lora.targets"
                )
        found += own
    return found


def _check_untied(model: nn.Module, found: set[str]) -> None:
    """Raise ValueError if another module has the weight of a target too."""
    for group in tied_names(model):
        layers = [name.removesuffix(".weight") for name in group]
        for name in found.intersection(layers):
            other = next(each for each in layers if each != name)
            raise ValueError(
                f"a layer with a tied weight must not have an adapter (lora.targets: {name} has "
                f"the weight of {other}), because the adapter would change only one of the two; "
                f"remove {name} from the targets"
            )


def _ends(name: str, *ends: str) -> bool:
    """Return whether the dotted `name` ends with the parts of one of `ends`."""
    return any(f".{name}".endswith(f".{end}") for end in ends)
