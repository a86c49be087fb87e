"""A lesson as a notebook, as a page and as a site. The extra `docs` has the tools."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scratchlm.lessons.lesson import lessons
from scratchlm.lessons.views import notebook

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


@pytest.mark.slow
@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("number", LESSONS)
def test_a_notebook_runs(number, lang, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient").NotebookClient
    book = nbformat.reads(notebook(LESSONS[number], lang), as_version=4)
    nbformat.validate(book)
    client(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.slow
def test_the_site_builds_and_pictures_are_the_same_bytes(tmp_path):
    """Zensical checks the links of the pages; here the pages' own figures and the switch."""
    pytest.importorskip("zensical")
    for name in ("first", "second"):
        command = [sys.executable, "scripts/build_site.py", "--out", str(tmp_path / name)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("No issues found") == 2
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
        assert re.search(rf'href="[./]*{other}/', page)
