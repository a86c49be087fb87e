"""The table of GPUs, and the fraction of a GPU's peak FLOP/s that training reaches (MFU).

a_token = training_flops_per_token(config)
mfu(5_000.0, a_token, peak_flops("NVIDIA A100-SXM4-40GB", "bfloat16"))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

DTYPES = ("float16", "bfloat16", "tf32", "float32")

Peaks = tuple[float | None, float | None, float | None, float | None]


@dataclass(frozen=True)
class GPU:
    """Describe one kind of GPU.

    `peaks` are dense TFLOP/s in the order of DTYPES. A peak is None if the hardware does not
    multiply this dtype. `peaks` is None if the table lacks all peaks. `memory` maps each version to
    its GiB (vendors write GB). Only the usual GPUs have an entry. `rates` are three rates in GB/s:
    of the largest version's memory, of the link between the GPUs of a node, and of one GPU's part
    of the node's network. The last two rates count one direction. `fp8` is the dense peak of 8-bit
    floats in TFLOP/s, None without such products.
    """

    peaks: Peaks | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    bf16: bool = True
    rates: tuple[float, float, float] | None = None
    fp8: float | None = None


# A key is torch's name in capitals, without the vendor and the memory. A datasheet's peak "with
# sparsity" is twice the dense peak. The half-precision peaks are peaks with float32 sums, which
# torch uses; GeForce cards are twice as fast with float16 sums. A link has half of NVLink's
# bandwidth, because the table counts one direction.
GPUS = {
    "GTX 1080 TI": GPU(memory={"GTX 1080 Ti": 11}, bf16=False),
    "QUADRO RTX 8000": GPU(memory={"Quadro RTX 8000": 48}, bf16=False),
    # NVIDIA T4 datasheet
    "T4": GPU((65, None, None, 8.1), {"T4": 16}, bf16=False),
    "P100": GPU(memory={"P100": 16}, bf16=False),
    # NVIDIA V100 and V100S datasheets
    "V100 PCIE": GPU((112, None, None, 14), bf16=False),
    "V100 SXM2": GPU((125, None, None, 15.7), {"V100": 16}, bf16=False),
    "V100S PCIE": GPU((130, None, None, 16.4), bf16=False),
    # NVIDIA A10 datasheet. An A10G is another chip.
    "A10": GPU((125, 125, 62.5, 31.2)),
    # NVIDIA GA102 architecture whitepaper, appendix A
    "RTX 3080": GPU(memory={"RTX 3080": 10}),
    "RTX 3090": GPU((71, 71, 35.6, 35.6), {"RTX 3090": 24}),
    # NVIDIA Ada GPU architecture whitepaper, appendix A
    "RTX 4090": GPU((165.2, 165.2, 82.6, 82.6), {"RTX 4090": 24}, fp8=330.3),
    # NVIDIA L4, L40 and L40S datasheets
    "L4": GPU((121, 121, 60, 30.3), fp8=242.5),
    "L40": GPU((181, 181, 90.5, 90.5), fp8=362),
    "L40S": GPU((362, 362, 183, 91.6), fp8=733),
    # NVIDIA A100 datasheet: all form factors and memory sizes have the same peaks. The network is
    # the network of DGX A100 (one 200 Gb/s card per GPU).
    "A100 PCIE": GPU((312, 312, 156, 19.5)),
    "A100 SXM4": GPU((312, 312, 156, 19.5), {"A100 40": 40, "A100 80": 80}, rates=(2039, 300, 25)),
    # NVIDIA H100, H100 NVL, H200 and GH200 datasheets (1,979 with sparsity is 989 dense), and the
    # H100 architecture whitepaper. A name without a suffix is an SXM module. The network is the
    # network of DGX H100 and DGX H200 (400 Gb/s).
    "H100": GPU((989, 989, 494.7, 66.9), {"H100": 80}, rates=(3350, 450, 50), fp8=1979),
    "H100 PCIE": GPU((756, 756, 378, 51.2), fp8=1513),
    "H100 NVL": GPU((835.5, 835.5, 417.5, 60), fp8=1670.5),
    "H200": GPU((989, 989, 494.7, 66.9), {"H200": 141}, rates=(4800, 450, 50), fp8=1979),
    "H200 NVL": GPU((835.5, 835.5, 417.5, 60), fp8=1670.5),
    "GH200": GPU((989, 989, 494.7, 66.9), fp8=1979),
    # NVIDIA Blackwell datasheet: HGX B200, GB200 NVL72
    "B200": GPU((2250, 2250, 1100, 75), fp8=4500),
    "GB200": GPU((2500, 2500, 1250, 80), fp8=5000),
    "RX 6900 XT": GPU(memory={"RX 6900 XT": 16}, bf16=False),
    "RADEON VII": GPU(memory={"Radeon VII": 16}, bf16=False),
    # AMD Instinct datasheets, matrix cores. An MI250X is two devices with half of its peak each.
    "MI250X": GPU((191.5, 191.5, None, 47.9)),
    "MI300X": GPU((1307.4, 1307.4, 653.7, 163.4)),
    "MI325X": GPU((1307.4, 1307.4, 653.7, 163.4)),
}
PEAKS = {name: gpu.peaks for name, gpu in GPUS.items() if gpu.peaks}
NOT_THE_CHIP = re.compile(r"NVIDIA|TESLA|GEFORCE|AMD|INSTINCT|OAM|HBM3E?|\d+GB?", re.IGNORECASE)


def peak_flops(device_name: str, dtype_name: str) -> float | None:
    """Return the peak dense FLOP/s of matrix products on a device, or None if it is unknown.

    `device_name` is the result of `torch.cuda.get_device_name`. `dtype_name` is float16, bfloat16,
    tf32 (float32 if torch allows TF32), float32 or fp8. The table has no CPU, no part of a GPU
    (MIG), and no laptop chip with a desktop chip's name.
    """
    words = [word for word in re.split(r"[ -]+", device_name) if not NOT_THE_CHIP.fullmatch(word)]
    gpu = GPUS.get(" ".join(words).upper(), GPU())
    tera = dict(zip(DTYPES, gpu.peaks or (), strict=False), fp8=gpu.fp8).get(dtype_name)
    return None if tera is None else tera * 1e12


def mfu(tokens_per_second: float, flops_per_token: float, peak: float | None) -> float | None:
    """Return the model FLOPs utilization, 0 to 1: tokens/s · FLOPs per token / peak FLOP/s.

    The result is None if `peak` is None. For training, `flops_per_token` is
    `model_costs.training_flops_per_token(config)`: 6 FLOPs for each weight in a matrix product, and
    12 · d_head for each head, layer and attended key (causal: half of the context). Recomputed
    activations do not count. `peak` is the sum over all devices that compute these tokens.
    arXiv 2204.02311, appendix B
    """
    return None if peak is None else tokens_per_second * flops_per_token / peak
