"""How well a device is used: its peak FLOP/s by its name, and the share of it that training takes.

a_token = 3 * flops_per_token(config)                      # of costs: forward, and backward twice
mfu(5_000.0, a_token, peak_flops("NVIDIA A100-SXM4-40GB", "bfloat16"))
"""

from __future__ import annotations

import re

DTYPES = ("float16", "bfloat16", "tf32", "float32")

# Dense peaks in TFLOP/s, in the order of DTYPES; None: the hardware does not multiply it. A
# datasheet's "with sparsity" is twice what a dense matrix can reach. Half precision is summed in
# float32, as torch does: GeForce cards are twice as fast when they sum in float16.
PEAKS: dict[str, tuple[float | None, ...]] = {
    # NVIDIA V100 and V100S datasheets
    "V100 PCIE": (112, None, None, 14),
    "V100 SXM2": (125, None, None, 15.7),
    "V100S PCIE": (130, None, None, 16.4),
    # NVIDIA T4 datasheet
    "T4": (65, None, None, 8.1),
    # NVIDIA A10 datasheet. An A10G is another chip.
    "A10": (125, 125, 62.5, 31.2),
    # NVIDIA A100 datasheet, the same for every form and memory
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
    # NVIDIA H100 architecture whitepaper; H100 NVL, H200 and GH200 datasheets. SXM has no suffix.
    "H100": (989.4, 989.4, 494.7, 66.9),
    "H100 PCIE": (756, 756, 378, 51.2),
    "H100 NVL": (835.5, 835.5, 417.5, 60),
    "H200": (989.4, 989.4, 494.7, 66.9),
    "H200 NVL": (835.5, 835.5, 417.5, 60),
    "GH200": (989.4, 989.4, 494.7, 66.9),
    # NVIDIA Blackwell datasheet: HGX B200, GB200 NVL72
    "B200": (2250, 2250, 1100, 75),
    "GB200": (2500, 2500, 1250, 80),
    # AMD Instinct datasheets, matrix cores. An MI250X is two devices, each with half of its peak.
    "MI250X": (191.5, 191.5, None, 47.9),
    "MI300X": (1307.4, 1307.4, 653.7, 163.4),
    "MI325X": (1307.4, 1307.4, 653.7, 163.4),
}
NOT_THE_CHIP = re.compile(r"NVIDIA|TESLA|GEFORCE|AMD|INSTINCT|OAM|HBM3E?|\d+GB?", re.IGNORECASE)


def peak_flops(device_name: str, dtype_name: str) -> float | None:
    """Dense FLOP/s of matrix products, at most, of the device that `torch.cuda.get_device_name`
    calls so.

    dtype_name: float16, bfloat16, tf32 (what float32 becomes where torch allows TF32) or float32.
    None for a device or a dtype that the table does not hold: a CPU, a part of a GPU (MIG), a
    laptop's chip of the same name.
    """
    words = [word for word in re.split(r"[ -]+", device_name) if not NOT_THE_CHIP.fullmatch(word)]
    peaks = PEAKS.get(" ".join(words).upper())
    if peaks is None or dtype_name not in DTYPES:
        return None
    tera = peaks[DTYPES.index(dtype_name)]
    return None if tera is None else tera * 1e12


def mfu(tokens_per_second: float, flops_per_token: float, peak: float | None) -> float | None:
    """Model FLOPs utilization, from 0 to 1: tokens/s · FLOPs a token / peak FLOP/s; None without a
    peak.

    flops_per_token: what the model needs, 3 · `costs.flops_per_token(config)` to train it: 6 a
    weight that multiplies and 12 · d_head a head, layer and key that is attended to (causal: half
    of the context). Computing activations anew is not counted. peak: of all devices that share
    these tokens.  arXiv 2204.02311, appendix B
    """
    return None if peak is None else tokens_per_second * flops_per_token / peak
