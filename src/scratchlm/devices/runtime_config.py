"""`RuntimeConfig`: the settings of the machine in a run. This module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["auto", "float32", "tf32", "bfloat16", "float16", "fp8"]
Attention = Literal["auto", "sdpa", "triton", "readable"]


@dataclass(frozen=True)
class RuntimeConfig:
    """`device` is auto, cpu, cuda, cuda:1 or mps. `dtype` is the dtype of matrix products; weights
    stay float32. With auto, `dtype` is bfloat16 if the hardware multiplies it natively. With tf32,
    a CUDA device rounds the factors of float32 products. With float16, training scales the loss.
    With fp8, the blocks multiply 8-bit factors, and the head uses bfloat16. `attention` is the
    function that computes attention; auto is sdpa. `compile` uses torch.compile; auto compiles if
    compilation works and saves time. `parallel` says how several ranks divide the work; auto is
    ddp. `activation_checkpointing` computes each block twice instead of storing its activations.
    `threads` is the number of CPU threads; with 0, torch chooses the number."""

    device: str = "auto"
    dtype: Dtype = "auto"
    attention: Attention = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    activation_checkpointing: bool = False
    threads: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.threads <= 4096:
            raise ValueError(
                f"runtime.threads must be from 0 to 4096 ({self.threads}); use 0 to let torch "
                "choose the number"
            )
