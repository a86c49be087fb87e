"""Plant a fault: import one module of the library with a line changed. No file on disk changes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import NamedTuple

from scratchlm.lessons.lesson import Cell, literal, run, shown


class Fault(NamedTuple):
    """In the source of `module`, `old`, which is there once, becomes `new`."""

    module: str
    old: str
    new: str

    def plant(self) -> None:
        """Change the module for this process. Raise RuntimeError if it is imported already."""
        if self.module in sys.modules:
            raise RuntimeError(f"{self.module} is imported already; plant the fault earlier")
        sys.meta_path.insert(0, _Finder(self))


def hunt(cells: Sequence[Cell], number: int) -> None:
    """Plant fault `number`, from 1, and run the lesson's code: the last number printed is wrong.

    Raise LessonError there. Return if the lesson misses the fault.
    """
    planted = [Fault(*fault) for fault in literal(cells, "FAULTS")]
    if not 1 <= number <= len(planted):
        raise ValueError(f"the lesson has no such fault ({number}); choose 1 to {len(planted)}")
    fault = planted[number - 1]
    print(f"{fault.module}\n- {fault.old}\n+ {fault.new}\n")
    fault.plant()
    run(shown(cells, "en"))


class _Finder(MetaPathFinder):
    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.fault.module:
            return None
        spec = PathFinder.find_spec(name, path)
        if not (spec and spec.loader and spec.origin):
            return None
        source = spec.loader.get_source(name)  # type: ignore[attr-defined]
        if source.count(self.fault.old) != 1:
            raise ImportError(f"{name} must hold the line to break once ({self.fault.old!r})")
        code = compile(source.replace(*self.fault[1:]), spec.origin, "exec")
        spec.loader.get_code = lambda _: code  # type: ignore[attr-defined]
        return spec
