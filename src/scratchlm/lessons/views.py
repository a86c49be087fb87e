"""Show a lesson in a terminal, as a page of Markdown, or as a notebook."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from scratchlm.lessons.lesson import CODE, Cell, shown

# Code, bold words, a heading. Code may hold ** too.
MARKED = re.compile(rf"({CODE})|\*\*(.+?)\*\*|^#+ ([^\n]+)$", re.M | re.S)
_PICTURE = re.compile(r"!\[.*?\]\((.+?)\)")  # in Markdown
_BOLD, _DIM, _PLAIN = "\033[1m", "\033[2m", "\033[0m"


def terminal(
    cells: Sequence[Cell], lang: str, colour: bool, pause: Callable[[], object] = lambda: None
) -> None:
    """Print and run each cell, and call `pause` after it."""
    scope: dict[str, Any] = {}
    for cell in shown(cells, lang):
        text = cell.text
        if colour and cell.prose:
            text = MARKED.sub(lambda m: m[1] or f"{_BOLD}{m[2] or m[3]}{_PLAIN}", text)
        elif colour:
            text = f"{_DIM}{text}{_PLAIN}"
        if "figure" in cell.tags:  # the code of a picture is not worth reading
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                cell.run(scope)
            saved = "saved" if lang == "en" else "已保存"
            print(_PICTURE.sub(rf"{saved}: \1", printed.getvalue()), end="")
        else:
            print(text, flush=True)
            cell.run(scope)
        print()
        pause()


def markdown(cells: Sequence[Cell], lang: str) -> str:
    """Run the cells, and return a page with their text and what they print."""
    scope: dict[str, Any] = {}
    parts = []
    for cell in shown(cells, lang):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            cell.run(scope)
        output = printed.getvalue()
        if "figure" not in cell.tags:  # the code of a picture is not worth reading
            parts.append(cell.text if cell.prose else f"```python\n{cell.text}\n```")
        if output:
            parts.append(output if "figure" in cell.tags else f"```text\n{output}```")
    return "\n\n".join(parts) + "\n"


def notebook(cells: Sequence[Cell], lang: str) -> str:
    """Return a notebook (nbformat 4.5) without outputs. https://nbformat.readthedocs.io"""
    pieces = []
    for i, cell in enumerate(shown(cells, lang)):
        piece = {"id": f"cell-{i}", "metadata": {}, "source": cell.text.splitlines(keepends=True)}
        code: dict[str, Any] = {"cell_type": "code", "outputs": [], "execution_count": None}
        pieces.append(piece | ({"cell_type": "markdown"} if cell.prose else code))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    whole = {
        "cells": pieces,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"
