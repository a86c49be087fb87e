"""Begin, resume and finish the folder of a corpus. A kill at any moment leaves it valid.

    DIR/train-00000.bin, .bin.json   `shard_tokens` ids each; the last shard may have fewer
    DIR/val-00000.bin, .bin.json     the held-out documents
    DIR/tokenizer.json               the tokenizer that made the ids
    DIR/corpus.json                  the description of a finished corpus, written last
    DIR/progress.json                the progress of an unfinished corpus

A run finishes a shard and then replaces progress.json. A kill between these two steps leaves a
complete shard that progress.json does not count. A resumed run removes this shard and writes a new
one. Both JSON files end with a hash of their other content.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scratchlm.data.resumable import (
    Wording,
    check_inputs,
    check_settings,
    locked_folder,
    read_hashed,
    reading_hashed,
    write_hashed,
)
from scratchlm.data.shards import open_shard
from scratchlm.errors import FileFormatError
from scratchlm.files.atomic import sync_directory
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.token_files import ShardInfo

SPLITS = ("train", "val")
MANIFEST, PROGRESS, TOKENIZER = "corpus.json", "progress.json", "tokenizer.json"
WORDING = Wording(
    "the corpus",
    "the encoding",
    "another process is encoding into the folder",
    "encode the files into another folder",
)

_SHARD = re.compile(r"(train|val)-\d{5,}\.bin(\.json)?")
_TEMPORARY = re.compile(
    r"\.((train|val)-\d{5,}\.bin(\.json)?|(corpus|progress|tokenizer)\.json)\.(partial|tmp-\d+)"
)


@dataclass(frozen=True)
class SplitInfo:
    """Describe one split. `text_bytes` counts the bytes of text without the separators."""

    documents: int
    text_bytes: int
    tokens: int
    shards: list[str]


@dataclass(frozen=True)
class CorpusInfo:
    """Store the content of corpus.json.

    `inputs` has the path, size and mtime_ns of each input. `reading` says what became of the
    records: `records` is the sum of the splits' documents, `empty` and `rejected`.
    """

    train: SplitInfo
    val: SplitInfo
    settings: dict[str, Any]
    inputs: list[dict[str, Any]]
    reading: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Store the place where a split's last complete shard ends.

    There are `shards` complete shards. The next id is id number `id` of item number `item`.
    """

    shards: int = 0
    item: int = 0
    id: int = 0


@dataclass
class CorpusFolder:
    """Manage an open folder. `finished` is not None if the corpus is complete."""

    path: Path
    tokenizer: BPETokenizer
    settings: dict[str, Any]
    inputs: list[dict[str, Any]]
    places: dict[str, Place] = field(default_factory=lambda: dict.fromkeys(SPLITS, Place()))
    finished: CorpusInfo | None = None

    def save(self, split: str, place: Place) -> None:
        """Record that the split's shards are complete up to `place`."""
        self.places[split] = place
        places = {name: asdict(place) for name, place in self.places.items()}
        self._write(PROGRESS, {"settings": self.settings, "inputs": self.inputs} | places)

    def finish(self, train: SplitInfo, val: SplitInfo, reading: dict[str, int]) -> CorpusInfo:
        info = CorpusInfo(train, val, self.settings, self.inputs, reading)
        self._write(MANIFEST, asdict(info))
        (self.path / PROGRESS).unlink()
        sync_directory(self.path)
        return info

    def _write(self, name: str, content: dict[str, Any]) -> None:
        write_hashed(self.path / name, content)

    def shard_path(self, split: str, number: int) -> Path:
        return self.path / f"{split}-{number:05}.bin"

    def shard_paths(self, split: str) -> list[Path]:
        """Return the paths of the complete shards."""
        return [self.shard_path(split, number) for number in range(self.places[split].shards)]

    def shard_infos(self, split: str) -> list[ShardInfo]:
        """Return the sidecars of the complete shards.

        Raise FileFormatError if a shard is missing, is damaged, or has another tokenizer's ids.
        """
        return [self._checked(path) for path in self.shard_paths(split)]

    def _checked(self, path: Path) -> ShardInfo:
        try:
            info = open_shard(path).info
        except FileNotFoundError:
            info = None
        if info is None or info.tokenizer_hash != self.settings["tokenizer"]:
            raise FileFormatError(
                f"a finished shard is missing or has another tokenizer's ids ({path}); "
                "encode the files into another folder"
            )
        return info

    def begin(self) -> None:
        self.sweep()
        self.save("train", Place())
        self._keep_tokenizer()

    def go_on(self) -> None:
        """Compare the settings in progress.json or corpus.json with the current settings. Then
        resume."""
        complete = (self.path / MANIFEST).exists()
        path = self.path / (MANIFEST if complete else PROGRESS)
        with reading_hashed(path, WORDING):
            content = read_hashed(path)
            settings, inputs = content["settings"], content["inputs"]
            if complete:
                infos = {name: SplitInfo(**content[name]) for name in SPLITS}
                reading = content.get("reading", {})
                self.finished = CorpusInfo(
                    **infos, settings=settings, inputs=inputs, reading=reading
                )
                places = {name: Place(len(info.shards)) for name, info in infos.items()}
            else:
                places = {name: Place(**content[name]) for name in SPLITS}
            check_settings(path, dict(settings), self.settings, WORDING)
            check_inputs(path, [dict(entry) for entry in inputs], self.inputs, WORDING)
        self.places = places
        for split in SPLITS:
            self.shard_infos(split)  # check the shards before `sweep` removes files
        self.sweep()
        self._keep_tokenizer()
        if complete:
            (self.path / PROGRESS).unlink(missing_ok=True)

    def _keep_tokenizer(self) -> None:
        path = self.path / TOKENIZER
        if not path.exists():
            self.tokenizer.save(path)
        elif BPETokenizer.load(path).hash != self.tokenizer.hash:
            raise FileFormatError(
                f"the folder contains another tokenizer ({path}); choose another folder"
            )

    def sweep(self) -> None:
        """Remove the files that remain from killed runs: first each shard, then its sidecar."""
        whole = {path.name for split in SPLITS for path in self.shard_paths(split)}
        for path in sorted(self.path.iterdir()):
            stale = _SHARD.fullmatch(path.name) and path.name.removesuffix(".json") not in whole
            if stale or _TEMPORARY.fullmatch(path.name):
                path.unlink()


@contextlib.contextmanager
def corpus_folder(
    path: Path,
    tokenizer: BPETokenizer,
    settings: dict[str, Any],
    inputs: list[dict[str, Any]],
    *,
    resume: bool,
) -> Iterator[CorpusFolder]:
    """Open the folder for one process at a time.

    If a new run fails before its first shard is complete, remove the files of the run.
    """
    check_folder(path, resume=resume)
    folder = CorpusFolder(path, tokenizer, settings, inputs)
    new = [path / name for name in (PROGRESS, TOKENIZER) if not (path / name).exists()]
    with locked_folder(path, WORDING):
        try:
            folder.go_on() if resume else folder.begin()
            yield folder
        except BaseException:
            # Keep the files of a resumed run, which may fail before it has read its places.
            if not resume and not any(folder.shard_paths(split) for split in SPLITS):
                folder.sweep()
                for file in new:
                    file.unlink(missing_ok=True)
            raise


def shards_of(path: Path, split: str) -> list[Path] | None:
    """Return the shards of one split of a finished corpus. Return None if the folder has no corpus.

    Raise ValueError for an unfinished corpus, and FileFormatError for a damaged corpus.json.
    """
    manifest = path / MANIFEST
    if not manifest.exists():
        if (path / PROGRESS).exists():
            raise ValueError(
                f"the corpus must be finished ({path} has {PROGRESS}); repeat the command of "
                "scratchlm-tokenize with --resume"
            )
        return None
    with reading_hashed(manifest, WORDING):
        return [path / name for name in SplitInfo(**read_hashed(manifest)[split]).shards]


def check_folder(path: Path, *, resume: bool) -> None:
    """Raise ValueError if a new run finds a corpus, or if `resume` finds no corpus."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"the output must be a folder, not a file ({path}); choose a folder")
    names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    begun = names & {MANIFEST, PROGRESS}
    if resume and not begun:
        raise ValueError(f"--resume needs a corpus ({path} contains none); remove --resume")
    shards = sorted(name for name in names if _SHARD.fullmatch(name))
    if not resume and (begun or shards):
        what = MANIFEST if MANIFEST in begun else PROGRESS if begun else shards[0]
        remedy = "continue with --resume, or " if what == PROGRESS else ""
        raise ValueError(
            f"the folder already contains a corpus ({path / what}); {remedy}choose another folder"
        )
