"""Encode folders of documents: each folder becomes one HDF5 file of ids.

    data/train/00.jsonl.zst             documents
    data/train/pile_train.h5            their ids
    data/train/.pile_train.h5.parts/    a corpus (see `corpus_folder`), until the work is complete

A file of ids may be in the folder of its documents: readers of a folder skip token files and hidden
folders. A killed run leaves the corpora, so that a new run can continue. A run removes the corpora
when all files of ids are complete.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scratchlm.data.corpora import encode_files
from scratchlm.data.corpus_folder import MANIFEST, PROGRESS, SplitInfo
from scratchlm.data.corpus_writer import CorpusSettings
from scratchlm.data.extra import extra
from scratchlm.data.hdf5 import ENDINGS
from scratchlm.data.outputs import check_file
from scratchlm.data.shards import join_shards
from scratchlm.data.sources import find_files
from scratchlm.errors import FileFormatError
from scratchlm.files.atomic import finish_removals, remove_directory
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.bpe import BPETokenizer

SHARD_TOKENS = 1 << 24  # ids in a part of the corpus; a kill loses fewer ids than this


class Folder(NamedTuple):
    """A folder's files of documents, and the HDF5 file for their ids."""

    path: Path
    files: list[Path]
    output: Path

    @property
    def parts(self) -> Path:
        return self.output.with_name(f".{self.output.name}.parts")

    @property
    def has_begun(self) -> bool:
        """Whether an unfinished run left a corpus."""
        return any((self.parts / name).exists() for name in (MANIFEST, PROGRESS))


def folders_of(paths: Sequence[tuple[StrPath, StrPath]]) -> list[Folder]:
    """Find and check the documents and the outputs of all folders: pairs (folder, output).

    Raise ValueError if a path is not a folder, an output is not a file name for HDF5, or two
    folders have the same file or the same output. Also raise ValueError if h5py is not installed.
    """
    folders: list[Folder] = []
    taken: set[Path] = set()
    for place, output in ((Path(place), Path(output)) for place, output in paths):
        if not place.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))
        if not place.is_dir():
            raise ValueError(
                f"the input must be a folder ({place}); choose the folder of the documents"
            )
        _check_output(output)
        found = find_files(place)
        own = {file.resolve(): file for file in [*found, output]}
        for file in own.keys() & taken:
            raise ValueError(
                f"two folders must not have the same file ({own[file]}); choose other folders"
            )
        taken |= own.keys()
        folders.append(Folder(place, found, output))
    return folders


def encode_folders(
    tokenizer: BPETokenizer,
    tokenizer_path: Path,
    folders: Sequence[Folder],
    settings: CorpusSettings,
    num_workers: int | None = None,
    *,
    resume: bool = False,
) -> list[SplitInfo]:
    """Encode the documents of each folder into its file. Return the totals of each file.

    The separator's id follows each document. Special tokens in a document are plain text. The file
    is the same for any `num_workers`, and after any kill if a run with `resume` follows.

    Raise ValueError if a killed run left corpora and `resume` is false. Also raise ValueError if
    `resume` is true and there are no corpora. Raise the errors of `encode_corpus`.
    """
    for folder in folders:
        finish_removals(folder.output.parent)
    begun = [folder.parts for folder in folders if folder.has_begun]
    if begun and not resume:
        raise ValueError(
            f"an unfinished encoding exists ({begun[0]}); continue with --resume, or remove that "
            "folder"
        )
    if resume and not begun:
        raise ValueError(
            f"--resume needs an unfinished encoding ({folders[0].parts} does not exist); remove "
            "--resume"
        )
    totals = []
    for folder in folders:
        parts, again = folder.parts, folder.has_begun
        try:
            info = encode_files(tokenizer, folder.files, parts, settings, num_workers, resume=again)
        except FileFormatError as error:
            if again:
                error.add_note(f"or remove {parts}, and repeat the command without --resume")
            raise
        totals.append(info.train)
    for folder, total in zip(folders, totals, strict=True):
        join_shards([folder.parts / name for name in total.shards], folder.output, tokenizer_path)
    for folder in folders:
        remove_directory(folder.parts)
    return totals


def _check_output(output: Path) -> None:
    if output.suffix.lower() not in ENDINGS:
        raise ValueError(
            f"the name of the output must end in .h5 ({output}); use the name {output.stem}.h5"
        )
    check_file(output)
    extra("h5py", output)
