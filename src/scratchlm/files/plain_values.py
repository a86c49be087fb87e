"""Plain data: tensors, None, bool, int, float, str, and lists, tuples and dicts of them.

A checkpoint contains only plain data. `checked` refuses any other value before a save writes bytes.
`to_json` and `from_json` convert plain data to JSON and back without a change. Tags represent the
values that JSON lacks:

    (1, 2)        {"__tuple__": [1, 2]}
    {0: "a"}      {"__dict__": [[0, "a"]]}
    inf, nan      {"__float__": "inf"}
    a tensor      {"__tensor__": its name in the tensor file}
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_SCALARS = (type(None), bool, int, float, str)
_TAGS = {"__tensor__", "__float__", "__tuple__", "__dict__"}


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a copy of plain data in which `change` replaces each tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(each, change) for each in value)
    return value


def checked(value: Any, key: str, *, elsewhere: bool = False) -> Any:
    """Return `value` with copies of its containers. Raise ValueError with the key if `value` is not
    plain data.

    elsewhere: accept tensors on the meta device, because another process has their numbers.

    A subclass of a plain type is not plain. For example, `numpy.float64` is a subclass of float,
    but a loader that runs no code refuses a `numpy.float64`.
    """
    kind = type(value)
    if kind in (Tensor, nn.Parameter):  # the safe loader refuses other tensor classes
        if value.is_meta and elsewhere:
            return value
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            raise ValueError(
                f"a checkpoint's tensors must be dense and must have memory ({key}: {value.layout} "
                f"on {value.device}); convert the tensor, e.g. with .to_dense() or .dequantize()"
            )
        return value.detach()
    if kind in _SCALARS:
        return value
    if kind in (list, tuple):
        return kind(
            checked(each, f"{key}.{i}", elsewhere=elsewhere) for i, each in enumerate(value)
        )
    if kind in (dict, OrderedDict):
        for name in value:
            if type(name) not in (str, int):
                raise ValueError(
                    f"a checkpoint's keys must be strings or integers ({key}: {name!r}); "
                    "rename that key"
                )
        return {
            name: checked(each, f"{key}.{name}", elsewhere=elsewhere)
            for name, each in value.items()
        }
    if hasattr(value, "full_tensor"):  # a shard of FSDP or of tensor parallelism
        raise ValueError(
            f"a checkpoint's tensors must be whole ({key} is sharded over ranks); gather the "
            "tensor first, e.g. with .full_tensor() or torch's get_model_state_dict"
        )
    raise ValueError(
        f"a checkpoint must contain only tensors and plain Python values ({key} is a "
        f"{kind.__module__}.{kind.__qualname__}); convert the value, e.g. with .item(), str() or "
        "asdict()"
    )


def to_json(value: Any, tensors: dict[str, Tensor], key: str = "") -> Any:
    """Return `value` in a form for `json.dumps`. Put its tensors into `tensors` under their dotted
    keys."""
    if isinstance(value, Tensor):
        while key in tensors:  # a key that contains a dot can equal another dotted key
            key += "'"
        tensors[key] = value
        return {"__tensor__": key}
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": repr(value)}
    if isinstance(value, list | tuple):
        items = [to_json(each, tensors, f"{key}.{i}") for i, each in enumerate(value)]
        return items if isinstance(value, list) else {"__tuple__": items}
    if isinstance(value, dict):
        encoded = {
            name: to_json(each, tensors, f"{key}.{name}" if key else str(name))
            for name, each in value.items()
        }
        if all(isinstance(name, str) and not name.startswith("__") for name in encoded):
            return encoded
        return {"__dict__": [[name, each] for name, each in encoded.items()]}
    return value


def from_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Invert `to_json`. Raise KeyError for a missing tensor. Raise ValueError or TypeError for data
    that `to_json` does not write."""
    if isinstance(value, list):
        return [from_json(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    tags = [name for name in value if name.startswith("__")]
    if tags and (len(value) > 1 or tags[0] not in _TAGS):
        raise ValueError(f"there is no such tag ({', '.join(value)})")
    match value:
        case {"__tensor__": name}:
            return tensors[name]
        case {"__float__": text}:
            return float(text)
        case {"__tuple__": items}:
            return tuple(from_json(each, tensors) for each in items)
        case {"__dict__": pairs}:
            return {name: from_json(each, tensors) for name, each in pairs}
        case _:
            return {name: from_json(each, tensors) for name, each in value.items()}
