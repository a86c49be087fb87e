"""Check an answer to a lesson's exercise, and recognise the usual mistakes.

A lesson's hidden cells define `EXERCISE` (the function's name), `check(answer, same)`, which
compares an answer with the library, and `WRONG`, functions that make one mistake each. Their
docstrings say what is wrong, in English and Chinese: `"English | 中文"`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scratchlm.errors import LessonError
from scratchlm.lessons.lesson import Cell

Answer = Callable[..., Any]


def same(got: Any, want: Any) -> None:
    """Raise AssertionError unless both are equal: numbers to 1e-5, all else exactly."""
    if isinstance(want, torch.Tensor | float):
        want = torch.as_tensor(want)
        got = torch.as_tensor(got, dtype=want.dtype)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    elif isinstance(want, list | tuple):
        assert len(got) == len(want), f"{len(got)} values, not {len(want)}"
        for pair in zip(got, want, strict=True):
            same(*pair)
    else:
        assert got == want, f"{got!r}, not {want!r}"


def answer(cells: Sequence[Cell]) -> str:
    """Return the lesson's own answer."""
    return "\n\n".join(cell.text for cell in cells if "answer" in cell.tags)


def grade(cells: Sequence[Cell], path: Path, lang: str) -> None:
    """Check the answer in the Python file `path`. Raise LessonError if it is wrong.

    The file may use the names that the lesson defines before the exercise.
    """
    scope = prepared(cells)
    theirs = {name: value for name, value in scope.items() if name != scope["EXERCISE"]}
    try:
        exec(compile(path.read_text(encoding="utf-8"), path, "exec"), theirs)
    except SyntaxError as error:
        raise ValueError(f"{path} is not Python ({error}); correct that line") from error
    name = scope["EXERCISE"]
    if name not in theirs:
        raise ValueError(f"{path} must define the exercise's function ({name}); write it there")
    if problem := verdict(scope, theirs[name], lang):
        raise LessonError(problem)


def prepared(cells: Sequence[Cell]) -> dict[str, Any]:
    """Run the lesson's code, hidden cells included but no pictures. Return its names."""
    scope: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells:
            if "figure" not in cell.tags:
                cell.run(scope)
    return scope


def verdict(scope: Mapping[str, Any], answer: Answer, lang: str) -> str:
    """Return "" for a right answer, else what is wrong with it."""
    problem = _problem(scope["check"], answer, same)
    for mistake in scope["WRONG"] if problem else []:
        # A mistake explains the answer if both return the same in each case of the check.
        both = lambda *args, mistake=mistake: (answer(*args), mistake(*args))  # noqa: E731
        if not _problem(scope["check"], both, lambda pair, _: same(*pair)):
            return str(mistake.__doc__).split(" | ")[lang == "zh"]
    return problem


def _problem(check: Callable[..., None], answer: Answer, compare: Callable[..., None]) -> str:
    """Return "" if `answer` passes `check`, else the first line of the error."""
    try:
        check(answer, compare)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""
