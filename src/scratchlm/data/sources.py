"""Find the files that a user specifies, and determine each file's format from its name.

    .jsonl, .ndjson  JSON lines: one value a line
    .json            a list of values, or JSON lines, because many .json files contain lines
                     (in a folder, at least two lines)
    .parquet         a table (needs pyarrow)
    any other name   UTF-8 text

`.gz` or `.zst` (needs zstandard) may follow each ending except .parquet. Case does not matter.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from scratchlm.data.reading.unpacked import unpacked
from scratchlm.errors import Notice
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.pieces.text_files import BYTE_ORDER_MARK

PACKED = ("", ".gz", ".zst")
# The files of a folder that find_files returns have one of these endings, also packed, or
# .parquet.
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
TEXT_ENDINGS = (".txt", ".md", *JSON_ENDINGS)
_OWN = {  # this library writes these files beside documents and token files
    *("corpus.json", "manifest.json", "tokenizer.json"),
    *("gpt2.json", "r50k_base.json", "cl100k_base.json"),
}
# The first and the last byte of a line of JSON lines, and the first byte of the next line.
_JSON_LINES = {b"{}{", b'{}"', b'""{', b'"""'}


class Format(NamedTuple):
    """Store the format and the compression that a file's name indicates."""

    kind: Literal["text", "json", "json lines", "parquet"]
    packed: str = ""


def format_of(path: Path) -> Format:
    """Return the format that the file's name says. Other names are plain text."""
    name = path.name.lower()
    packed = next((ending for ending in PACKED[1:] if name.endswith(ending)), "")
    match Path(name.removesuffix(packed)).suffix:
        case ".json":
            return Format("json", packed)
        case ".jsonl" | ".ndjson":
            return Format("json lines", packed)
        case ".parquet" if not packed:
            return Format("parquet")
    return Format("text", packed)


def is_plain(path: Path) -> bool:
    """Check whether the file is uncompressed plain text, judging by its name."""
    return format_of(path) == Format("text")


def is_shard(path: Path) -> bool:
    """Check whether the file's name ends like the name of a token file."""
    return path.suffix.lower() in (".bin", ".npy", ".h5", ".hdf5")


def told_of_both(train: Sequence[Path], val: Sequence[Path]) -> Iterator[str]:
    """Yield a warning if a file is training data and validation data."""
    own, other = ({file.resolve(): file for file in files} for files in (train, val))
    for file in own.keys() & other.keys():
        yield f"{own[file]} is training data and validation data, so the validation loss is too low"
        break


def num_bytes(files: Sequence[Path]) -> int:
    """Return the size of the files in bytes, without unpacking them."""
    return sum(file.stat().st_size for file in files)


def told_bytes(files: Sequence[Path]) -> str:
    """Return the size as a phrase that says whether any file is compressed."""
    formats = map(format_of, files)
    packed = any(each.packed or each.kind == "parquet" for each in formats)
    return f"{num_bytes(files):,} bytes of {'packed ' if packed else ''}text"


def find_files(
    paths: StrPath | Sequence[StrPath], endings: Sequence[str] = TEXT_ENDINGS
) -> list[Path]:
    """Return the files for some paths, folders and globs. Each file appears once, in the order of
    `paths`.

    For a folder, return the files in the folder and its subfolders whose names end in one of
    `endings`, also packed, or in .parquet. Sort these files by path, and follow links to folders.
    Skip hidden files. Skip a `.json` file without a list or JSON lines, because a file such as a
    tokenizer contains no documents. A `Notice` reports the skipped files, except hidden files,
    token files and the files that this library writes beside them. A string with `*`, `?` or `[` is
    a glob if no such file exists; `**` matches any number of folders. Raise ValueError if a glob
    matches no file, and FileNotFoundError if a path does not exist.
    """
    found: dict[Path, Path] = {}
    for name in [paths] if isinstance(paths, str | os.PathLike) else paths:
        for path in matches(os.fspath(name)):
            for file in _files_in(path, endings) if path.is_dir() else [path]:
                if not file.is_file():
                    raise ValueError(
                        f"a path must be a file or a folder ({file}); choose files of text"
                    )
                found.setdefault(file.resolve(), file)
    if not found:
        raise ValueError(
            "the list of paths must not be empty ([]); specify files, folders or globs"
        )
    return list(found.values())


def matches(name: str) -> list[Path]:
    """Return the path itself, or the sorted paths that match a glob. Raise the errors of
    `find_files`."""
    if not name:
        raise ValueError("a path must not be empty (''); specify a file, a folder or a glob")
    if any(sign in name for sign in "*?[") and not os.path.exists(name):
        found = sorted(glob.glob(name, recursive=True))
        if not found:
            raise ValueError(
                f"no file matches the pattern ({name}); check the pattern and the current folder"
            )
        return [Path(match) for match in found]
    os.stat(name)  # raises FileNotFoundError for a missing file
    return [Path(name)]


def files_below(folder: Path) -> list[Path]:
    """Return all files in the folder and its subfolders, except hidden files. Follow links to
    folders, but read no folder a second time."""

    def fail(error: OSError) -> None:  # without this, os.walk skips unreadable folders
        raise error

    files, seen = [], {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        found = sorted(name for name in folders if not name.startswith("."))
        folders.clear()
        for name in found:
            real = os.path.realpath(os.path.join(parent, name))
            if real not in seen:  # a link may lead to a folder above itself
                seen.add(real)
                folders.append(name)
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return files


def texts_among(files: Sequence[Path], endings: Sequence[str] = TEXT_ENDINGS) -> list[Path]:
    """Return the files that contain texts or documents, sorted by path."""
    found = [file for file in files if file.name.lower().endswith(_suffixes(endings))]
    return sorted(file for file in found if format_of(file).kind != "json" or _has_documents(file))


def _suffixes(endings: Sequence[str]) -> tuple[str, ...]:
    return (*(f"{ending}{packed}" for ending in endings for packed in PACKED), ".parquet")


def _files_in(folder: Path, endings: Sequence[str]) -> list[Path]:
    files = files_below(folder)
    found = texts_among(files, endings)
    _tell_skipped(folder, files, found, endings)
    if found:
        return found
    shards = sorted(filter(is_shard, files))
    if shards:
        raise ValueError(
            f"the folder contains token files but no text ({folder}: {len(shards)} files, such as "
            f"{shards[0]}); choose a folder of texts"
        )
    what = "text" if ".txt" in endings else "JSON and no Parquet"
    raise ValueError(
        f"the folder contains no {what} ({folder}); choose a folder of files that end in "
        f"{', '.join(_suffixes(endings))}"
    )


def _tell_skipped(
    folder: Path, files: Sequence[Path], found: Sequence[Path], endings: Sequence[str]
) -> None:
    """Report the files that are not among `found`: one `Notice` for each reason."""
    shards = {file for file in files if is_shard(file)}
    own = shards | {file.with_name(f"{file.name}.json") for file in shards} | set(found)
    skipped = sorted(file for file in files if file not in own and file.name not in _OWN)
    json = [file for file in skipped if format_of(file).kind == "json"]
    for alike, reason in (
        ([file for file in skipped if file not in set(json)],
         f"a name must end in {', '.join(endings[:-1])} or {endings[-1]}, each also with .gz or "
         ".zst, or in .parquet"),
        (json, "a .json file must contain a list or JSON lines"),
    ):  # fmt: skip
        if alike:
            number = f"{len(alike):,} file{'s' * (len(alike) != 1)}"
            text = f"skipped {number} in {folder}, such as {alike[0]}: {reason}"
            warnings.warn(text, Notice, stacklevel=4)


def _has_documents(path: Path) -> bool:
    """Check whether a `.json` file contains a list, or at least two JSON lines.

    The first line of an object over several lines is not a whole object.
    """
    first = last = b""  # the first and the last byte of the first line
    has_ended = False
    for data in unpacked(path, format_of(path).packed):
        if not first:
            data = data.removeprefix(BYTE_ORDER_MARK.encode()).lstrip()
            first = data[:1]
            if first == b"[":
                return True
        if first and not has_ended:
            line, newline, data = data.partition(b"\n")
            last = line.rstrip()[-1:] or last
            has_ended = bool(newline)
        if has_ended and (second := data.lstrip()[:1]):
            return first + last + second in _JSON_LINES
    return False


def is_there(name: str) -> bool:
    """Check whether `name` is an existing file or folder, or a glob that matches one of these."""
    return os.path.exists(name) or bool(glob.glob(name, recursive=True))
