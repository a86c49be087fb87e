"""Read the rows of a Parquet file."""

from __future__ import annotations

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scratchlm.data.extra import extra
from scratchlm.data.reading.fields import text_in
from scratchlm.data.reading.record import Record
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import Reading
from scratchlm.data.reading.unpacked import READ_BYTES, Progress
from scratchlm.errors import FileFormatError

ROWS = 64  # rows in memory at a time


def parquet_rows(
    path: Path, reading: Reading, rejects: Rejects, progress: Progress, *, whole: bool
) -> Iterator[Record]:
    """Yield the record of each row. With `whole`, `value` has all columns, else only the text's."""
    row = 0
    for batch in _batches(path, reading, progress, whole=whole):
        for value in _values(batch, reading):
            place = f"{path}, row {row}"
            rejects.records += 1
            try:
                if isinstance(value, bytes):
                    raise ValueError(f"the text is not UTF-8 ({place}); save the column as UTF-8")
                text = text_in(value, reading, "a row", place)
            except ValueError as error:
                if not isinstance(value, bytes):
                    value = json.dumps(value, default=str).encode()
                rejects.add(error, path, row, value)
            else:
                yield Record(text, path, row, len(text.encode()), value, unit="row")
            row += 1


def _batches(path: Path, reading: Reading, progress: Progress, *, whole: bool) -> Iterator[Any]:
    parquet = extra("pyarrow.parquet", path)
    arrow = extra("pyarrow", path)
    size, row = path.stat().st_size, 0
    # With a buffer, pyarrow reads a column page by page instead of a whole row group at once.
    open_file = functools.partial(parquet.ParquetFile, buffer_size=READ_BYTES, pre_buffer=False)
    with _damage(path), open_file(path) as file:
        rows = max(file.metadata.num_rows, 1)
        _check_field(path, file.schema_arrow, reading)
        as_json = _with_json_types(path, file.schema_arrow, arrow, reading) if whole else None
        columns = None if whole else [".".join(reading.keys)]
        for batch in file.iter_batches(ROWS, columns=columns, use_threads=False):
            yield batch.cast(as_json) if as_json else batch.select(reading.keys[:1])
            row += len(batch)
            progress(size * row // rows - size * (row - len(batch)) // rows)


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Raise FileFormatError instead of the errors of pyarrow for a damaged file."""
    arrow = extra("pyarrow", path)
    try:
        yield
    except (arrow.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise FileFormatError(
            f"the Parquet file is damaged ({path}: {error}); copy the file again from the source"
        ) from None


def column_types(path: Path) -> tuple[dict[tuple[str, ...], str], int]:
    """Return the type of each column, by its keys, and the number of rows. A structure is several
    columns."""
    parquet = extra("pyarrow.parquet", path)
    with _damage(path), parquet.ParquetFile(path) as file:
        _check_names(path, list(file.schema_arrow))
        types: dict[tuple[str, ...], str] = {}
        todo: list[tuple[tuple[str, ...], Any]]
        todo = [((field.name,), field.type) for field in file.schema_arrow]
        while todo:
            keys, kind = todo.pop(0)
            if children := _children(kind):
                todo[:0] = [((*keys, child.name), child.type) for child in children]
            else:
                types[keys] = str(kind)
        return types, file.metadata.num_rows


def _check_field(path: Path, schema: Any, reading: Reading) -> None:
    """Raise ValueError if the schema has no field for the text, or two fields of one name."""
    _check_names(path, list(schema))
    types, within = {field.name: field.type for field in schema}, ""
    for key in reading.keys:
        if key not in types:
            has = ", ".join(list(types)[:8]) or "nothing"
            raise ValueError(
                f"there is no column {reading.field!r} ({path}{within} has {has}); choose a column "
                "with --field"
            )
        types = {child.name: child.type for child in _children(types[key])}
        within = f": {key!r}"


def _check_names(path: Path, fields: list[Any]) -> None:
    """Raise ValueError if two columns, or two fields of a structure, have the same name. A row is a
    dict, and would lose one of their values."""
    for name, count in Counter(field.name for field in fields).items():
        if count > 1:
            raise ValueError(
                f"two columns must not have the same name ({path}: {name!r}); rename one of the "
                "columns"
            )
    for field in fields:
        if hasattr(field.type, "num_fields"):  # a structure or a list
            _check_names(path, [field.type.field(i) for i in range(field.type.num_fields)])


def _children(kind: Any) -> list[Any]:
    """Return the fields of a structure, or nothing."""
    is_structure = type(kind).__name__ == "StructType"
    return [kind.field(i) for i in range(kind.num_fields)] if is_structure else []


def _with_json_types(path: Path, schema: Any, arrow: Any, reading: Reading) -> Any:
    """Return a schema whose values JSON can store: dates, times and decimals become strings."""
    types, fields = arrow.types, []
    for field in schema:
        kind = field.type
        if types.is_temporal(kind) or types.is_decimal(kind):
            field = field.with_type(arrow.string())
        elif not _is_json(kind, types):
            raise ValueError(
                f"column {field.name!r} must have values that JSON can store ({path}: {kind}); "
                + ("save" if field.name in reading.keys[:1] else "remove or save")
                + " the column as strings"
            )
        fields.append(field)
    return arrow.schema(fields)


def _is_json(kind: Any, types: Any) -> bool:
    if types.is_nested(kind):
        return all(_is_json(kind.field(i).type, types) for i in range(kind.num_fields))
    if types.is_dictionary(kind):
        return _is_json(kind.value_type, types)
    return any(
        check(kind)
        for check in (types.is_null, types.is_boolean, types.is_integer, types.is_floating,
                      types.is_string, types.is_large_string, types.is_string_view)
    )  # fmt: skip


def _values(batch: Any, reading: Reading) -> list[dict[str, Any] | bytes]:
    """Return the rows of a batch. Return only the text's bytes for a row that is not UTF-8."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if len(batch) > 1:
            return [_values(batch.slice(row, 1), reading)[0] for row in range(len(batch))]
        first, *inside = reading.keys or batch.schema.names[:1]
        found = batch.column(first)[0]
        for key in inside:
            found = found[key]
        return [found.as_buffer().to_pybytes() if hasattr(found, "as_buffer") else b""]
