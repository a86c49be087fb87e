"""`log.jsonl`: the figures of a run, one JSON object a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scratchlm.errors import FileFormatError
from scratchlm.files.atomic import naming, replacing_file


class JsonlLog:
    """A log with one JSON object a line. The process passes each line to the system at once.

    JSON has no infinity and no NaN, so such a number becomes null. A resumed run repeats the steps
    after `resume_at`, so their old lines move to `log.dropped.jsonl`.
    """

    def __init__(self, path: Path, resume_at: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            lines = path.read_bytes().splitlines()
            dropped = [line for line in lines if resume_at < _step(line) < math.inf]
            if dropped:
                with path.with_suffix(".dropped.jsonl").open("ab") as file:
                    file.writelines(line + b"\n" for line in dropped)
            with replacing_file(path) as file:
                file.writelines(line + b"\n" for line in lines if _step(line) <= resume_at)
        self._file = path.open("a", encoding="utf-8", newline="\n", buffering=1)

    def write(self, **values: Any) -> None:
        known = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        with naming(self._file.name):
            self._file.write(json.dumps(known, allow_nan=False) + "\n")

    def __enter__(self) -> JsonlLog:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with naming(self._file.name):  # close retries a line that the full disk refused
            self._file.close()


def _step(line: bytes) -> float:
    """Return the step of a log line, or infinity if the line has none (a kill may cut a line)."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
    return step if type(step) is int else math.inf  # a bool is an int in Python


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a `log.jsonl`. Skip a last line that a kill cut.

    Raise FileFormatError for any other line without a step.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                if not line.endswith(b"\n"):
                    return
                values = None
            if not isinstance(values, dict) or type(values.get("step")) is not int:
                raise FileFormatError(
                    f"each log line must contain a step ({path}, line {number}: {line[:40]!r}); "
                    "delete that line, or choose another log"
                )
            yield values
