"""A run's checkpoints: `step-00000100` and so on, and which of them is the last and the best.

`last` and `best` are text files that name one, replaced atomically after it is whole. Saving copies
the state and returns; a thread writes, one checkpoint at a time.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import nn
from tqdm import tqdm

from scratchlm.checkpoint.background import CheckpointWriter, snapshot
from scratchlm.checkpoint.directory import write_payload
from scratchlm.checkpoint.payload import checked_payload
from scratchlm.checkpoint.pointers import (
    checkpoints_in,
    find_checkpoint,
    left_in,
    write_left,
    write_pointer,
)
from scratchlm.checkpoint.ranks_together import is_sharded, whole, write_together
from scratchlm.checkpoint.save_and_load import state_of
from scratchlm.devices.ranks import ALONE, Ranks
from scratchlm.errors import FileFormatError
from scratchlm.files.atomic import finish_removals, remove_directory


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
        """Save as `save_checkpoint` does, then let `last`, and `best` if it is, name it.

        Where the write before this one failed, this one is waited for: what made it fail may have
        passed (a full disk), and a state is never given up for the failure of an earlier one.
        """
        failure = self._writer.failure()
        path = self.path / f"step-{step:08d}{self.suffix}"
        state = state_of(model, optimizer, step, **more)
        if is_sharded(model):
            payload = checked_payload(whole(state, self.ranks), elsewhere=True)
            write = functools.partial(write_together, path, payload, self.ranks)
        elif self.ranks.first:
            payload = snapshot(checked_payload(state))
            write = functools.partial(write_payload, path, payload)
        else:
            self.saved = None  # the first rank alone knows
            return
        self._writer.submit(functools.partial(self._write, path, write, best))
        if failure is not None:
            self.wait()
            if self.ranks.first:
                tqdm.write(f"a checkpoint was not written ({failure}); this is the next: {path}")

    def failed(self, wait: bool) -> bool:
        """Whether the last write failed, in the end (wait) or already; the next `save` tells."""
        return self._writer.failed(wait)

    def wait(self) -> None:
        """Until the last checkpoint is whole; raises what kept it from being so."""
        self._writer.wait()

    def _write(self, path: Path, write: Callable[[], None], best: bool) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write()
        self.saved = path
        if self.ranks.first:
            write_left(self.path, left_in(self.path) - {path.name})
            write_pointer(self.path / "last", path.name)
            if best:
                write_pointer(self.path / "best", path.name)
            self._prune()

    def name_best(self) -> None:
        """Let `best` name the last checkpoint, once it is whole: its validation came after it."""
        self.wait()
        if self.ranks.first and self.saved is not None:
            self._writer.submit(functools.partial(self._name_best, self.saved))

    def _name_best(self, path: Path) -> None:
        write_pointer(self.path / "best", path.name)
        self._prune()

    def withdraw(self, before: Path | None) -> None:
        """Remove the last checkpoint, whose weights proved bad. `last` names the one before."""
        with contextlib.suppress(OSError):  # then there is none to remove
            self.wait()
        bad, self.saved = self.saved, before
        if not self.ranks.first or bad is None or bad == before:
            return
        if before is not None and before.parent.resolve() == self.path.resolve():
            write_pointer(self.path / "last", before.name)
        else:
            (self.path / "last").unlink(missing_ok=True)
        bad.unlink() if bad.is_file() else remove_directory(bad)

    def go_on_from(self, checkpoint: Path | None, best_step: int, *, back: bool = True) -> None:
        """`last` names the checkpoint of this folder that a run goes on from, and `best` that of
        `best_step`. Those past it are of a branch that is left. Without `back`, one that is not the
        latest changes nothing."""
        if not self.ranks.first:
            return
        if checkpoint is not None and checkpoint.parent.resolve() == self.path.resolve():
            steps = {path.name: step for path, step in checkpoints_in(self.path).items()}
            now, left = steps.get(checkpoint.name), left_in(self.path)
            after = {name for name, step in steps.items() if now is not None and step > now}
            if not back and (after - left or checkpoint.name in left):
                return
            write_pointer(self.path / "last", checkpoint.name)
            write_left(self.path, (after | left) - {checkpoint.name})
        kept = [path for path in self.path.glob(f"step-{best_step:08d}*") if not path.is_symlink()]
        if kept:
            write_pointer(self.path / "best", kept[0].name)
        else:
            (self.path / "best").unlink(missing_ok=True)

    def _prune(self) -> None:
        """Never in the way of training: somebody may move, link or delete checkpoints meanwhile."""
        named = set()
        for name in ("last", "best"):
            with contextlib.suppress(FileNotFoundError, FileFormatError):
                named.add(find_checkpoint(self.path / name))
        old = [*checkpoints_in(self.path)][: -self.keep_last] if self.keep_last else []
        try:
            finish_removals(self.path)
            for path in old:
                if path not in named:
                    linked = path.is_symlink() or path.is_file()
                    path.unlink() if linked else remove_directory(path)
        except OSError as error:
            tqdm.write(f"old checkpoints were not deleted ({error}); delete them by hand")

    def __enter__(self) -> CheckpointFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        writer, self._writer = self._writer, CheckpointWriter()
        writer.finish()
        if error is None:
            writer.wait()
