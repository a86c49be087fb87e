"""A lock, so that only one process uses a folder. The system releases the lock when the process
ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_held: set[Path] = set()
_files: set[TextIO] = set()  # the files that this process has locked
_PLACE = 1 << 30  # the locked byte, after the text: on Windows no other process can read this byte


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the file `folder/lock` for a run. Raise ValueError if another run has locked the file.

    Inside the `with` block, the same process may call `locked` again. At the end, release the
    lock. If this call made the folder, and the folder has no other file, remove the folder.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    place = folder.resolve()
    if place in _held:
        yield
        return

    def is_bare() -> bool:
        return bool(made) and [path.name for path in folder.iterdir()] == ["lock"]

    remedy = "wait for that run, stop that run, or begin a new run in another folder"
    try:
        with lock_file(folder / "lock", "another run is using this folder", remedy, is_bare):
            _held.add(place)
            try:
                yield
            finally:
                _held.remove(place)
    finally:
        if made and not (folder / "lock").exists():
            with contextlib.suppress(OSError):  # another process has put a file there
                for each in made:
                    each.rmdir()


@contextlib.contextmanager
def lock_file(
    path: Path, what: str, remedy: str, remove: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Lock the file `path`, and write this process's id to the file. At the end, delete the file if
    `remove()` is true.

    A process that is forked inside the block does not have the lock. If another process has locked
    the file, raise ValueError with `what`, the id of that process, and `remedy`.
    """
    unwanted = False
    try:
        with _opened(path, what, remedy) as file:
            _files.add(file)
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            try:
                yield
            finally:
                if file in _files:  # not in a forked process
                    _files.remove(file)
                    unwanted = remove()
                    if unwanted and sys.platform != "win32":
                        path.unlink()  # before unlocking, so no other process has locked the file
                    _give_back(file.fileno())
    finally:
        if unwanted and sys.platform == "win32":
            with contextlib.suppress(OSError):  # Windows keeps a file that another process has open
                path.unlink()


def _opened(path: Path, what: str, remedy: str) -> TextIO:
    """Open and lock the file. Raise ValueError if another process has locked it."""
    while True:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(path.open("a+", encoding="utf-8"))
            if not _take(file.fileno()):
                file.seek(0)
                holder = file.read().strip()
                raise ValueError(f"{what} ({path.parent}, process {holder}); {remedy}")
            # If another process deleted the file after we opened it, then our lock is useless.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    stack.pop_all()
                    return file


def _leave_to_parent() -> None:
    """Close the files that a fork copied, so that the locks end with the process that made them."""
    for file in _files:
        file.close()
    _files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _take(descriptor: int) -> bool:
    """Lock the file if it is not locked. Return whether this process has the lock.

    On Unix the lock is `flock`, because a process loses a POSIX lock when it closes any descriptor
    of the file.
    """
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _PLACE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _give_back(descriptor: int) -> None:
    if sys.platform == "win32":
        os.lseek(descriptor, _PLACE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
