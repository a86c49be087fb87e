"""The figures of a run: `log.jsonl`, TensorBoard, the smoothed loss, bits per byte, peak memory."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scratchlm.errors import FileFormatError
from scratchlm.files.atomic import naming, replacing_file

if TYPE_CHECKING:
    import torch


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


class TensorBoardLog:
    """The same log as event files in `folder`, for `tensorboard --logdir`.

    It needs the extra `viz`. Numbers become scalars, text stays text, and the log skips null and
    lists. A resumed run repeats the steps after `resume_at`, so TensorBoard hides the old figures.
    """

    def __init__(self, folder: Path, resume_at: int = 0) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "a TensorBoard log needs tensorboard (not installed); "
                "run: pip install 'scratchlm[viz]'"
            )
        from torch.utils.tensorboard import SummaryWriter  # the import takes seconds

        self._writer = SummaryWriter(folder, purge_step=resume_at + 1, flush_secs=10)

    def write(self, *, step: int, **values: Any) -> None:
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)
            elif isinstance(value, str):  # Markdown keeps the lines of indented code
                self._writer.add_text(name, textwrap.indent(value, "    "), step)

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._writer.close()


class Smoothed:
    """An exponential moving average that starts at the first value, not at 0.

        x̄_t = Σᵢ βᵗ⁻ⁱ xᵢ / Σᵢ βᵗ⁻ⁱ = m_t / (1 - βᵗ),   m_t = β m_{t-1} + (1 - β) x_t,   m_0 = 0

    This is Adam's bias correction (arXiv 1412.6980, section 3). The average covers about
    1 / (1 - β) values. A checkpoint stores `state()`, and `Smoothed(beta, state)` continues.
    """

    def __init__(self, beta: float = 0.98, state: dict[str, float] | None = None) -> None:
        if not 0 <= beta < 1:
            raise ValueError(
                f"beta must be at least 0 and below 1 ({beta}); choose 0 for no smoothing"
            )
        self.beta = beta
        self.total, self.weight = (0.0, 0.0) if state is None else (state["total"], state["weight"])

    def update(self, value: float) -> float:
        """Add `value` to the average and return the average."""
        self.total = self.beta * self.total + value
        self.weight = self.beta * self.weight + 1
        return self.total / self.weight

    def state(self) -> dict[str, float]:
        return {"total": self.total, "weight": self.weight}


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory so far in bytes, or None if the system records no peak (MPS, Windows).

    On CUDA it is the peak of all tensors on the device since `torch.cuda` last reset its
    statistics. On a CPU it is the peak of the whole process.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS: bytes, Linux: KiB


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Return the loss in bits per byte of text: loss / ln 2 / bytes_per_token.

    Bits per byte are comparable between different tokenizers. A loss per token is not.
    """
    return nats_per_token / math.log(2) / bytes_per_token
