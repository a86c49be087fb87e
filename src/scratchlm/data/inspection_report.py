"""Describe an inspection as lines for a terminal, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

from scratchlm.data.inspection import Inspection
from scratchlm.data.reading.settings import Reading
from scratchlm.tokenizer.inspection import CONTROLS, printable

_MOST = 40  # fields or special tokens in a report
_LONGEST = 40  # characters of a field in a report


def as_json(found: Inspection) -> str:
    """Return the inspection as one JSON object."""
    samples = [{"place": place, "text": text} for place, text in found.samples]
    return json.dumps(vars(found) | {"samples": samples}, ensure_ascii=False, indent=2)


def report(found: Inspection, reading: Reading) -> str:
    """Return the inspection as lines, without the control characters of names and texts. `reading`
    is how the files were read."""
    lines = (*_records(found, reading), *_texts(found))
    return "\n".join(printable(line, CONTROLS) for line in lines)


def _records(found: Inspection, reading: Reading) -> Iterator[str]:
    for name, files in found.files.items():
        yield f"{name}: {_counted(files, 'file')}, {_counted(found.file_bytes[name], 'byte')}"
    if {"text", "text .gz", "text .zst"} & found.files.keys():
        yield f"{reading.boundary!r} separates the documents of plain texts (see --separator)"
    yield (
        f"{_counted(found.records, 'record')}: {_counted(found.documents, 'document')}, "
        f"{found.empty:,} empty, "
        f"{found.without_text:,} without a text in {reading.field!r}, {found.bad:,} bad"
    )
    yield from (f"  {reason}" for reason in (*found.why_without, *found.why_bad))
    if found.fields:
        yield "fields, for --field:"
    width = min(max(map(len, found.fields), default=0), _LONGEST)
    for name, types in list(found.fields.items())[:_MOST]:
        told = ", ".join(f"{kind} {count:,}" for kind, count in types.most_common())
        name = printable(name)
        if len(name) > _LONGEST:
            name = f"{name[: _LONGEST - 1]}…"
        yield f"  {name:<{width}}  {told}"
    if len(found.fields) > _MOST:
        more = " or more" * found.more_fields
        yield f"  {len(found.fields) - _MOST:,}{more} other fields, which --json prints"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _texts(found: Inspection) -> Iterator[str]:
    if found.documents:
        yield (
            f"text: {found.text_bytes:,} bytes, {found.text_bytes // found.documents:,} in a "
            f"document, {found.longest:,} in the longest"
        )
    letters = found.scripts.total()
    if letters:
        shares = (
            f"{name} {100 * count / letters:.3g}%" for name, count in found.scripts.most_common()
        )
        yield f"scripts of letters: {', '.join(shares)}"
    if found.special_tokens:
        yield "special tokens in the texts, which stay text:"
    for special, count in found.special_tokens.most_common(_MOST):
        yield f"  {special}  {count:,} in {_counted(found.documents_with[special], 'document')}"
    for place, text in found.samples:
        yield f"sample {printable(place)}: {json.dumps(text, ensure_ascii=False)}"
