"""The choice of block sizes, with invented times: only a GPU can measure them."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

from scratchlm.kernels.flash_blocks import Blocks

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from tune_flash import CANDIDATES, FILE, fastest, with_rows

TEXT = FILE.read_text(encoding="utf-8")


def seconds(kernel: str, width: int, blocks: Blocks) -> float:
    """Blocks of 64 × 64 are best, except that they do not fit for wide heads."""
    if width == 256 and blocks.queries * blocks.keys >= 4096:
        return math.inf
    distance = abs(math.log(blocks.queries * blocks.keys / 4096))
    return distance + abs(blocks.warps - 8) + blocks.stages + (blocks.queries != blocks.keys)


def test_the_fastest_candidate_that_fits_wins() -> None:
    best = fastest(seconds)
    assert len(best) == 9
    assert best["grad_q", 64] == best["forward", 128] == Blocks(64, 64, 8, 1)
    assert best["forward", 256] == Blocks(32, 64, 8, 1)
    assert len(set(CANDIDATES)) == len(CANDIDATES)


def test_rows_are_replaced_and_added_in_order() -> None:
    for gpu, added in (("8.0", 0), ("12.0", 9)):
        text = with_rows(TEXT, gpu, fastest(seconds))
        found: dict = {"__name__": "flash_blocks"}
        exec(compile(text, "flash_blocks", "exec"), found)
        assert len(found["TABLE"]) == len(re.findall(r'^    \("\d', TEXT, re.MULTILINE)) + added
        assert found["TABLE"][gpu, "grad_kv", 64] == Blocks(64, 64, 8, 1)
        assert len(text.splitlines()) == len(TEXT.splitlines()) + added
        assert list(found["TABLE"])[-1][0] == ("12.0" if added else "9.0")
    assert with_rows(TEXT, "9.0", {}) == TEXT
