"""Write files and directories completely or not at all.

Each function writes under a temporary name in the same directory, and syncs the content to the
disk. Then it renames the file or directory, and syncs the parent directory. After a kill or a power
cut, the path has the old content or the new content, never a part of it.
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
    """Add `path` to the error for a full disk or for a file that is too large. The system adds a
    path only to errors of `open`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file. If the block ends without an error, rename the file to `path`."""
    if path.is_dir():  # the error of the rename would have the temporary name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
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
    """Write `content` to the file. If the write fails, the file keeps its old content."""
    with replacing_file(Path(path)) as file:
        file.write(content)


@contextlib.contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield a directory. If the block ends without an error, rename the directory to `path`.

    The block must sync the files in the directory. A rename cannot replace a directory, so the old
    directory first moves to `previous(path)`. If the process dies between the two renames, a reader
    finds the old directory there.
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
    """Remove a directory. No reader finds a part of the directory at `path`.

    If a kill interrupts the removal, `finish_removals` completes it.
    """
    condemned = path.with_name(f".{path.name}{_REMOVED}")
    path.rename(condemned)
    shutil.rmtree(condemned)


def finish_removals(folder: Path) -> None:
    for condemned in folder.glob(f".*{_REMOVED}"):
        shutil.rmtree(condemned)


def _temporary(path: Path) -> Path:
    """Return this process's temporary name for `path`. Remove the temporary files and directories
    of killed processes."""
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
    """Return whether `path` is a file, or a folder that is not empty."""
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
    if sys.platform == "win32":  # Windows cannot open directories, and syncs their entries itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
