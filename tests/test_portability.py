"""The package needs nothing that Windows or macOS lack: neither fcntl nor fork."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import scratchlm
from scratchlm import BPETokenizer
from scratchlm.data.shards import open_shard

ROOT = Path(scratchlm.__file__).parent
UNIX_ONLY = {"fcntl", "grp", "pwd", "resource", "termios", "tty", "posix", "readline"}

JOURNEY = """
import multiprocessing
import sys

import scratchlm.files.lock  # which takes Windows' module in its place

sys.modules["fcntl"] = None
context = multiprocessing.get_context
multiprocessing.get_context = lambda method=None: context("spawn")

if __name__ == "__main__":
    from scratchlm.cli import generate, tokenize, train
    from scratchlm.tokenizer import workers

    workers.SMALL_BYTES = 1000  # so that a small text has workers, too
    assert tokenize.main(
        ["--corpus", "text.txt", "--vocab_size", "300", "--num_workers", "2",
         "--encode", "text.txt", "--output", "text.bin"]
    ) == 0
    model = ["--d_model", "16", "--num_layers", "1", "--num_heads", "2", "--d_ff", "32"]
    steps = ["--context_length", "16", "--batch_size", "2", "--iterations", "3"]
    assert train.main(["--train_data", "text.bin", *model, *steps, "--out", "run"]) == 0
    more = ["--resume", "run", "--iterations", "4"]
    assert train.main(more) == 0
    assert generate.main(
        ["--model_path", "run", "--prompt", "the caf\\u00e9", "--max_tokens", "5", "--seed", "1"]
    ) == 0
"""


def imported(node: ast.AST) -> Iterator[str]:
    """Return the modules that Python imports when it runs this source. Skip functions, and code for
    one platform."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module or ""
    of_a_platform = isinstance(node, ast.If) and "sys.platform" in ast.unparse(node.test)
    if not of_a_platform and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for child in ast.iter_child_nodes(node):
            yield from imported(child)


def test_no_module_needs_one_of_unix_at_import():
    for path in ROOT.rglob("*.py"):
        assert not UNIX_ONLY & set(imported(ast.parse(path.read_text(encoding="utf-8")))), path


def test_an_import_is_found_wherever_it_runs():
    code = "try:\n  import fcntl\nfinally: pass\nclass A:\n  if A: from pwd import x\n"
    code += "def f():\n  import tty\nif sys.platform != 'win32': import grp\n"
    assert set(imported(ast.parse(code))) == {"fcntl", "pwd"}


@pytest.mark.slow
def test_the_journey_needs_neither_fcntl_nor_fork(tmp_path: Path) -> None:
    text = "the café is old, and the 中文 sign too.\r\nthe end\n" * 60
    (tmp_path / "text.txt").write_bytes(text.encode())
    (tmp_path / "journey.py").write_text(JOURNEY, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "journey.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "last").exists()
    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    assert log.count(b"\n") == 4
    assert b"\r" not in log
    tokenizer = BPETokenizer.load(tmp_path / "tokenizer.json")
    assert open_shard(tmp_path / "text.bin", verify=True).tokens.tolist() == tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
