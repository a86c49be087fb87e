"""Run lessons in processes that start with torch and einx loaded, but without scratchlm.

A fault can only be planted before its module is imported, and importing torch takes seconds.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "einx", "numpy", "regex"])


def in_child(work: Callable[..., Any], *args: Any) -> Any:
    """Return what `work(*args)` returns in a new process.

    Raise EOFError if it raises, and TimeoutError if it takes longer than five minutes.
    """
    receive, send = _CONTEXT.Pipe(duplex=False)
    child = _CONTEXT.Process(target=_send, args=(send, work, *args))
    child.start()
    send.close()
    try:
        if not receive.poll(300):
            child.kill()
            raise TimeoutError("the lesson does not end")
        return receive.recv()
    finally:
        child.join()


def _send(send: Connection, work: Callable[..., Any], *args: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        result = work(*args)
    send.send(result)


def first_wrong_number(number: int, fault: tuple[str, str, str] | None = None) -> str:
    """Run the code that a reader of the lesson sees. Return "" or the first assertion's error."""
    from scratchlm.lessons.faults import Fault
    from scratchlm.lessons.lesson import lessons, run, shown

    if fault:
        Fault(*fault).plant()
    try:
        run(shown(lessons()[number], "en"))
    except AssertionError as error:
        return str(error)
    return ""


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wrong_verdicts(number: int) -> list[str]:
    """Check the exercise of a lesson. Return what is wrong with the exercise itself.

    A lesson must print nothing on standard error, where a bar appears only in a terminal.
    """
    from scratchlm.lessons.exercise import prepared, verdict
    from scratchlm.lessons.lesson import lessons

    cells = lessons()[number]
    sys.stderr = terminal = _Terminal()
    scope = prepared(cells)
    name = scope["EXERCISE"]
    problems = [f"standard error has {said!r}"] if (said := terminal.getvalue()) else []
    if len(scope["WRONG"]) < 3:
        problems.append("there are fewer than 3 mistakes in WRONG")
    if said := verdict(scope, scope[name], "en"):
        problems.append(f"the lesson's own answer fails: {said}")
    stub: dict[str, Any] = dict(scope)
    for cell in cells:
        if "exercise" in cell.tags:
            cell.run(stub)
    if "NotImplementedError" not in verdict(scope, stub[name], "en"):
        problems.append("the stub does not raise NotImplementedError in the check")
    for wrong in scope["WRONG"]:
        for lang in ("en", "zh"):
            said, own = verdict(scope, wrong, lang), wrong.__doc__.split(" | ")[lang == "zh"]
            if said != own:
                problems.append(f"{wrong.__name__} is told {said!r}, not {own!r}")
    return problems


def wrong_answers() -> list[str]:
    """Run the check of each question. Return the failures."""
    from scratchlm.errors import LessonError
    from scratchlm.lessons.lesson import FAQ, entries, run

    failures = []
    for number, cells in entries(FAQ).items():
        try:
            run(cells)
        except LessonError as error:
            failures.append(f"{number}: {error}")
    return failures
