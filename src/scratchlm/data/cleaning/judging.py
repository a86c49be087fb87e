"""Run the steps on the documents of an item. Worker processes call a `Pass`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from scratchlm.data.cleaning.accounting import EMPTY, Tally, add
from scratchlm.data.cleaning.step import Comparison, Edit, Filter, Step
from scratchlm.data.reading.fields import with_text
from scratchlm.data.reading.json_values import parse
from scratchlm.data.reading.record import Record
from scratchlm.data.reading.settings import Reading

# What a run knows of a document: one byte in the files of verdicts.
ALIVE, DROPPED, REPEATED = 0, 1, 2  # REPEATED: a comparison dropped it, but no tally counts it yet


class Item(NamedTuple):
    """Some documents in a row. `verdicts` has one byte for each document, and `records` has only
    the documents that are alive. `tally` counts the documents that are REPEATED."""

    records: list[Record]
    verdicts: bytes
    tally: Tally
    num_bytes: int


class Judged(NamedTuple):
    """`data`: the lines to write, or the signatures of the documents that are still alive."""

    data: bytes
    verdicts: bytes
    tally: Tally
    num_bytes: int


@dataclass(frozen=True)
class Pass:
    """One pass over all documents. It ends with `comparison`, or with the output if that is None.

    The pass runs all edits of `steps`. It runs only the filters from number `first_filter` on,
    because the documents that are alive passed the filters before.
    """

    steps: Sequence[tuple[str, Step]]  # names and steps
    first_filter: int
    comparison: Comparison | None
    reading: Reading

    @property
    def repeated_by(self) -> str:
        """Return the name of the comparison that ended the pass before."""
        return self.steps[self.first_filter - 1][0]

    def __call__(self, item: Item) -> Judged:
        """Judge the documents of an item."""
        tally, verdicts = item.tally.copy(), bytearray(item.verdicts)
        alive = [index for index, verdict in enumerate(verdicts) if verdict == ALIVE]
        texts, lines = [], []
        for index, record in zip(alive, item.records, strict=True):
            text = self._judge(record, tally)
            if text is None:
                verdicts[index] = DROPPED
            elif self.comparison is None:
                lines.append(_line(record, text, self.reading))
            else:
                texts.append(text)
        data = b"".join(lines) if self.comparison is None else self.comparison.signatures(texts)
        return Judged(data, bytes(verdicts), tally, item.num_bytes)

    def _judge(self, record: Record, tally: Tally) -> str | None:
        """Return the cleaned text, or None if a step drops the document."""
        text, changes = record.text, []
        for number, (name, step) in enumerate(self.steps):
            if not text:
                break
            if isinstance(step, Edit):
                before, text = text, step.edit(text)
                if before != text:
                    changes.append((name, len(text.encode()) - len(before.encode())))
            elif isinstance(step, Filter) and number >= self.first_filter:
                reason = step.reason(text)
                if reason is not None:
                    add(tally, "dropped", name, reason, num_bytes=record.num_bytes)
                    return None
        if not text:
            add(tally, "dropped", EMPTY, EMPTY, num_bytes=record.num_bytes)
            return None
        if self.comparison is None:
            add(tally, "kept", num_bytes=record.num_bytes)
            for name, num_bytes in changes:
                add(tally, "changed", name, num_bytes=num_bytes)
            tally[("text", "before")] += len(record.text.encode())
            tally[("text", "after")] += len(text.encode())
        return text


def _line(record: Record, text: str, reading: Reading) -> bytes:
    """Return the record with its new text as a line of JSON. If the text did not change, this is
    the line of the input, so numbers and escapes stay as they were."""
    value, raw = record.value, record.raw
    if raw is not None:
        is_object, is_joined = raw.lstrip().startswith(b"{"), reading.join is not None
        has_nan = b"NaN" in raw or b"Infinity" in raw  # JSON does not have these numbers
        if text == record.text and is_object and not is_joined and not has_nan:
            return bytes(raw.strip()) + b"\n"
        value = parse(raw.decode())
    value = with_text(value, text, reading)
    try:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        value = _finite(value)
        line = json.dumps(value, ensure_ascii=False)
    try:
        return line.encode() + b"\n"
    except UnicodeEncodeError:  # another field has half of a surrogate pair, which JSON escapes
        return json.dumps(value).encode() + b"\n"


def _finite(value: Any) -> Any:
    """Return the value with null instead of NaN and of infinite numbers, which JSON does not have.

    Python writes these numbers, and most other programs cannot read them.
    """
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
