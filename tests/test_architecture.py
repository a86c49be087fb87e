"""The folders: imports point down only and stay light, and the drawing shows them."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from draw_architecture import PACKAGE, PAGE, drawing, imported_modules  # noqa: E402

# A folder imports only from those before it. Folders in one group do not import each other.
ORDER = (
    "errors", "config", "functional", "files", "devices", "kernels", "model", "optim", "tokenizer",
    "data", "costs", "convert", "checkpoint", "generation", "chat", "training", "evaluation",
    "figures", ("search", "serving", "lessons"), "cli",
)  # fmt: skip
# The same for the files and folders of the tokenizer.
TOKENIZER = (
    ("special_tokens", "workers", "pieces"), "merge_table", "parts", "learning", "encoding",
    "formats", "token_files", "bpe",
    ("named", "train", "start_and_end_ids", "chat_template", "inspection"), "playground",
)  # fmt: skip


def levels(order: tuple[str | tuple[str, ...], ...]) -> dict[str, int]:
    return {
        name: level
        for level, group in enumerate(order)
        for name in ((group,) if isinstance(group, str) else group)
    }


LEVEL = levels(ORDER)
NEVER = {("optim", "model"), ("model", "kernels")}
LONGEST = 60  # lines of a function
MOST = 10  # parameters
# {module and function that may be longer, or take more parameters: the reason}
EXCEPTIONS = {
    "model/attention MultiHeadAttention.__init__": "a leaf takes numbers, never the config",
    "generation/sampling generate": "one a strategy, as in Hugging Face's generate",
    "cli/generate_flags _parser": "a list of flags",
    **{
        f"kernels/flash_kernels {name}": "Triton needs a parameter for each constant"
        for name in ("forward", "attend", "grad_q", "add_grad_q", "grad_kv", "add_grad_kv")
    },
    "generation/beam beam_search": "the published rules in one loop",
    "generation/speculative speculate": "the published rules in one loop",
}


def files() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imported_modules(path):
        other = name.split(".")[1]
        assert other == own or LEVEL[other] < LEVEL[own], f"{own} imports {name}"
        assert (own, other) not in NEVER, f"{own} never imports {other}"


@pytest.mark.parametrize(
    "path",
    [path for path in files() if path.relative_to(PACKAGE).parts[0] == "tokenizer"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_imports_of_the_tokenizer_point_down(path: Path) -> None:
    level, own = levels(TOKENIZER), path.relative_to(PACKAGE).with_suffix("").parts[1]
    for name in imported_modules(path):
        _, folder, *rest = name.split(".")
        if folder == "tokenizer":
            assert rest[0] == own or level[rest[0]] < level[own], f"{own} imports {name}"


def test_no_module_imports_itself_through_others() -> None:
    """Imports below TYPE_CHECKING count too: a reader follows them."""
    modules = {}
    for path in files():
        name = ".".join(["scratchlm", *path.relative_to(PACKAGE).with_suffix("").parts])
        modules[name] = imported_modules(path)
    TopologicalSorter(modules).prepare()  # raises CycleError with the circle


def test_the_root_holds_nothing_but_folders_and_five_files() -> None:
    found = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert found - folders == {
        "__init__.py", "__main__.py", "errors.py", "config.py", "functional.py", "py.typed",
    }  # fmt: skip
    assert folders <= LEVEL.keys()


def test_the_drawing_shows_the_imports() -> None:
    """`python scripts/draw_architecture.py` draws it again."""
    assert drawing() in PAGE.read_text(encoding="utf-8")


def functions(path: Path) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
                found.append((inside + child.name, child))
    return found


def test_functions_are_short() -> None:
    too_large = set()
    for path in files():
        module = path.relative_to(PACKAGE).with_suffix("").as_posix()
        for name, node in functions(path):
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            count = sum(each.arg not in ("self", "cls") for each in arguments)
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > LONGEST or count > MOST:
                too_large.add(f"{module} {name}")
    assert too_large == EXCEPTIONS.keys()


def private_names() -> set[str]:
    found = set()
    for path in files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    found.add(name)
                case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                    found.add(name)
    return {name for name in found if name.startswith("_") and not name.startswith("__")} - {"_"}


def test_tests_reach_no_private_state():
    """A test uses public calls. A name that a test needs is public, and has a docstring."""
    private, reached = private_names(), []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Attribute(value=ast.Name(id="self" | "cls")):
                    pass  # a test's own class
                case (
                    ast.Attribute(attr=name) | ast.alias(name=name) | ast.Constant(value=str(name))
                ):
                    if name.rpartition(".")[2] in private:
                        reached.append(f"{path.relative_to(ROOT)}, line {node.lineno}: {name}")
    assert not reached


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
