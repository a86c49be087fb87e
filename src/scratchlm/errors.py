"""The errors that a user can see, each with its exit code.

A message is one line: `<what is wrong> (<value>); <what to do>`. Bad input and usage raise a plain
`ValueError`, and a missing or unreadable file raises an `OSError`. The classes below mark errors
with other exit codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


class FileFormatError(ValueError):
    """A file is corrupt, truncated or incompatible: exit code 3."""


class NumericalError(ArithmeticError):
    """A loss or a gradient is not finite: exit code 4."""


class LessonError(AssertionError):
    """A number of a lesson, or an answer to its exercise, is wrong: exit code 1."""


class WorkerError(RuntimeError):
    """A worker process died, most often because memory ran out: exit code 5."""


class OtherRankError(Exception):
    """Another rank raised `error` and prints it. This rank prints nothing and exits with the same
    exit code."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Interrupted(Exception):  # noqa: N818 (not an error: the user stopped the work)
    """A signal stopped the work: exit code 128 + signal (130, 143)."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class Notice(UserWarning):
    """One line that a user should read, e.g. about a dropped id. The program continues.

    Library code calls `warnings.warn(text, Notice, stacklevel=2)`. A command prints the text on
    standard error as `scratchlm: text`.
    """


def is_called(name: str, table: Mapping[str, str]) -> str:
    """Return the remedy for a missing attribute: our name for `name`, if `table` has one."""
    return f"; use {table[name]} instead (docs/names.md)" if name in table else ""


def knows_names(table: Mapping[str, str]) -> Callable[[Class], Class]:
    """Add our name to a class's error for a missing attribute.

    An object of the class loses the class methods in `table`, because such a method would not
    change the object.
    """

    def decorate(cls: Any) -> Any:
        before = getattr(cls, "__getattr__", None)  # torch's modules have one

        def missing(self: Any, name: str) -> Any:
            try:
                if before is not None:
                    return before(self, name)
            except AttributeError:
                if name not in table:
                    raise
            raise AttributeError(f"a {cls.__name__} has no {name}{is_called(name, table)}")

        cls.__getattr__ = missing
        for name in table.keys() & vars(cls).keys():
            setattr(cls, name, _ClassOnly(vars(cls)[name].__func__))
        return cls

    return decorate


class _ClassOnly(classmethod):  # type: ignore[type-arg]
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is not None:
            raise AttributeError  # then `missing` raises the error with our name
        return super().__get__(instance, owner)
