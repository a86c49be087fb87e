"""The rooms: imports point down only, stay light, and the public names exist."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scratchlm

ROOT = Path(scratchlm.__file__).parent
LEVELS = [
    {"errors", "atomic", "lock", "file_kinds", "plain", "tensor_file", "functional",
     "config", "metrics", "throughput", "runtime", "compilation", "runtime_config", "distributed",
     "tokenizer", "optim"},
    {"kernels", "model", "data", "evaluation"},
    {"checkpoint", "checkpoint_files", "checkpoint_folder", "checkpoint_payload",
     "checkpoint_pointers", "checkpoint_writer", "checkpoint_report", "sharded", "single_file",
     "hf", "hf_config", "hf_names", "hf_tokenizer", "weight_names", "costs", "roofline",
     "strategies", "decoder", "sampling", "beam", "speculative", "text_stream", "generator"},
    {"trainer", "trainer_config", "train_config", "objective", "progress",
     "time_limit", "run_state",
     "validation", "micro_batches", "checkpoint_config", "chat", "chat_template"},
    {"recipe", "run_config", "run_length", "preflight"},
    {"search", "lessons", "plots", "sampling_figure", "run_figure", "serve"},
    {"cli", "__main__"},
]  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
NEVER = {("optim", "model"), ("model", "optim"), ("model", "kernels")}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def imports(path: Path) -> set[str]:
    """The scratchlm modules a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "scratchlm":
                found |= {f"scratchlm.{alias.name}" for alias in node.names}
            else:
                found.add(node.module or "")
    return {name for name in found if name.startswith("scratchlm.")} - {"scratchlm.__version__"}


def files() -> list[Path]:
    return [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    for name in imports(path):
        other = room(name)
        if other == own:
            continue
        assert LEVEL[other] <= LEVEL[own], f"{path.name} imports {name}, which is above it"
        assert (own, other) not in NEVER, f"{own} never imports {other}"
        assert other != "recipe" or own in ("cli", "search"), f"{own} never imports recipe"


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy():
    assert not {"torch", "numpy", "einx", "regex", "tqdm"} & modules_after("import scratchlm")


def test_a_runs_configuration_needs_no_torch():
    """`scratchlm-train --help` reads its defaults there."""
    assert not {"torch", "numpy"} & modules_after("import scratchlm.training.train_config")


def test_the_tokenizer_needs_no_torch():
    loaded = modules_after("from scratchlm import BPETokenizer, train_bpe")
    assert "torch" not in loaded


def test_einx_is_imported_when_first_used():
    loaded = modules_after("from scratchlm import Transformer, Trainer, generate")
    assert "einx" not in loaded


def test_a_foreign_name_costs_no_torch():
    ask = "import scratchlm\ntry: from scratchlm import GPT\nexcept ImportError: pass"
    assert "torch" not in modules_after(ask)
