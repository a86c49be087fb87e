"""Choose the function that computes attention in a run."""

from __future__ import annotations

import importlib.util
from typing import get_args

import torch

from scratchlm.devices.runtime import check_capability
from scratchlm.devices.runtime_config import Attention
from scratchlm.functional import scaled_dot_product_attention
from scratchlm.kernels.flash_blocks import LARGEST_WIDTH, Kernel, blocks_for
from scratchlm.model.attention import Attend, sdpa


def resolve_attention(name: Attention, device: torch.device, d_head: int) -> Attend:
    """Return the attention called `name`. "auto" is always sdpa.

    sdpa is torch's fused attention. triton is our kernel. readable is the definition. Raise
    ValueError if triton cannot run on the device, or with heads of `d_head` numbers.
    """
    check_model(name, d_head)
    match name:
        case "auto" | "sdpa":
            return sdpa
        case "readable":
            return scaled_dot_product_attention
        case "triton":
            check_capability("attention triton", device, (8, 0), "choose --attention sdpa")
            if importlib.util.find_spec("triton") is None:
                raise ValueError(
                    "attention triton needs triton (not installed); run pip install "
                    "'scratchlm[gpu]' on Linux x86-64, or choose --attention sdpa"
                )
            from scratchlm.kernels.flash_attention import flash_attention  # imports triton

            return flash_attention


def check_model(name: Attention, d_head: int, *, sinks: bool = False) -> None:
    """Raise ValueError if the attention called `name` cannot compute this model on any device."""
    if name != "triton":
        return
    if d_head > LARGEST_WIDTH:
        raise ValueError(
            f"attention triton needs heads of at most {LARGEST_WIDTH} numbers ({d_head}); choose "
            "--attention sdpa"
        )
    if sinks:
        raise ValueError(
            "attention triton cannot compute sinks (model.attention_sinks true); choose "
            "--attention sdpa"
        )


def bits_depend_on(
    name: str, d_head: int, dtype: torch.dtype, device: torch.device
) -> dict[str, str]:
    """Return what decides the bits of the attention called `name`, beside torch and the device.

    For triton, this is the version of the compiler, and the sizes of blocks: queries, keys, warps
    and stages.
    """
    if name != "triton":
        return {}
    import triton

    rows = {kernel: blocks_for(kernel, d_head, dtype, device) for kernel in get_args(Kernel)}
    blocks = " ".join(f"{kernel}:{'x'.join(map(str, row))}" for kernel, row in rows.items())
    return {"triton": triton.__version__, "blocks": blocks}
