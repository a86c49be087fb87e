"""What a lesson prints and draws. `show` also asserts, so that no number is printed unchecked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_WIDTH = 29  # columns of a name


def show(name: str, value: Any, expected: Any, within: Any = 1e-4) -> None:
    """Print `value`. Raise AssertionError if it differs from `expected` by more than `within`.

    Numbers, lists of numbers and tensors are compared number by number. `within` is one tolerance
    or has the shape of `value`. Integers and all other values, such as strings, must be equal.
    """
    try:
        got, want = _tensor(value), _tensor(expected)
    except (TypeError, ValueError, RuntimeError):  # not numbers
        print(f"{name:<{_WIDTH}}{value!r}")
        assert value == expected, f"{name} must be {expected!r}"
        return
    tolerance = torch.as_tensor(within, dtype=torch.double)  # fp32 would round 0.001 up
    rows = got.reshape(-1, got.shape[-1]) if got.ndim else got.reshape(1, 1)
    lines = [
        "  ".join(_written(number, tolerance.max()) for number in row) for row in rows.tolist()
    ]
    print(f"{name:<{_WIDTH}}" + ("\n" + " " * _WIDTH).join(lines))
    assert got.shape == want.shape, f"{name} must have the shape {tuple(want.shape)}"
    if not got.is_floating_point() and not want.is_floating_point():
        assert torch.equal(got, want), f"{name} must be {want.tolist()}"
        return
    got, want = got.double(), want.double()
    near = (got == want) | ((got - want).abs() <= tolerance) | (got.isnan() & want.isnan())
    pairs = [f"{a:.6g}, not {b:.6g}" for a, b in zip(got[~near], want[~near], strict=True)]
    assert not pairs, f"{name} is wrong ({pairs[0]})"


def _tensor(value: Any) -> torch.Tensor:
    """Return numbers as a tensor without a graph. Python's own numbers keep all their digits."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    numbers = _detached(value)
    tensor = torch.as_tensor(numbers)
    return torch.as_tensor(numbers, dtype=torch.float64) if tensor.is_floating_point() else tensor


def _detached(value: Any) -> Any:
    """Return `value` without graphs. torch warns if a number in a list has one."""
    if isinstance(value, list | tuple):
        return [_detached(each) for each in value]
    return value.detach() if isinstance(value, torch.Tensor) else value


def _written(number: float | int | bool, tolerance: Any) -> str:
    if not isinstance(number, float):
        return f"{number!s:>9}"
    if tolerance < 1e-5:
        return f"{number:9.1e}"
    return f"{number:9.{4 if tolerance <= 1e-3 else 2}f}"


def error_of(action: Callable[[], object], words: str) -> str:
    """Run `action`. Return `words` if PyTorch's error contains them, else the whole error.

    Return "no error" if there is none.
    """
    try:
        action()
    except RuntimeError as error:
        return words if words in str(error) else str(error)
    return "no error"


@contextmanager
def figure(name: str, width: float = 3.6, height: float = 3.0) -> Iterator[Any]:
    """Give matplotlib axes of `width` × `height` inches, then save them as figures/`name`.svg.

    The same picture gives the same bytes: the file has no date, and ids do not depend on chance.
    """
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": name, "svg.fonttype": "path"})
    canvas, axes = plt.subplots(figsize=(width, height), layout="constrained")
    yield axes
    path = Path("figures") / f"{name}.svg"
    path.parent.mkdir(exist_ok=True)
    canvas.savefig(path, metadata={"Date": None})
    plt.close(canvas)
    print(f"![{name}]({path.as_posix()})")
