"""What a run measures: one JSON object a step in `log.jsonl`, the same for TensorBoard, a loss made
smooth, bits per byte, and the peak of memory."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from scratchlm.errors import FileFormatError
from scratchlm.files.atomic import naming, replacing_file

if TYPE_CHECKING:
    import torch


class JsonlLog:
    """A log of one JSON object a line, each complete on the disk's side of the process at once.

    A number that is not finite is null, as JSON has none. `resume_at`: a resumed run takes the
    steps past it again, and their lines move to `log.dropped.jsonl`.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with naming(self._file.name):  # a line that found no room is tried once more
            self._file.close()


def _step(line: bytes) -> float:
    """The step of a log line; infinite for one that is no step's, as one that a kill cut."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
    return step if type(step) is int else math.inf  # true is none


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a `log.jsonl`, without a last one that was cut by a kill; FileFormatError for
    any other that is not a step's."""
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
                    f"a line of the log is no step's ({path}, line {number}: {line[:40]!r}); "
                    "delete that line, or take another log"
                )
            yield values


class TensorBoardLog:
    """What `JsonlLog` takes, as event files in `folder` for `tensorboard --logdir`; needs the extra
    `viz`.

    Numbers become scalars by their names, text is shown as it is; null and lists are left out.
    `resume_at` hides the steps past it, which a resumed run takes again.
    """

    def __init__(self, folder: Path, resume_at: int = 0) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "a TensorBoard log needs tensorboard (not installed); pip install 'scratchlm[viz]'"
            )
        from torch.utils.tensorboard import SummaryWriter  # seconds, for those who use it

        self._writer = SummaryWriter(folder, purge_step=resume_at + 1, flush_secs=10)

    def write(self, *, step: int, **values: Any) -> None:
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)
            elif isinstance(value, str):  # indented, it is code to Markdown: every line stays
                self._writer.add_text(name, textwrap.indent(value, "    "), step)

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()


class Smoothed:
    """An exponential moving average that starts at the first value, not at 0.

        x̄_t = Σᵢ βᵗ⁻ⁱ xᵢ / Σᵢ βᵗ⁻ⁱ = m_t / (1 - βᵗ),   m_t = β m_{t-1} + (1 - β) x_t,   m_0 = 0

    the correction of Adam (arXiv 1412.6980, section 3). It looks back over about 1 / (1 - β)
    values. `state()` is for a checkpoint: `Smoothed(beta, state)` goes on from there.
    """

    def __init__(self, beta: float = 0.98, state: dict[str, float] | None = None) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta is from 0 to below 1 ({beta}); 0 smooths nothing")
        self.beta = beta
        self.total, self.weight = (0.0, 0.0) if state is None else (state["total"], state["weight"])

    def update(self, value: float) -> float:
        """The average with `value` in it."""
        self.total = self.beta * self.total + value
        self.weight = self.beta * self.weight + 1
        return self.total / self.weight

    def state(self) -> dict[str, float]:
        return {"total": self.total, "weight": self.weight}


def peak_memory(device: torch.device) -> int | None:
    """Bytes, at most so far: of tensors on a CUDA device, since `torch.cuda` last reset its
    statistics; of the whole process for a CPU; None where nobody keeps a peak (MPS, Windows)."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes there, KiB on Linux


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Loss per byte of text in bits: comparable between tokenizers, as a loss per token is not.

    loss / ln 2 is bits per token; a token stands for `bytes_per_token` bytes of text.
    """
    return nats_per_token / math.log(2) / bytes_per_token
