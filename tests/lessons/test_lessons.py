"""The rules for every lesson: right numbers, the same content in both languages, and errors that it
finds."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.lesson_runs import first_wrong_number, in_child, wrong_answers, wrong_verdicts
from scratchlm.lessons.faults import Fault
from scratchlm.lessons.lesson import CODE, FAQ, Cell, entries, lessons, literal
from scratchlm.lessons.pages import bold, terms

LESSONS = lessons()
ANSWERS = entries(FAQ)
SAME_IN_BOTH = re.compile(
    rf"{CODE}|^#+ |(?<![\w.])\d[\d.,]*\d|(?<![\w.])\d|https?://[^\s)]+|\]\([^)]+\)",
    re.M | re.S,
)
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def faults(number: int) -> list[tuple[str, str, str]]:
    return literal(LESSONS[number], "FAULTS")


def pairs(cells: list[Cell]) -> Iterator[tuple[Cell, Cell]]:
    prose = [cell for cell in cells if cell.prose]
    assert [cell.lang for cell in prose] == ["en", "zh"] * (len(prose) // 2)
    return zip(prose[::2], prose[1::2], strict=True)


@pytest.mark.parametrize("number", LESSONS)
def test_the_exercise_knows_right_from_wrong(number):
    """The lesson runs, its answer passes, its stub fails, and the message explains each mistake."""
    assert in_child(wrong_verdicts, number) == []


@pytest.mark.parametrize("number", LESSONS)
def test_a_planted_fault_fails_the_lesson(number):
    assert in_child(first_wrong_number, number, faults(number)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "fault"), [(number, fault) for number in LESSONS for fault in faults(number)]
)
def test_each_planted_fault_fails_the_lesson(number, fault):
    assert in_child(first_wrong_number, number, fault)


def test_the_answer_to_each_question_holds():
    assert in_child(wrong_answers) == []


def test_a_lesson_without_a_fault_passes():
    assert in_child(first_wrong_number, 14) == ""


@pytest.mark.parametrize("number", LESSONS)
def test_each_fault_changes_one_line_that_is_there_once(number):
    for fault in map(Fault._make, faults(number)):
        source = Path(find_spec(fault.module).origin).read_text(encoding="utf-8")
        assert source.count(fault.old) == 1, fault


def test_there_are_enough_faults():
    assert min(len(faults(number)) for number in LESSONS) >= 2


@pytest.mark.parametrize(
    "cells", [*LESSONS.values(), *ANSWERS.values()], ids=lambda cells: cells[0].text.splitlines()[0]
)
def test_both_languages_say_the_same(cells):
    for english, chinese in pairs(cells):
        said = [Counter(SAME_IN_BOTH.findall(cell.text)) for cell in (english, chinese)]
        assert said[0] == said[1], (said[0] - said[1], said[1] - said[0], english.line)
        counts = [len(bold(cell.text)) for cell in (english, chinese)]
        assert counts[0] == counts[1], english.line
        assert english.tags == chinese.tags
        without_code = re.sub(CODE, "", english.text, flags=re.S)
        assert not CHINESE.search(without_code), english.line
        assert CHINESE.search(chinese.text), chinese.line


@pytest.mark.parametrize(
    "cells", [*LESSONS.values(), *ANSWERS.values()], ids=lambda cells: cells[0].text.splitlines()[0]
)
def test_only_show_prints(cells):
    calls = {
        node.func.id
        for cell in cells
        if not cell.prose
        for node in ast.walk(ast.parse(cell.text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "print" not in calls
    assert "show" in calls


def test_no_term_is_used_before_the_lesson_that_explains_it():
    early = []
    for term in terms():
        for number, cells in LESSONS.items():
            for cell in cells if number < term.lesson else []:
                if cell.prose and is_used(
                    term.english if cell.lang == "en" else term.chinese, cell
                ):
                    early.append(f"{term} in lesson {number}, line {cell.line}")
    assert not early


def is_used(term: str, cell: Cell) -> bool:
    text = re.sub(CODE, "", cell.text, flags=re.S)
    if cell.lang == "zh":
        return term in text
    return re.search(rf"\b{re.escape(term)}s?\b", " ".join(text.split()), re.I) is not None


def test_each_term_is_explained_once():
    for name in ("english", "chinese"):
        counts = Counter(getattr(term, name).lower() for term in terms())
        assert max(counts.values()) == 1, counts.most_common(5)
