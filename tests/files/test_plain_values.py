from __future__ import annotations

import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import torch

from scratchlm.files import plain_values


def through_json(value):
    tensors = {}
    text = json.dumps(plain_values.to_json(plain_values.checked(value, "key"), tensors, "key"))
    return plain_values.from_json(json.loads(text), tensors)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1 << 80,
        -0.0,
        0.1,
        math.inf,
        "text 中 \u2028",
        [1, [2.5, None]],
        (1, (2, "a"), []),
        {0: "a", 1: {"b": (1,)}, "c": 3},
        {"__tuple__": [1]},
        {"__dict__": 1, "x": (2,)},
        {},
        (),
    ],
)
def test_json_gives_back_value_and_types(value):
    back = through_json(value)
    assert back == value
    assert repr(back) == repr(value), "types too: tuples, -0.0, True"


def test_nan_survives():
    assert math.isnan(through_json(math.nan))


def test_tensors_go_beside_even_where_their_places_spell_alike():
    value = {"a.b": torch.tensor([1.0]), "a": {"b": torch.tensor([2])}, "list": [torch.tensor(3)]}
    back = through_json(value)
    assert back["a.b"].item() == 1.0
    assert back["a"]["b"].item() == 2
    assert back["list"][0].item() == 3


def test_ordered_dict_becomes_a_dict():
    assert plain_values.checked(OrderedDict(a=1), "key") == {"a": 1}


@dataclass
class Config:
    x: int = 1


class Level(IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (np.float64(1.5), "key is a numpy.float64"),  # a float by inheritance
        ({"lr": np.float32(1)}, "key.lr is a numpy.float32"),
        ([1, np.int64(2)], "key.1 is a numpy.int64"),
        (np.zeros(2), "key is a numpy.ndarray"),
        (Config(), "key is a .*Config"),
        ({"deep": [{"path": Path("x")}]}, "key.deep.0.path is a pathlib"),
        (Level.LOW, "key is a .*Level"),
        ({1, 2}, "key is a builtins.set"),
        (b"bytes", "key is a builtins.bytes"),
        (len, "key is a builtins.builtin_function_or_method"),
        ({(1, 2): 3}, r"keys must be strings or integers \(key: \(1, 2\)\)"),
        ({True: 3}, r"keys must be strings or integers \(key: True\)"),
        (torch.float32, "key is a torch.dtype"),
    ],
)
def test_what_is_not_plain_is_refused_by_its_key(value, where):
    with pytest.raises(ValueError, match=where):
        plain_values.checked(value, "key")
