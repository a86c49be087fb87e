"""Count every document and every byte, and check that none is lost.

    documents and bytes in = kept + dropped by each step + rejected

The left side comes from the reader, and the right side from the workers. The bytes of a document
are those of its record in the input (`Record.num_bytes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scratchlm.errors import FileFormatError

Tally = Counter[tuple[str, ...]]  # {("dropped", step, reason, "documents"): count}

EMPTY = "empty"  # the name of the rule that drops texts without a character


def add(tally: Tally, *key: str, num_bytes: int) -> None:
    """Count one document of `num_bytes` bytes."""
    tally[(*key, "documents")] += 1
    tally[(*key, "bytes")] += num_bytes


def tally_to_json(tally: Tally) -> list[list[Any]]:
    return [[*key, number] for key, number in sorted(tally.items())]


def tally_from_json(rows: list[list[Any]]) -> Tally:
    return Counter({tuple(key): number for *key, number in rows})


@dataclass(frozen=True)
class Amount:
    """Numbers of documents and of their bytes in the input."""

    documents: int = 0
    bytes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.documents + other.documents, self.bytes + other.bytes)


@dataclass(frozen=True)
class StepAccount:
    """What a step did. `reasons` counts the documents that it dropped.

    `changed`: the kept documents that an edit changed, and by how many bytes their texts grew.
    """

    name: str
    dropped: Amount
    reasons: dict[str, Amount] = field(default_factory=dict)
    changed: Amount = Amount()


@dataclass(frozen=True)
class Accounting:
    """The account of a finished run. `text_bytes`: the bytes of the texts that were written."""

    read: Amount
    kept: Amount
    rejected: Amount
    steps: list[StepAccount]
    text_bytes: int

    @classmethod
    def of(cls, tally: Tally, names: Sequence[str], read: Amount, rejected: Amount) -> Accounting:
        """Build the account from the tally of all workers. Check both equations.

        Raise FileFormatError if an equation is false: the output is then not reliable.
        """

        def amount(*key: str) -> Amount:
            return Amount(tally[(*key, "documents")], tally[(*key, "bytes")])

        reasons: dict[str, dict[str, Amount]] = {name: {} for name in (EMPTY, *names)}
        for kind, *rest in sorted(tally):
            if kind == "dropped":
                name, reason, _ = rest
                reasons[name][reason] = amount(kind, name, reason)
        steps = [
            StepAccount(name, sum(found.values(), Amount()), found, amount("changed", name))
            for name, found in reasons.items()
        ]
        account = cls(read, amount("kept"), rejected, steps, tally[("text", "after")])
        parts = sum((step.dropped for step in steps), account.kept + rejected)
        _check_equal("documents or their bytes", read, parts)
        changes = sum(step.changed.bytes for step in steps)
        _check_equal("bytes of text", tally[("text", "before")] + changes, account.text_bytes)
        return account

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Accounting:
        """Return the account that `to_json` turned into `content`."""

        def amount(value: dict[str, int]) -> Amount:
            return Amount(**value)

        steps = [
            StepAccount(
                step["name"],
                amount(step["dropped"]),
                {reason: amount(value) for reason, value in step["reasons"].items()},
                amount(step["changed"]),
            )
            for step in content["steps"]
        ]
        whole = {name: amount(content[name]) for name in ("read", "kept", "rejected")}
        return cls(**whole, steps=steps, text_bytes=content["text_bytes"])

    def to_json(self) -> dict[str, Any]:
        """Return the account as dicts, lists, strings and numbers."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Yield the equations as lines of text."""
        dropped = [step for step in self.steps if step.dropped.documents]
        for unit in ("documents", "bytes"):
            parts = [f"{getattr(self.kept, unit):,} kept"]
            parts += [f"{getattr(step.dropped, unit):,} dropped by {step.name}" for step in dropped]
            parts.append(f"{getattr(self.rejected, unit):,} rejected")
            yield f"{unit}: {getattr(self.read, unit):,} in = {' + '.join(parts)}"
        for step in dropped:
            if list(step.reasons) != [step.name]:
                told = ", ".join(f"{n.documents:,} {why}" for why, n in step.reasons.items())
                yield f"{step.name}: {told}"
        for step in self.steps:
            if step.changed.documents:
                many = "s" * (step.changed.documents != 1)
                yield (
                    f"{step.name} changed {step.changed.documents:,} kept document{many} "
                    f"({step.changed.bytes:+,} bytes)"
                )
        if dropped and not self.kept.documents:
            most = max(dropped, key=lambda step: step.dropped.documents)
            yield f"warning: no document remains; check the settings of {most.name}"


def _check_equal(what: str, before: object, after: object) -> None:
    if before != after:
        raise FileFormatError(
            f"{what} are lost or counted twice ({before} in, {after} out); remove the output, and "
            "report this fault of scratchlm"
        )
