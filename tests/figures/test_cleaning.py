"""The figure of a cleaning shows the account."""

from __future__ import annotations

from pathlib import Path

import pytest

from scratchlm.data.cleaning.accounting import Accounting, Amount, StepAccount
from scratchlm.figures.cleaning import draw_account, new_figure, rows_of

ACCOUNT = Accounting(
    read=Amount(100, 5000),
    kept=Amount(60, 2000),
    rejected=Amount(2, 50),
    steps=[
        StepAccount("empty", Amount()),
        StepAccount("length (step 1)", Amount(30, 2500), {"too short": Amount(30, 2500)}),
        StepAccount("sample (step 2)", Amount(8, 450), {"not sampled": Amount(8, 450)}),
    ],
    text_bytes=1900,
)


def test_the_bars_are_the_account():
    pytest.importorskip("matplotlib")
    rows = rows_of(ACCOUNT)
    assert [name for name, _, _ in rows] == ["in", "rejected", "length (step 1)", "sample (step 2)"]
    assert rows[-1][1] == ACCOUNT.kept
    for panel, unit in zip(new_figure(ACCOUNT).axes, ("documents", "bytes"), strict=True):
        remaining, dropped = ([bar.get_width() for bar in bars] for bars in panel.containers)
        assert remaining == [getattr(rest, unit) for _, rest, _ in rows]
        assert dropped == [getattr(gone, unit) for _, _, gone in rows]
    assert panel.get_title() == "2,000 of 5,000 bytes kept (40.0%)"


def test_a_figure_of_nothing_is_drawn(tmp_path: Path):
    pytest.importorskip("matplotlib")
    nothing = Accounting(Amount(), Amount(), Amount(), [StepAccount("empty", Amount())], 0)
    draw_account(nothing, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
