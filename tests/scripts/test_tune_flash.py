"""The choice of block sizes, with invented times: only a GPU can measure them."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
import torch

from scratchlm.kernels import flash_blocks
from scratchlm.kernels.flash_blocks import TABLE, Blocks, blocks_for

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from tune_flash import FILE, WIDTHS, candidates, check, fastest, least_shared, with_rows

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
CPU = torch.device("cpu")  # which has the rows of 8.6
MUCH = 227 * 1024
TEXT = FILE.read_text(encoding="utf-8")


def seconds(kernel: str, width: int, blocks: Blocks) -> float:
    """Blocks of 64 × 64 are best, except that they do not fit for wide heads."""
    if width == 256 and blocks.queries * blocks.keys >= 4096:
        return math.inf
    distance = abs(math.log(blocks.queries * blocks.keys / 4096))
    return distance + abs(blocks.warps - 8) + blocks.stages + (blocks.queries != blocks.keys)


def test_the_fastest_candidate_that_fits_wins() -> None:
    best = fastest(seconds, CPU, MUCH)
    assert len(best) == 9
    assert best["grad_q", 64] == best["forward", 128] == Blocks(64, 64, 8, 1)
    assert best["forward", 256] == Blocks(32, 32, 8, 1)


def test_without_a_candidate_that_fits_there_is_no_row() -> None:
    with pytest.raises(SystemExit, match=r"must fit on the GPU \(grad_q, heads of 128: none of"):
        fastest(
            lambda kernel, width, _: math.inf if (kernel, width) == ("grad_q", 128) else 1.0,
            CPU, MUCH,
        )  # fmt: skip


def test_the_row_of_the_table_is_a_candidate_and_wins_a_tie() -> None:
    best = fastest(lambda *_: 1.0, CPU, 0)
    assert best == {key: blocks_for(*key, torch.bfloat16, CPU) for key in best}
    for (_, kernel, width), row in TABLE.items():
        found = candidates(kernel, width, row, MUCH)
        assert found[0] == row
        assert len(set(found)) == len(found)
    small = {blocks[:2] for blocks in candidates("grad_kv", 256, row, MUCH)}
    assert {(16, 32), (32, 16), (32, 32)} <= small


def test_no_candidate_needs_more_memory_than_a_program_has() -> None:
    row = Blocks(16, 32, 8, 1)
    large = candidates("forward", 256, row, MUCH)
    assert Blocks(64, 64, 8, 3) in large
    assert Blocks(64, 128, 8, 3) not in large  # 2 stages of 2 x 128 x 256 numbers: 256 KB
    assert Blocks(64, 64, 8, 3) not in candidates("forward", 256, row, 99 * 1024)
    assert Blocks(128, 64, 8, 3) not in candidates("grad_kv", 256, row, MUCH)


def test_the_bound_of_memory_is_below_what_the_compiler_needs() -> None:
    """The page has the memory of each compiled row."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    compared = 0
    for row in rows:
        if len(row) == 13 and row[3] == "bf16":
            blocks = Blocks(*map(int, row[5].split(" × ")), int(row[6]), int(row[7]))  # noqa: RUF001
            assert least_shared(row[0], int(row[2]), blocks) <= int(row[10]) * 1024, row
            compared += 1
    assert compared >= 54


@pytest.mark.parametrize("error", [1.5, math.nan])
def test_rows_with_wrong_results_are_refused(error: float, monkeypatch) -> None:
    monkeypatch.setattr("tune_flash.TABLE", table := dict(flash_blocks.TABLE))
    best = fastest(seconds, CPU, MUCH)
    cases = []

    def errors_of(case, dtype: torch.dtype) -> dict[str, float]:
        assert table["12.0", "grad_kv", 64] == Blocks(64, 64, 8, 1)
        assert case.blocks is None  # those of the table
        cases.append((case, dtype))
        return {"output": 0.1, "grad_k": error if case.d_head == 256 else 0.2}

    with pytest.raises(SystemExit, match=r"must be near float64 .*the table did not change"):
        check(best, "12.0", errors_of)
    assert len(cases) == 17  # the first of the widest heads
    cases.clear()
    check(best, "12.0", lambda case, dtype: {"output": cases.append(case) or 1.0})
    assert {case.d_head for case in cases} == set(WIDTHS)


def test_rows_are_replaced_and_added_in_order() -> None:
    for gpu, added in (("8.0", 0), ("12.0", 9)):
        text = with_rows(TEXT, gpu, fastest(seconds, CPU, MUCH))
        found: dict = {"__name__": "flash_blocks"}
        exec(compile(text, "flash_blocks", "exec"), found)
        assert len(found["TABLE"]) == len(re.findall(r'^    \("\d', TEXT, re.MULTILINE)) + added
        assert found["TABLE"][gpu, "grad_kv", 64] == Blocks(64, 64, 8, 1)
        assert len(text.splitlines()) == len(TEXT.splitlines()) + added
        assert list(found["TABLE"])[-1][0] == ("12.0" if added else "9.0")
    assert with_rows(TEXT, "9.0", {}) == TEXT
