"""A file that is not yet complete: the bytes that are there, and a record of where they come from.

Beside `NAME`, the part is `.NAME.part` and the record is `.NAME.source.json`. The record says how
many bytes of the part are on the disk for certain, and only these count after a kill or a power
cut. It stays when the file is complete, and shows that this program downloaded the file.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from scratchlm.files.atomic import naming, sync, sync_directory, write_file
from scratchlm.files.strict_json import parse_json


class RemoteFile(NamedTuple):
    """A file at a URL, and its path here. `size` and `sha256` are None if nobody knows them.

    A mirror contains the files of other servers at the same paths: with the mirror
    `https://mirror.org/hf`, `https://huggingface.co/a/b` is at `https://mirror.org/hf/a/b`.
    """

    url: str
    path: Path
    size: int | None = None
    sha256: str | None = None
    mirror: str | None = None

    @property
    def address(self) -> str:
        """Return the URL that the program asks."""
        if self.mirror is None:
            return self.url
        parts = urlsplit(self.url)
        return self.mirror.rstrip("/") + parts.path + (f"?{parts.query}" if parts.query else "")


@dataclass
class Record:
    """Describe the file that the part belongs to. `done` bytes of the part are on the disk."""

    url: str
    mirror: str | None
    etag: str | None = None
    modified: str | None = None
    size: int | None = None
    sha256: str | None = None
    done: int = 0

    @property
    def version(self) -> str | None:
        """Return what a server needs for `If-Range`. A weak ETag is not enough."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.modified


def hidden(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{ending}")


def read_record(path: Path) -> Record | None:
    """Return the record beside the file `path`. Return None if there is none, or a damaged one."""
    with suppress(OSError, ValueError, TypeError):
        record = Record(**parse_json(hidden(path, "source.json").read_bytes()))
        texts = (record.mirror, record.etag, record.modified, record.sha256)
        right = all(isinstance(each, str | None) for each in texts)
        right = right and isinstance(record.size, int | None) and record.done >= 0
        return record if right else None
    return None


class Part:
    """The open part of `file`. Leaving the block keeps all bytes for the next start."""

    def __init__(self, file: RemoteFile, sync_bytes: int) -> None:
        self.file, self.path, self._sync_bytes = file, hidden(file.path, "part"), sync_bytes
        self._opened: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115 (closed in __exit__)
        self.record = read_record(file.path) or self._new_record()
        self.size = self.record.done
        self._on_disk: Record | None = None
        if (self.record.url, self.record.mirror) != (file.url, file.mirror) or (
            self.size > os.fstat(self._opened.fileno()).st_size
        ):
            self.clear()
        self._opened.truncate(self.size)
        self.is_mixed = self.size > 0  # bytes of several answers

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._opened.closed:  # the part is finished
            return
        if self.size:
            self.sync()
        self._opened.close()
        if not self.size:
            for path in (self.path, hidden(self.file.path, "source.json")):
                path.unlink(missing_ok=True)

    def _new_record(self) -> Record:
        return Record(self.file.url, self.file.mirror)

    def clear(self) -> None:
        """Remove all bytes, and forget which version of the file they belong to."""
        self._opened.truncate(0)
        self.record, self.size, self.is_mixed = self._new_record(), 0, False

    def range_headers(self) -> dict[str, str]:
        """Return the headers of a request for the missing bytes.

        Without a version and a SHA-256, nothing would show that the rest is of another file, so
        remove all bytes.
        """
        version, sha256 = self.record.version, self.file.sha256 or self.record.sha256
        if self.size and not (version or sha256):
            self.clear()
        if not self.size:
            return {}
        return {"Range": f"bytes={self.size}-"} | ({"If-Range": version} if version else {})

    def continues(
        self, total: int, sha256: str | None, etag: str | None, modified: str | None
    ) -> bool:
        """Return whether a range is of the part's version of the file."""
        record = self.record
        if not self.size:
            return True
        if record.etag is not None:
            same = etag == record.etag
        else:
            same = record.modified is None or modified == record.modified
        same = same and sha256 in (None, record.sha256 or sha256)
        return same and record.size in (None, total)

    def begin(
        self, size: int | None, sha256: str | None, etag: str | None, modified: str | None
    ) -> None:
        """Record what the head of an answer says. Raise OSError if the disk is too small."""
        record = self.record
        self.is_mixed = self.size > 0
        if not self.is_mixed:
            record.etag, record.modified, record.sha256 = etag, modified, sha256
        record.size = record.size if size is None else size
        missing = (record.size or 0) - self.size
        if missing > shutil.disk_usage(self.path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file.path))
        self.sync()

    def append(self, data: bytes) -> None:
        with naming(self.file.path):
            self._opened.write(data)
        self.size += len(data)
        if self.size - self.record.done >= self._sync_bytes:
            self.sync()

    def sync(self) -> None:
        """Wait until the bytes are on the disk, and then record how many there are."""
        if self.record == self._on_disk and self.record.done == self.size:
            return
        with naming(self.file.path):
            sync(self._opened)
            self.record.done = self.size
            content = json.dumps(asdict(self.record), indent=2) + "\n"
            write_file(hidden(self.file.path, "source.json"), content.encode())
        self._on_disk = replace(self.record)

    def finish(self) -> None:
        """Give the complete part its name."""
        self.sync()
        self._opened.close()
        self.path.replace(self.file.path)
        sync_directory(self.path.parent)
