"""Where a checkpoint is: named itself, by a pointer file, or as the best or last of a run's folder.

A pointer (`last`, `best`) is a text file that holds the name of a checkpoint beside it. `left`
names those that a run left behind when it went back to an earlier step.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from scratchlm.checkpoint.directory import MANIFEST, is_single_file
from scratchlm.errors import FileFormatError
from scratchlm.files.atomic import previous, replacing_file
from scratchlm.files.file_kinds import check_downloaded

_STEP = re.compile(r"step-(\d{8,})(?:\.pt)?")
_LONGEST = 100  # bytes of a checkpoint's name


def find_checkpoint(path: str | os.PathLike[str], prefer: str = "best") -> Path:
    """The checkpoint that `path` names: itself, a pointer file, or one of a run's folder.

    `prefer` is "best" or "last", for a folder that has both.
    """
    path = Path(path)
    if is_single_file(path) or (path / MANIFEST).is_file() or not path.exists():
        if not path.exists() and not previous(path).exists():
            raise FileNotFoundError(
                f"no such checkpoint ({path}); give a checkpoint, a run's folder, or a folder of "
                "the hub that is on this disk"
            )
        return path
    if path.is_file():
        return _follow(path)
    for folder in (path, path / "checkpoints"):
        for name in (prefer, "last"):
            if os.path.lexists(folder / name):
                return _follow(folder / name)
    if (path / "checkpoints").is_dir():
        raise FileFormatError(
            f"the run does not say which checkpoint is its last ({path / 'checkpoints' / 'last'} "
            "is missing); give one of that folder, or start a new run"
        )
    raise FileFormatError(
        f"no checkpoint in this folder, nor a config.json of the hub ({path}); give a checkpoint, "
        "a run's folder, or one of the hub"
    )


def checkpoints_in(folder: Path) -> dict[Path, int]:
    """{path: step} of a run's folder `checkpoints`: those left behind first, then by step; not by
    time, for a copy has other times."""
    found, left = {}, left_in(folder)
    for path in folder.glob("step-*"):
        if match := _STEP.fullmatch(path.name):
            found[path] = int(match[1])
    return dict(
        sorted(found.items(), key=lambda item: (item[0].name not in left, item[1], item[0]))
    )


def left_in(folder: Path) -> set[str]:
    """The names of the checkpoints that no longer are of the run's one line of training."""
    with contextlib.suppress(OSError):
        return set((folder / "left").read_text(errors="replace").split())
    return set()


def write_left(folder: Path, names: set[str]) -> None:
    """What `left_in` gives from now on: those of `names` that are there."""
    names = {name for name in names if os.path.lexists(folder / name)}
    if not names:
        (folder / "left").unlink(missing_ok=True)
    elif names != left_in(folder):
        with replacing_file(folder / "left") as file:
            file.writelines(f"{name}\n".encode() for name in sorted(names))


def whole_checkpoints(folder: Path) -> list[Path]:
    """Those of `checkpoints_in` that were written to the end."""
    return [
        path for path in checkpoints_in(folder)
        if (path.is_file() if is_single_file(path) else (path / MANIFEST).is_file())
    ]  # fmt: skip


@contextlib.contextmanager
def naming_an_earlier(checkpoint: Path) -> Iterator[None]:
    """A FileFormatError within, where a checkpoint of a run is read, is given a note with the
    command that goes on from the one before it, if one is there."""
    try:
        yield
    except FileFormatError as error:
        whole = whole_checkpoints(checkpoint.parent)
        left = left_in(checkpoint.parent)
        whole = [path for path in whole if (path.name in left) == (checkpoint.name in left)]
        before = whole[: whole.index(checkpoint)] if checkpoint in whole else whole
        if before:
            error.add_note(f"e.g. scratchlm-train --resume {shlex.quote(str(before[-1]))}")
        raise


def write_pointer(path: str | os.PathLike[str], name: str) -> None:
    """Let the text file `path` name a sibling, replacing it atomically."""
    with replacing_file(Path(path)) as file:
        file.write(f"{name}\n".encode())


def _follow(pointer: Path) -> Path:
    """The sibling that a pointer names: one step, and never out of its folder."""
    name, content = "", b""
    if pointer.is_file():  # no pipe, which would be waited for
        with pointer.open("rb") as file:
            content = file.read(_LONGEST + 2).strip()
    with contextlib.suppress(UnicodeDecodeError):
        name = content.decode()
    if len(content) > _LONGEST or name in ("", "..") or Path(name).name != name:
        check_downloaded(pointer)
        raise FileFormatError(
            f"not a checkpoint, nor a pointer to one ({pointer}); give a "
            "checkpoint's directory, a .pt, or a run's folder"
        )
    target = pointer.parent / name
    if not (target.is_file() if is_single_file(target) else target.is_dir()) and not (
        previous(target).is_dir()
    ):
        raise FileFormatError(
            f"a pointer leads to no checkpoint ({pointer}: {name!r}); give another"
        )
    return target
