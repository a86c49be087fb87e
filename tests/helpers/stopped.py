"""Stop a run at a chosen moment, as a kill does: nothing runs after it but what could not harm."""

from __future__ import annotations

from pathlib import Path

import pytest


class Stopped(BaseException):
    pass


def stop_before(monkeypatch: pytest.MonkeyPatch, target: str, name: str, count: int) -> None:
    """The `count`-th call of the method `target` of `Path` (such as replace, unlink) to a path that
    ends in `name` raises Stopped."""
    original = getattr(Path, target)
    calls = 0

    def stopped(self: Path, *rest: object, **options: object) -> object:
        nonlocal calls
        at = Path(str(rest[0])).name if rest else self.name
        calls += at.endswith(name)
        if at.endswith(name) and calls == count:
            raise Stopped
        return original(self, *rest, **options)

    monkeypatch.setattr(Path, target, stopped)
