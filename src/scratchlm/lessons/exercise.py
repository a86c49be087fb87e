"""Check an answer to a lesson's exercise, and recognise the usual mistakes.

A lesson's hidden cells define `EXERCISE` (the function's name), `check(answer, same)`, which
compares an answer with the library, and `WRONG`, functions that make one mistake each. Such a
function may also raise an error. Its docstring says what is wrong, in English and Chinese:
`"English | 中文"`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scratchlm.errors import LessonError
from scratchlm.lessons.lesson import Cell, frames_in, run

Answer = Callable[..., Any]


class DifferenceError(AssertionError):
    """An answer differs from the right one. The arguments say how: in English, in Chinese."""


def same(got: Any, want: Any, place: tuple[int, ...] = ()) -> None:
    """Raise DifferenceError unless both are equal: numbers to 1e-5, all else exactly.

    place: the indices of both values in the lists that contain them.
    """
    if isinstance(want, torch.Tensor | float):
        _same_numbers(got, torch.as_tensor(want), place)
    elif isinstance(want, list | tuple):
        try:
            values = list(got)
        except TypeError:  # one number has no values
            raise _unequal(got, want, place) from None
        if len(values) != len(want):
            raise DifferenceError(
                f"the number of values in your answer is {len(values)}, but must be {len(want)}",
                f"你的答案有 {len(values)} 个值，应有 {len(want)} 个",
            )
        for i, pair in enumerate(zip(values, want, strict=True)):
            same(*pair, (*place, i))
    elif (isinstance(got, torch.Tensor) and got.numel() != 1) or got != want:
        raise _unequal(got, want, place)


def _same_numbers(got: Any, want: torch.Tensor, place: tuple[int, ...]) -> None:
    try:
        got = torch.as_tensor(got, dtype=want.dtype).detach()
    except (TypeError, ValueError, RuntimeError):
        raise DifferenceError(
            f"your answer must be numbers, not {got!r:.60}", f"你的答案应是数字，而不是 {got!r:.60}"
        ) from None
    if got.shape != want.shape:
        mine, right = tuple(got.shape), tuple(want.shape)
        raise DifferenceError(
            f"the shape of your answer is {mine}, but must be {right}",
            f"你的答案的形状是 {mine}，应为 {right}",
        )
    near = torch.isclose(got.double(), want.detach().double(), rtol=1e-5, atol=1e-5, equal_nan=True)
    if not near.all():
        index = tuple((~near).nonzero()[0].tolist())
        raise _unequal(got[index].item(), want[index].item(), (*place, *index))


def _unequal(got: Any, want: Any, place: tuple[int, ...]) -> DifferenceError:
    mine, right = (
        f"{each:.6g}" if isinstance(each, float) else f"{each!r:.60}" for each in (got, want)
    )
    at, zh = (f" at {list(place)}", f"在 {list(place)} 处") if place else ("", "")
    return DifferenceError(
        f"your answer gives {mine}{at}, but {right} is right",
        f"你的答案{zh}给出 {mine}，应为 {right}",
    )


def answer(cells: Sequence[Cell]) -> str:
    """Return the lesson's own answer."""
    return "\n\n".join(cell.text for cell in cells if "answer" in cell.tags)


def grade(cells: Sequence[Cell], path: Path, lang: str) -> None:
    """Check the answer in the Python file `path`. Raise LessonError if it is wrong or fails.

    The file may use the names that the lesson defines before the exercise.
    """
    scope = prepared(cells)
    theirs = {name: value for name, value in scope.items() if name != scope["EXERCISE"]}
    source = path.read_bytes()
    try:
        code = compile(source, path, "exec")
    except (SyntaxError, ValueError) as error:  # ValueError: a zero byte, in Python 3.11
        raise ValueError(f"{path} is not Python ({error}); correct that line") from error
    try:
        exec(code, theirs)
    except (Exception, SystemExit) as error:
        raise LessonError(_described(error, path)) from error
    name = scope["EXERCISE"]
    if name not in theirs:
        raise ValueError(f"{path} must define the exercise's function ({name}); write it there")
    if problem := verdict(scope, theirs[name], lang, path):
        raise LessonError(problem)


def prepared(cells: Sequence[Cell]) -> dict[str, Any]:
    """Run the lesson's code, hidden cells included but no pictures. Return its names."""
    with contextlib.redirect_stdout(io.StringIO()):
        return run(cells)


def verdict(scope: Mapping[str, Any], answer: Answer, lang: str, path: Path | None = None) -> str:
    """Return "" for a right answer, else what is wrong with it.

    path: the answer's file. The text names the line of this file that raised an error.
    """
    error = _error(scope["check"], _apart(answer), same)
    if error is None:
        return ""
    with contextlib.redirect_stdout(io.StringIO()):  # the answer printed its lines already
        for mistake in scope["WRONG"]:
            # A mistake explains the answer if both return or raise the same in each case.
            if not _error(scope["check"], _both(answer, mistake), lambda pair, _: same(*pair)):
                return str(mistake.__doc__).split(" | ")[lang == "zh"]
    if isinstance(error, DifferenceError):
        english, chinese = error.args
        if lang == "zh":
            return f"{chinese}；请修改你的函数，或用 --answer 看一个答案"
        return f"{english}; change your function, or print an answer with --answer"
    return _described(error, path)


def _apart(function: Answer) -> Answer:
    """Return `function` with its own copy of the arguments, because an answer may change them."""
    return lambda *args: function(*copy.deepcopy(args))


def _both(*functions: Answer) -> Answer:
    """Return a function that returns what each of `functions` returns, or the text of its error."""

    def outcome(function: Answer, args: Sequence[Any]) -> Any:
        try:
            return _apart(function)(*args)
        except Exception as error:
            return repr(error)

    return lambda *args: [outcome(function, args) for function in functions]


def _error(
    check: Callable[..., None], answer: Answer, compare: Callable[..., None]
) -> BaseException | None:
    """Return the error that `check` raises for `answer`, or None. Do not print warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the verdict says more than a warning of torch
            check(answer, compare)
    except (Exception, SystemExit) as error:
        return error
    return None


def _described(error: BaseException, path: Path | None) -> str:
    """Return the first line of the error, after the file and the line if the error is in `path`."""
    text = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
    frames = frames_in(path, error) if path else []
    return f"{path}, line {frames[-1].lineno}: {text}" if frames else text
