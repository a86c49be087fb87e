"""Remember which lessons a learner has finished, in a text file of the user's own folder."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from scratchlm.errors import FileFormatError, Notice


def _file() -> Path:
    """Return the path that the XDG base directory specification gives."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "scratchlm" / "lessons"


def finished() -> set[int]:
    """Return the numbers of the finished lessons. Raise FileFormatError for a damaged file."""
    if not _file().is_file():
        return set()
    words = _file().read_text(encoding="utf-8", errors="replace").split()
    if wrong := [word for word in words if not word.isdecimal()]:
        raise FileFormatError(
            f"{_file()} must contain only numbers of lessons ({wrong[0]!r}); "
            "correct the file, or delete it"
        )
    return set(map(int, words))


def finish(number: int) -> None:
    """Remember that lesson `number` ran to its end or that its exercise is solved.

    Warn with a Notice if the file cannot be written.
    """
    try:
        if number not in finished():
            _file().parent.mkdir(parents=True, exist_ok=True)
            with _file().open("a", encoding="utf-8") as file:
                file.write(f"{number}\n")
    except OSError as error:
        warnings.warn(f"the tick of lesson {number} is not saved ({error})", Notice, stacklevel=2)
