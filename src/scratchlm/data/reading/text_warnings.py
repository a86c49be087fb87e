"""Warn about files that are read as plain text but look like another format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from scratchlm.data.reading.unpacked import unpacked, without_mark
from scratchlm.data.sources import format_of
from scratchlm.files.file_kinds import HEAD, kind_of


def read_as_text(files: Iterable[Path]) -> Iterator[str]:
    """Yield a warning for each kind of file that looks like JSON, a web page or a table but is read
    as plain text."""
    found: dict[str, list[Path]] = {}
    for file in dict.fromkeys(files):
        kind, packed = format_of(file)
        if kind == "text" and (what := _looks_like(file, packed)):
            found.setdefault(what, []).append(file)
    for what, alike in found.items():
        more = f" (and {len(alike) - 1:,} more)" if len(alike) > 1 else ""
        yield f"{alike[0]}{more} {what}"


def _looks_like(path: Path, packed: str) -> str:
    head = next(unpacked(path, packed), b"")[:HEAD]
    kind = kind_of(head)
    if kind and kind.is_text:
        return f"is {kind.name}, and its tags are read as text"
    if re.match(rb'\{\s*"|\[\s*[{"]', without_mark(head)):
        return (
            "is read as plain text but looks like JSON; change the file's ending to "
            f".json{packed} to read its documents"
        )
    signs = {".csv": "commas", ".tsv": "tabs"}.get(
        Path(path.name.lower().removesuffix(packed)).suffix
    )
    return f"is a table, and its {signs} are read as text; save the text as .jsonl" if signs else ""
