"""What a lesson prints and draws. `show` also asserts, so that no number is printed unchecked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)  # the sums of a lesson's small tensors are faster, and repeatable

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
    rows = got.reshape(-1, max(1, got.shape[-1]) if got.ndim else 1)
    lines = [
        "  ".join(_written(number, tolerance.max()) for number in row) for row in rows.tolist()
    ]
    print(f"{name:<{_WIDTH}}" + ("\n" + " " * _WIDTH).join(lines))
    assert got.shape == want.shape, f"{name} must have the shape {tuple(want.shape)}"
    near = (got == want) | (got.isnan() & want.isnan())
    kind = torch.promote_types(torch.promote_types(got.dtype, want.dtype), torch.double)
    if got.dtype.is_floating_point or want.dtype.is_floating_point or kind.is_complex:
        near |= (got.to(kind) - want.to(kind)).abs() <= tolerance
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

    A notebook also shows the picture. The same picture gives the same bytes: the file has no date,
    and ids do not depend on chance.
    """
    # pyplot would load the windows of a desktop.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(width, height), layout="constrained")
    yield canvas.subplots()
    path = Path("figures") / f"{name}.svg"
    try:
        path.parent.mkdir(exist_ok=True)
        with rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
            canvas.savefig(path, metadata={"Date": None})
    except OSError as error:
        print(f"(no picture: {error})")
        return
    if (shell := sys.modules.get("IPython")) and shell.get_ipython():  # in a notebook
        shell.display.display(shell.display.SVG(path))
    else:
        print(f"![{name}]({path.as_posix()})")
