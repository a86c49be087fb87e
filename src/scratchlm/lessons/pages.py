"""Write the lessons as pages, and list lessons, questions and terms."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from scratchlm.lessons.lesson import FAQ, Cell, entries, lessons, title
from scratchlm.lessons.views import MARKED, markdown


class Term(NamedTuple):
    """A term in both languages, and the lesson that explains it."""

    english: str
    chinese: str
    lesson: int


def bold(text: str) -> list[str]:
    """Return the bold words of a cell, each in one line."""
    return [" ".join(words.split()) for _, words, _ in MARKED.findall(text) if words]


def terms() -> list[Term]:
    """Return the bold terms in the order of the lessons.

    A lesson writes a term in bold where it explains the term, in both languages.
    """
    found = []
    for number, cells in lessons().items():
        prose = [cell.text for cell in cells if cell.prose]
        for english, chinese in zip(prose[::2], prose[1::2], strict=True):
            pairs = zip(bold(english), bold(chinese), strict=True)
            found += [Term(*pair, number) for pair in pairs]
    return found


def glossary() -> str:
    """Return the terms as a table in Markdown."""
    rows = [
        f"| {term.english} | {term.chinese} | {term.lesson} |"
        for term in sorted(terms(), key=lambda term: term.english.lower())
    ]
    return "\n".join(["| term | 术语 | lesson · 课 |", "|---|---|---|", *rows])


def listing(table: Mapping[int, list[Cell]], lang: str, ticked: Collection[int] = ()) -> str:
    """Return one line for each entry: a tick or a blank, the number, the title."""
    return "\n".join(
        f"{'✓' if number in ticked else ' '} {number:>2}  {title(cells, lang)}"
        for number, cells in table.items()
    )


def write(folder: Path, lang: str) -> None:
    """Run all lessons, and write a page for each, the questions, the terms and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        for cells in tqdm(lessons().values(), "lessons", disable=None, leave=False):
            Path(cells[0].path.stem + ".md").write_text(markdown(cells, lang), encoding="utf-8")
        # The page has one title, and each question is a section.
        answers = [markdown(cells, lang).replace("# ", "## ", 1) for cells in entries(FAQ).values()]
        questions, heading = {"en": ("Questions", "Glossary"), "zh": ("常见问题", "术语表")}[lang]
        page = "\n".join([f"# {questions}\n", *answers])
        Path("faq.md").write_text(page, encoding="utf-8")
        Path("glossary.md").write_text(f"# {heading}\n\n{glossary()}\n", encoding="utf-8")
