"""A run's checkpoints: `step-00000100` and so on, and which of them is the last and the best.

`last` and `best` are text files that name one, replaced atomically after it is whole.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from scratchlm.checkpoint import find_checkpoint, save_checkpoint, write_pointer


class CheckpointFolder:
    """Writes checkpoints into `path`, keeping the newest `keep_last` (0: all) and the best."""

    def __init__(self, path: Path, save_format: Literal["directory", "pt"], keep_last: int) -> None:
        self.path, self.keep_last = path, keep_last
        self.suffix = ".pt" if save_format == "pt" else ""

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: int,
        *,
        best: bool,
        **more: Any,
    ) -> Path:
        """Save as `save_checkpoint` does, then let `last`, and `best` if it is, name it."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / f"step-{step:08d}{self.suffix}"
        save_checkpoint(path, model, optimizer, step, **more)
        write_pointer(self.path / "last", path.name)
        if best:
            write_pointer(self.path / "best", path.name)
        self._prune()
        return path

    def point_best_at(self, step: int) -> None:
        """For a run resumed from an earlier step: `best` may name one of the branch it left."""
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
