"""Draw the folders of the package and their imports: `python scripts/draw_architecture.py`.

It writes the Mermaid drawing in docs/architecture.md. An arrow from A to B says that A imports B.
The drawing leaves out an arrow if a longer path leads to the same folder. A test compares the
drawing with the imports.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "scratchlm"
PAGE = ROOT / "docs" / "architecture.md"
_BLOCK = re.compile(r"```mermaid\n.*?```\n", re.DOTALL)

Graph = dict[str, set[str]]


def folder_of(module: str) -> str:
    """Return `model` for `scratchlm.model.rope`."""
    return module.split(".")[1]


@functools.cache
def homes_of_public_names() -> dict[str, str]:
    """Return {name: its module} for the names that `scratchlm` itself offers."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    return {
        alias.name: node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def imported_modules(path: Path) -> set[str]:
    """Return the scratchlm modules that a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "scratchlm":
            homes = homes_of_public_names()
            found |= {homes.get(alias.name, f"scratchlm.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folder = PACKAGE.parent.joinpath(*(node.module or "").split("."))
            for alias in node.names:
                is_module = (folder / f"{alias.name}.py").is_file()
                found.add(f"{node.module}.{alias.name}" if is_module else node.module or "")
    return {name for name in found if name.startswith("scratchlm.")} - {"scratchlm.__version__"}


def imports_of_folders() -> Graph:
    """Return {folder or file of the root: the others that it imports}."""
    graph: Graph = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if not own.startswith("__"):
            others = {folder_of(module) for module in imported_modules(path)}
            graph.setdefault(own, set()).update(others - {own})
    return graph


def without_shortcuts(graph: Graph) -> Graph:
    """Return the arrows without those that a longer path replaces."""

    def reachable(start: str) -> set[str]:
        found: set[str] = set()
        for other in graph[start]:
            found |= {other} | reachable(other)
        return found

    return {
        name: others - set().union(*(reachable(other) for other in others), set())
        for name, others in graph.items()
    }


def drawing() -> str:
    """Return the Mermaid text of the folders, with the highest folder at the top."""
    lines = ["```mermaid", "flowchart TD"]
    for name, others in sorted(without_shortcuts(imports_of_folders()).items()):
        lines += [f"    {name} --> {other}" for other in sorted(others)]
    return "\n".join([*lines, "```", ""])


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_BLOCK.sub(lambda match: drawing(), text, count=1), encoding="utf-8")
    print(f"drawn: {PAGE}")


if __name__ == "__main__":
    main()
