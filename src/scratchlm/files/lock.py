"""One process a folder: a lock on a file, which the system drops when the process ends."""

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
_files: set[TextIO] = set()  # that this process has locked
_PLACE = 1 << 30  # the byte that is locked: on Windows nobody else can read a locked byte


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder/lock` for a run; ValueError where another run holds it.

    The same process may hold it again within the block. If the folder was made for the lock, and
    holds nothing else at the end, both are removed.
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
    """Hold the file `path`, which says this process's id, and `remove` it at the end.

    Processes that are forked within the block do not hold it. ValueError with `what`, the holder's
    id and `remedy` where another process holds it.
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
                        path.unlink()  # while it is held: nobody else can have it
                    _give_back(file.fileno())
    finally:
        if unwanted and sys.platform == "win32":
            with contextlib.suppress(OSError):  # an open file stays, so another's does
                path.unlink()


def _opened(path: Path, what: str, remedy: str) -> TextIO:
    """The file, open and locked; ValueError where it is locked already."""
    while True:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(path.open("a+", encoding="utf-8"))
            if not _take(file.fileno()):
                file.seek(0)
                holder = file.read().strip()
                raise ValueError(f"{what} ({path.parent}, process {holder}); {remedy}")
            # Its holder may have removed the file after we opened it: then it locks nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    stack.pop_all()
                    return file


def _leave_to_parent() -> None:
    """Close what a fork has copied, or the locks would outlive the process that took them."""
    for file in _files:
        file.close()
    _files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _take(descriptor: int) -> bool:
    """Whether nobody else has the lock; then this descriptor has it.

    On Unix by `flock`: the locks of POSIX go when any descriptor of the file is closed.
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
