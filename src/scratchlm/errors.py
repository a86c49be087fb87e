"""The errors a user can meet, each with its exit code.

A message is one line: `<what> (<value>); <what to do>`. Bad input and usage are plain `ValueError`
(and the `OSError` of a missing or unreadable file), so that library code needs nothing from here
for them; the classes below mark what deserves another exit code.
"""

from __future__ import annotations


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
