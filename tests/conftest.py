"""Set one torch thread per worker, and find the data folder beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and inherited by subprocesses
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return `shared/data` beside the checkout, or $SCRATCHLM_DATA: real text outside the
    project."""
    folder = Path(os.environ.get("SCRATCHLM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}")
    return folder


@pytest.fixture(scope="session")
def real_files() -> Path:
    """Return the folder that fetch_real_files.py fills: `build/real`, or $SCRATCHLM_REAL."""
    default = Path(__file__).parents[1] / "build" / "real"
    folder = Path(os.environ.get("SCRATCHLM_REAL", default))
    if not folder.is_dir():
        pytest.skip(f"no real files at {folder}; run scripts/fetch_real_files.py")
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    expression = config.getoption("markexpr")
    for item in items:
        for marker in ("slow", "timing", "bench", "real"):
            if marker in item.keywords and marker not in expression:
                item.add_marker(pytest.mark.skip(reason=f"{marker}: run with -m {marker}"))
        if "gpu" in item.keywords:
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="gpu: no CUDA device"))
