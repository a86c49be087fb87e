"""The files of an encoded corpus, as a test compares them."""

from __future__ import annotations

import json
from pathlib import Path


def content(folder: Path) -> dict[str, object]:
    """Return the folder's files. A sidecar has no time here, because the time depends on
    the run."""
    files: dict[str, object] = {}
    for path in folder.iterdir():
        files[path.name] = path.read_bytes()
        if path.name.endswith(".bin.json"):
            files[path.name] = json.loads(path.read_bytes()) | {"mtime_ns": 0}
    return files
