"""A lock that lets one process use a folder. The system drops it when the process ends."""

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
_PLACE = 1 << 30  # the locked byte, past the text: on Windows nobody else can read a locked byte


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder/lock` for a run. Raise ValueError if another run holds it.

    Inside the `with` block, the same process may take the lock again. At the end, remove the lock.
    Also remove the folder if it was made for the lock and is empty.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    place = folder.resolve()
    if place in _held:
        yield
        return

    def is_bare() -> bool:
        return bool(made) and [path.name for path in folder.iterdir()] == ["lock"]

    remedy = "wait for it, stop it, or begin a new run in another folder"
    try:
        with lock_file(folder / "lock", "another run is at work in this folder", remedy, is_bare):
            _held.add(place)
            try:
                yield
            finally:
                _held.remove(place)
    finally:
        if made and not (folder / "lock").exists():
            with contextlib.suppress(OSError):  # another process has put something there
                for each in made:
                    each.rmdir()


@contextlib.contextmanager
def lock_file(
    path: Path, what: str, remedy: str, remove: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Hold the file `path`, which holds this process's id. Delete it at the end if `remove()`.

    Processes forked inside the block do not hold it. Raise ValueError with `what`, the holder's id
    and `remedy` if another process holds it.
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
                        path.unlink()  # before unlocking, so that nobody else holds it
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
            # Its holder may have deleted the file after we opened it; then our lock is useless.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    stack.pop_all()
                    return file


def _leave_to_parent() -> None:
    """Close the files that a fork copied, or the locks outlive the process that took them."""
    for file in _files:
        file.close()
    _files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _take(descriptor: int) -> bool:
    """Take the lock if it is free. Return whether it was free.

    On Unix this is `flock`, because a POSIX lock is lost when the process closes any descriptor of
    the file.
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
