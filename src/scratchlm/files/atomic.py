"""Files and directories that appear whole or not at all.

Written under a temporary name in the same directory, synced to the disk, renamed, and the directory
synced: a kill or a power cut at any moment leaves the old content or the new, never a part.
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

_REMOVED = ".removed"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # what only writing meets


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """The error of a disk that is full, or of a file too large, names what was to be written: the
    system's names a file only where it is opened."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the name `path` when the block ends without an error."""
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


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """The file has this content, or, if that fails, what it had before."""
    with replacing_file(Path(path)) as file:
        file.write(content)


@contextlib.contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """The same for a directory; the files in it are the block's to sync.

    A directory cannot be renamed over another: an old one is first moved to `previous(path)`, where
    a reader finds it if the process dies between the two renames.
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
    """Nobody finds half of it under its name; `finish_removals` ends what a kill cut short."""
    condemned = path.with_name(f".{path.name}{_REMOVED}")
    path.rename(condemned)
    shutil.rmtree(condemned)


def finish_removals(folder: Path) -> None:
    for condemned in folder.glob(f".*{_REMOVED}"):
        shutil.rmtree(condemned)


def _temporary(path: Path) -> Path:
    """This process's temporary name for `path`; those of processes that were killed are removed."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    prefix = f".{path.name}.tmp-"
    for other in path.parent.glob(f"{glob.escape(prefix)}*"):
        if not _is_alive(other.name.removeprefix(prefix)):
            shutil.rmtree(other) if other.is_dir() else other.unlink(missing_ok=True)
    return path.with_name(f"{prefix}{os.getpid()}")


def _is_alive(pid: str) -> bool:
    if sys.platform == "win32":  # there os.kill(pid, 0) does not ask, it interrupts
        return True
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # another user's
        return True
    return int(pid) != os.getpid()


def is_taken(path: Path) -> bool:
    """Whether something has this name; an empty folder is as good as none."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def previous(path: Path) -> Path:
    """Where `replacing_directory` keeps the old directory during a replacement."""
    return path.with_name(f".{path.name}.previous")


def sync(file: IO[bytes]) -> None:
    """Wait until what was written to `file` is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the names in the directory (files made, renamed) are on the disk."""
    if sys.platform == "win32":  # it opens no directories, and writes their entries itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
