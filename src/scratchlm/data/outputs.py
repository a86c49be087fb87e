"""Check the outputs of a command before any work: no output may replace or become an input."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from scratchlm.data.sources import files_below, matches
from scratchlm.files.paths import StrPath


def check_outputs(outputs: Mapping[str, StrPath | None], inputs: Sequence[StrPath]) -> None:
    """Raise ValueError if an output is an input, or if an output contains another output.

    `outputs` has the path of each flag. The path of the flag "output" is a folder of shards.
    `inputs` are files, folders and globs. An output in a folder of inputs is also an error, and so
    is an output that a glob matches: the next run would read the output as an input. Raise the
    errors of `matches` for an input that does not exist.
    """
    places = {flag: Path(path).resolve() for flag, path in outputs.items() if path is not None}
    taken: dict[Path, str] = {}
    for flag, place in places.items():
        for other, owner in taken.items():
            if place == other or place in other.parents or other in place.parents:
                raise ValueError(
                    f"{owner} and {flag} must be separate ({outputs[owner]}, {outputs[flag]}); "
                    f"choose another path with {flag}"
                )
        taken[place] = flag
    for name in (os.fspath(path) for path in inputs):
        found = {path.resolve() for path in matches(name)}
        files = [file for path in found if path.is_dir() for file in files_below(path)]
        found |= {path.resolve() for path in {*files, *(file.parent for file in files)}}  # of links
        for flag, place in places.items():
            inside = found.intersection((place, *place.parents))
            shards = [place / "clean-00000.jsonl.zst"] if flag.endswith("output") else []
            if inside or any(_matches(new, name) for new in (place, *shards)):
                raise ValueError(
                    f"{flag} must not be among the inputs ({outputs[flag]}, input {name}); "
                    f"choose another path with {flag}"
                )


def _matches(place: Path, name: str) -> bool:
    """Check whether a glob matches a path that may not exist yet. Between `**` and the last part of
    the path, everything matches."""
    pattern = os.path.realpath(name)
    start, stars, _ = pattern.partition("**")
    if not stars:
        return place.match(pattern)
    return str(place).startswith(start) and fnmatch(place.name, Path(pattern).name)


def check_file(path: StrPath, ending: str = "") -> None:
    """Raise an error if a command cannot write the file at its end.

    Raise FileNotFoundError if the folder of the file is missing, and IsADirectoryError if the path
    is a folder. Raise ValueError if the name has another ending, or if the path is a link.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if ending and path.suffix.lower() != ending:
        raise ValueError(
            f"the name of the file must end in {ending} ({path}); use the name "
            f"{path.with_suffix(ending).name}"
        )
    check_no_link(path)


def check_no_link(path: Path) -> None:
    """Raise ValueError if an output is a symbolic link, because a rename would replace the link."""
    if path.is_symlink():
        raise ValueError(f"an output must not be a link ({path}); use its target {path.resolve()}")
