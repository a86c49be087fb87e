"""What a run measures: one JSON object a step in `log.jsonl`, and bits per byte."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from scratchlm.atomic import replacing_file


class JsonlLog:
    """A log of one JSON object a line, each complete on the disk's side of the process at once.

    `resume_at` drops the lines past that step: a resumed run takes those steps again.
    """

    def __init__(self, path: Path, resume_at: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [line for line in path.read_bytes().splitlines() if _step(line) <= resume_at]
            with replacing_file(path) as file:
                file.writelines(line + b"\n" for line in kept)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, **values: Any) -> None:
        self._file.write(json.dumps(values) + "\n")

    def __enter__(self) -> JsonlLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _step(line: bytes) -> float:
    """The step of a log line; infinite for one that was cut by a kill."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Loss per byte of text in bits: comparable between tokenizers, as a loss per token is not.

    loss / ln 2 is bits per token; a token stands for `bytes_per_token` bytes of text.
    """
    return nats_per_token / math.log(2) / bytes_per_token
