"""Peak FLOP/s of a device by its name, and the fraction of the peak that training reaches (MFU).

a_token = 3 * flops_per_token(config)  # backward costs two forward passes
mfu(5_000.0, a_token, peak_flops("NVIDIA A100-SXM4-40GB", "bfloat16"))
"""

from __future__ import annotations

import re

DTYPES = ("float16", "bfloat16", "tf32", "float32")

# Dense peaks in TFLOP/s, in the order of DTYPES. None: the hardware does not multiply this dtype. A
# datasheet's peak "with sparsity" is twice the dense peak. The half-precision peaks are those with
# float32 sums, which torch uses; GeForce cards are twice as fast with float16 sums.
PEAKS: dict[str, tuple[float | None, ...]] = {
    # NVIDIA V100 and V100S datasheets
    "V100 PCIE": (112, None, None, 14),
    "V100 SXM2": (125, None, None, 15.7),
    "V100S PCIE": (130, None, None, 16.4),
    # NVIDIA T4 datasheet
    "T4": (65, None, None, 8.1),
    # NVIDIA A10 datasheet. An A10G is another chip.
    "A10": (125, 125, 62.5, 31.2),
    # NVIDIA A100 datasheet: all form factors and memory sizes have the same peaks
    "A100 PCIE": (312, 312, 156, 19.5),
    "A100 SXM4": (312, 312, 156, 19.5),
    # NVIDIA GA102 architecture whitepaper, appendix A
    "RTX 3090": (71, 71, 35.6, 35.6),
    # NVIDIA Ada GPU architecture whitepaper, appendix A
    "RTX 4090": (165.2, 165.2, 82.6, 82.6),
    # NVIDIA L4, L40 and L40S datasheets
    "L4": (121, 121, 60, 30.3),
    "L40": (181, 181, 90.5, 90.5),
    "L40S": (362, 362, 183, 91.6),
    # NVIDIA H100 architecture whitepaper; H100 NVL, H200 and GH200 datasheets. No suffix: SXM.
    "H100": (989.4, 989.4, 494.7, 66.9),
    "H100 PCIE": (756, 756, 378, 51.2),
    "H100 NVL": (835.5, 835.5, 417.5, 60),
    "H200": (989.4, 989.4, 494.7, 66.9),
    "H200 NVL": (835.5, 835.5, 417.5, 60),
    "GH200": (989.4, 989.4, 494.7, 66.9),
    # NVIDIA Blackwell datasheet: HGX B200, GB200 NVL72
    "B200": (2250, 2250, 1100, 75),
    "GB200": (2500, 2500, 1250, 80),
    # AMD Instinct datasheets, matrix cores. An MI250X is two devices with half of its peak each.
    "MI250X": (191.5, 191.5, None, 47.9),
    "MI300X": (1307.4, 1307.4, 653.7, 163.4),
    "MI325X": (1307.4, 1307.4, 653.7, 163.4),
}
NOT_THE_CHIP = re.compile(r"NVIDIA|TESLA|GEFORCE|AMD|INSTINCT|OAM|HBM3E?|\d+GB?", re.IGNORECASE)


def peak_flops(device_name: str, dtype_name: str) -> float | None:
    """Return the peak dense FLOP/s of matrix products on a device, or None if it is unknown.

    `device_name` is the result of `torch.cuda.get_device_name`. `dtype_name` is float16, bfloat16,
    tf32 (float32 if torch allows TF32) or float32. PEAKS has no CPU, no part of a GPU (MIG), and no
    laptop chip with a desktop chip's name.
    """
    words = [word for word in re.split(r"[ -]+", device_name) if not NOT_THE_CHIP.fullmatch(word)]
    peaks = PEAKS.get(" ".join(words).upper())
    if peaks is None or dtype_name not in DTYPES:
        return None
    tera = peaks[DTYPES.index(dtype_name)]
    return None if tera is None else tera * 1e12


def mfu(tokens_per_second: float, flops_per_token: float, peak: float | None) -> float | None:
    """Return the model FLOPs utilization, 0 to 1: tokens/s · FLOPs per token / peak FLOP/s.

    The result is None if `peak` is None. For training, `flops_per_token` is
    3 · `costs.flops_per_token(config)`: 6 FLOPs for each weight in a matrix product, and
    12 · d_head for each head, layer and attended key (causal: half of the context). Recomputed
    activations do not count. `peak` is the sum over all devices that share these tokens.
    arXiv 2204.02311, appendix B
    """
    return None if peak is None else tokens_per_second * flops_per_token / peak
