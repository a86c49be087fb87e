"""Download several files at once, each with a bar on a terminal."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from scratchlm.data.download.one_file import PATIENCE, Outcome, Patience, Stopped, download_file
from scratchlm.data.download.part import RemoteFile
from scratchlm.errors import Interrupted


def download_files(
    files: Sequence[RemoteFile], connections: int = 4, patience: Patience = PATIENCE
) -> list[Outcome]:
    """Download the files, at most `connections` at once. Return their outcomes in order.

    A failure does not stop the other downloads. At the end, raise the first failure. After a
    signal, raise Interrupted. In both cases, a second call continues each file.
    """
    if connections < 1:
        raise ValueError(
            f"connections must be at least 1 ({connections}); set --connections 4, for example"
        )
    results: dict[int, Outcome | BaseException] = {}
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(files)):
        waiting.put(number)
    finished: queue.SimpleQueue[int] = queue.SimpleQueue()
    stop, made = threading.Event(), _make_folders(files)

    def work(slot: int) -> None:
        with suppress(queue.Empty):
            while not stop.is_set():
                number = waiting.get_nowait()
                try:
                    results[number] = _with_bar(files[number], slot, patience, stop)
                except BaseException as error:
                    results[number] = error
        finished.put(slot)

    # A blocked daemon thread does not keep a stopped program alive. The files stay consistent.
    running = min(connections, len(files))
    try:
        for slot in range(running):
            threading.Thread(target=work, args=(slot,), daemon=True).start()
        while running:  # not `join`: after a signal, Python 3.11 takes a joined thread for ended
            finished.get()
            running -= 1
    except (KeyboardInterrupt, Interrupted) as error:
        stop.set()
        with suppress(queue.Empty):
            while running:
                finished.get(timeout=2)
                running -= 1
        number = error.signum if isinstance(error, Interrupted) else 2
        raise Interrupted(
            number, "the downloads stopped; repeat the command to continue them"
        ) from None
    finally:
        for folder in made:
            with suppress(OSError):  # the folder contains files
                folder.rmdir()
    failures = [number for number in sorted(results) if isinstance(results[number], BaseException)]
    if failures:
        first = results[failures[0]]
        assert isinstance(first, BaseException)
        if len(failures) > 1:
            first.add_note(f"{len(failures)} of {len(files)} files failed")
        raise first
    return [result for _, result in sorted(results.items()) if isinstance(result, Outcome)]


def _make_folders(files: Sequence[RemoteFile]) -> list[Path]:
    """Make the folders of the files. Return the new folders, the innermost first."""
    made = []
    for folder in dict.fromkeys(file.path.parent for file in files):
        made += [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    return sorted(set(made), key=lambda each: len(each.parts), reverse=True)


def _with_bar(
    file: RemoteFile, slot: int, patience: Patience, stop: threading.Event
) -> Outcome | Stopped:
    with tqdm(desc=file.path.name, position=slot, unit="B", unit_scale=True, unit_divisor=1000,
              leave=False, disable=None) as bar:  # fmt: skip

        def report(done: int, size: int | None) -> None:
            if bar.n == 0:
                bar.initial = done  # bytes of an earlier start do not count for the speed
            bar.total = size
            bar.update(done - bar.n)

        return download_file(file, patience, report, stop)
