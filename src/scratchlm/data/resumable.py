"""What folders that a killed run can continue have in common.

Such a folder contains complete files, and one JSON file with the progress: the settings, the inputs
and the place where the complete files end. The JSON file contains a hash of its other content,
because a resumed run relies on that content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scratchlm.errors import FileFormatError
from scratchlm.files.atomic import write_file
from scratchlm.files.lock import lock_file
from scratchlm.files.strict_json import parse_json


class Wording(NamedTuple):
    """The words of one kind of folder in its errors."""

    thing: str  # such as "the corpus"
    work: str  # such as "the encoding"
    busy: str  # such as "another process is encoding into the folder"
    restart: str  # such as "encode the files into another folder"


def write_hashed(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as JSON, with its hash."""
    whole = content | {"sha256": _hash(content)}
    write_file(path, json.dumps(whole, indent=2).encode() + b"\n")


def read_hashed(path: Path) -> dict[str, Any]:
    """Return the content without its hash. Raise ValueError if the hash is wrong or missing."""
    content: dict[str, Any] = parse_json(path.read_bytes())
    if content.pop("sha256") != _hash(content):
        raise ValueError("the file's sha256 does not match its content")
    return content


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@contextlib.contextmanager
def reading_hashed(path: Path, wording: Wording) -> Iterator[None]:
    """Turn an error in the content of `path` into a FileFormatError."""
    try:
        yield
    except FileFormatError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        kind = wording.thing.split(" ", 1)[1]
        raise FileFormatError(
            f"the file does not describe a {kind} ({path}: {error}); {wording.restart}"
        ) from None


def describe(files: list[Path]) -> list[dict[str, Any]]:
    """Return the path, the size and the time of each file."""
    described = []
    for path in files:
        status = path.stat()
        described.append(
            {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        )
    return described


def check_unchanged(files: list[Path], inputs: list[dict[str, Any]], wording: Wording) -> None:
    """Raise FileFormatError if `inputs` does not describe the files any more."""
    if inputs != describe(files):
        raise FileFormatError(
            f"a file changed during {wording.work} ({files[0]} …); {wording.restart}"
        )


def check_settings(
    path: Path, before: dict[str, Any], now: dict[str, Any], wording: Wording
) -> None:
    """Raise FileFormatError if the settings in the file `path` are not the current settings."""
    for key in [*now, *(before.keys() - now.keys())]:
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            inner = next(name for name in [*new, *old] if old.get(name) != new.get(name))
            key, old, new = f"{inner} of {key}", repr(old.get(inner)), repr(new.get(inner))
        elif isinstance(old, dict) or isinstance(new, dict):  # one of the runs lacks the step
            old, new = ("absent" if each is None else "present" for each in (old, new))
        else:
            old, new = repr(old), repr(new)
        raise FileFormatError(
            f"{wording.thing} was begun with other settings ({path}: {key} was {old} and is now "
            f"{new}); use the same settings, or choose another folder"
        )


def check_inputs(
    path: Path, before: list[dict[str, Any]], now: list[dict[str, Any]], wording: Wording
) -> None:
    """Raise FileFormatError if the inputs in the file `path` are not the current inputs."""
    if before == now:
        return
    old = {entry.get("path"): entry for entry in before}
    new = {entry["path"]: entry for entry in now}
    names = sorted(str(name) for name in old.keys() | new if old.get(name) != new.get(name))
    what = names[0] if names else "their order"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    raise FileFormatError(
        f"{wording.thing} was begun with other files ({path}: {what}{more} changed); "
        f"{wording.restart}"
    )


@contextlib.contextmanager
def locked_folder(path: Path, wording: Wording) -> Iterator[None]:
    """Make the folder and lock it for one process. After an error, remove a new empty folder."""
    made = not path.exists()
    path.mkdir(exist_ok=True)
    remedy = "wait until that process ends, or choose another folder"
    try:
        with lock_file(path / ".lock", wording.busy, remedy):
            yield
    except BaseException:
        if made:
            with contextlib.suppress(OSError):  # keep a folder that contains finished files
                path.rmdir()
        raise
