"""`packed` makes a twin of a model, whose matrices have a layout that a processor reads fast.

Each step of generation reads every weight once for a few rows. So reading takes most of the time,
and `F.linear` reads an (out, in) matrix at a fraction of the memory's speed. The twin has the same
forward pass, with other modules in place of `Linear`, and with adapters merged into the matrices.
The twin is for generation only. It has copies of the matrices, and uses the model's own tensors for
the rest. Make a new twin after the model's weights change, and for another device or dtype.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm.model.layers import Linear, RMSNorm
from scratchlm.model.lora import LoRALinear
from scratchlm.model.transformer import Transformer

Weights = Literal["stored", "int8"]
INT8_STEP = 32  # rows are padded to a multiple of 32; torch's int8 product needs 16 (AVX-512)
FEW = 16  # rows; for more rows, the arithmetic takes longer than reading the weights


def packed(
    model: Transformer,
    weights: Weights = "stored",
    *,
    repack: bool = True,
    one_row: bool = False,
) -> Transformer:
    """Return the twin, in evaluation mode. Tensors that it does not repack are the model's own.

    weights: "stored" keeps the same numbers, and repacks them on a CPU that oneDNN supports. "int8"
    uses `Int8Linear` on a CPU. It raises ValueError on other devices, because torch has no such
    product there. A module with hooks or its own forward is not replaced, and its code still runs.

    repack: False uses the model's own matrices too. `torch.compile` needs this, because it changes
    the layout itself; for a few tokens, repacking takes longer than it saves. one_row: True means
    that the caller generates one sequence. Then the twin leaves out the copies for several rows,
    because they take longest to make (`WidenedLinear`).
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights must be stored or int8 ({weights!r}); use stored")
    device = model.embedding.weight.device
    if weights == "int8" and device.type != "cpu":
        raise ValueError(f"int8 weights need a CPU ({device}); use weights stored")
    eager = device.type == "cpu" and repack
    pack = partial(_packed_linear, weights=weights, eager=eager, one_row=one_row)
    return _twin(model, pack, eager, {})


def _twin(
    module: nn.Module,
    pack: Callable[[Linear], nn.Module],
    eager: bool,
    done: dict[nn.Module, nn.Module],
) -> Any:
    # A compiled module sets attributes on the module inside it, so a copy would change both.
    module = getattr(module, "_orig_mod", module)
    if module in done:  # every layer has the same rotary table
        return done[module]
    changed = bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)
    twin: nn.Module
    if type(module) is Linear and not changed:
        twin = pack(module)
    elif type(module) is LoRALinear and not changed:
        twin = pack(module.merged())
    elif type(module) is nn.Dropout and not changed:
        twin = nn.Identity()
    elif type(module) is RMSNorm and eager and not changed:
        twin = OneKernelRMSNorm(module)
    else:
        twin = object.__new__(type(module))  # copy.copy refuses parametrized modules
        twin.__dict__.update(vars(module))
        twin._modules = {
            name: None if child is None else _twin(child, pack, eager, done)
            for name, child in module._modules.items()
        }
    done[module] = twin
    if twin is not module:
        twin.training = False
        if eager and not changed:
            _call_directly(twin)
    return twin


def _call_directly(twin: nn.Module) -> None:
    """Make calls of `twin` skip the hooks, and put its parts where Python looks first.

    The hundred module calls for one token take a tenth of a small model's time.
    """
    # Python looks up `__call__` in the class of an object, so only another class can change a call.
    twin.__class__ = _direct(type(twin))  # type: ignore[arg-type]
    for parts in (twin._modules, twin._parameters, twin._buffers):
        twin.__dict__.update(parts)


@cache
def _direct(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass of `kind` whose call runs `forward` without the hooks."""
    return type(kind.__name__, (kind,), {"__call__": kind.forward})


def _packed_linear(linear: Linear, *, weights: Weights, eager: bool, one_row: bool) -> nn.Module:
    weight = linear.weight.detach().contiguous()  # a user's weight may be a transposed view
    bias = None if linear.bias is None else linear.bias.detach()
    if weights == "int8":
        return Int8Linear(weight, bias)
    known = eager and torch.backends.mkldnn.is_available()
    if known and weight.dtype == torch.float32:
        if not multiplies_by_its_own_mkl():
            return OneDNNLinear(weight, bias)
        return linear if one_row else OneDNNLinear(weight, bias, but_one_row=True)
    if known and weight.dtype == torch.bfloat16:
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return OneDNNLinear(weight, bias)
        return WidenedLinear(weight, bias, copied=not one_row)
    return linear


class OneKernelRMSNorm(nn.Module):
    """`RMSNorm` with the kernel of layer norm, because (x, -x) has mean 0 and variance mean(x²).

    On a CPU, torch has no kernel for RMSNorm and runs eight small kernels.
    """

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.weight = None if norm.weight is None else norm.weight.detach().repeat(2)
        self.shape, self.eps = (2 * norm.d_model,), norm.eps

    def forward(self, x: Tensor) -> Tensor:
        weight, both = self.weight, torch.cat((x, -x), -1)
        if weight is not None and weight.dtype != x.dtype:
            common = torch.promote_types(x.dtype, weight.dtype)
            weight, both = weight.to(common), both.to(common)
        y = F.layer_norm(both, self.shape, weight, None, self.eps)
        return y.narrow(-1, 0, x.shape[-1]).to(x.dtype)


@cache
def multiplies_by_its_own_mkl() -> bool:
    """Return whether F.linear calls MKL on an Intel processor.

    There MKL multiplies one row of fp32 a tenth to a third faster than oneDNN. On an AMD EPYC, MKL
    took twice as long (docs/benchmarks.md). The processor's name decides, not a measured time, so
    every process computes the same numbers.
    """
    told = Path("/proc/cpuinfo")
    name = told.read_text(encoding="utf-8") if told.exists() else platform.processor()
    return torch.backends.mkl.is_available() and "GenuineIntel" in name


class OneDNNLinear(nn.Module):
    """`Linear` with its matrix in oneDNN's blocked layout for a few rows.

    but_one_row: True keeps the plain matrix too, and uses the plain matrix for one row.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, but_one_row: bool = False) -> None:
        super().__init__()
        # The layout for 8 rows is as fast for one row as the layout for 1, and faster for several.
        self.blocks = torch.ops.mkldnn._reorder_linear_weight(weight, 8)
        self.weight = weight if but_one_row else None
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is not None and x.shape[:-1].numel() == 1:
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.blocks, self.bias, "none", [], "")


class WidenedLinear(nn.Module):
    """`Linear` in bf16 on a processor without bf16 arithmetic.

    An input of one row is multiplied by the stored matrix. With several rows, torch is slow on
    such a processor. So this layer keeps an fp32 copy, multiplies by the copy, and rounds the
    result to bf16 once. It takes as long to make the copies of a model as to generate 70 tokens.
    With copied=False there is no copy: each call converts the matrix to fp32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, copied: bool = True) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.wide = _wide_copy(weight, bias) if copied else None

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[:-1].numel() == 1:
            return F.linear(x, self.weight, self.bias)
        if self.wide is None:
            bias = None if self.bias is None else self.bias.float()
            return F.linear(x.float(), self.weight.float(), bias).to(x.dtype)
        return self.wide(x.float()).to(x.dtype)


def _wide_copy(weight: Tensor, bias: Tensor | None) -> nn.Module:
    half = "fbgemm" in torch.backends.quantized.supported_engines and _fits_half(weight)
    kind = HalfLinear if half else OneDNNLinear
    return kind(weight.float(), None if bias is None else bias.float())


class HalfLinear(nn.Module):
    """`Linear` of fp32 rows with a matrix in fp16, which takes half the bytes of fp32.

    FBGEMM widens the matrix as it multiplies. A bf16 matrix loses no digits: bf16 has 8 binary
    digits, and fp16 has 11.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.nbytes = 2 * weight.numel()  # torch does not report the size of `self.packed`
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)


def _fits_half(weight: Tensor) -> bool:
    """weight (out, in) -> whether fp16 changes each row by at most 2^-12 of its norm.

    This bound is an eighth of bf16's own rounding. The check is needed because fp16 has more
    digits than bf16, but a smaller range.
    """
    wide = weight.float()
    lost = (wide.half().float() - wide).norm(dim=1)
    return bool((lost <= 2**-12 * wide.norm(dim=1)).all())


class Int8Linear(nn.Module):
    """`Linear` with W ≈ scale ⊙ q, where q is int8 and each row (output) has one scale.

    scale = max |row| / 127, q = round(row / scale). This is the symmetric rounding of arXiv
    2208.07339, section 2.1, without the treatment of outliers. A few rows of x multiply q in bf16;
    for more rows, W is restored first. torch's product reads rows in steps of 16, also beyond
    their ends, so rows of another length are padded with zeros.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        wide = weight.float()
        scale = wide.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
        scale = scale.bfloat16()
        quantized = (wide / scale.float()).round().clamp(-127, 127).to(torch.int8)
        self.padding = -weight.shape[1] % INT8_STEP
        self.quantized = F.pad(quantized, (0, self.padding)).contiguous()
        self.scale = scale.squeeze(1)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[:-1].numel() <= FEW:
            rows = x.reshape(-1, x.shape[-1]).bfloat16()
            if self.padding:
                rows = F.pad(rows, (0, self.padding))
            y = torch._weight_int8pack_mm(rows, self.quantized, self.scale)
            y = y.view(*x.shape[:-1], -1).to(x.dtype)
            return y if self.bias is None else y + self.bias
        # Multiply in fp32 for every dtype of x. It costs one pass over W; bf16 costs far more on a
        # processor without bf16 arithmetic.
        restored = self.quantized[:, : x.shape[-1]] * self.scale.float()[:, None]
        y = F.linear(x.float(), restored, None if self.bias is None else self.bias.float())
        return y.to(x.dtype)
