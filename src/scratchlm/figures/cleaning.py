"""`draw_account` shows what each step of a cleaning dropped. It needs the extra `viz`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scratchlm.data.cleaning.accounting import Accounting, Amount
from scratchlm.figures.style import require_matplotlib
from scratchlm.files.atomic import replacing_file
from scratchlm.files.paths import StrPath

REMAINING, DROPPED = "#0072b2", "#d55e00"  # Okabe and Ito's palette
GAP = 0.01  # between a bar and its number, as a fraction of the axis


def rows_of(account: Accounting) -> list[tuple[str, Amount, Amount]]:
    """Return (name, what remains, what is dropped) for the input and each step, in order."""
    rest = account.read
    rows = [("in", rest, Amount())]
    dropped = [
        ("rejected", account.rejected),
        *((step.name, step.dropped) for step in account.steps),
    ]
    for name, gone in dropped:
        rest = Amount(rest.documents - gone.documents, rest.bytes - gone.bytes)
        if gone.documents or name not in ("rejected", "empty"):
            rows.append((name, rest, gone))
    return rows


def draw_account(account: Accounting, path: StrPath) -> None:
    """Write the result of `new_figure` as one PNG. An interrupted write leaves no partial file."""
    figure = new_figure(account)
    with replacing_file(Path(path)) as file:
        figure.savefig(file, format="png", dpi=120, pil_kwargs={"optimize": True})


def new_figure(account: Accounting) -> Any:
    """Return a matplotlib figure: what remains after each step, and what the step dropped."""
    require_matplotlib()
    from matplotlib.figure import Figure

    rows = rows_of(account)
    figure = Figure(figsize=(10, 1.3 + 0.34 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, unit in zip(panels, ("documents", "bytes"), strict=True):
        _draw(panel, rows, unit)
    panels[0].set_yticks(range(len(rows)), [name for name, _, _ in rows])
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw(panel: Any, rows: list[tuple[str, Amount, Amount]], unit: str) -> None:
    remaining = [getattr(rest, unit) for _, rest, _ in rows]
    dropped = [getattr(gone, unit) for _, _, gone in rows]
    places, whole = range(len(rows)), max(remaining[0], 1)
    panel.barh(places, remaining, color=REMAINING, label="remaining", height=0.7)
    panel.barh(places, dropped, left=remaining, color=DROPPED, label="dropped", height=0.7)
    for place, rest, gone in zip(places, remaining, dropped, strict=True):
        number = f"-{gone:,}" if gone else "0" if place else f"{rest:,}"
        panel.text(rest + gone + GAP * whole, place, number, va="center", fontsize=8)
    kept = f"{remaining[-1]:,} of {remaining[0]:,} {unit} kept ({remaining[-1] / whole:.1%})"
    panel.set_title(kept, fontsize=10)
    panel.set_xlim(0, 1.22 * whole)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    panel.xaxis.set_major_locator(_ticks())
    panel.tick_params(labelsize=8)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4, integer=True)
