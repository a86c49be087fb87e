"""The table of downloads: names, and the files of each name.

`downloads.json` beside this module is the table. `--table` reads another file of the same form:

    {"my-corpus": {"about": "what it is", "licence": "MIT", "home": "https://example.org/about",
      "files": [{"url": "https://example.org/train/{00}.jsonl.zst", "count": 30, "part": "train"},
                {"url": "https://example.org/val.jsonl.zst", "part": "val"}]}}

`{00}` is the number of the file, from 0 to count - 1. If a name has a `folder`, its files go to
that folder. Otherwise each file has a part, train or val, and each part has its own folder. A file
may have a `name`, a `size` in bytes, and a `sha256`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from scratchlm.data.download.part import RemoteFile
from scratchlm.errors import FileFormatError
from scratchlm.files.paths import StrPath
from scratchlm.files.strict_json import parse_json

TABLE = Path(__file__).with_name("downloads.json")
_OF_SOURCE = {"about": str, "licence": str, "home": str, "folder": str, "files": list}
_OF_FILE = {"url": str, "name": str, "part": str, "count": int, "size": int, "sha256": str}
_NUMBER = re.compile(r"\{(0+)\}")


@dataclass(frozen=True)
class Entry:
    """One file of a source. `part` is "train", "val" or ""."""

    url: str
    name: str
    part: str
    size: int | None
    sha256: str | None


@dataclass(frozen=True)
class Source:
    """What one name of the table downloads. `folder` is None if each part has its own folder."""

    name: str
    about: str
    licence: str
    home: str
    folder: str | None
    entries: tuple[Entry, ...]


def read_table(path: StrPath | None = None) -> dict[str, Source]:
    """Return the sources of a table by name. Raise FileFormatError for a bad table."""
    path = Path(path or TABLE)
    try:
        content = parse_json(path.read_bytes())
        if not isinstance(content, dict) or not content:
            raise ValueError("the table must be an object of names")
        return {name: _source(name, value) for name, value in content.items()}
    except ValueError as error:
        raise FileFormatError(
            f"the table of downloads is not valid ({path}: {error}); correct the table"
        ) from None


def find_source(table: dict[str, Source], name: str) -> Source:
    """Return a source. Raise ValueError with a similar name if there is no such name."""
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(
            f"no such download ({name}); {hint}run scratchlm-data download to list the names"
        )
    return table[name]


def files_of(
    source: Source,
    folders: Mapping[str, StrPath],
    train_max: int | None = None,
    mirror: str | None = None,
) -> list[RemoteFile]:
    """Return the files of a source. `folders` has a folder for each part. A limit of `train_max`
    files applies to the part train."""
    files, trained = [], 0
    for entry in source.entries:
        trained += entry.part == "train"
        if entry.part == "train" and train_max is not None and trained > train_max:
            continue
        path = Path(folders[entry.part]).expanduser() / entry.name
        files.append(RemoteFile(entry.url, path, entry.size, entry.sha256, mirror))
    return files


def check_address(url: str, what: str) -> None:
    """Raise ValueError if `url` is not an http or https address."""
    parts = urlsplit(url)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or re.search(r"[\s\0-\x1f]", url)
    ):
        raise ValueError(f"{what} must be a web address ({url}); write https://HOST/PATH")


def _source(name: str, value: Any) -> Source:
    _check(value, _OF_SOURCE, {"about", "licence", "home", "files"}, f"{name!r}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ValueError(f"a name must have only a-z, 0-9, '.', '_' and '-' ({name!r})")
    folder = value.get("folder")
    entries = tuple(entry for file in value["files"] for entry in _entries(file, name))
    for entry in entries:
        if folder is None and entry.part not in ("train", "val"):
            raise ValueError(f"{name!r} must have a folder, or each file a part: train or val")
    places = [(folder is None and entry.part, entry.name) for entry in entries]
    if not entries or len(set(places)) < len(places):
        raise ValueError(f"{name!r} must have files, each with its own name")
    return Source(name, value["about"], value["licence"], value["home"], folder, entries)


def _entries(value: Any, name: str) -> Iterator[Entry]:
    """Yield one entry, or one for each number."""
    _check(value, _OF_FILE, {"url"}, f"a file of {name!r}")
    part, size, sha256 = value.get("part", ""), value.get("size"), value.get("sha256")
    if part not in ("", "train", "val"):
        raise ValueError(f"a part must be train or val ({name!r}: {part!r})")
    if (size or 0) < 0 or not re.fullmatch(r"([0-9a-f]{64})?", sha256 or ""):
        raise ValueError(f"a size must be at least 0, and a sha256 64 digits 0-9, a-f ({name!r})")
    numbers = range(value.get("count", 1))
    if bool(_NUMBER.search(value["url"])) != ("count" in value) or not numbers:
        raise ValueError(
            f"a url with {{00}} must have a count, and a count needs {{00}} ({name!r})"
        )
    if len(numbers) > 1 and (sha256 or size is not None):
        raise ValueError(f"a size or sha256 must belong to one file ({name!r})")
    for number in numbers:
        url, given = (
            _NUMBER.sub(lambda found: f"{number:0{len(found[1])}}", text)  # noqa: B023
            for text in (value["url"], value.get("name", ""))
        )
        check_address(url, f"the url of {name!r}")
        file_name = given or unquote(urlsplit(url).path.rpartition("/")[2])
        if not re.fullmatch(r"[^\W_][\w. +=@,-]{0,199}", file_name) or os.sep in file_name:
            raise ValueError(f"a file must have a plain name ({name!r}: {file_name!r})")
        yield Entry(url, file_name, part, size, sha256)


def _check(value: Any, types: Mapping[str, type], needed: set[str], what: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object")
    if missing := sorted(needed - value.keys()):
        raise ValueError(f"{what} must have {missing[0]!r}")
    for key, each in value.items():
        if key not in types:
            raise ValueError(f"{what} has an unknown key {key!r}; the keys are {', '.join(types)}")
        if type(each) is not types[key]:
            raise ValueError(f"{key!r} of {what} must be of type {types[key].__name__}")
