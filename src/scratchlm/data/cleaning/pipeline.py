"""Clean documents with several processes: the same bytes for any number of them, after any kill.

The parent process reads the documents and groups them into items of about 1 MB. Worker processes
run the steps on an item. The parent writes the results in the order of the items. Items do not
depend on the number of workers or on the moment of a kill, so a resumed run needs only the number
of the next item.

Each comparison costs one more pass over the input. Such a pass writes a signature of each document,
and a byte that says whether a step dropped it. The next pass begins with these bytes.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from scratchlm.data.cleaning.accounting import Accounting, Amount, Tally, add
from scratchlm.data.cleaning.judging import ALIVE, DROPPED, REPEATED, Item, Judged, Pass
from scratchlm.data.cleaning.kinds import described, names_of
from scratchlm.data.cleaning.step import Comparison, Step
from scratchlm.data.cleaning.work_folder import (
    MANIFEST,
    SCRATCH,
    WORDING,
    Work,
    verdicts_name,
    work_folder,
)
from scratchlm.data.extra import extra
from scratchlm.data.outputs import check_outputs
from scratchlm.data.reading.record import Record
from scratchlm.data.reading.records import read_records
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import DEFAULT, Reading
from scratchlm.data.resumable import check_unchanged, describe, read_hashed
from scratchlm.data.sources import find_files, num_bytes
from scratchlm.files.atomic import replacing_file
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.workers import parallel_map, workers_for

ITEM_BYTES = 1 << 20  # of records in an item
PART_BYTES = 1 << 27  # a part ends after the item that fills it: lines of a shard, or records
_RECORD = 100  # extra bytes that each record counts, to bound items of tiny records


def clean(
    paths: StrPath | Sequence[StrPath],
    output: StrPath,
    steps: Sequence[Step],
    *,
    reading: Reading = DEFAULT,
    rejects: StrPath | None = None,
    max_bad: int = 0,
    num_workers: int | None = None,
    resume: bool = False,
) -> Accounting:
    """Run the steps on the documents of `paths`. Write the remaining documents to `output`.

    The output is a folder of `.jsonl.zst` shards in the order of the input, and manifest.json.
    Each line is the input's object with the cleaned text. The output is the same for any
    `num_workers`. With `resume`, a run continues after a kill, and writes the same bytes as an
    uninterrupted run. Up to `max_bad` records that cannot be read go to the file `rejects`.

    Raise ValueError if an output is among the inputs, if the output is not empty, if `resume` finds
    no run, and for input that `read_records` refuses. Raise FileFormatError if a run with `resume`
    has other steps or inputs.
    """
    files = find_files(paths)
    others = [Path(path) for step in steps for path in step.files()]
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    check_outputs({"output": output, "rejects": rejects}, [*given, *others])
    inputs = describe([*files, *others])
    settings: dict[str, Any] = dataclasses.asdict(reading)
    names = names_of(steps)
    settings |= {name: described(step) for name, step in zip(names, steps, strict=True)}
    extra("zstandard", Path(output))
    for step in steps:
        step.prepare()
    with work_folder(Path(output), settings, inputs, resume=resume) as work:
        if work.finished:
            return Accounting.from_json(read_hashed(work.path / MANIFEST)["accounting"])
        workers = workers_for(num_bytes(files), num_workers)
        run = _Run(work, files, (rejects, max_bad), workers)
        passes = passes_of(list(zip(names, steps, strict=True)), reading)
        for each in passes[work.number :]:
            run.read_all(each)
            if each.comparison is not None:
                run.compare(each.comparison)
        check_unchanged([*files, *others], inputs, WORDING)
        account = Accounting.of(work.tally, names, run.read, run.rejected)
        work.finish(account)
    return account


def passes_of(steps: list[tuple[str, Step]], reading: Reading) -> list[Pass]:
    """Return a pass for each comparison, and the pass that writes the output."""
    passes, first = [], 0
    for number, (_, step) in enumerate(steps):
        if isinstance(step, Comparison):
            passes.append(Pass(steps[:number], first, step, reading))
            first = number + 1
    return [*passes, Pass(steps, first, None, reading)]


class _Run:
    """Read all documents once for each pass. `read` and `rejected` count what the last one read."""

    def __init__(
        self,
        work: Work,
        files: list[Path],
        rejects: tuple[StrPath | None, int],
        workers: int,
    ) -> None:
        self._work, self._files, self._rejects, self._workers = work, files, rejects, workers
        self.read = self.rejected = Amount()
        self._next, self._tally = work.item, Tally()  # the next item, the tally of open parts

    def read_all(self, judge: Pass) -> None:
        """Run one pass, from the next item on."""
        check_unchanged(self._files, self._work.inputs[: len(self._files)], WORDING)
        size, what = num_bytes(self._files), f"cleaning, pass {self._work.number + 1}"
        with (
            Rejects(*self._rejects) as rejects,
            tqdm(total=size, desc=what, unit="B", unit_scale=True, disable=None) as bar,
        ):
            records = read_records(self._files, judge.reading, rejects, bar.update)
            items = self._items(records, judge)
            self._next = self._work.item
            todo = islice(items, self._next, None)
            # After an error, `closing` stops the workers now. The garbage collector would stop them
            # later, in any thread, also in a thread that holds a lock which the stop needs.
            with closing(parallel_map(judge, todo, self._workers)) as results:
                for result in results:
                    # An item without a document left writes nothing, so no shard is empty.
                    if result.data or judge.comparison is not None:
                        self._write_part(judge.comparison, chain([result], results))
                    else:
                        self._count(result)
            self._end_part()
            self.rejected = Amount(rejects.count, rejects.num_bytes)
            self.read += self.rejected

    def _items(self, records: Iterable[Record], judge: Pass) -> Iterator[Item]:
        known = self._known()
        alive: list[Record] = []
        verdicts, tally, size, read_bytes = bytearray(), Tally(), 0, 0
        index = -1
        for index, record in enumerate(records):
            verdict = known[index] if self._work.number else ALIVE
            if verdict == ALIVE:
                if judge.comparison is not None:
                    record = record._replace(value=None, raw=None)
                elif record.raw is not None:  # it is faster to send than `value`
                    record = record._replace(value=None)
                alive.append(record)
            elif verdict == REPEATED:
                add(tally, "dropped", judge.repeated_by, "repeated", num_bytes=record.num_bytes)
            verdicts.append(min(verdict, DROPPED))
            read_bytes += record.num_bytes
            size += record.num_bytes + _RECORD
            if size >= ITEM_BYTES:
                yield Item(alive, bytes(verdicts), tally, size)
                alive, verdicts, tally, size = [], bytearray(), Tally(), 0
        if verdicts:
            yield Item(alive, bytes(verdicts), tally, size)
        self.read = Amount(index + 1, read_bytes)

    def _known(self) -> memoryview | bytes:
        """Return what the passes before know of each document, one byte for each."""
        path = self._work.path / verdicts_name(self._work.number)
        if not self._work.number or not path.stat().st_size:
            return b""
        return memoryview(np.memmap(path, np.uint8, "r"))  # type: ignore[arg-type]

    def _write_part(self, comparison: Comparison | None, results: Iterator[Judged]) -> None:
        """Write one part: results until the part is full."""
        documents, paths = 0, self._part_paths(comparison)
        with ExitStack() as stack:
            data, *verdicts = [stack.enter_context(replacing_file(path)) for path in paths]
            if comparison is None:
                zstandard = extra("zstandard", paths[0])
                packer = zstandard.ZstdCompressor(write_checksum=True)
                data = stack.enter_context(packer.stream_writer(data, closefd=False))
            size = 0
            for result in results:
                data.write(result.data)
                for file in verdicts:
                    file.write(result.verdicts)
                self._count(result)
                documents += result.verdicts.count(ALIVE)
                size += len(result.data) if comparison is None else result.num_bytes
                if size >= PART_BYTES:
                    break
        self._end_part(paths, documents)

    def _part_paths(self, comparison: Comparison | None) -> list[Path]:
        folder, number = self._work.path, len(self._work.parts)
        if comparison is None:
            return [folder / f"clean-{number:05}.jsonl.zst"]
        name = f"survey-{self._work.number}-{number // 2:05}"
        return [folder / f"{name}.signatures", folder / f"{name}.verdicts"]

    def _count(self, result: Judged) -> None:
        self._next += 1
        self._tally.update(result.tally)

    def _end_part(self, paths: Sequence[Path] = (), documents: int = 0) -> None:
        self._work.add_part([path.name for path in paths], documents, self._next, self._tally)
        self._tally = Tally()

    def compare(self, comparison: Comparison) -> None:
        """Write the verdicts that the next pass begins with."""
        work = self._work
        parts = [work.path / part.name for part in work.parts]
        scratch = work.path / SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        repeated = comparison.repeated(parts[::2], scratch)
        shutil.rmtree(scratch)
        with replacing_file(work.path / verdicts_name(work.number + 1)) as file:
            seen = 0
            for path in parts[1::2]:
                verdicts = np.fromfile(path, np.uint8)
                alive = np.flatnonzero(verdicts == ALIVE)
                first, last = np.searchsorted(repeated, [seen, seen + len(alive)])
                verdicts[alive[repeated[first:last] - seen]] = REPEATED
                file.write(verdicts.tobytes())
                seen += len(alive)
        work.next_pass()
