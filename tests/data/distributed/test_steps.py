"""datatrove's executors run our steps, and the result is the corpus of one process."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import tiny
from helpers.corpus_files import content
from scratchlm import BPETokenizer
from scratchlm.data.cleaning.kinds import read_steps
from scratchlm.data.cleaning.pipeline import clean
from scratchlm.data.corpora import encode_corpus

pytestmark = pytest.mark.bench
FILES = 6
SETTINGS = {"val_fraction": 0.1, "shard_tokens": 20_000}
SCRIPT = """
import sys
from datatrove.executor import LocalPipelineExecutor
from scratchlm.data.corpus_writer import CorpusSettings
from scratchlm.data.distributed.steps import (
    CleanDocuments, EncodeDocuments, MergeParts, ReadDocuments,
)

if __name__ == "__main__":  # the workers import this script
    tasks, workers = map(int, sys.argv[1:3])
    read = ReadDocuments("source/*.jsonl", CorpusSettings(val_fraction=0.1, shard_tokens=20_000))
    encode = [read, *map(CleanDocuments, sys.argv[3:]),
              EncodeDocuments(read, "tokenizer.json", "parts")]
    LocalPipelineExecutor(encode, tasks=tasks, workers=workers, logging_dir="logs/encode").run()
    merge = [MergeParts(read, "tokenizer.json", "parts", "many")]
    LocalPipelineExecutor(merge, logging_dir="logs/merge").run()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a script, a tokenizer, six input files, and the corpus of one process."""
    pytest.importorskip("datatrove")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").mkdir()
    for number in range(FILES):
        texts = [tiny.text(400, seed=1000 * number + i) for i in range(60)]
        texts[3] += "<|endoftext|>"
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / "source" / f"{number}.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "run.py").write_text(SCRIPT, encoding="utf-8")
    tiny.tokenizer(tmp_path).save(tmp_path / "tokenizer.json")
    tokenizer = BPETokenizer.load(tmp_path / "tokenizer.json")
    encode_corpus(tokenizer, "source/*.jsonl", "one", **SETTINGS)
    return tmp_path


def start(folder: Path, tasks: int, workers: int, *configs: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "run.py", str(tasks), str(workers), *configs]
    output = (folder / "output.txt").open("wb")
    return subprocess.Popen(
        command, cwd=folder, stdout=output, stderr=output, start_new_session=True
    )


@pytest.mark.parametrize(("tasks", "workers"), [(1, 1), (4, 2), (9, 3)])
def test_any_number_of_tasks_writes_the_bytes_of_one_process(
    folder: Path, tasks: int, workers: int
) -> None:
    assert start(folder, tasks, workers).wait() == 0, (folder / "output.txt").read_text()
    assert content(folder / "many") == content(folder / "one")


CONFIG = """
[[step]]
kind = "strip_returns"
[[step]]
kind = "length"
min_chars = 1675
[[step]]
kind = "sample"
rate = 0.5
[[step]]
kind = "add_suffix"
text = "\\n"
"""


def test_cleaning_on_the_way_is_cleaning_before(folder: Path) -> None:
    (folder / "clean.toml").write_text(CONFIG, encoding="utf-8")
    account = clean("source/*.jsonl", "cleaned", read_steps("clean.toml"))
    tokenizer = BPETokenizer.load(folder / "tokenizer.json")
    encode_corpus(tokenizer, "cleaned", "two", **SETTINGS)
    assert start(folder, 4, 2, "clean.toml").wait() == 0, (folder / "output.txt").read_text()
    shards = [
        {name: data for name, data in content(folder / corpus).items() if name.endswith(".bin")}
        for corpus in ("many", "two")
    ]
    assert shards[0] == shards[1]
    assert 0 < account.kept.documents < FILES * 60 / 2
    stats = json.loads((folder / "logs" / "encode" / "stats.json").read_text())[1]["stats"]
    dropped = sum(count for name, count in stats.items() if name.startswith("dropped by"))
    assert dropped == FILES * 60 - account.kept.documents


def test_a_step_that_compares_documents_is_refused(folder: Path) -> None:
    (folder / "clean.toml").write_text('[[step]]\nkind = "exact"\n', encoding="utf-8")
    assert start(folder, 1, 1, "clean.toml").wait() == 1
    assert "no step may compare documents (clean.toml: exact (step 1))" in (
        folder / "output.txt"
    ).read_text(encoding="utf-8")


def test_a_killed_worker_is_run_again(folder: Path) -> None:
    """The pool of the local executor waits forever for a killed worker. So the test kills the
    executor too, and starts the script again: it runs only the tasks that are not complete."""
    run = start(folder, FILES, 2)
    try:
        victim = worker_of(folder, run)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(completed(folder)) == FILES - 1)
        assert run.poll() is None
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    lost = {f"{number:05}" for number in range(FILES)} - completed(folder)
    assert not (folder / "many").exists()
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "parts").glob("*.bin")}
    assert start(folder, FILES, 2).wait() == 0, (folder / "output.txt").read_text()
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "parts").glob("*.bin")}
    again = {name.removesuffix(".bin") for name in after if after[name] != before.get(name)}
    assert again == lost
    assert content(folder / "many") == content(folder / "one")


def worker_of(folder: Path, run: subprocess.Popen[bytes]) -> int:
    """Return a process of `run` that is writing a part at this moment."""
    while run.poll() is None:
        for path in glob.glob("/proc/[0-9]*/fd/*"):
            with contextlib.suppress(OSError):  # the process has ended meanwhile
                target = os.readlink(path)
                if target.startswith(f"{folder}/parts/.") and target.endswith(".bin.partial"):
                    return int(Path(path).parts[2])
    pytest.fail((folder / "output.txt").read_text())


def completed(folder: Path) -> set[str]:
    found = (folder / "logs" / "encode" / "completions").glob("*")
    return {path.name for path in found if re.fullmatch(r"\d{5}", path.name)}


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
