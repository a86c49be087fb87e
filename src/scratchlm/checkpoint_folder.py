"""A run's checkpoints: `step-00000100` and so on, and which of them is the last and the best.

`last` and `best` are text files that name one, replaced atomically after it is whole. Saving copies
the state and returns; a thread writes, one checkpoint at a time.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import nn

from scratchlm.checkpoint import (
    find_checkpoint,
    state_of,
    write_pointer,
)
from scratchlm.checkpoint_files import write_payload
from scratchlm.checkpoint_payload import checked_payload
from scratchlm.checkpoint_writer import CheckpointWriter, snapshot
from scratchlm.distributed import ALONE, Ranks
from scratchlm.sharded import is_sharded, whole, write_together


class CheckpointFolder:
    """Writes checkpoints into `path`, keeping the newest `keep_last` (0: all) and the best.

    `saved` is the last one that is whole. As a context, it ends when the last is written.
    """

    def __init__(
        self,
        path: Path,
        save_format: Literal["directory", "pt"],
        keep_last: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.path, self.keep_last, self.ranks = path, keep_last, ranks
        self.suffix = ".pt" if save_format == "pt" else ""
        self.saved: Path | None = None
        self._writer = CheckpointWriter()

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: int,
        *,
        best: bool,
        **more: Any,
    ) -> None:
        """Save as `save_checkpoint` does, then let `last`, and `best` if it is, name it. A write
        that failed before raises here, and in `wait`."""
        self.wait()
        path = self.path / f"step-{step:08d}{self.suffix}"
        state = state_of(model, optimizer, step, **more)
        if is_sharded(model):
            payload = checked_payload(whole(state, self.ranks), elsewhere=True)
            write = functools.partial(write_together, path, payload, self.ranks)
        elif self.ranks.first:
            payload = snapshot(checked_payload(state))
            write = functools.partial(write_payload, path, payload)
        else:
            self.saved = path
            return
        self._writer.submit(functools.partial(self._write, path, write, best))

    def wait(self) -> None:
        """Until the last checkpoint is whole; raises what kept it from being so."""
        self._writer.wait()

    def _write(self, path: Path, write: Callable[[], None], best: bool) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write()
        self.saved = path
        if self.ranks.first:
            write_pointer(self.path / "last", path.name)
            if best:
                write_pointer(self.path / "best", path.name)
            self._prune()

    def point_best_at(self, step: int) -> None:
        """For a run resumed from an earlier step: `best` may name one of the branch it left."""
        if not self.ranks.first:
            return
        kept = [path for path in self.path.glob(f"step-{step:08d}*") if not path.is_symlink()]
        if kept:
            write_pointer(self.path / "best", kept[0].name)
        else:
            (self.path / "best").unlink(missing_ok=True)

    def _prune(self) -> None:
        pointers = [self.path / name for name in ("last", "best")]
        named = {find_checkpoint(pointer) for pointer in pointers if pointer.is_file()}
        # By time: after a resume from an earlier step, those of the branch left go first.
        steps = sorted(self.path.glob("step-*"), key=lambda path: path.stat().st_mtime_ns)
        for path in steps[: -self.keep_last] if self.keep_last else ():
            if path not in named:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def __enter__(self) -> CheckpointFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.finish()
        if error is None:
            self.wait()
        self._writer = CheckpointWriter()
