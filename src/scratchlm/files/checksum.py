"""The SHA-256 of a file, which shows whether its bytes changed."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_of(*paths: Path) -> str:
    """Return the SHA-256 in hexadecimal: of a file's bytes, or of several files' joined bytes."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()
