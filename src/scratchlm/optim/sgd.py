"""Stochastic gradient descent: plain, with momentum, or with a rate that decays as 1/√t."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim.optimizer import ParamsT

from scratchlm.config import takes_synonyms
from scratchlm.optim.optimizer import Group, Optimizer, check_lr, check_range


@takes_synonyms()
class SGD(Optimizer):
    """A replacement for `torch.optim.SGD`. Weight decay is the L2 penalty λ/2·‖θ‖².

        g ← g + λθ
        b ← μb + (1 − dampening)·g        (b = g at a parameter's first step)
        θ ← θ − lr·(g + μb if nesterov else b)

    Arguments after `momentum` are keyword-only, because torch's next argument is `dampening`, and
    not `weight_decay`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        *,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        check_lr(group["lr"])
        check_range("momentum", group["momentum"], 0.0, math.inf, example=0.9)
        check_range("weight_decay", group["weight_decay"], 0.0, math.inf, example=0.1)
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError(
                f"momentum ({group['momentum']}) must be above 0 and dampening "
                f"({group['dampening']}) must be 0 with nesterov; pass momentum=0.9 and "
                "dampening=0, for example"
            )

    def update(self, group: Group, params: list[Tensor]) -> None:
        lr, momentum = float(group["lr"]), group["momentum"]
        for param in params:
            grad = param.grad
            assert grad is not None
            if group["weight_decay"] != 0:
                grad = grad.add(param, alpha=group["weight_decay"])
            if momentum != 0:
                state = self.state[param]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = grad.clone()
                else:
                    state["momentum_buffer"].mul_(momentum).add_(grad, alpha=1 - group["dampening"])
                buffer = state["momentum_buffer"]
                grad = grad.add(buffer, alpha=momentum) if group["nesterov"] else buffer
            param.add_(grad, alpha=-lr)


@takes_synonyms()
class SGDDecay(Optimizer):
    """Gradient descent with the rate lr/√(t + 1), where t = 0 at a parameter's first step.

    The convergence proof for convex losses uses this decay (Zinkevich, 2003).
    """

    def __init__(self, params: ParamsT, lr: float | Tensor = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    def check(self, group: Group) -> None:
        check_lr(group["lr"])

    def update(self, group: Group, params: list[Tensor]) -> None:
        for param in params:
            grad = param.grad
            assert grad is not None
            state = self.state[param]
            t = state.get("t", 0)
            param.add_(grad, alpha=-float(group["lr"]) / math.sqrt(t + 1))
            state["t"] = t + 1
