"""The figure of runs: check what it reads from a log, draws and refuses."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.refusals import check_refusal
from scratchlm.cli.plot import main
from scratchlm.figures.runs import draw_runs, loss_limits, new_figure, read_runs, smoothed
from scratchlm.training.log import JsonlLog

PNG = b"\x89PNG\r\n"


def losses(count: int) -> list[float]:
    rng = np.random.default_rng(count)
    return (2 + 4 / np.sqrt(np.arange(1, count + 1)) + rng.normal(0, 0.05, count)).tolist()


def write_log(folder: Path, count: int = 100, **more: Any) -> Path:
    """A run's log as the trainer writes it: validated each 25 steps."""
    with JsonlLog(folder / "log.jsonl") as log:
        for step, loss in enumerate(losses(count), 1):
            line = {"step": step, "loss": loss, "lr": 1e-3 * (1 - step / count), "grad_norm": loss}
            line |= {"tokens_per_second": 1000.0 + step, "mfu": None}
            line |= {"val_loss": loss + 0.1, "sample": "so"} if step % 25 == 0 else {}
            log.write(**line, **more)
    return folder


def test_a_run_is_read_as_it_was_logged(tmp_path: Path) -> None:
    write_log(tmp_path / "a", 50)
    with (tmp_path / "a" / "log.jsonl").open("a") as file:
        file.write('{"step": 51, "loss": NaN, "lr": 1.0, "grad_norm": Infinity}\n{"step": 52, "lo')
    (run,) = read_runs([str(tmp_path / "a")]).values()
    assert run["loss"].x == list(range(1, 51))
    assert run["loss"].y == losses(50)
    assert run["lr"].x == list(range(1, 52))
    assert run["grad_norm"].y == losses(50)
    assert (run["val_loss"].x, run["val_loss"].y) == (
        [25, 50],
        [losses(50)[24] + 0.1, losses(50)[49] + 0.1],
    )
    assert run["mfu"].y == []


def test_runs_are_named_by_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_log(tmp_path / "a", 3))
    for name in ("b/one", "c/one"):
        write_log(tmp_path / name, 3)
    (tmp_path / "old.jsonl").write_bytes((tmp_path / "a" / "log.jsonl").read_bytes())
    assert list(read_runs(["."])) == ["a"]
    assert list(read_runs(["log.jsonl", "../b/one", "../old.jsonl"])) == ["a", "one", "old"]
    assert list(read_runs(["../b/one", "../c/one/"])) == ["../b/one", "../c/one/"]


def test_the_x_axis_is_what_was_asked_for(tmp_path: Path) -> None:
    with JsonlLog(tmp_path / "log.jsonl") as log:
        for step in (1, 2):
            log.write(step=step, loss=3.0, tokens=1024 * step, tokens_per_second=2048.0 / step)
    for x, places in (("step", [1, 2]), ("tokens", [1024, 2048]), ("time", [0.5, 1.5])):
        (run,) = read_runs([str(tmp_path)], x).values()  # type: ignore[arg-type]
        assert run["loss"].x == places


def test_the_time_of_a_fork_begins_with_its_own_first_step(tmp_path: Path) -> None:
    with JsonlLog(tmp_path / "log.jsonl") as log:
        for step in (5001, 5002):
            log.write(step=step, loss=3.0, tokens=1024 * step, tokens_per_second=2048.0)
    for x, places in (("time", [0.5, 1.0]), ("tokens", [1024 * 5001, 1024 * 5002])):
        (run,) = read_runs([str(tmp_path)], x).values()  # type: ignore[arg-type]
        assert run["loss"].x == places


def test_the_lines_are_the_log(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = ["_one", "$two$", "三"]
    for name, count in zip(names, (100, 60, 90), strict=True):
        write_log(tmp_path / name, count)
    runs = read_runs([str(tmp_path / name) for name in names])
    figure = new_figure(runs)
    loss, lr, grad_norm, throughput = figure.axes
    raw, averages, dots = loss.lines[0:6:2], loss.lines[1:6:2], loss.lines[6:]
    for count, logged, average, dot in zip((100, 60, 90), raw, averages, dots, strict=True):
        assert list(logged.get_xdata()) == list(range(1, count + 1))
        assert list(logged.get_ydata()) == losses(count)
        weights = (2 / 3) ** np.arange(count)  # over a thirtieth of 100 lines
        for t in (0, 1, count - 1):
            expected = np.average(losses(count)[: t + 1][::-1], weights=weights[: t + 1])
            assert average.get_ydata()[t] == pytest.approx(expected, rel=1e-12)
        assert list(dot.get_xdata()) == list(range(25, count + 1, 25))
        assert logged.get_color() == average.get_color() == dot.get_color()
        assert logged.get_alpha() < 1
        assert average.get_alpha() is None
    assert len({line.get_color() for line in averages}) == 3
    assert len(lr.lines) == 3  # a schedule is not smoothed
    assert grad_norm.get_yscale() == "log"
    assert throughput.get_ylim()[0] == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*names[:2], "\\u4e09"]
    assert [text.get_text() for text in throughput.get_legend().get_texts()] == [
        "1,050",
        "1,030",
        "1,046",
    ]


def test_the_median_mfu_is_told_beside_the_throughput(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with JsonlLog(tmp_path / "log.jsonl") as log:
        for step, share in enumerate((0.01, 0.4137, 0.4137), 1):
            log.write(step=step, loss=3.0, tokens_per_second=1e6, mfu=share)
    (text,) = new_figure(read_runs([str(tmp_path)])).axes[3].get_legend().get_texts()
    assert text.get_text() == "1,000,000, MFU 41.4%"


def test_the_limits_show_what_comes_after_the_first_fall(tmp_path: Path) -> None:
    """11 to 3 in the first steps, a spike, and then a loss between 2 and 3."""
    values = [11.0, 9.0, 7.0, 5.0, *np.linspace(3, 2, 196).tolist()]
    values[100] = 50.0
    with JsonlLog(tmp_path / "log.jsonl") as log:
        for step, loss in enumerate(values, 1):
            more = {"val_loss": 3.5 if step > 10 else 10.0} if step in (5, 200) else {}
            log.write(step=step, loss=loss, **more)
    (run,) = read_runs([str(tmp_path)]).values()
    for window in (1, 20):
        low, high = loss_limits([run], window)
        assert 1.8 < low < smoothed(values, window)[-1]
        assert 3.5 < high < 6
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert loss_limits(list(read_runs([str(tmp_path)]).values()), 1) == pytest.approx((1.9, 2.1))


def test_what_is_not_in_a_log_is_said(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = read_runs([str(tmp_path)])
        draw_runs(runs, tmp_path / "run.png")
        axes = new_figure(runs).axes
    said = [[text.get_text() for text in axis.texts] for axis in axes]
    assert said == [[], *[["not in the log"]] * 3]


def test_more_runs_than_a_palette_holds_have_colours_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = [str(write_log(tmp_path / f"run-{i}", 3)) for i in range(12)]
    axes = new_figure(read_runs(paths)).axes
    assert len({line.get_color() for line in axes[1].lines}) == 12
    assert axes[3].get_legend() is None


@pytest.mark.parametrize(
    "words",
    [
        ["run", "a", "b", "--output", "run.png"],
        ["run", "--output", "run.png", "a", "b"],
        ["run", "a", "--output", "run.png", "b/log.jsonl"],
        ["--x", "step", "run", "a", "b"],
    ],
)
def test_the_command_draws_runs(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    drawn: list[tuple[list[str], str, str]] = []

    def note(runs: dict[str, Any], path: str, x: str) -> None:
        drawn.append((list(runs), path, x))

    monkeypatch.setattr("scratchlm.figures.runs.draw_runs", note)
    monkeypatch.chdir(tmp_path)
    write_log(Path("a"), 3)
    write_log(Path("b"), 3)
    assert main(words) == 0
    assert capsys.readouterr() == ("saved: run.png\n", "")
    assert drawn == [(["a", "b"], "run.png", "step")]


def test_a_figure_is_drawn_whole_or_not_at_all(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = read_runs([str(write_log(tmp_path / "a", 40))])
    draw_runs(runs, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(PNG)
    with pytest.raises(OSError):
        draw_runs(runs, tmp_path / "nowhere" / "run.png")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "run.png"}


LINE = {"step": 1, "loss": 2.0}


@pytest.mark.parametrize(
    ("words", "code", "names"),
    [
        (["run"], 2, "no RUN"),
        (["run", "nowhere"], 2, "nowhere"),
        (["run", "folder"], 2, "the folder has no log.jsonl (folder)"),
        (["run", "empty"], 2, "the log has no loss yet"),
        (["run", "cut"], 2, "the log has no loss yet"),
        (["run", "good", "damaged"], 3, "damaged/log.jsonl, line 2"),
        (["run", "text"], 3, "loss must be a number"),
        (["run", "huge"], 3, "lr must be a number"),
        (["run", "good", "--x", "tokens"], 2, "the log has no 'tokens'"),
        (["run", "good", "--x", "time"], 2, "the log has no 'tokens'"),
        (["run", "good", "--x", "epoch"], 2, "epoch"),
        (["run", "good", "good/log.jsonl"], 2, "a run is listed twice"),
        (["run", "good", "--steps", "5"], 2, "--steps is only for the figure init, not for run"),
        (["init", "good"], 2, "the figure init reads no runs (good)"),
        (["sampling", "--x", "step"], 2, "--x is only for the figure run, not for sampling"),
        (["run", "good", "--output", "nowhere/run.png"], 2, "the figure's folder must exist"),
    ],
)
def test_refusals(
    words: list[str],
    code: int,
    names: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    good = json.dumps(LINE) + "\n"
    logs = {
        "good": good,
        "empty": "",
        "cut": good[:-3],
        "damaged": good + good[:-3] + "\n" + good,
        "text": json.dumps(LINE | {"loss": "two"}) + "\n",
        "huge": json.dumps(LINE | {"lr": 10**400}) + "\n",
    }
    for name, text in logs.items():
        Path(name).mkdir()
        Path(name, "log.jsonl").write_text(text, encoding="utf-8")
    Path("folder").mkdir()
    check_refusal(main, words, code, names, capsys)


def test_smoothing_over_one_line_changes_nothing() -> None:
    assert smoothed([3.0, 1.0, math.pi], 1) == [3.0, 1.0, math.pi]
