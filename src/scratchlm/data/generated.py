"""Generate documents of three simple tasks. A small model can learn these tasks in minutes.

    arithmetic   37*25=925           a sum, a difference or a product of two whole numbers
    copy         dvqk=dvqk           a word of random letters, two times
    brackets     ([]{<=>})           opened brackets, and the brackets that close them

Each document is `question=answer`. A program can check an answer without the generator, so these
tasks measure exactly how much a model learned.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Iterator
from itertools import islice, repeat
from pathlib import Path

from scratchlm.data.outputs import check_file
from scratchlm.files.atomic import replacing_file
from scratchlm.files.paths import StrPath

MOST_DIGITS = 3  # of each number
MOST_LETTERS = 12  # of a word
MOST_BRACKETS = 24  # in a question
PAIRS = dict(zip("([{<", ")]}>", strict=True))


class _Chances:
    """Random numbers that are the same in every version of Python.

    Python keeps only the values of `random.random`, so all other numbers follow from them.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, end: int) -> int:
        """Return a whole number from 0 to end - 1."""
        return int(self._random.random() * end)

    def one_of(self, choices: str) -> str:
        return choices[self.below(len(choices))]


def _arithmetic(chances: _Chances) -> str:
    # First choose the number of digits. Otherwise nine tenths of the numbers would have the most.
    first, second = (chances.below(10 ** (1 + chances.below(MOST_DIGITS))) for _ in range(2))
    match sign := chances.one_of("+-*"):
        case "+":
            answer = first + second
        case "-":
            answer = first - second
        case _:
            answer = first * second
    return f"{first}{sign}{second}={answer}"


def _copy(chances: _Chances) -> str:
    length = 1 + chances.below(MOST_LETTERS)
    word = "".join(chances.one_of(string.ascii_lowercase) for _ in range(length))
    return f"{word}={word}"


def _brackets(chances: _Chances) -> str:
    opened: list[str] = []
    question = ""
    for _ in range(1 + chances.below(MOST_BRACKETS)):
        # The question closes no bracket when only one is open, so the answer is never empty.
        if len(opened) > 1 and chances.below(2):
            question += PAIRS[opened.pop()]
        else:
            opened.append(chances.one_of("".join(PAIRS)))
            question += opened[-1]
    return f"{question}={''.join(PAIRS[each] for each in reversed(opened))}"


TASKS: dict[str, Callable[[_Chances], str]] = {
    "arithmetic": _arithmetic,
    "copy": _copy,
    "brackets": _brackets,
}


def generate_documents(task: str, seed: int) -> Iterator[str]:
    """Yield documents without end. The same seed gives the same documents on every machine.

    Raise ValueError for an unknown task.
    """
    if task not in TASKS:
        raise ValueError(f"no such task ({task}); choose from {', '.join(TASKS)}")
    return map(TASKS[task], repeat(_Chances(seed)))


def write_generated(task: str, documents: int, seed: int, output: StrPath) -> None:
    """Write `documents` documents of a task as JSON lines: {"text": "37*25=925"}.

    Raise ValueError for an unknown task, for less than one document, and for another file ending.
    """
    path = Path(output)
    if documents < 1:
        raise ValueError(f"documents must be at least 1 ({documents}); use e.g. --documents 10000")
    if path.suffix.lower() != ".jsonl":
        raise ValueError(
            f"the name of the output must end in .jsonl ({path}); use the name {path.stem}.jsonl"
        )
    check_file(path)
    texts = islice(generate_documents(task, seed), documents)
    with replacing_file(path) as file:
        for text in texts:
            file.write(json.dumps({"text": text}).encode() + b"\n")
