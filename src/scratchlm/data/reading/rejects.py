"""Keep bad records aside: count them, and write them to a file with their place and reason."""

from __future__ import annotations

import base64
import contextlib
import json
from pathlib import Path
from types import TracebackType
from typing import IO

from scratchlm.files.atomic import replacing_file
from scratchlm.files.paths import StrPath


class Rejects:
    """Count the records of a reading, and keep up to `max_bad` bad records aside.

    As a context manager, it writes the bad records to the file `path`, in order, one JSON object a
    line: `path`, `line`, `reason`, and `bytes` in base64. The file gets its name only if the block
    ends without an error. A block that reads no record does not change the file. `flags` are the
    flags of the command that allow bad records.
    """

    def __init__(
        self,
        path: StrPath | None = None,
        max_bad: int = 0,
        flags: str = "--max_bad N --rejects FILE.jsonl",
    ) -> None:
        if max_bad < 0:
            raise ValueError(f"max_bad must be at least 0 ({max_bad}); use 0 for no bad record")
        if max_bad and path is None:
            raise ValueError(
                f"rejected records need a file (max_bad {max_bad}); add --rejects FILE.jsonl"
            )
        self.path, self.max_bad = None if path is None else Path(path), max_bad
        self.flags = flags
        self.records = 0  # all records that were read
        self.empty = 0  # records with an empty text, which `read_documents` drops
        self.text_bytes = 0  # of the texts that `read_documents` yields
        self.count = self.num_bytes = 0  # rejected records, and their bytes
        self._has_begun = False  # a `with` block: its command has the flags for bad records
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Rejects:
        self._has_begun = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None and self.path is not None and self.records:
            self._opened()  # an empty file says that no record is bad
        self._stack.__exit__(kind, error, traceback)

    def _opened(self) -> IO[bytes]:
        assert self.path is not None
        if self._file is None:
            self._file = self._stack.enter_context(replacing_file(self.path))
        return self._file

    def add(self, error: ValueError, path: Path, line: int, data: bytes) -> None:
        """Keep a bad record aside. Raise `error` if there are more than `max_bad` bad records."""
        if self.count >= self.max_bad:
            if self.max_bad:
                error.add_note(f"this is bad record {self.count + 1} (max_bad {self.max_bad})")
            elif self._has_begun:
                error.add_note(f"or accept N bad records with {self.flags}")
            raise error
        self.count += 1
        self.num_bytes += len(data)
        reject = {
            "path": str(path),
            "line": line,
            "reason": str(error),
            "bytes": base64.b64encode(data).decode(),
        }
        self._opened().write(json.dumps(reject).encode() + b"\n")

    def account(self) -> dict[str, int]:
        """Return what became of the records that `read_documents` read."""
        return {
            "records": self.records,
            "empty": self.empty,
            "rejected": self.count,
            "text_bytes": self.text_bytes,
            "rejected_bytes": self.num_bytes,
        }
