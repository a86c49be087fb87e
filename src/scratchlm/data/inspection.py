"""Look at files of text: their formats, records, fields, scripts and special tokens."""

from __future__ import annotations

import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import regex
from tqdm import tqdm

from scratchlm.data.reading.json_values import parse
from scratchlm.data.reading.parquet import column_types
from scratchlm.data.reading.plain_text import documents
from scratchlm.data.reading.record import pieces, place
from scratchlm.data.reading.records import records_of
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import Reading, field_of
from scratchlm.data.reading.unpacked import check_kind
from scratchlm.data.scripts import count_scripts
from scratchlm.data.sources import find_files, format_of, num_bytes
from scratchlm.files.paths import StrPath

SPECIAL = regex.compile(
    r"<\|[\w.:/-]{1,40}\|>|<\uff5c[\w\u2581.:/-]{1,40}\uff5c>|</?s>|<(?:pad|unk|bos|eos|mask)>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
)
_LONGEST = 44  # characters of a special token
_FIELDS = 200  # different fields that are counted
_SHOWN = 300  # characters of a sample
_REASONS = 3  # reasons of bad records that are kept
_TYPES = (
    (str, "string"), (bool, "boolean"), (int, "number"), (float, "number"), (list, "list"),
    (dict, "object"),
)  # fmt: skip


@dataclass
class Inspection:
    """Store what `inspect` found.

    The sum of `documents`, `empty`, `without_text` and `bad` is `records`. `fields` counts the
    types of each field.
    """

    files: Counter[str] = field(default_factory=Counter)  # of each format
    file_bytes: Counter[str] = field(default_factory=Counter)  # of each format
    records: int = 0
    documents: int = 0
    empty: int = 0
    without_text: int = 0
    bad: int = 0
    why_without: list[str] = field(default_factory=list)  # the reason of the first record
    why_bad: list[str] = field(default_factory=list)  # the reasons of the first records
    text_bytes: int = 0
    longest: int = 0  # bytes of the longest document
    fields: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    more_fields: bool = False  # whether some objects have other fields too
    scripts: Counter[str] = field(default_factory=Counter)  # letters
    special_tokens: Counter[str] = field(default_factory=Counter)
    documents_with: Counter[str] = field(default_factory=Counter)  # a special token
    samples: list[tuple[str, str]] = field(default_factory=list)  # (place, start of the text)


def inspect(
    paths: StrPath | Sequence[StrPath], reading: Reading, num_samples: int = 3
) -> Inspection:
    """Read all files, and return what they contain. The samples are the same in each run.

    A record without a text and a bad record are no errors. Raise the errors of `read_records` for a
    whole file.
    """
    if num_samples < 0:
        raise ValueError(f"sample must be at least 0 ({num_samples}); use 0 for no sample")
    files = find_files(paths)
    found = Inspection()
    texts = _Texts(found, num_samples)
    with tqdm(total=num_bytes(files), unit="B", unit_scale=True, disable=None) as bar:
        for path in files:
            kind, packed = format_of(path)
            name = f"{kind} {packed}".strip()
            found.files[name] += 1
            found.file_bytes[name] += path.stat().st_size
            if kind == "text":
                for text, last in documents(path, reading.boundary, bar.update):
                    texts.add(text, str(path), last=last)
            else:
                _read_records(path, reading, found, texts, bar.update)
    found.records = found.documents + found.empty + found.without_text + found.bad
    return found


def _read_records(
    path: Path,
    reading: Reading,
    found: Inspection,
    texts: _Texts,
    progress: Callable[[int], object],
) -> None:
    if format_of(path).kind == "parquet":
        check_kind(path, "a Parquet file")
        types, rows = column_types(path)
        for keys, kind in types.items():
            found.fields[field_of(keys)][kind] += rows
        if not any(keys[: len(reading.keys)] == reading.keys for keys in types):
            found.without_text += rows
            progress(path.stat().st_size)
            return
    for record in records_of(path, reading, _Noted(found), progress, whole=False):
        if format_of(path).kind != "parquet":
            _count_fields(record.value, found)
        before = found.documents
        for text, last in pieces(record):
            texts.add(text, place(record), last=last)
        found.empty += found.documents == before


class _Noted(Rejects):
    """Note bad records instead of raising an error."""

    def __init__(self, found: Inspection) -> None:
        super().__init__()
        self._found = found

    def add(self, error: ValueError, path: Path, line: int, data: bytes) -> None:
        value = None
        with contextlib.suppress(ValueError, RecursionError):
            value = parse(data.decode())
        if isinstance(value, dict):
            self._found.without_text += 1
            self._found.why_without += [str(error)] * (self._found.without_text == 1)
            if format_of(path).kind != "parquet":
                _count_fields(value, self._found)
        else:
            self._found.bad += 1
            self._found.why_bad += [str(error)] * (self._found.bad <= _REASONS)


def _count_fields(value: Any, found: Inspection) -> None:
    """Count the type of each field of an object. A nested object counts by its own fields."""
    for keys, leaf in _leaves(value, ()):
        name = field_of(keys) if keys else "(a string alone)"
        if name not in found.fields and len(found.fields) == _FIELDS:
            found.more_fields = True
        else:
            found.fields[name][_type_of(leaf)] += 1


def _type_of(value: Any) -> str:
    for kind, name in _TYPES:
        if isinstance(value, kind):
            return name
    return "null"


def _leaves(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(value, dict) or not value:
        yield keys, value
        return
    for key, child in value.items():
        yield from _leaves(child, (*keys, key))


class _Texts:
    """Count what is in the texts, which may arrive in parts."""

    def __init__(self, found: Inspection, num_samples: int) -> None:
        self._found, self._num_samples = found, num_samples
        self._random = random.Random(0)
        self._size, self._start, self._tail = 0, "", ""
        self._specials: set[str] = set()

    def add(self, text: str, place: str, *, last: bool) -> None:
        """Count a part of a document."""
        found, size = self._found, len(text.encode())
        self._size += size
        found.text_bytes += size
        found.scripts.update(count_scripts(text))
        if len(self._start) < _SHOWN:
            self._start += text[:_SHOWN]
        window = self._tail + text
        for match in SPECIAL.finditer(window):
            if match.end() > len(self._tail):  # the rest was found in the part before
                found.special_tokens[match.group()] += 1
                self._specials.add(match.group())
        self._tail = window[-_LONGEST:]
        if last and self._size:
            self._end(place)
        if last:
            self._size, self._start, self._tail = 0, "", ""

    def _end(self, place: str) -> None:
        found = self._found
        found.documents += 1
        found.longest = max(found.longest, self._size)
        found.documents_with.update(self._specials)
        self._specials.clear()
        # Each document has the same chance (algorithm R, Vitter 1985).
        index = found.documents - 1
        if index >= self._num_samples:
            index = self._random.randrange(found.documents)
        if index < self._num_samples:
            found.samples[index : index + 1] = [(place, self._start[:_SHOWN])]
