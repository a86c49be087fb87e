"""The folder of a run that cleans documents. A kill at any moment leaves it valid.

    .NAME.unfinished/                      the folder during the run
        clean-00000.jsonl.zst              complete shards
        survey-0-00000.signatures          one signature per document, for a comparison
        survey-0-00000.verdicts            one byte per document: what the run knows of it
        verdicts-1                         the same for all documents, after the first comparison
        progress.json                      the progress, replaced after each complete part
        manifest.json                      the description of a finished run, written last
    NAME/                                  the same folder, renamed: the shards and the manifest

Nobody can take a part of the output for the whole, because the folder gets its name at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scratchlm.data import resumable
from scratchlm.data.cleaning.accounting import (
    Accounting,
    Tally,
    tally_from_json,
    tally_to_json,
)
from scratchlm.data.outputs import check_no_link
from scratchlm.errors import FileFormatError
from scratchlm.files.atomic import sync_directory
from scratchlm.files.checksum import sha256_of

MANIFEST, PROGRESS = "manifest.json", "progress.json"
WORDING = resumable.Wording(
    "the cleaning",
    "the cleaning",
    "another process is cleaning into the folder",
    "clean the files into another folder",
)
SCRATCH = "scratch"  # a folder for the temporary files of a comparison

_OWN = re.compile(
    r"clean-\d{5,}\.jsonl\.zst|survey-\d+-\d{5,}\.(signatures|verdicts)|verdicts-\d+|scratch"
    r"|progress\.json|\..+\.tmp-\d+"
)


@dataclass(frozen=True)
class FinishedFile:
    """A complete file. `documents`: how many documents it contains."""

    name: str
    documents: int
    size: int
    sha256: str


@dataclass
class Work:
    """An unfinished run. The next item to process is item `item` of pass `number`.

    `parts`: the complete files of this pass. `tally`: the counts up to this item, over all passes.
    """

    path: Path
    settings: dict[str, Any]
    inputs: list[dict[str, Any]]
    number: int = 0
    item: int = 0
    parts: list[FinishedFile] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    finished: bool = False

    def save(self) -> None:
        content = {
            "settings": self.settings,
            "inputs": self.inputs,
            "number": self.number,
            "item": self.item,
            "parts": [dataclasses.asdict(part) for part in self.parts],
            "tally": tally_to_json(self.tally),
        }
        resumable.write_hashed(self.path / PROGRESS, content)

    def add_part(self, names: list[str], documents: int, item: int, tally: Tally) -> None:
        """Record that the files `names` are complete, and that `item` is the next item."""
        for name in names:
            path = self.path / name
            self.parts.append(FinishedFile(name, documents, path.stat().st_size, sha256_of(path)))
        self.item = item
        self.tally.update(tally)
        self.save()

    def next_pass(self) -> None:
        """Record that the pass is complete, and remove its parts."""
        self.number, self.item, self.parts = self.number + 1, 0, []
        self.save()
        self.sweep()

    def finish(self, account: Accounting) -> None:
        content = {
            "settings": self.settings,
            "inputs": self.inputs,
            "accounting": account.to_json(),
            "shards": [dataclasses.asdict(part) for part in self.parts],
        }
        resumable.write_hashed(self.path / MANIFEST, content)
        self.finished = True
        self.sweep()
        sync_directory(self.path)

    def go_on(self) -> None:
        """Read the progress of a killed run with the same settings and inputs."""
        path = self.path / MANIFEST
        self.finished = path.exists()
        path = path if self.finished else self.path / PROGRESS
        with resumable.reading_hashed(path, WORDING):
            content = resumable.read_hashed(path)
            resumable.check_settings(path, content["settings"], self.settings, WORDING)
            resumable.check_inputs(path, content["inputs"], self.inputs, WORDING)
            self.parts = [
                FinishedFile(**p) for p in content["shards" if self.finished else "parts"]
            ]
            if not self.finished:
                self.number, self.item = int(content["number"]), int(content["item"])
                self.tally = tally_from_json(content["tally"])
        for part in self.parts:
            self._check(part)
        self.sweep()

    def _check(self, part: FinishedFile) -> None:
        path = self.path / part.name
        if not path.exists() or (path.stat().st_size, sha256_of(path)) != (part.size, part.sha256):
            raise FileFormatError(
                f"a finished part is missing or changed ({path}); remove the folder {self.path}, "
                "and begin again"
            )

    def sweep(self) -> None:
        """Remove the files that a killed run, or an earlier pass, left."""
        keep = {part.name for part in self.parts}
        if not self.finished:
            keep |= {PROGRESS, verdicts_name(self.number)}
        for path in self.path.iterdir():
            if _OWN.fullmatch(path.name) and path.name not in keep:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def verdicts_name(number: int) -> str:
    """Return the name of the file with the verdicts that pass `number` begins with."""
    return f"verdicts-{number}"


@contextlib.contextmanager
def work_folder(
    output: Path, settings: dict[str, Any], inputs: list[dict[str, Any]], *, resume: bool
) -> Iterator[Work]:
    """Open the folder for one process at a time. At the end, give the folder its name.

    If the run is finished already, `finished` is true, and the folder has its name.
    """
    path = unfinished(output)
    if (output / MANIFEST).exists():
        path = output
    check_output(output, resume=resume)
    work = Work(path, settings, inputs)
    with resumable.locked_folder(path, WORDING):
        try:
            work.go_on() if resume else work.save()
            yield work
        except BaseException:
            if not resume and not work.parts and not work.number:
                (path / PROGRESS).unlink(missing_ok=True)
                (path / MANIFEST).unlink(missing_ok=True)
                work.sweep()
            raise
    if work.path != output:
        with contextlib.suppress(FileNotFoundError):
            output.rmdir()  # an empty folder, which a rename on Windows does not replace
        path.rename(output)
        sync_directory(output.parent)


def unfinished(output: Path) -> Path:
    """Return the folder of an unfinished run."""
    return output.with_name(f".{output.name}.unfinished")


def check_output(output: Path, *, resume: bool) -> None:
    """Raise ValueError if a new run finds an older run, or if `resume` finds no run."""
    if not output.name:
        raise ValueError(f"the output must have a name ({output}); choose a folder such as clean")
    if not output.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(output.parent))
    check_no_link(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"the output must be a folder, not a file ({output}); choose a folder")
    finished = (output / MANIFEST).exists()
    begun = (unfinished(output) / PROGRESS).exists() or (unfinished(output) / MANIFEST).exists()
    if resume and not (finished or begun):
        raise ValueError(f"--resume needs a run that began ({output} has none); remove --resume")
    if not resume and begun:
        raise ValueError(
            f"the folder already contains a run ({unfinished(output)}); continue with --resume, or "
            "choose another folder"
        )
    if output.exists() and not (resume and finished) and any(output.iterdir()):
        raise ValueError(f"the output must be a new or empty folder ({output}); choose another one")
