"""`Optimizer`, the base class of every update rule. It runs closures and checks settings."""

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


# torch decorates these methods so that torch.compile skips them. At its first call, the decorator
# imports the compiler (seconds). Only `inspect.unwrap` finds the functions without the decorator.
_add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
_zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class Optimizer(torch.optim.Optimizer):
    """A torch optimizer whose rule is two methods, `check` and `update`.

    `step` skips parameters without a gradient and leaves their state unchanged. It raises
    ValueError, before it changes anything, if a gradient is sparse. `add_param_group` raises
    ValueError if a setting is out of range. `load_state_dict` raises ValueError if `update` could
    not continue from the loaded state.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(not_a_model(params), defaults)

    def check(self, group: Group) -> None:
        """Raise ValueError if a setting of `group` is not valid."""
        raise NotImplementedError

    def update(self, group: Group, params: list[Tensor]) -> None:
        """Update `params`, which are the parameters of `group` that have a gradient."""
        raise NotImplementedError

    def add_param_group(self, param_group: Group) -> None:
        _add_param_group(self, param_group)
        try:
            self.check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def zero_grad(self, set_to_none: bool = True) -> None:
        _zero_grad(self, set_to_none)

    def kept(self, group: Group) -> tuple[str, ...]:
        """Return the names of the state that `update` keeps for a parameter of `group`."""
        return ()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # torch itself refuses a wrong number or size of groups.
        for ours, theirs in zip(self.param_groups, state_dict["param_groups"], strict=False):
            for name in self.defaults.keys() & ours.keys() - theirs.keys():
                raise ValueError(
                    f"every group of the loaded state must have the setting {name}; "
                    "load another state"
                )
            self.check({**theirs, "params": ours["params"]})
            kept = {*self.kept(ours), *self.kept(theirs)}
            for index, param in zip(theirs["params"], ours["params"], strict=False):
                if state := state_dict["state"].get(index):
                    _check_state(state, param, kept)
        super().load_state_dict(state_dict)

    # torch declares two overloads of step. This one signature accepts the calls of both.
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every group. If a `closure` computes the gradients, return its result."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [(group, _with_gradient(group["params"])) for group in self.param_groups]
        for group, params in work:
            self.update(group, params)
        return loss


def not_a_model(params: Params) -> Params:
    """Return `params`. Raise ValueError if `params` is a model."""
    if isinstance(params, nn.Module):
        kind = type(params).__name__
        raise ValueError(f"params must be tensors, not a model ({kind}); pass model.parameters()")
    return params


def _check_state(state: Group, param: Tensor, kept: set[str]) -> None:
    """Raise ValueError unless each count is a number and other values have the shape of `param`."""
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
                f"the loaded state ({name}) must fit a parameter of shape {tuple(param.shape)}; "
                "load another state"
            )


def _with_gradient(params: list[Tensor]) -> list[Tensor]:
    found = [param for param in params if param.grad is not None]
    for param in found:
        assert param.grad is not None
        if param.grad.is_sparse:
            raise ValueError(
                "gradients must be dense (a parameter of shape "
                f"{tuple(param.shape)} has a sparse gradient); use an embedding with sparse=False"
            )
    return found


def gradients(params: list[Tensor]) -> list[Tensor]:
    """Return the gradients of `params`. Every parameter must have a gradient."""
    return [param.grad for param in params if param.grad is not None]


def by_device_and_dtype(tensors: list[Tensor]) -> list[list[int]]:
    """Group the indices of tensors by device and dtype, as a `_foreach_` call needs."""
    indices: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        indices.setdefault((tensor.device, tensor.dtype), []).append(i)
    return list(indices.values())


def check_lr(lr: float | Tensor) -> None:
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(
            f"lr must be one number (a tensor of {lr.numel()} numbers); pass e.g. 1e-3"
        )
    check_range("lr", float(lr), 0.0, math.inf, example=1e-3)


def check_range(name: str, value: float, low: float, high: float, *, example: float) -> None:
    """Raise ValueError unless low <= value < high. NaN always fails."""
    if not low <= value < high:
        raise ValueError(
            f"{name} must be at least {low:g} and below {high:g} ({value}); "
            f"pass {example:g}, for example"
        )
