"""`draw_runs` compares training runs by their logs; drawing needs the extra `viz`.

draw_runs(read_runs(["runs/a", "runs/b"]), "run.png")
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from scratchlm.errors import FileFormatError
from scratchlm.figures.style import require_matplotlib, visible_text
from scratchlm.files.atomic import replacing_file
from scratchlm.files.paths import StrPath
from scratchlm.training.log import read_log
from scratchlm.training.smoothed import Smoothed

XAxis = Literal["step", "tokens", "time"]
X_LABELS = {"step": "step", "tokens": "tokens", "time": "seconds of training"}
PANELS = {
    "loss": "loss, nats a token; dots: validation",
    "lr": "learning rate",
    "grad_norm": "gradient norm, before clipping",
    "tokens_per_second": "tokens a second",
}
KEYS = (*PANELS, "val_loss", "mfu")
PARTS = 30  # the average looks back over 1/30 of the longest run
EARLY = 0.05  # part of a run; the loss axis ignores this steep part, which would flatten the rest
FEW = 10  # runs; a palette has this many distinct colours, and a legend has room for as many


@dataclass(frozen=True)
class Curve:
    """The x and y of the log lines that have a finite value."""

    x: list[float]
    y: list[float]


Run = dict[str, Curve]  # a curve for each of KEYS


def read_runs(paths: Sequence[str], x: XAxis = "step") -> dict[str, Run]:
    """Read each run, and return the runs by name.

    A path is a run's folder or its log. A run's name is its folder's name, or the whole path if two
    names are equal. Raise ValueError for a path without a log, a log without a step, and a log
    without the numbers for `x`. Raise FileFormatError for a damaged line.
    """
    logs = [_find_log(path) for path in paths]
    if len(set(logs)) < len(logs):
        raise ValueError(f"a run is listed twice ({' '.join(paths)}); list each run once")
    names = [log.parent.name if log.name == "log.jsonl" else log.stem for log in logs]
    if len(set(names)) < len(names):
        names = list(paths)
    return {name: _read_run(log, x) for name, log in zip(names, logs, strict=True)}


def _find_log(path: str) -> Path:
    log = Path(path).resolve()
    if log.is_dir():
        log /= "log.jsonl"
        if not log.exists():
            raise ValueError(f"the folder has no log.jsonl ({path}); choose a run's folder")
    return log


def _read_run(log: Path, x: XAxis) -> Run:
    run = {key: Curve([], []) for key in KEYS}
    tokens_before: float | None = None
    seconds = 0.0
    for line in read_log(log):
        if x == "step":
            place = float(line["step"])
        else:
            place = tokens = _needed(line, "tokens", log)
        if x == "time":
            # Count only training: no validation, no checkpoints, no time between two starts.
            if tokens_before is None:  # the first line of a fork counts the tokens before the fork
                tokens_before = tokens - tokens / max(1, line["step"])
            seconds += (tokens - tokens_before) / _needed(line, "tokens_per_second", log)
            place, tokens_before = seconds, tokens
        for key, curve in run.items():
            value = _number(line, key, log)
            if value is not None:
                curve.x.append(place)
                curve.y.append(value)
    if not run["loss"].y:
        raise ValueError(f"the log has no loss yet ({log}); plot the run after its first step")
    return run


def _needed(line: dict[str, Any], key: str, log: Path) -> float:
    value = _number(line, key, log)
    if value is None or value <= 0:
        raise ValueError(f"the log has no {key!r} ({log}, step {line['step']}); use --x step")
    return value


def _number(line: dict[str, Any], key: str, log: Path) -> float | None:
    """Return the line's number, or None if it is missing, null (an unknown MFU) or not finite."""
    value = line.get(key)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise FileFormatError(
            f"{key} must be a number ({value!r:.40}, step {line['step']} of {log}); delete the "
            "line from the log"
        ) from None
    return number if math.isfinite(number) else None


def draw_runs(runs: dict[str, Run], path: StrPath, x: XAxis = "step") -> None:
    """Write the result of `new_figure` as one PNG. An interrupted write leaves no partial file."""
    figure = new_figure(runs, x)
    with replacing_file(Path(path)) as file:
        figure.savefig(file, format="png", dpi=120)


def new_figure(runs: dict[str, Run], x: XAxis = "step") -> Any:
    """Return a matplotlib figure: loss, learning rate, gradient norm and throughput.

    Each run has one colour. A faint line shows the logged values. A strong line shows their
    exponential moving average, with the same beta for all runs.
    """
    require_matplotlib()
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    few = len(runs) <= FEW
    palette = colormaps["tab10" if few else "turbo"]
    colors = [palette(i if few else i / (len(runs) - 1)) for i in range(len(runs))]
    window = max(1, max(len(run["loss"].y) for run in runs.values()) // PARTS)
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = dict(zip(PANELS, figure.subplots(2, 2).flat, strict=True))
    for key, axis in axes.items():
        for run, color in zip(runs.values(), colors, strict=True):
            _draw_curve(axis, run[key], 1 if key == "lr" else window, color)
        axis.set_title(PANELS[key], fontsize=10)
        axis.set_xlabel(X_LABELS[x], fontsize=9)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.tick_params(which="both", labelsize=8)
        axis.grid(alpha=0.3)
        if not any(run[key].y for run in runs.values()):
            axis.text(0.5, 0.5, "not in the log", ha="center", transform=axis.transAxes)
    for run, color in zip(runs.values(), colors, strict=True):
        dots = run["val_loss"]
        axes["loss"].plot(dots.x, dots.y, "o", color=color, markeredgecolor="white")
    _scale(axes, list(runs.values()), window)
    _name_runs(figure, axes["tokens_per_second"], runs, colors)
    return figure


def _scale(axes: dict[str, Any], runs: Sequence[Run], window: int) -> None:
    from matplotlib.ticker import LogFormatter

    axes["loss"].set_ylim(loss_limits(runs, window))
    axes["lr"].set_ylim(bottom=0)
    axes["grad_norm"].set_yscale("log")
    axes["grad_norm"].yaxis.set_major_formatter(LogFormatter())
    axes["grad_norm"].yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes["tokens_per_second"].yaxis.set_major_formatter("{x:,.0f}")
    speeds = [value for run in runs for value in run["tokens_per_second"].y]
    if speeds:  # show all values from 0 on, except rare steps that were much faster
        axes["tokens_per_second"].set_ylim(0, 1.2 * float(np.percentile(speeds, 98)))


def _name_runs(figure: Any, throughput: Any, runs: dict[str, Run], colors: Sequence[Any]) -> None:
    """Write the runs' names above the panels, and their medians into the throughput panel."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color) for color in colors]
    medians = [_medians(run) for run in runs.values()]
    if len(runs) <= FEW and any(medians):
        throughput.legend(handles, medians, title="median", loc="lower right", fontsize=8)
    names = figure.legend(handles, list(runs), loc="outside upper center", ncols=4, frameon=False)
    for text, name in zip(names.get_texts(), runs, strict=True):
        text.set_parse_math(False)
        text.set_text(visible_text(name))


def _draw_curve(axis: Any, curve: Curve, window: int, color: Any) -> None:
    axis.plot(curve.x, curve.y, color=color, alpha=0.25 if window > 1 else 1, linewidth=0.8)
    if window > 1:
        axis.plot(curve.x, smoothed(curve.y, window), color=color, linewidth=1.5)


def _medians(run: Run) -> str:
    """Return the medians of tokens a second and of MFU, if the log has them."""
    known = []
    if run["tokens_per_second"].y:
        known.append(f"{median(run['tokens_per_second'].y):,.0f}")
    if run["mfu"].y:
        known.append(f"MFU {median(run['mfu'].y):.1%}")
    return ", ".join(known)


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Return the moving average after each value, over about `window` values (`Smoothed`)."""
    average = Smoothed(1 - 1 / window)
    return [average.update(value) for value in values]


def loss_limits(runs: Sequence[Run], window: int) -> tuple[float, float]:
    """Return the range of the loss axis.

    The range covers the losses after the early part of each run, except the rarest spikes. It also
    covers the last average of each run.
    """
    ends: list[float] = []
    for run in runs:
        loss, validation = run["loss"], run["val_loss"]
        first = int(EARLY * len(loss.y))
        average = smoothed(loss.y, window)
        ends += np.percentile(loss.y[first:] + average[first:], (1, 99)).tolist()
        ends.append(average[-1])
        ends += [y for x, y in zip(validation.x, validation.y, strict=True) if x >= loss.x[first]]
    low, high = min(ends), max(ends)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin
