"""A state that an optimizer cannot continue from is refused before anything changes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from scratchlm import SGD, AdamW, Muon
from scratchlm.optim.groups import muon_groups
from scratchlm.optim.optimizer import Optimizer


def trained(kind: str) -> Optimizer:
    torch.manual_seed(0)
    model = nn.ModuleDict({"layers": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))})
    match kind:
        case "adamw":
            optimizer: Optimizer = AdamW(model.parameters())
        case "sgd":
            optimizer = SGD(model.parameters(), momentum=0.9)
        case "muon":
            optimizer = Muon(muon_groups(model.named_parameters(), lr=0.02, adamw_lr=1e-3))
    model["layers"](torch.ones(5, 3)).square().mean().backward()
    optimizer.step()
    return optimizer


def by_adamw(states: Any, group: Any, adamw: Any) -> None:
    """Replace the states by complete states of AdamW."""
    group.update(adamw | {"params": group["params"]})
    for index in group["params"]:
        moment = states[index]["momentum_buffer"]
        states[index] = {"step": 1.0, "exp_avg": moment, "exp_avg_sq": moment}


EDITS: list[tuple[str, Callable[[Any, Any], object]]] = [
    ("adamw", lambda states, groups: states[0].pop("exp_avg")),
    ("adamw", lambda states, groups: states[0].update(exp_avg=None)),
    ("adamw", lambda states, groups: states[0].update(exp_avg=torch.zeros(1))),
    ("adamw", lambda states, groups: states[0].update(exp_avg_sq=torch.zeros(3, 4))),
    ("adamw", lambda states, groups: states[0].update(exp_avg=0.5)),
    ("adamw", lambda states, groups: states[0].update(step="1")),
    ("adamw", lambda states, groups: states[0].update(step=True)),
    ("adamw", lambda states, groups: states[0].update(step=-1)),
    ("adamw", lambda states, groups: states[0].update(step=torch.tensor(math.nan))),
    ("adamw", lambda states, groups: states[0].update(step=torch.ones(2))),
    ("adamw", lambda states, groups: groups[0].update(lr=-1.0)),
    ("adamw", lambda states, groups: groups[0].update(betas=(1.0, 0.9))),
    ("adamw", lambda states, groups: groups[0].update(eps=math.nan)),
    ("adamw", lambda states, groups: groups[0].pop("foreach")),
    ("adamw", lambda states, groups: groups.pop()),
    ("adamw", lambda states, groups: groups[0]["params"].pop()),
    ("sgd", lambda states, groups: states[1].update(momentum_buffer=torch.zeros(5))),
    ("sgd", lambda states, groups: groups[0].update(nesterov=True, dampening=0.5)),
    ("muon", lambda states, groups: states[0].update(momentum_buffer=torch.zeros(1))),
    ("muon", lambda states, groups: groups[0].update(algorithm="lion")),
    ("muon", lambda states, groups: groups[0].update(groups[1] | {"params": groups[0]["params"]})),
    ("muon", lambda states, groups: by_adamw(states, groups[0], groups[1])),
]


@pytest.mark.parametrize(("kind", "edit"), EDITS)
def test_a_state_that_does_not_fit(kind: str, edit: Callable[[Any, Any], object]) -> None:
    state = copy.deepcopy(trained(kind).state_dict())
    fresh, same = trained(kind), trained(kind)
    edit(state["state"], state["param_groups"])
    with pytest.raises(ValueError):
        fresh.load_state_dict(state)
    assert str(fresh.state_dict()) == str(same.state_dict())


@pytest.mark.parametrize("kind", ["adamw", "sgd", "muon"])
def test_a_state_that_fits_and_none_yet(kind: str) -> None:
    """The positive control; and a parameter without a gradient has no state."""
    optimizer = trained(kind)
    state = copy.deepcopy(optimizer.state_dict())
    del state["state"][0]
    optimizer.load_state_dict(state)
    assert optimizer.state_dict()["state"].keys() == state["state"].keys()
