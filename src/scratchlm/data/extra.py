"""Import the packages of the extra `data`, which few users need."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def extra(module: str, path: Path) -> Any:
    """Return the module that reads or writes `path`. Raise ValueError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(
            f"the file needs a package that is not installed ({path}: {module.split('.')[0]}); "
            "run pip install 'scratchlm[data]'"
        ) from None
