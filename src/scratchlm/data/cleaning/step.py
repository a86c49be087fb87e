"""The three kinds of steps. Each step is a frozen dataclass, and its fields are its settings.

An edit and a filter see one document at a time, so worker processes run them. A comparison needs
all documents: the pipeline first collects a signature of each document, then drops the documents
that the comparison returns, in a second pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from scratchlm.files.paths import StrPath

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Step:
    """What all steps have in common. `kind` is the name of the step in a config."""

    kind: ClassVar[str]

    def files(self) -> Sequence[StrPath]:
        """Return other files that the step reads. The manifest describes these files."""
        return ()

    def prepare(self) -> None:
        """Load what the step needs, once, before the worker processes start."""

    def about(self) -> str:
        """Return a line that a command prints before the run, or nothing."""
        return ""


class Edit(Step):
    """A step that changes a text. It never drops a document."""

    def edit(self, text: str) -> str:
        """Return the changed text. A second edit must change nothing."""
        raise NotImplementedError


class Filter(Step):
    """A step that drops documents. It never changes a text."""

    def reason(self, text: str) -> str | None:
        """Return why to drop the document, in a few words. Return None to keep the document."""
        raise NotImplementedError


class Comparison(Step):
    """A step that drops a document because of other documents."""

    @property
    def signature_size(self) -> int:
        """Return the number of bytes of each signature."""
        raise NotImplementedError

    def signatures(self, texts: Sequence[str]) -> bytes:
        """Return the signatures of the texts, one after the other."""
        raise NotImplementedError

    def repeated(self, signatures: Sequence[Path], scratch: Path) -> npt.NDArray[np.int64]:
        """Return the numbers of the documents to drop, in ascending order.

        The files contain the signatures of all documents that no earlier step drops, in the order
        of the documents. `scratch` is an empty folder for temporary files.
        """
        raise NotImplementedError


def check_share(name: str, value: float) -> None:
    """Raise ValueError if `value` is not between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1 ({value}); use e.g. 0.5")


def check_at_least(name: str, value: float, least: float, example: float) -> None:
    """Raise ValueError if `value` is below `least`."""
    if not value >= least:
        raise ValueError(f"{name} must be at least {least} ({value}); use e.g. {example}")


def check_order(name: str, least: float, most: float) -> None:
    """Raise ValueError if the setting min_`name` is above max_`name`."""
    step, _, what = name.partition(".")
    if not least <= most:
        raise ValueError(
            f"{step}.min_{what} must be at most {step}.max_{what} ({least} and {most}); "
            "exchange them"
        )
