"""The table of docs/scaling.md follows from the rates of docs/benchmarks.md."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
MEGABYTES = (10_000, 1_000_000, 15_000_000)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import data_hours

    yield data_hours
    sys.modules.pop("data_hours")


def rows() -> dict[str, list[float]]:
    """Read the numbers of the page, without the script."""
    found = {}
    for line in PAGE.splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if name.endswith(("core hours", "cores, hours")):
            found[name] = [float(cell.replace(",", "")) for cell in cells if cell]
    return found


def test_the_page_shows_the_table(script) -> None:
    assert script.table() in PAGE


def test_the_hours_follow_from_the_rates() -> None:
    seconds = [0.0] * 3
    for name, numbers in rows().items():
        if name.endswith("core hours"):
            rate, *hours = numbers
            own = [size / rate for size in MEGABYTES]
            if "(" not in name:
                seconds = [total + each for total, each in zip(seconds, own, strict=True)]
        else:
            hours = numbers
            cores = int(re.search(r"on ([\d,]+) cores", name)[1].replace(",", ""))
            own = [total / cores for total in seconds]
        assert hours == pytest.approx([each / 3600 for each in own], rel=0.05), name
    assert len(rows()) == 8


def test_the_rates_are_measured(script) -> None:
    for rate in script.RATES.values():
        assert f"| {rate} |" in BENCHMARKS or f"| {rate} MB/s of CPU time |" in BENCHMARKS, rate
