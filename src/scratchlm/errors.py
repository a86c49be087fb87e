"""The errors a user can meet, each with its exit code.

A message is one line: `<what> (<value>); <what to do>`. Bad input and usage are plain `ValueError`
(and the `OSError` of a missing or unreadable file), so that library code needs nothing from here
for them; the classes below mark what deserves another exit code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


class FileFormatError(ValueError):
    """A file is corrupt, truncated, or belongs to something else: exit code 3."""


class NumericalError(ArithmeticError):
    """A loss or a gradient is not finite: exit code 4."""


class WorkerError(RuntimeError):
    """A worker process died, most often for want of memory: exit code 5."""


class OtherRankError(Exception):
    """`error` was raised by another rank, which says it: this one ends as that does, in silence."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Interrupted(Exception):  # noqa: N818 (no error: what was asked for)
    """A signal ended the work after it was saved: exit code 128 + signal (130, 143)."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class Notice(UserWarning):
    """One line that a user should know and that stops nothing, e.g. an id that was dropped.

    Library code says it with `warnings.warn(text, Notice, stacklevel=2)`; a command prints it on
    standard error as `scratchlm: text`.
    """


def is_called(name: str, table: Mapping[str, str]) -> str:
    """The end of an error for an attribute that is not there: what it is called here, if known."""
    return f"; it is {table[name]} here (docs/names.md)" if name in table else ""


def knows_names(table: Mapping[str, str]) -> Callable[[Class], Class]:
    """Make a class say what a missing attribute is called here.

    A class method in `table` is missing in the class's objects: it would not change them.
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
            raise AttributeError  # `missing` then says what to write
        return super().__get__(instance, owner)
