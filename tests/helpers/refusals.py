"""The rules for the error of every command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

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


def check_bad_second_record(
    read: Callable[[Path], Iterator[Any]], folder: Path, first: Any, second: Any, part: str
) -> None:
    """Check the one-line error of the second record of a file, whose first record is good. F in
    `part` is the place of the second record."""
    path = folder / "a.jsonl"
    text = second if isinstance(second, str) else json.dumps(second)
    path.write_text(f"{json.dumps(first)}\n{text}\n", encoding="utf-8")
    records = read(path)
    next(records)
    with pytest.raises(ValueError) as caught:
        next(records)
    message = str(caught.value)
    assert part.replace("F", f"{path}:2") in message
    assert f"{path}:2" in message
    assert "\n" not in message
    what, _, remedy = message.partition("); ")
    assert " must " in what or " may " in what or " has " in what
    assert remedy
