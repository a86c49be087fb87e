"""`RuntimeConfig`: the settings of the machine in a run. This module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["auto", "float32", "tf32", "bfloat16", "float16"]


@dataclass(frozen=True)
class RuntimeConfig:
    """`device`: auto, cpu, cuda, cuda:1, mps. `dtype` is the dtype of matrix products; weights stay
    float32. auto takes bfloat16 if the hardware multiplies it natively. tf32 rounds the factors of
    float32 products on a CUDA device. float16 scales the loss. `compile` uses torch.compile; auto
    compiles if that works and saves time. `parallel`: how several ranks share the work; auto is
    ddp. `activation_checkpointing` computes each block twice instead of storing its activations.
    `threads`: 0 lets torch choose."""

    device: str = "auto"
    dtype: Dtype = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    activation_checkpointing: bool = False
    threads: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.threads <= 4096:
            raise ValueError(
                f"runtime.threads is from 0 to 4096 ({self.threads}); 0 lets torch choose"
            )
