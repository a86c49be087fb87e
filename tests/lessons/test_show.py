"""`show` asserts what it prints."""

from __future__ import annotations

import warnings

import pytest
import torch

from scratchlm.lessons.show import show


def test_a_list_may_mix_numbers_and_numbers_with_a_graph(capsys):
    x = torch.tensor(1.0, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        show("x, 2x", [x, 2 * x], [1, 2])
        show("nested", [[x, 2.0], [3.0, 2 * x]], [[1, 2], [3, 2]])
    assert "1.0000     2.0000" in capsys.readouterr().out


def test_a_wrong_number_is_named():
    with pytest.raises(AssertionError, match=r"x is wrong \(1, not 2\)"):
        show("x", torch.tensor([1.0, 3.0]), [2, 3])
