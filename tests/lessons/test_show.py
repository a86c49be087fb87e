"""`show` prints a value, and fails if the value is not the expected one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scratchlm.lessons.show import figure, show

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.00009, 1),
        (torch.tensor([[1.0, 2], [3, 4]], requires_grad=True), [[1, 2], [3, 4]]),
        ([torch.tensor(1.0), 2], [1, 2]),
        (7, 7),
        (torch.tensor([True]), [True]),
        ("e", "e"),
        ([b"a", b"bc"], [b"a", b"bc"]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (INF, INF),
        (NAN, NAN),
        (2**60 + 1, 2**60 + 1),
        ([], []),
        (torch.zeros(2, 0), torch.zeros(2, 0)),
        (1.00009j, 1j),
    ],
)
def test_an_equal_value_passes(capsys, value, expected):
    show("name", value, expected)
    assert capsys.readouterr().out.startswith("name")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0002, 1),
        ([1, 2, 3], [1, 2]),
        ([1.0, 2], 1.0),
        (7, 8),
        ("e", "f"),
        ([b"a"], [b"b"]),
        (INF, -INF),
        (NAN, 0),
        (1.0, NAN),
        (2**60 + 1, 2**60),
        ([], [1]),
        (1.0002j, 1j),
    ],
)
def test_another_value_fails_after_it_is_printed(capsys, value, expected):
    with pytest.raises(AssertionError, match="name"):
        show("name", value, expected)
    assert capsys.readouterr().out.startswith("name")


def test_python_numbers_keep_their_digits():
    show("name", torch.tensor(0.1, dtype=torch.float64), 0.1, within=1e-16)
    with pytest.raises(AssertionError, match="name"):
        show("name", 0.1, 0.1 + 1e-9, within=1e-10)


def test_each_number_may_have_its_own_tolerance():
    show("name", [1.4, 1.04], [1, 1], within=[0.5, 0.05])
    with pytest.raises(AssertionError, match=r"1\.06, not 1"):
        show("name", [1.4, 1.06], [1, 1], within=[0.5, 0.05])


@pytest.mark.parametrize(("within", "printed"), [(1e-3, "0.5000"), (2e-3, "0.50")])
def test_the_tolerance_decides_how_many_digits_are_printed(capsys, within, printed):
    show("name", 0.5, 0.5, within=within)
    assert capsys.readouterr().out.split() == ["name", printed]


def draw() -> Path:
    with figure("14-test", 3, 2) as axes:
        axes.plot([1, 2], [3, 4], label="x")
        axes.legend()
    return Path("figures/14-test.svg")


def test_a_picture_is_the_same_bytes_each_time(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first = draw().read_bytes()
    assert draw().read_bytes() == first
    assert b'width="216pt" height="144pt"' in first
    assert capsys.readouterr().out == "![14-test](figures/14-test.svg)\n" * 2


def test_a_lesson_goes_on_without_a_picture_that_cannot_be_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("figures").touch()
    draw()
    said = capsys.readouterr().out
    assert said.startswith("(no picture: ")
    assert said.count("\n") == 1
