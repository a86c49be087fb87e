"""The type of a path that a caller may give: a string, or an object such as `pathlib.Path`."""

from __future__ import annotations

import os

StrPath = str | os.PathLike[str]
