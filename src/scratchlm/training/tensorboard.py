"""The figures of a run as TensorBoard's event files."""

from __future__ import annotations

import importlib.util
import textwrap
from pathlib import Path
from typing import Any


class TensorBoardLog:
    """The lines of `log.jsonl` as event files in `folder`, for `tensorboard --logdir`.

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
