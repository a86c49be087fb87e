"""The scripts of docs/scaling.md run, and write the corpus of one process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import tiny
from scratchlm import BPETokenizer
from scratchlm.data.corpora import encode_corpus

pytestmark = pytest.mark.bench
PAGE = Path(__file__).parents[3] / "docs" / "scaling.md"
# Stand-ins for Slurm's commands. They run the tasks of an array one after the other.
SBATCH = """#!/bin/bash
file=${@: -1}
array=$(sed -n 's/#SBATCH --array=0-//p' $file)
export SLURM_NODELIST=localhost RUN_OFFSET=0
if [ -z "$array" ]; then bash $file >> sbatch.log 2>&1; fi
for i in $(seq 0 ${array:--1}); do
    SLURM_ARRAY_TASK_ID=$i bash $file >> sbatch.log 2>&1
done
echo "Submitted batch job 7"
"""
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo localhost
"""


def script(executor: str, folder: Path) -> str:
    """Return the script of the page for an executor, with paths below `folder`."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    [block] = [block for block in blocks if f"import {executor}" in block]
    return block.replace("/shared/", f"{folder}/").replace("tasks=1000", "tasks=5")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".bin"}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder with documents in Zstandard, a tokenizer, stand-ins, and the corpus of
    one process."""
    zstandard = pytest.importorskip("zstandard")
    pytest.importorskip("datatrove")
    (tmp_path / "data").mkdir()
    for number in range(3):
        texts = [tiny.text(50, seed=100 * number + i) for i in range(400)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        packed = zstandard.ZstdCompressor().compress(lines.encode())
        (tmp_path / "data" / f"{number}.jsonl.zst").write_bytes(packed)
    tiny.tokenizer(tmp_path).save(tmp_path / "tokenizer.json")
    tokenizer = BPETokenizer.load(tmp_path / "tokenizer.json")
    encode_corpus(tokenizer, tmp_path / "data", tmp_path / "one", val_fraction=0.01)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").touch()
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text, encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("executor", ["Local", "Slurm", "Ray"])
def test_the_script_writes_the_bytes_of_one_process(shared: Path, executor: str) -> None:
    if executor == "Ray":
        pytest.importorskip("ray")
    (shared / "run.py").write_text(script(f"{executor}PipelineExecutor", shared), encoding="utf-8")
    path = os.pathsep.join(
        [str(shared / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    )
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=shared, env=os.environ | {"PATH": path},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert content(shared / "shards") == content(shared / "one")
    assert {"train-00000.bin", "val-00000.bin"} == content(shared / "one").keys()
