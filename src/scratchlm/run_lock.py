"""One run a folder: a lock that the system drops when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_held: set[Path] = set()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder/lock`; ValueError, with the holder's process id, where another run holds it.
    Within the block, this process may hold it again. What was made for it alone goes with it."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    place = folder.resolve()
    if place in _held:
        yield
        return
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"another run is at work in this folder ({folder}, process {file.read().strip()}); "
                "wait for it, stop it, or begin a new run in another folder"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        _held.add(place)
        try:
            yield
        finally:
            _held.remove(place)
            if made and [path.name for path in folder.iterdir()] == ["lock"]:
                (folder / "lock").unlink()
                with contextlib.suppress(OSError):  # a parent that others use by now
                    for each in made:
                        each.rmdir()
