"""Read the texts in a column of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scratchlm.data.extra import extra
from scratchlm.data.reading.unpacked import READ_BYTES, Progress
from scratchlm.errors import FileFormatError

ROWS = 64  # rows in memory at a time


def parquet_rows(path: Path, field: str, progress: Progress) -> Iterator[str]:
    parquet = extra("pyarrow.parquet", path)
    arrow = extra("pyarrow", path)
    size, row = path.stat().st_size, 0
    try:
        # With a buffer, pyarrow reads a column page by page instead of a whole row group at once.
        with parquet.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False) as file:
            columns, rows = file.schema_arrow.names, max(file.metadata.num_rows, 1)
            if field not in columns:
                names = ", ".join(columns[:8])
                raise ValueError(
                    f"there is no column {field!r} ({path} has {names}); choose a column with "
                    "--field"
                )
            for batch in file.iter_batches(ROWS, columns=[field], use_threads=False):
                for text in batch.column(0).to_pylist():
                    if not isinstance(text, str):
                        raise ValueError(
                            f"column {field!r} must contain only strings ({path}, row {row}: "
                            f"{type(text).__name__}); choose another column with --field"
                        )
                    row += 1
                    yield text
                progress(size * row // rows - size * (row - len(batch)) // rows)
    except UnicodeDecodeError:
        raise ValueError(
            f"a text is not UTF-8 ({path}: row {row} or later); save the column as UTF-8"
        ) from None
    except (arrow.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise FileFormatError(
            f"the Parquet file is damaged ({path}: {error}); copy the file again from the source"
        ) from None
