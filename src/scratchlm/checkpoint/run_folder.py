"""Write a run's checkpoints (`step-00000100` etc.), and pointers to the last and the best.

The text files `last` and `best` each contain the name of one checkpoint. A file is replaced
atomically after its new checkpoint is complete. `save` copies the state and returns. A thread
writes one checkpoint at a time.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
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
    """Write checkpoints into `path`. Keep the newest `keep_last` checkpoints (0: all) and the best.

    `saved` is the last complete checkpoint. The end of a `with` block waits for the last write.
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
        """Save as `save_checkpoint` does. Then point `last` at the checkpoint.

        best: True points `best` at the checkpoint too. If the previous write failed, `save` tries
        this write and waits for its end. The cause (a full disk) may be gone, and an earlier
        failure must not lose this state.
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
            self.saved = None  # only the first rank stores this path
            return
        self._writer.submit(functools.partial(self._write, path, write, best))
        if failure is not None:
            self.wait()
            if self.ranks.first:
                tqdm.write(
                    f"a checkpoint was not written ({failure}); the next was written: {path}"
                )

    def failed(self, wait: bool) -> bool:
        """Return whether the last write failed. `save` prints the error.

        wait: True waits for the end of the write first.
        """
        return self._writer.failed(wait)

    def wait(self) -> None:
        """Wait until the last checkpoint is complete. Raise the error of its write."""
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
        """Point `best` at the last checkpoint, after its validation. Wait for its write first."""
        self.wait()
        if self.ranks.first and self.saved is not None:
            self._writer.submit(functools.partial(self._name_best, self.saved))

    def _name_best(self, path: Path) -> None:
        write_pointer(self.path / "best", path.name)
        self._prune()

    def withdraw(self, before: Path | None) -> None:
        """Remove the last checkpoint, because its weights are bad. Point `last` at `before`."""
        with contextlib.suppress(OSError):  # after such an error there is no checkpoint to remove
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
        """Point `last` at `checkpoint` and `best` at the checkpoint of `best_step`.

        Mark later checkpoints as abandoned. If `back` is False and `checkpoint` is not the latest
        checkpoint, do nothing.
        """
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
        """Delete old checkpoints. Only print an error, because users may delete checkpoints too."""
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
            tqdm.write(
                f"old checkpoints were not deleted ({error}); delete these checkpoints yourself"
            )

    def __enter__(self) -> CheckpointFolder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        writer, self._writer = self._writer, CheckpointWriter()
        writer.finish()
        if error is None:
            writer.wait()
