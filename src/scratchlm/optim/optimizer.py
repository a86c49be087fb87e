"""What every update rule here shares: the closure, the parameters to update, checked settings."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

Params = TypeVar("Params")

Group = dict[str, Any]  # one entry of `param_groups`: {"params": [...], "lr": ..., ...}


class Optimizer(torch.optim.Optimizer):
    """A torch optimizer whose rule is two methods, `check` and `update`.

    A parameter without a gradient is skipped, its state untouched. ValueError before anything is
    changed if a gradient is sparse, if, when a group is added, a setting is out of range, and if a
    loaded state is none that `update` could go on from.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(not_a_model(params), defaults)

    def check(self, group: Group) -> None:
        """Raise ValueError if a setting of `group` cannot be used."""
        raise NotImplementedError

    def update(self, group: Group, params: list[Tensor]) -> None:
        """Apply the rule to `params`: those of `group` that have a gradient."""
        raise NotImplementedError

    def add_param_group(self, param_group: Group) -> None:
        _plain("add_param_group")(self, param_group)
        try:
            self.check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def zero_grad(self, set_to_none: bool = True) -> None:
        _plain("zero_grad")(self, set_to_none)

    def kept(self, group: Group) -> tuple[str, ...]:
        """The names under which `update` finds again what it kept for a parameter of `group`."""
        return ()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Groups of other numbers or sizes are torch's to refuse.
        for ours, theirs in zip(self.param_groups, state_dict["param_groups"], strict=False):
            for name in self.defaults.keys() & ours.keys() - theirs.keys():
                raise ValueError(f"a group lacks a setting ({name}); load another state")
            self.check({**theirs, "params": ours["params"]})
            kept = {*self.kept(ours), *self.kept(theirs)}
            for index, param in zip(theirs["params"], ours["params"], strict=False):
                if state := state_dict["state"].get(index):
                    _check_state(state, param, kept)
        super().load_state_dict(state_dict)

    # torch declares two overloads of step; this one signature takes the calls of both.
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every group; returns what `closure`, which recomputes the gradients, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [(group, _with_gradient(group["params"])) for group in self.param_groups]
        for group, params in work:
            self.update(group, params)
        return loss


def not_a_model(params: Params) -> Params:
    """The parameters; ValueError for a model in their place."""
    if isinstance(params, nn.Module):
        kind = type(params).__name__
        raise ValueError(f"params are tensors, not a model ({kind}); give model.parameters()")
    return params


def _plain(name: str) -> Callable[..., Any]:
    """A method of torch's optimizer without the decorator that keeps torch.compile out of it, and
    that imports the compiler, seconds, at its first call."""
    return inspect.unwrap(getattr(torch.optim.Optimizer, name))


def _check_state(state: Group, param: Tensor, kept: set[str]) -> None:
    """A count is a number; all else is nothing yet, or a tensor of the parameter's shape."""
    for name in kept | state.keys():
        value = state.get(name)
        if name in ("step", "t"):
            number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
            fits = type(number) in (int, float) and 0 <= float(number or 0) < 2**53
        elif value is None:
            fits = name not in kept
        else:
            fits = isinstance(value, Tensor) and value.shape == param.shape
        if not fits:
            raise ValueError(
                f"the state of a parameter of shape {tuple(param.shape)} is of another ({name}); "
                "load another state"
            )


def _with_gradient(params: list[Tensor]) -> list[Tensor]:
    found = [param for param in params if param.grad is not None]
    for param in found:
        assert param.grad is not None
        if param.grad.is_sparse:
            raise ValueError(
                f"gradients must be dense (sparse, of a parameter of shape {tuple(param.shape)}); "
                "use an embedding with sparse=False"
            )
    return found


def gradients(params: list[Tensor]) -> list[Tensor]:
    """The gradients of parameters that all have one."""
    return [param.grad for param in params if param.grad is not None]


def by_device_and_dtype(tensors: list[Tensor]) -> list[list[int]]:
    """Indices of the tensors that share a device and a dtype: what a `_foreach_` call may take."""
    indices: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        indices.setdefault((tensor.device, tensor.dtype), []).append(i)
    return list(indices.values())


def check_lr(lr: float | Tensor) -> None:
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"a tensor lr must have one element ({lr.numel()}); pass one number")
    check_range("lr", float(lr), 0.0, math.inf, example=1e-3)


def check_range(name: str, value: float, low: float, high: float, *, example: float) -> None:
    """ValueError unless low <= value < high; NaN never is."""
    if not low <= value < high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}) ({value}); pass e.g. {example:g}")
