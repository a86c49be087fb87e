"""Parameter groups: the update rule and the weight decay of each parameter, by name and shape.

The functions of this file take `model.named_parameters()` and skip parameters with
`requires_grad=False`. A parameter with two names (a tied embedding) gets the group of its first
name. Only matrices get weight decay, which keeps their values small. Gains and biases get no weight
decay, because gains and biases of 0 would change what the model computes.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from scratchlm.config import takes_synonyms
from scratchlm.optim.optimizer import Group


@takes_synonyms()
def adamw_groups(
    named_parameters: Iterable[tuple[str, Tensor]], weight_decay: float
) -> list[Group]:
    """Return AdamW groups. Only matrices (ndim ≥ 2, also embeddings) get weight decay."""
    params = [param for _, param in _trainable(named_parameters)]
    return _nonempty(
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    )


@takes_synonyms()
def muon_groups(
    named_parameters: Iterable[tuple[str, Tensor]],
    lr: float = 0.02,
    adamw_lr: float = 3e-4,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
) -> list[Group]:
    """Return groups for Muon.

    Muon updates the matrices whose name starts with `layers.`, including stacks of experts'
    matrices. AdamW updates the rest with `adamw_lr`. The rest includes the embedding and `lm_head`,
    with weight decay: their rows are vectors of single tokens, and not maps between hidden spaces.

    Raise ValueError if no matrix has a name that starts with `layers.`, because AdamW would then
    silently update everything. The names of a wrapped model have a prefix. For a model with other
    names, make the two groups yourself:

        Muon([{"params": hidden}, {"params": others, "algorithm": "adamw", "lr": 3e-4}])
    """
    trainable = _trainable(named_parameters)
    hidden = [param for name, param in trainable if _is_hidden_matrix(name, param)]
    if not hidden:
        names = ", ".join(name for name, _ in trainable[:3])
        raise ValueError(
            f"a matrix for Muon must have a name that starts with 'layers.' ({names}, …); "
            "pass the unwrapped model's named_parameters(); for a model with other names, make the "
            "groups yourself: Muon([{'params': hidden}, {'params': others, 'algorithm': 'adamw'}])"
        )
    others = [(name, param) for name, param in trainable if not _is_hidden_matrix(name, param)]
    adamw = {"algorithm": "adamw", "lr": adamw_lr, "betas": betas, "eps": eps}
    return [
        {"params": hidden, "algorithm": "muon", "lr": lr, "weight_decay": weight_decay},
        *({**group, **adamw} for group in adamw_groups(others, weight_decay)),
    ]


def _is_hidden_matrix(name: str, param: Tensor) -> bool:
    return name.startswith("layers.") and param.ndim >= 2


def _trainable(named_parameters: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    first_names: dict[Tensor, str] = {}
    for name, param in named_parameters:
        if param.requires_grad:
            first_names.setdefault(param, name)
    return [(name, param) for param, name in first_names.items()]


def _nonempty(*groups: Group) -> list[Group]:
    return [group for group in groups if group["params"]]
