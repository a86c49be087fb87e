"""Read and run a lesson: one Python file in the percent format, with prose in two languages.

`# %% [markdown] lang="en"` opens a cell of English prose, the same with `lang="zh"` its Chinese
twin, and `# %%` a cell of code, which both languages share. `tags=["…"]` marks a cell: `figure`,
`exercise` (the task and its stub), `answer`, `check` (how the exercise is tested).
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scratchlm.errors import LessonError

FAQ = Path(__file__).with_name("faq.py")  # an entry is a question
CODE = r"```.*?```|`[^`]+`"  # in Markdown
HIDDEN = {"answer", "check"}  # a reader sees these cells only on request
_HEADER = re.compile(r'^# %%(?: \[(markdown)\])?(?: lang="(\w+)")?(?: tags=(\[.*?\]))?$', re.M)
# Chinese continues on the next line without a space, and full-width punctuation before any text.
_WRAP = re.compile(
    r"(?<=[\u2e80-\u9fff\uff00-\uffef])\n(?=[\u2e80-\u9fff\uff00-\uffef])"
    r"|(?<=[\u3000-\u303f\uff00-\uffef])\n(?!\s|#|>|\||```|[-*+] |\d+\. )"
)
_CHECK = {
    "en": "Save your function in a file. Then run `scratchlm-learn {number} --check FILE`.",
    "zh": "把函数存进一个文件。然后运行 `scratchlm-learn {number} --check FILE`。",
}
_NO_VIZ = "(no picture: pip install 'scratchlm[viz]')"


class Cell(NamedTuple):
    """A piece of a lesson. `lang` is "" in a cell of code, and `line` is where its text begins."""

    path: Path
    lang: str
    tags: frozenset[str]
    text: str
    line: int

    @property
    def prose(self) -> bool:
        return bool(self.lang)

    def run(self, scope: dict[str, Any]) -> None:
        """Run a cell of code in `scope`. Raise LessonError, with the line, for a wrong number."""
        if "figure" in self.tags and not importlib.util.find_spec("matplotlib"):
            print(_NO_VIZ)
        elif not self.prose:
            try:
                exec(compile("\n" * (self.line - 1) + self.text, self.path, "exec"), scope)
            except AssertionError as error:
                here = frames_in(self.path, error)[-1]
                what = str(error) or here.line
                raise LessonError(f"{self.path.name}, line {here.lineno}: {what}") from error


def frames_in(path: Path, error: BaseException) -> list[traceback.FrameSummary]:
    """Return the lines of file `path` that ran when the error was raised, the innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if frame.filename == str(path)]


def run(cells: Iterable[Cell]) -> dict[str, Any]:
    """Run the code of `cells`, but draw no picture. Return the names that the code defines."""
    scope: dict[str, Any] = {}
    for cell in cells:
        if "figure" not in cell.tags:
            cell.run(scope)
    return scope


def lessons() -> dict[int, list[Cell]]:
    """Return {number: cells} of all lessons, in order."""
    found: dict[int, list[Cell]] = {}
    for path in sorted(FAQ.parent.glob("[0-9]*_*.py")):
        found |= entries(path)
    return found


def read(path: Path) -> list[Cell]:
    """Return the cells of a lesson's file."""
    head, *parts = _HEADER.split(path.read_text(encoding="utf-8"))
    cells, line = [], head.count("\n") + 2
    for kind, lang, tags, text in zip(*[iter(parts)] * 4, strict=True):
        shown = text
        if kind:
            shown = re.sub(r"^# ?", "", shown, flags=re.M)
            shown = re.sub(r"^(#+ .+)\n(?!\n)", r"\1\n\n", shown, flags=re.M)
            shown = _WRAP.sub("", shown)
        tag_set = frozenset(json.loads(tags or "[]"))
        # `text` begins with the header's newline.
        cells.append(Cell(path, lang or "", tag_set, shown.strip("\n"), line))
        line += text.count("\n")
    return cells


def entries(path: Path) -> dict[int, list[Cell]]:
    """Return {number: cells}, split at the headings `# NUMBER · TITLE`. A lesson has one entry."""
    found: dict[int, list[Cell]] = {}
    for cell in read(path):
        heading = re.match(r"# (\d+) · ", cell.text) if cell.prose else None
        found.setdefault(int(heading[1]) if heading else max(found, default=0), []).append(cell)
    return found


def shown(cells: Iterable[Cell], lang: str) -> list[Cell]:
    """Return the cells that a reader of `lang` sees. After an exercise comes how to check it."""
    seen = [cell for cell in cells if cell.lang in ("", lang) and not HIDDEN & cell.tags]
    if "exercise" in seen[-1].tags:
        text = _CHECK[lang].format(number=int(seen[-1].path.name[:2]))
        seen.append(Cell(seen[-1].path, lang, frozenset(), text, 0))
    return seen


def title(cells: Iterable[Cell], lang: str) -> str:
    """Return the heading of a lesson without its number, such as "Attention in numbers"."""
    first = next(cell for cell in cells if cell.lang == lang)
    return first.text.splitlines()[0].partition(" · ")[2]


def one(table: Mapping[int, list[Cell]], number: int) -> list[Cell]:
    """Return an entry of `table`. Raise ValueError if it has no such number."""
    if number not in table:
        known = ", ".join(map(str, table))
        raise ValueError(f"there is no such number ({number}); choose one of {known}")
    return table[number]


def literal(cells: Iterable[Cell], name: str) -> Any:
    """Return the value of `name = …` in the code, without running it."""
    for cell in cells:
        for node in [] if cell.prose else ast.parse(cell.text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                return ast.literal_eval(node.value)
    raise ValueError(f"the lesson has no {name}")
