"""Compare peaks from the datasheets with the units and clocks of the chips; compute an MFU
by hand."""

from __future__ import annotations

import pytest

from scratchlm.costs.gpus import GPUS, PEAKS, mfu, peak_flops
from scratchlm.costs.model_costs import flops_per_token
from scratchlm.model.config import ModelConfig

# As torch names them: multiprocessors, GHz of the boost that the vendor computes with, and FLOPs a
# clock of one multiprocessor: in half precision on tensor cores, and in float32 (2 a unit).
CHIPS = {
    "Tesla V100-PCIE-32GB": (80, 1.38, 1024, 128),
    "Tesla V100-SXM2-16GB": (80, 1.53, 1024, 128),
    "Tesla V100S-PCIE-32GB": (80, 1.597, 1024, 128),
    "Tesla T4": (40, 1.59, 1024, 128),
    "NVIDIA A10": (72, 1.695, 1024, 256),
    "NVIDIA A100-SXM4-40GB": (108, 1.41, 2048, 128),
    "NVIDIA A100-SXM4-80GB": (108, 1.41, 2048, 128),
    "NVIDIA A100-PCIE-40GB": (108, 1.41, 2048, 128),
    "NVIDIA A100 80GB PCIe": (108, 1.41, 2048, 128),
    "NVIDIA GeForce RTX 3090": (82, 1.695, 512, 256),
    "NVIDIA GeForce RTX 4090": (128, 2.52, 512, 256),
    "NVIDIA L4": (58, 2.04, 1024, 256),
    "NVIDIA L40": (142, 2.49, 512, 256),
    "NVIDIA L40S": (142, 2.505, 1024, 256),
    "NVIDIA H100 80GB HBM3": (132, 1.83, 4096, 276.8),  # float32 at 1.98 GHz
    "NVIDIA H100 PCIe": (114, 1.62, 4096, 277.3),  # float32 at 1.755 GHz
    "NVIDIA H200": (132, 1.83, 4096, 276.8),
    "NVIDIA GH200 480GB": (132, 1.83, 4096, 276.8),
    "NVIDIA GH200 144G HBM3e": (132, 1.83, 4096, 276.8),
    "NVIDIA B200": (148, 1.86, 8192, 272.5),  # float32 at 1.98 GHz
    "AMD Instinct MI250X": (110, 1.7, 1024, 256),  # one of its two dies
    "AMD Instinct MI300X": (304, 2.1, 2048, 256),
    "AMD Instinct MI300X OAM": (304, 2.1, 2048, 256),
}


@pytest.mark.parametrize("name", CHIPS)
def test_a_peak_is_units_times_clock(name: str) -> None:
    units, gigahertz, half, single = CHIPS[name]
    clocks = units * gigahertz * 1e9
    assert peak_flops(name, "float16") == pytest.approx(clocks * half, rel=0.012)
    assert peak_flops(name, "float32") == pytest.approx(clocks * single, rel=0.012)
    if any(old in name for old in ("V100", "T4")):
        assert peak_flops(name, "bfloat16") is None
        assert peak_flops(name, "tf32") is None
        assert peak_flops(name, "fp8") is None
    else:
        assert peak_flops(name, "bfloat16") == peak_flops(name, "float16")
    if peak_flops(name, "tf32") is not None:
        assert peak_flops(name, "tf32") == pytest.approx(clocks * half / 2, rel=0.03)


EIGHT_BITS = ("RTX 4090", "L4", "L40", "L40S", "H100", "H200", "GH200", "B200")


@pytest.mark.parametrize("name", [each for each in CHIPS if each.startswith("NVIDIA")])
def test_nvidias_chips_of_capability_8_9_multiply_8_bits_twice_as_fast(name: str) -> None:
    half, peak = peak_flops(name, "bfloat16"), peak_flops(name, "fp8")
    if any(f" {chip} " in f"{name} " for chip in EIGHT_BITS):
        assert half is not None
        assert peak == pytest.approx(2 * half, rel=0.025)
    else:
        assert peak is None


def test_the_table_is_in_teraflops_and_in_order() -> None:
    for name, (half, bfloat16, tf32, single) in PEAKS.items():
        assert name == name.upper()
        assert bfloat16 in (None, half)
        assert GPUS[name].bf16 == (bfloat16 is not None)
        assert 5 < single <= (tf32 or single) < half < 5000


@pytest.mark.parametrize(
    "name",
    [
        "AMD EPYC 7763 64-Core Processor",
        "cpu",
        "",
        "NVIDIA A10G",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "NVIDIA H100 80GB HBM2e",
        "AMD Instinct MI250X / MI250",
    ],
)
def test_what_is_not_that_chip_has_no_peak(name: str) -> None:
    assert peak_flops(name, "float32") is None


def test_a_dtype_that_is_not_in_the_table_has_no_peak() -> None:
    assert peak_flops("NVIDIA H200", "float64") is None


def test_mfu_by_hand() -> None:
    """With 1,000 weights, a token takes 6,000 FLOPs. A million tokens per second take 6 of 24
    GFLOP/s."""
    assert mfu(1e6, 6 * 1000, 24e9) == pytest.approx(0.25)
    assert mfu(1e6, 6 * 1000, None) is None


def test_mfu_counts_what_the_palm_paper_counts() -> None:
    """Appendix B: 6 N + 12 L H Q T a token; half of T where what comes later is not attended to."""
    config = ModelConfig(64, 32, 16, 3, 4, d_ff=64, ffn="gelu", norm="rmsnorm")
    weights = 3 * (4 * 16 * 16 + 2 * 16 * 64) + 16 * 64
    a_token = 6 * weights + 12 * 3 * 4 * 4 * 32 / 2
    assert mfu(1.0, 3 * flops_per_token(config), a_token) == pytest.approx(1.0)
