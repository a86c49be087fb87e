"""Files and directories that appear whole or not at all.

Each function writes under a temporary name in the same directory, syncs the content to the disk,
renames it, and syncs the directory. A kill or a power cut leaves the old content or the new, never
a part.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from scratchlm.files.paths import StrPath

_REMOVED = ".removed"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # only writing raises these


@contextlib.contextmanager
def naming(path: StrPath) -> Iterator[None]:
    """Put `path` into the error of a full disk or of a file that is too large. The system names a
    file only in an error of opening it."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file, which takes the name `path` when the block ends without an error."""
    temporary = _temporary(path)
    try:
        with naming(path), temporary.open("wb") as file:
            yield file
            sync(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_file(path: StrPath, content: bytes) -> None:
    """Write `content` to the file. If that fails, the file keeps its old content."""
    with replacing_file(Path(path)) as file:
        file.write(content)


@contextlib.contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield a directory, which takes the name `path` when the block ends without an error.

    The block syncs the files in it. A directory cannot replace another by a rename. So the old
    one first moves to `previous(path)`. A reader finds it there if the process dies between the two
    renames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        with naming(path):
            yield temporary
            sync_directory(temporary)
        if path.exists():
            shutil.rmtree(previous(path), ignore_errors=True)
            path.rename(previous(path))
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(path.parent)
    shutil.rmtree(previous(path), ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Remove a directory; nobody finds half of it under its name.

    If a kill interrupts the removal, `finish_removals` completes it.
    """
    condemned = path.with_name(f".{path.name}{_REMOVED}")
    path.rename(condemned)
    shutil.rmtree(condemned)


def finish_removals(folder: Path) -> None:
    for condemned in folder.glob(f".*{_REMOVED}"):
        shutil.rmtree(condemned)


def _temporary(path: Path) -> Path:
    """Return this process's temporary name for `path`. Remove what killed processes left there."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    prefix = f".{path.name}.tmp-"
    for other in path.parent.glob(f"{glob.escape(prefix)}*"):
        if not _is_alive(other.name.removeprefix(prefix)):
            shutil.rmtree(other) if other.is_dir() else other.unlink(missing_ok=True)
    return path.with_name(f"{prefix}{os.getpid()}")


def _is_alive(pid: str) -> bool:
    if sys.platform == "win32":  # os.kill(pid, 0) interrupts the process there
        return True
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # another user's process
        return True
    return int(pid) != os.getpid()


def is_taken(path: Path) -> bool:
    """Return whether a file, or a folder that is not empty, has this name."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def previous(path: Path) -> Path:
    """Return the path where `replacing_directory` keeps the old directory for a moment."""
    return path.with_name(f".{path.name}.previous")


def sync(file: IO[bytes]) -> None:
    """Wait until the content of `file` is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the directory's entries (new and renamed files) are on the disk."""
    if sys.platform == "win32":  # it cannot open directories, and syncs their entries itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
