"""A lesson as a notebook, as a page and as a site. The extra `docs` has the tools."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scratchlm.lessons.lesson import Cell, lessons, read
from scratchlm.lessons.views import markdown, notebook, terminal

ROOT = Path(__file__).parents[2]
LESSONS = lessons()


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_notebook_has_the_cells_of_one_language(lang):
    cells = json.loads(notebook(LESSONS[14], lang))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    assert ("Exercise" in text, "练习" in text) == (lang == "en", lang == "zh")
    assert "def attend" in text
    assert "WRONG" not in text
    assert {cell["cell_type"] for cell in cells} == {"code", "markdown"}
    assert "`scratchlm-learn 14 --check FILE`" in cells[-1]["source"][0]


@pytest.fixture
def page(tmp_path):
    """Return a function that reads a lesson with one Chinese cell and one cell of code."""

    def read_page(prose: str) -> list[Cell]:
        lines = ["", '# %% [markdown] lang="zh"', *(f"# {line}" for line in prose.splitlines())]
        path = tmp_path / "99_test.py"
        path.write_text("\n".join([*lines, "", "# %%", "x = 1", ""]), encoding="utf-8")
        return read(path)

    return read_page


def test_only_a_terminal_gets_colour(page, capsys):
    cells = page("# 99 · 题\n**词**和 `**kw`")
    terminal(cells, "zh", colour=True)
    bold, dim, plain = "\033[1m", "\033[2m", "\033[0m"
    assert capsys.readouterr().out == (
        f"{bold}99 · 题{plain}\n\n{bold}词{plain}和 `**kw`\n\n{dim}x = 1{plain}\n\n"
    )
    terminal(cells, "zh", colour=False)
    assert "\033" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "joined"),
    [
        ("前面\n后面", "前面后面"),
        ("前面。\n`code`", "前面。`code`"),
        ("前面。\nx = 1", "前面。x = 1"),
        ("前面。\n**词**", "前面。**词**"),
        ("前面。\n12 个", "前面。12 个"),
        *(
            (f"前面。\n{mark}", f"前面。\n{mark}")
            for mark in ("- x", "* x", "1. x", "## 题", "```\nx\n```", "| x |", "> x", "", "    x")
        ),
        ("front\nback", "front\nback"),
        ("前面\nback", "前面\nback"),
    ],
)
def test_chinese_lines_join_without_a_space(page, lines, joined):
    # A heading gets an empty line after it.
    assert markdown(page(lines), "zh").partition("\n\n```python")[0].rstrip() == joined.rstrip()


@pytest.mark.slow
@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("number", LESSONS)
def test_a_notebook_runs(number, lang, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient").NotebookClient
    book = nbformat.reads(notebook(LESSONS[number], lang), as_version=4)
    nbformat.validate(book)
    client(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [cell for cell in book.cells if "with figure(" in cell.source]
    assert pictures
    for cell in pictures:
        assert any("image/svg+xml" in output.get("data", ()) for output in cell.outputs)


@pytest.mark.slow
def test_the_site_builds_and_pictures_are_the_same_bytes(tmp_path):
    """Zensical checks the links of the pages; here the pages' own figures and the switch."""
    pytest.importorskip("zensical")
    for name in ("first", "second"):
        command = [sys.executable, "scripts/build_site.py", "--out", str(tmp_path / name)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (done.stdout + done.stderr).count("No issues found") == 2
    first, second = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*.svg")
        }
        for name in ("first", "second")
    )
    assert len(first) >= 2 * len(LESSONS) - 8
    assert first == second
    for lang, other in (("en", "zh"), ("zh", "en")):
        page = (tmp_path / "first" / lang / "14_attention" / "index.html").read_text("utf-8")
        assert f'lang="{lang}"' in page
        assert f'href="../../{other}/14_attention/" hreflang="{other}"' in page
        home = (tmp_path / "first" / lang / "index.html").read_text("utf-8")
        assert len(re.findall(rf'href="../{other}/"', home)) >= 3  # in the head, switch and text
        questions = (tmp_path / "first" / lang / "faq" / "index.html").read_text("utf-8")
        assert questions.count("<h1") == 1
        assert "googleapis" not in page
    names = (tmp_path / "first" / "en" / "api" / "index.html").read_text("utf-8")
    assert names == (tmp_path / "second" / "en" / "api" / "index.html").read_text("utf-8")
    assert " at 0x" not in names
