"""The rule and the weight decay of each parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scratchlm.optim.adamw import AdamW
from scratchlm.optim.groups import adamw_groups, muon_groups
from scratchlm.optim.muon import Muon


def named(tied: bool = False) -> list[tuple[str, nn.Parameter]]:
    def param(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.ones(shape))

    embedding = param(10, 4)
    return [
        ("embedding.weight", embedding),
        ("layers.0.attn_norm.weight", param(4)),
        ("layers.0.attn.q_proj.weight", param(4, 4)),
        ("layers.0.attn.q_proj.bias", param(4)),
        ("layers.0.moe.experts", param(2, 4, 4)),
        ("norm.weight", param(4)),
        ("lm_head.weight", embedding if tied else param(10, 4)),
    ]


def names_in(group: dict[str, object], pairs: list[tuple[str, nn.Parameter]]) -> list[str]:
    names = {id(param): name for name, param in reversed(pairs)}  # the first name wins
    return [names[id(param)] for param in group["params"]]


def test_adamw_decays_matrices_only() -> None:
    pairs = named()
    matrices, rest = adamw_groups(iter(pairs), 0.1)
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert names_in(matrices, pairs) == [
        "embedding.weight",
        "layers.0.attn.q_proj.weight",
        "layers.0.moe.experts",
        "lm_head.weight",
    ]
    assert names_in(rest, pairs) == [
        "layers.0.attn_norm.weight",
        "layers.0.attn.q_proj.bias",
        "norm.weight",
    ]
    AdamW([matrices, rest])


def test_muon_takes_the_matrices_of_the_layers() -> None:
    pairs = named()
    muon, matrices, rest = muon_groups(
        iter(pairs), lr=0.05, adamw_lr=1e-3, weight_decay=0.2, betas=(0.8, 0.9), eps=1e-9
    )
    assert names_in(muon, pairs) == ["layers.0.attn.q_proj.weight", "layers.0.moe.experts"]
    assert (muon["algorithm"], muon["lr"], muon["weight_decay"]) == ("muon", 0.05, 0.2)
    assert names_in(matrices, pairs) == ["embedding.weight", "lm_head.weight"]
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.2, 0.0)
    for group in (matrices, rest):
        assert (group["algorithm"], group["lr"]) == ("adamw", 1e-3)
        assert (group["betas"], group["eps"]) == ((0.8, 0.9), 1e-9)
    Muon([muon, matrices, rest])


def test_tied_parameters_appear_once() -> None:
    pairs = named(tied=True)
    for groups in (adamw_groups(pairs, 0.1), muon_groups(pairs)):
        params = [param for group in groups for param in group["params"]]
        assert len(params) == len({id(param) for param in params}) == len(pairs) - 1


def test_a_tied_parameter_belongs_where_its_first_name_does() -> None:
    shared, hidden = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    pairs = [
        ("embedding.weight", shared),
        ("layers.0.weight", shared),
        ("layers.1.weight", hidden),
        ("lm_head.weight", hidden),
    ]
    muon, matrices = muon_groups(pairs)
    assert names_in(muon, pairs) == ["layers.1.weight"]
    assert names_in(matrices, pairs) == ["embedding.weight"]


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    pairs = named()
    for _, param in pairs:
        param.requires_grad_(param.ndim == 2)
    (matrices,) = adamw_groups(pairs, 0.1)
    assert len(matrices["params"]) == 3


def test_wrapped_names_are_refused() -> None:
    """They would all go to AdamW, and the user would take the result for Muon's."""
    wrapped = [(f"_orig_mod.{name}", param) for name, param in named()]
    with pytest.raises(
        ValueError, match=r"'layers\.' \(_orig_mod\.embedding.*; pass the unwrapped"
    ):
        muon_groups(wrapped)


def test_the_remedy_for_a_model_with_other_names_works() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"\(0\.weight, .* make the groups yourself") as error:
        muon_groups(net.named_parameters())
    hidden = [net[2].weight]
    others = [param for param in net.parameters() if param is not net[2].weight]
    remedy = str(error.value).rpartition("yourself: ")[2]
    optimizer = eval(remedy, {"Muon": Muon, "hidden": hidden, "others": others})
    before = [param.clone() for param in net.parameters()]
    net(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
