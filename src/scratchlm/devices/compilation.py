"""Handle the problems of torch.compile: signals, damaged files in its cache, a compiler that fails.

torch starts a C++ compiler and worker processes, which write shared libraries directly into a
cache. All later runs of the user load these libraries. So a killed compiler leaves half a file,
which breaks every later run.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from scratchlm.errors import WorkerError


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Wrap every call that torch may compile. If torch compiles nothing, this costs microseconds.

    First remove damaged libraries from torch's cache, so that torch makes new ones. A signal waits
    until the call ends, and never reaches the compiler. Raise WorkerError if the compiler fails.
    """
    _mend_cache_once()
    with _signals_held():
        try:
            yield
        except Exception as error:
            if not _of_the_compiler(error):
                raise
            raise WorkerError(
                f"torch could not compile the model ({_reason(error)}); {_remedy(error)}"
            ) from error


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the end of the block. Processes that start inside the block
    also block these signals. Otherwise a terminal, a batch system or a container, which sends a
    signal to all processes, would stop the compiler."""
    if sys.platform == "win32":  # Windows has no signal masks
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    noted: list[int] = []
    kept = {}

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    # Another thread may receive the signal; the handler still runs in the main thread.
    if threading.current_thread() is threading.main_thread():
        kept = {number: signal.signal(number, note) for number in numbers}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # runs `note` for waiting signals
        for number, handler in kept.items():
            signal.signal(number, handler)
        for each in noted:
            signal.raise_signal(each)


@functools.cache
def _mend_cache_once() -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # slow, like compiling

    mend_cache(Path(cache_dir()))


def mend_cache(folder: Path) -> None:
    """Remove damaged libraries from torch's cache. Some of them make the dynamic linker crash
    the process."""
    if sys.platform != "linux":
        return
    import fcntl  # not on Windows

    for path in folder.glob("*/*.so"):
        if _is_whole(path):
            continue
        lock = folder / "locks" / f"{path.name.split('.')[0]}.lock"
        lock.parent.mkdir(exist_ok=True)
        with contextlib.suppress(OSError), lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while a process writes it
            path.unlink()


def _is_whole(path: Path) -> bool:
    """Return whether a 64-bit ELF file is as long as its header says. A linker puts the section
    table at the end, and writes the header last."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:4] != b"\x7fELF":
            return False
        (start,) = struct.unpack_from("<Q", header, 40)
        size, count = struct.unpack_from("<HH", header, 58)
        return 0 < start + size * count <= path.stat().st_size
    return True  # the file is gone, or we may not read it


def _of_the_compiler(error: Exception) -> bool:
    return any(
        each.__module__.startswith(("torch._dynamo", "torch._inductor"))
        for each in type(error).__mro__
    )


def _remedy(error: Exception) -> str:
    if "precompiled header" in str(error):  # a killed run left half of a header
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir

        headers = Path(default_cache_dir()) / "precompiled_headers"
        return f"remove the folder {headers}, because torch makes a new one"
    return "check that g++ works and has enough memory, or use --compile off"


def _reason(error: Exception) -> str:
    """Return the first line with "error:". Without such a line, return the second line, because the
    first line contains only the name of a class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    complaints = [line for line in lines if "error:" in line]
    return (complaints or lines[1:] or lines or [type(error).__name__])[0][:300]
