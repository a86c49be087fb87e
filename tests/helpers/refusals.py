"""The rules for the error of every command."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Main = Callable[[Sequence[str]], int]


def check_refusal(
    main: Main,
    words: Sequence[str],
    code: int,
    names: str,
    capsys: pytest.CaptureFixture[str],
    allowed: set[str] = frozenset(),
) -> None:
    """Check the exit code and the one line `scratchlm: error: what; remedy`, which contains
    `names`. Check that the working directory has no new file except `allowed`."""
    before = _listing()
    assert main(words) == code
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    what, remedy = errors[0].split(";", 1)
    assert what.startswith("scratchlm: error: ")
    assert remedy.strip()
    assert names in errors[0]
    left = {re.sub(r"-[0-9a-f]{12}", "", name) for name in _listing() - before}
    assert left <= allowed, "something is left behind"


def _listing() -> set[str]:
    return {str(path) for path in Path().rglob("*")}
