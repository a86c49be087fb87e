"""Find a checkpoint by its own path, by a pointer file, or in a run's folder.

A pointer (`last`, `best`) is a text file with the name of a checkpoint in the same folder. The file
`left` lists abandoned checkpoints. The run left these checkpoints when it went back to an earlier
step.
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
from scratchlm.files.paths import StrPath

_STEP = re.compile(r"step-(\d{8,})(?:\.pt)?")
_LONGEST = 100  # bytes of a checkpoint's name


def find_checkpoint(path: StrPath, prefer: str = "best") -> Path:
    """Return the checkpoint of `path`, which is a checkpoint, a pointer file or a run's folder.

    prefer: "best" or "last", for a folder that has both.
    """
    path = Path(path)
    if is_single_file(path) or (path / MANIFEST).is_file() or not path.exists():
        if not path.exists() and not previous(path).exists():
            raise FileNotFoundError(
                f"the checkpoint does not exist ({path}); specify a checkpoint, a run's folder, or "
                "a Hugging Face folder on this disk"
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
            f"the run has no pointer to its last checkpoint ({path / 'checkpoints' / 'last'} "
            "is missing); specify a checkpoint of the run, or start a new run"
        )
    if (path / "adapter_config.json").is_file():
        raise FileFormatError(
            f"the folder has only adapters, and no model ({path}); add the adapters to their model "
            f"with scratchlm-convert --from MODEL --adapter {path} --to OUT"
        )
    raise FileFormatError(
        f"the folder has no checkpoint and no Hugging Face config.json ({path}); specify a "
        "checkpoint, a run's folder, or a Hugging Face folder"
    )


def checkpoints_in(folder: Path) -> dict[Path, int]:
    """Return {path: step} of the checkpoints in `folder`, which is a run's folder `checkpoints`.

    Abandoned checkpoints come first; then the order is by step. The order does not use file
    times, because a copy has other times.
    """
    found, left = {}, left_in(folder)
    for path in folder.glob("step-*"):
        if match := _STEP.fullmatch(path.name):
            found[path] = int(match[1])
    return dict(
        sorted(found.items(), key=lambda item: (item[0].name not in left, item[1], item[0]))
    )


def left_in(folder: Path) -> set[str]:
    """Return the names of the abandoned checkpoints."""
    with contextlib.suppress(OSError):
        return set((folder / "left").read_text(errors="replace").split())
    return set()


def write_left(folder: Path, names: set[str]) -> None:
    """Mark the existing checkpoints of `names` as abandoned, and no others."""
    names = {name for name in names if os.path.lexists(folder / name)}
    if not names:
        (folder / "left").unlink(missing_ok=True)
    elif names != left_in(folder):
        with replacing_file(folder / "left") as file:
            file.writelines(f"{name}\n".encode() for name in sorted(names))


def whole_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of `checkpoints_in`."""
    return [
        path for path in checkpoints_in(folder)
        if (path.is_file() if is_single_file(path) else (path / MANIFEST).is_file())
    ]  # fmt: skip


@contextlib.contextmanager
def naming_an_earlier(checkpoint: Path) -> Iterator[None]:
    """Add a note to a FileFormatError, which the caller gets when it reads `checkpoint`.

    The note is the command that resumes from the previous checkpoint, if there is one.
    """
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


def write_pointer(path: StrPath, name: str) -> None:
    """Write `name`, a checkpoint in the same folder, into the text file `path`, atomically."""
    with replacing_file(Path(path)) as file:
        file.write(f"{name}\n".encode())


def _follow(pointer: Path) -> Path:
    """Return the checkpoint that a pointer names. It must be in the same folder, and no pointer."""
    name, content = "", b""
    if pointer.is_file():  # reading a pipe would block
        with pointer.open("rb") as file:
            content = file.read(_LONGEST + 2).strip()
    with contextlib.suppress(UnicodeDecodeError):
        name = content.decode()
    if len(content) > _LONGEST or name in ("", "..") or Path(name).name != name:
        check_downloaded(pointer)
        raise FileFormatError(
            f"the path is neither a checkpoint nor a pointer to a checkpoint ({pointer}); specify "
            "a checkpoint's folder, a .pt file, or a run's folder"
        )
    target = pointer.parent / name
    if not (target.is_file() if is_single_file(target) else target.is_dir()) and not (
        previous(target).is_dir()
    ):
        raise FileFormatError(
            f"the pointer's checkpoint does not exist ({pointer}: {name!r}); "
            "specify another checkpoint"
        )
    return target
