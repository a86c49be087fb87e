"""Find the sources of a run's data: token files, texts and documents, alone or as a mixture.

corpus.txt, web/*.jsonl      a text, or documents
train.bin, ids.npy, code.h5  a token file
shards/, shards/*.bin        several token files, which the run reads as one, sorted by path
books/:0.7,code.h5:0.3       a mixture of sources
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from scratchlm.data.corpus_folder import MANIFEST, shards_of
from scratchlm.data.proportions import parts_of, whole_weights
from scratchlm.data.sources import (
    files_below,
    find_files,
    is_plain,
    is_shard,
    matches,
    texts_among,
)

Split = Literal["train", "val"]


class Source(NamedTuple):
    """Store the files of one path, folder or glob. `kind` is the kind of their content.

    `weight` is a whole number: the weight of the source in its mixture.
    """

    name: str
    kind: Literal["shard", "text", "documents"]
    files: list[Path]
    weight: int = 1


def sources_of(text: str, split: Split = "train") -> list[Source]:
    """Return the sources that a user specifies, see `parts_of`.

    A folder that `scratchlm-tokenize` wrote contains both splits: `split` chooses its token files.
    Raise the errors of `find_files` and `parts_of`, and ValueError for a source that has token
    files and texts.
    """
    parts = parts_of(text)
    weights = whole_weights([part.weight for part in parts])
    return [_source(part.name, split, weight) for part, weight in zip(parts, weights, strict=True)]


def has_held_out(text: str) -> bool:
    """Check whether each source is a folder of `scratchlm-tokenize` with held-out documents."""
    folders = [Path(part.name) for part in parts_of(text)]
    return all(folder.is_dir() and shards_of(folder, "val") for folder in folders)


def _source(name: str, split: Split, weight: int) -> Source:
    found: dict[Path, Path] = {}
    paths = matches(name)
    sidecars = {path.with_name(f"{path.name}.json") for path in paths if is_shard(path)}
    for path in paths:
        if path in sidecars:  # a glob such as shards/* matches them too
            continue
        for file in _files_in(path, split) if path.is_dir() else find_files(path):
            found.setdefault(file.resolve(), file)
    files = list(found.values())
    shards = [file for file in files if is_shard(file)]
    if shards and len(shards) < len(files):
        text = next(file for file in files if not is_shard(file))
        folder = shards[0].parent
        corpus = (folder / MANIFEST).exists()
        remedy = (
            f"the folder {folder}"
            if corpus
            else f"a pattern such as '{folder}/*{shards[0].suffix}'"
        )
        raise ValueError(
            f"a source must not have both token files and texts ({name}: {shards[0]}, {text}); "
            f"choose {remedy}"
        )
    with open(files[0], "rb"):  # raises the system's error if the file is unreadable
        pass
    one_text = files == [Path(name)] and is_plain(files[0])
    kind: Literal["shard", "text", "documents"] = "text" if one_text else "documents"
    return Source(name, "shard" if shards else kind, files, weight)


def _files_in(folder: Path, split: Split) -> list[Path]:
    """Return the token files and the texts in the folder and its subfolders.

    For a folder of `scratchlm-tokenize`, return the token files of one split.
    """
    files = files_below(folder)
    corpora = sorted({file.parent for file in files if file.name == MANIFEST} | {folder})
    shards, others = [], files
    for corpus in corpora:
        own = shards_of(corpus, split)
        if own is not None:
            shards += own
            others = [file for file in others if file.parent != corpus]
    if shards and split == "val":
        return shards
    found = sorted([*shards, *filter(is_shard, others)])
    if len(others) < len(files) and not found:
        raise ValueError(
            f"the corpus has no documents for {split} ({folder}); encode the texts into another "
            "folder, with --val_fraction 0.01"
        )
    return sorted([*found, *texts_among(others)]) if found else find_files(folder)
