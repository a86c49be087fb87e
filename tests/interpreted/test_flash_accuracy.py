"""The Triton kernels of flash attention, against the formula in fp64, number by number."""

from __future__ import annotations

import pytest
import torch

from helpers.flash_cases import LIMITS, SKIPS, Case, cases, errors, run, wrong_visits
from scratchlm.kernels.flash_blocks import Blocks

CASES = list(cases(200))
SAMPLE = 60
DTYPES = list(LIMITS)
LONG = [
    Case(1, 2, 1, 257, 257, 64, 64, blocks=Blocks(64, 64, 4, 2)),
    Case(1, 2, 2, 300, 600, 64, 64, window=200, blocks=Blocks(128, 64, 4, 2)),
    Case(2, 4, 1, 400, 400, 80, 80, first="documents", blocks=Blocks(64, 128, 4, 2)),
    Case(1, 3, 1, 513, 513, 128, 128, window=100, first="any", blocks=Blocks(128, 64, 4, 2)),
    Case(1, 1, 1, 300, 257, 256, 256, causal=False, blocks=Blocks(64, 32, 4, 2)),
    Case(1, 2, 1, 300, 300, 192, 128, first="padding", blocks=Blocks(32, 64, 4, 2)),
]


@pytest.mark.parametrize("number", range(SAMPLE))
def test_output_and_gradients_are_near_fp64(number: int) -> None:
    """Inputs have NaN around them, and writes outside of the results fail (`run`)."""
    found = errors(CASES[number], DTYPES[number % 3])
    assert max(found.values()) <= 1, (CASES[number], found)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)))
def test_output_and_gradients_of_each_dtype_are_near_fp64(number: int) -> None:
    for dtype in DTYPES:
        found = errors(CASES[number], dtype)
        assert max(found.values()) <= 1, (CASES[number], dtype, found)


@pytest.mark.slow
@pytest.mark.parametrize("case", LONG)
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_sequences_are_near_fp64(case: Case, dtype: torch.dtype) -> None:
    found = errors(case, dtype)
    assert max(found.values()) <= 1, found


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize("name", SKIPS)
def test_exactly_the_blocks_outside_each_interval_are_skipped(name: str) -> None:
    assert wrong_visits(name) == []


@pytest.mark.parametrize("case", [CASES[13], CASES[9]])
def test_equal_inputs_give_equal_bits(case: Case) -> None:
    for one, other in zip(*(run(case, torch.bfloat16).results for _ in range(2)), strict=True):
        assert torch.equal(one, other)
