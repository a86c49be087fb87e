"""Download a file over HTTP so that the file is complete and right, or does not exist.

Servers drop connections, send error pages, and lie about lengths. So a download continues with
range requests (RFC 9110, section 14). It accepts a range only if the range starts where the part
ends, and only of the same version (ETag or Last-Modified) of the file. All sizes that are known
must be equal: the size in the table, the server's, and Hugging Face's `X-Linked-Size`. The SHA-256
must match if the table or Hugging Face (`X-Linked-ETag`) states it. Then the part gets its name.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from scratchlm.data.download.part import Part, RemoteFile, hidden, read_record
from scratchlm.data.download.request import ELSEWHERE, Again, send_request
from scratchlm.errors import FileFormatError
from scratchlm.files.checksum import sha256_of
from scratchlm.files.file_kinds import HEAD, kind_of
from scratchlm.files.lock import lock_file

_READ = 1 << 16  # bytes in one read
_GAIN = 1 << 16  # an attempt that gains fewer new bytes counts as a failure
_SLOWEST = 100  # bytes per second
_KINDS = {".gz": "gzip data", ".zst": "Zstandard data", ".parquet": "a Parquet file"}

Report = Callable[[int, int | None], object]  # receives the bytes that are there, and the size


@dataclass(frozen=True)
class Patience:
    """Say how long a download tries. All times are in seconds.

    After `tries` failures without progress, the download fails. The first wait is `first_wait`, and
    each next wait is twice as long. A server may ask for at most `longest_wait`. After `silence`
    without bytes, or with hardly any, the program connects again. A kill loses at most `sync_bytes`
    of the bytes that have come.
    """

    tries: int = 5
    first_wait: float = 1.0
    longest_wait: float = 300.0
    silence: float = 30.0
    sync_bytes: int = 8 << 20


PATIENCE = Patience()


class Outcome(NamedTuple):
    """The size of a file, and what confirms it: "SHA-256", "size" (of the table), or "length" (only
    the server's own word). `is_new` is false if the file existed before."""

    size: int
    confirmed_by: str
    is_new: bool


class Stopped(Exception):  # noqa: N818 (the caller wanted it)
    """The caller stopped the download."""


def download_file(
    file: RemoteFile,
    patience: Patience = PATIENCE,
    report: Report = lambda done, size: None,
    stop: threading.Event | None = None,
) -> Outcome:
    """Download the file, or the part of it that is missing. If the file exists, check it.

    Raise ValueError if the server has no such file, or if `file.path` is a file of another source.
    Raise FileFormatError if the server sends another file than promised. Raise ConnectionError if
    the server does not answer well, and Stopped soon after `stop` is set. After an error, a later
    call continues, and `file.path` does not exist.
    """
    stop = stop or threading.Event()
    file.path.parent.mkdir(parents=True, exist_ok=True)
    what, remedy = "another process is downloading the file", "wait until that process ends"
    with lock_file(hidden(file.path, "lock"), what, remedy):
        if file.path.exists():
            return _existing(file)
        with Part(file, patience.sync_bytes) as part:
            _complete(part, patience, report, stop)
            part.finish()
        return Outcome(part.size, _confirmed_by(file, part.record.sha256), True)


def _confirmed_by(file: RemoteFile, sha256: str | None) -> str:
    return "SHA-256" if sha256 or file.sha256 else "length" if file.size is None else "size"


def _existing(file: RemoteFile) -> Outcome:
    """Return the outcome for a file that exists. Raise an error if it is another file."""
    size, record = file.path.stat().st_size, read_record(file.path)
    if file.sha256 is not None:
        is_same = sha256_of(file.path) == file.sha256
    else:
        is_same = record is not None and record.url == file.url and record.size == size
    if not is_same or file.size not in (None, size):
        raise ValueError(
            f"the path contains another file ({file.path}); remove that file, or choose another "
            "folder"
        )
    return Outcome(size, _confirmed_by(file, record.sha256 if record else None), False)


def _complete(part: Part, patience: Patience, report: Report, stop: threading.Event) -> None:
    """Repeat attempts until the part is the whole, right file."""
    failures, mismatches, furthest, url = 0, 0, part.size, part.file.address
    while True:
        try:
            if part.record.size is None or part.size < part.record.size:
                _attempt(part, patience, report, stop)
            wrong = _difference(part)
            if wrong is None:
                return
            # Answers of several versions may be mixed. One whole answer cannot be.
            mismatches += 1
            if not part.is_mixed or mismatches > 1:
                part.clear()
                raise FileFormatError(f"the server sent a wrong file ({url}: {wrong}); {ELSEWHERE}")
            raise Again(wrong, restart=True)
        except Again as again:
            # A server that makes us begin again and again gains nothing.
            failures = 0 if part.size - furthest >= _GAIN else failures + 1
            furthest = max(furthest, part.size)
            if again.restart:
                part.clear()
            wait = patience.first_wait * 2 ** max(0, failures - 1)
            wait = wait if again.wait is None else again.wait
            if failures >= patience.tries:
                problem = f"the download failed {failures} times ({url}: {again})"
            elif wait > patience.longest_wait:
                problem = f"the server asks to wait {wait:,.0f} seconds ({url}: {again})"
            elif stop.wait(wait):
                raise Stopped from None
            else:
                continue
            raise ConnectionError(
                f"{problem}; repeat the command later to continue, or try another --mirror"
            ) from None


def _attempt(part: Part, patience: Patience, report: Report, stop: threading.Event) -> None:
    """Ask once for the missing bytes, and append them to the part."""
    headers = {"User-Agent": "scratchlm", "Accept-Encoding": "identity", **part.range_headers()}
    with send_request(part.file.address, headers, patience.silence) as response:
        end = _begin(part, response)
        size = part.record.size
        report(part.size, size)
        since, count = time.monotonic(), 0
        for data in _body(response, None if end is None else end - part.size):
            part.append(data)
            report(part.size, size)
            if stop.is_set():
                raise Stopped
            if size is not None and part.size > size:
                raise _too_long(part)
            count += len(data)
            if time.monotonic() - since > patience.silence:
                if count < _SLOWEST * patience.silence:
                    raise Again("the server is too slow")
                since, count = time.monotonic(), 0
        if size is not None and part.size < size:
            raise Again(f"the connection ended after {part.size:,} of {size:,} bytes")
        part.record.size = part.size if size is None else size
        # Without a range, a SHA-256 or a size, only the end of the body can show a wrong length.
        known = part.file.sha256 or part.record.sha256 or part.file.size is not None
        if response.status == 200 and not response.chunked and not known and _follows(response):
            raise _too_long(part)


def _too_long(part: Part) -> FileFormatError:
    part.clear()
    return FileFormatError(
        f"the server sends more bytes than it states ({part.file.address}); {ELSEWHERE}"
    )


def _follows(response: Any) -> bool:
    """Return whether a byte follows the body."""
    try:
        return bool(response.fp.read(1))
    except (OSError, ValueError):
        return False


def _begin(part: Part, response: Any) -> int | None:
    """Check the head of an answer. Return the offset where its body ends, if the answer says so."""
    file, head = part.file, response.headers
    stated = head["Content-Length"] or ""
    length = int(stated) if re.fullmatch(r"\d{1,18}", stated) and not response.chunked else None
    packed = (head["Content-Encoding"] or "identity").lower()
    if packed != "identity" and file.path.suffix != ".gz":
        raise Again(f"the server compresses the file with {packed}")
    if head.get_content_type() == "text/html":
        raise FileFormatError(
            f"the server sent a web page, not the file ({file.address}); open the address in a "
            "browser, or try another --mirror"
        )
    version = {"etag": head["ETag"], "modified": head["Last-Modified"]}
    end = total = length
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", head["Content-Range"] or "")
        first, last, total = map(int, found.groups()) if found else (-1, -1, -1)
        end = last + 1
        is_ours = first == part.size and first < end <= total
        if not is_ours or not part.continues(total, response.linked.get("sha256"), **version):
            raise Again("the server sent a range of another file", restart=True)
    else:
        part.clear()
    linked = response.linked
    sizes = {each for each in (file.size, linked.get("size"), total) if each is not None}
    if len(sizes) > 1:
        raise FileFormatError(
            f"the file must have one size ({file.address}: "
            f"{' and '.join(f'{each:,}' for each in sorted(sizes))} bytes); {ELSEWHERE}"
        )
    if end is None and not response.chunked and not sizes and not file.sha256:
        raise FileFormatError(
            f"the server must state the file's length ({file.address}); {ELSEWHERE}"
        )
    part.begin(sizes.pop() if sizes else None, linked.get("sha256"), **version)
    return end


def _body(response: Any, length: int | None) -> Iterator[bytes]:
    """Yield at most `length` bytes of the body. `read1` returns the bytes that have come, so the
    program notices a slow server. `fp` does not close after the last byte, as `_follows` needs."""
    read = response.read1 if response.chunked else response.fp.read1
    while length is None or length > 0:
        try:
            data = read(_READ if length is None else min(_READ, length))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Again(f"the connection broke: {error or type(error).__name__}") from None
        if not data:
            return
        length = None if length is None else length - len(data)
        yield data


def _difference(part: Part) -> str | None:
    """Return how the complete part differs from the file that it must be, or None."""
    part.sync()
    if part.size == 0 or part.file.size not in (None, part.size):
        return f"it has {part.size:,} bytes"
    for expected in {part.file.sha256, part.record.sha256} - {None}:
        found = sha256_of(part.path)
        if found != expected:
            return f"its SHA-256 is {found}, not {expected}"
    with part.path.open("rb") as opened:
        kind = kind_of(opened.read(HEAD))
    name = kind.name if kind else "another kind of file"
    expected = _KINDS.get(part.file.path.suffix)
    if expected and name != expected:
        return f"it is {name}, not {expected}"
    return f"it is {name}" if "HTML page" in name or "LFS pointer" in name else None
