"""The type of a path argument: a string, or an object such as `pathlib.Path`."""

from __future__ import annotations

import os

StrPath = str | os.PathLike[str]
