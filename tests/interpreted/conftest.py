"""These tests run Triton's kernels in its interpreter, on a CPU.

Triton decides between interpreter and compiler when a kernel is defined. So the tests need a
process of their own: tests/kernels/test_interpreted.py starts one, with TRITON_INTERPRET=1. Without
the variable, pytest does not collect them.
"""

from __future__ import annotations

import os

import pytest

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def _interpreter() -> None:
    import torch

    from helpers import interpreter

    torch.set_num_threads(1)
    interpreter.mend()
