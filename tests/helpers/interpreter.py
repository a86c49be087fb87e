"""Mend Triton's interpreter, which runs kernels on a CPU: round and multiply as a GPU does.

Triton 3.7.1 multiplies the bit patterns of bfloat16 numbers in `tl.dot`, cuts digits off instead of
rounding to bfloat16, and loses the carry when it rounds to fp8. The functions here use torch's
casts. Call `mend()` before the first kernel runs. It needs TRITON_INTERPRET=1 from the start.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter

TORCH = {
    "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64,
    "fp8e4nv": torch.float8_e4m3fn, "fp8e5": torch.float8_e5m2,
}  # fmt: skip
BITS = {1: "8", 2: "16", 4: "32", 8: "64"}


def mend() -> None:
    interpreter._convert_float = convert
    interpreter.InterpreterBuilder.create_dot = dot
    interpreter.InterpretedFunction.__call__ = call


_patching_call = interpreter.InterpretedFunction.__call__
_patched = set[str]()


def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call a kernel function from another. Patch `tl` once for each module, not 2 ms a call."""
    if self.fn.__module__ not in _patched:
        _patched.add(self.fn.__module__)
        return _patching_call(self, *arguments, **keywords)
    return self.rewrite()(*arguments, **keywords)


def as_torch(array: Any, dtype: Any) -> Tensor:
    """Return the numbers of an array, whose elements may be their bits."""
    bits = np.ascontiguousarray(array).view(f"int{BITS[array.dtype.itemsize]}")
    return torch.from_numpy(bits).view(TORCH[dtype.name])


def convert(array: Any, source: Any, target: Any, rounding: Any = None) -> Any:
    """Return the bits of the numbers in dtype `target`, rounded to the nearest, ties to even."""
    cast = as_torch(array, source).to(TORCH[target.name]).reshape(array.shape)
    bits = BITS[cast.element_size()]
    return cast.view(getattr(torch, f"int{bits}")).numpy().view(f"uint{bits}")


def dot(self: Any, a: Any, b: Any, start: Any, *_: Any) -> Any:
    """Return start + a · b: products of the exact numbers, sums in the dtype of `start`."""
    x, y = (
        as_torch(each.data, each.dtype.scalar).to(torch.float32).numpy()
        if each.dtype.scalar.name in ("bf16", "fp8e4nv", "fp8e5")
        else each.data
        for each in (a, b)
    )
    total = np.matmul(x, y, dtype=start.data.dtype) + start.data
    return interpreter.TensorHandle(total, start.dtype.scalar)
