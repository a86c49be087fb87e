"""The table of steps, and the TOML file that lists the steps of a run.

[[step]]
kind = "length"
min_chars = 100
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from typing import Any

from scratchlm.config import build, keys, read_toml
from scratchlm.data.cleaning.edits import AddSuffix, Nfc, Separator, StripReturns
from scratchlm.data.cleaning.filters import Length, Ratio, Sample, Script
from scratchlm.data.cleaning.fineweb import FineWebQuality
from scratchlm.data.cleaning.gopher import GopherQuality, Repetition
from scratchlm.data.cleaning.step import Step
from scratchlm.data.deduplication.steps import DropOverlap, Exact, MinHash
from scratchlm.files.paths import StrPath

KINDS: dict[str, type[Step]] = {
    step.kind: step
    for step in (
        StripReturns, Nfc, AddSuffix, Separator, Length, Ratio, Repetition, GopherQuality,
        FineWebQuality, Script, Sample, Exact, MinHash, DropOverlap,
    )
}  # fmt: skip


def read_steps(path: StrPath) -> list[Step]:
    """Return the steps of a TOML file. Raise ValueError for an unknown kind, key or value."""
    tree = read_toml(path, lists=("step",))
    if tree.keys() - {"step"}:
        other = next(key for key in tree if key != "step")
        raise ValueError(
            f"a config of steps must contain only [[step]] tables ({path}: [{other}]); write "
            "each step as [[step]]"
        )
    if not tree.get("step"):
        raise ValueError(
            f"a config of steps must contain a [[step]] table ({path}); write [[step]] and a kind"
        )
    steps = []
    for number, table in enumerate(tree["step"], 1):
        try:
            steps.append(_step(dict(table)))
        except ValueError as error:
            raise ValueError(f"{path}, step {number}: {error}") from None
    return steps


def _step(table: dict[str, Any]) -> Step:
    kind = table.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        close = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        what = "a step has no kind" if kind is None else f"unknown kind of step ({kind})"
        raise ValueError(f"{what}; {hint}valid kinds: {', '.join(KINDS)}")
    for key in keys(KINDS[kind]):
        value = table.get(key.name)
        if key.type in (int, float) and isinstance(value, str):  # `build` reads the text of a flag
            raise ValueError(
                f"{kind}.{key.name} must be a number ({value!r}); write a number without quotes"
            )
    return build(KINDS[kind], table, f"{kind}.")


def names_of(steps: Sequence[Step]) -> list[str]:
    """Return a different name for each step, such as "length (step 2)"."""
    return [f"{step.kind} (step {number})" for number, step in enumerate(steps, 1)]


def described(step: Step) -> dict[str, Any]:
    """Return the kind and the settings of a step as JSON values."""
    settings = dataclasses.asdict(step)  # type: ignore[call-overload]
    return json.loads(json.dumps({"kind": step.kind} | settings))
