"""The time until a run takes its first step."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest

from helpers import exact_runs as exactness

# Ends the process where the first step is done.
FIRST_STEP = """
import os, sys
from scratchlm.training.trainer import Trainer
step = Trainer.train_step
def once(*args):
    step(*args)
    os._exit(0)
Trainer.train_step = once
from scratchlm.cli.train import main
main(sys.argv[1:])
"""


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", *command], check=True, capture_output=True)
    return time.perf_counter() - start


@pytest.mark.timing
def test_the_first_step_comes_in_half_again_the_time_that_torch_takes_to_import(tmp_path):
    ratios = []
    for i in range(5):
        flags = exactness.flags(tmp_path, f"run-{i}")
        words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        ratios.append(seconds(FIRST_STEP, *words) / seconds("import torch"))
    assert statistics.median(ratios) <= 1.5, ratios


def test_nothing_imports_the_compiler_before_the_first_step(tmp_path):
    """Check that slow modules, which decide the time above, are not imported."""
    flags = exactness.flags(tmp_path, "run")
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    named = ("torch._dynamo", "torch._inductor", "einx", "torch.distributed.tensor", "sympy")
    script = FIRST_STEP.replace(
        "os._exit(0)", f"os._exit(sum(name in sys.modules for name in {named}))"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
