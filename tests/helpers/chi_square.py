"""Check whether counts fit a distribution."""

from __future__ import annotations

import torch
from torch import Tensor


def p_value(counts: Tensor, probabilities: Tensor) -> float:
    """Pearson's test: the probability of counts at least as far from the expected ones.

    counts and probabilities (cell,). 0 where something impossible was counted; a cell expected less
    than 5 times is too rare for the test.
    """
    possible = probabilities > 0
    if counts[~possible].any():
        return 0.0
    expected = (probabilities * counts.sum())[possible].double()
    assert expected.min() >= 5, "too few draws"
    statistic = ((counts[possible] - expected) ** 2 / expected).sum()
    freedom = torch.tensor(len(expected) - 1, dtype=torch.float64)
    return torch.special.gammaincc(freedom / 2, statistic / 2).item()
