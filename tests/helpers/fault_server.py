"""A web server on this machine whose answers can be wrong in every way that a download meets.

A fault answers one request. The faults of a server are used up in order, and after them the server
is honest: it knows ranges, `If-Range` and ETags.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

Fault = Callable[["Answer"], None]
PAGE = b"<!DOCTYPE html><html><body>" + b"sorry " * 2000 + b"</body></html>"


@dataclass
class Server:
    """What the server has, what it does wrong, and which ranges it was asked for."""

    content: bytes
    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    etag: str | None = '"v1"'
    modified: str | None = None
    ranges: bool = True
    pace: float = 0.0  # seconds after each 64 KiB of an honest answer
    files: dict[str, bytes] = field(default_factory=dict)  # other content by path
    asked: list[str | None] = field(default_factory=list)  # the Range header of each request
    paths: list[str] = field(default_factory=list)
    url: str = ""
    port: int = 0


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a small write waits for nothing
    state: Server

    def do_GET(self) -> None:
        state = self.state
        state.asked.append(self.headers["Range"])
        state.paths.append(self.path)
        with contextlib.suppress(OSError):  # the client may go away
            fault = state.faults.pop(0) if state.faults else state.always
            (fault or honest)(self)
        self.close_connection = True

    @property
    def content(self) -> bytes:
        return self.state.files.get(self.path.split("?")[0], self.state.content)

    @property
    def start(self) -> int:
        """Where the client wants to continue, by the rules of RFC 9110."""
        wanted, version = self.headers["Range"], self.headers["If-Range"]
        if wanted is None or not self.state.ranges:
            return 0
        if version is not None and version not in (self.state.etag, self.state.modified):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def head(self, status: int, **headers: Any) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def head_of(self, start: int, size: int, more: int = 0, **headers: Any) -> None:
        """Send the head of an honest answer, but with a Content-Length that differs by `more`."""
        state = self.state
        ranged = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
        self.head(206 if start else 200, **({
            "Content-Length": size - start + more, "ETag": state.etag,
            "Last-Modified": state.modified,
        } | ranged | headers))  # fmt: skip

    def log_message(self, *args: Any) -> None:
        pass


def honest(answer: Answer) -> None:
    content, start = answer.content, answer.start
    if start and start >= len(content):
        answer.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0)
        return
    answer.head_of(start, len(content))
    for offset in range(start, len(content), 1 << 16):
        answer.wfile.write(content[offset : offset + (1 << 16)])
        time.sleep(answer.state.pace)


def drop(after: int) -> Fault:
    """Send the right head, and close the connection after some bytes."""

    def fault(answer: Answer) -> None:
        answer.head_of(answer.start, len(answer.content))
        answer.wfile.write(answer.content[answer.start :][:after])

    return fault


def reset(answer: Answer) -> None:
    """Reset the connection before an answer."""
    answer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    answer.connection.close()


def lie(more: int) -> Fault:
    """State a length that is wrong by `more` bytes, and send the whole file."""

    def fault(answer: Answer) -> None:
        answer.head_of(answer.start, len(answer.content), more)
        answer.wfile.write(answer.content[answer.start :])

    return fault


def cut(by: int) -> Fault:
    """Send a file that is too short, with a length that fits it."""

    def fault(answer: Answer) -> None:
        size = len(answer.content) - by
        answer.head_of(answer.start, size)
        answer.wfile.write(answer.content[answer.start : size])

    return fault


def other_file(**headers: Any) -> Fault:
    """Ignore If-Range, and send the asked range of another file of the same size."""

    def fault(answer: Answer) -> None:
        wanted = (answer.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-")
        start, other = int(wanted), bytes(255 - byte for byte in answer.content)
        answer.head_of(start, len(other), **headers)
        answer.wfile.write(other[start:])

    return fault


def of_a_range(fault: Fault) -> Fault:
    """Send a fault if the client asks for a range, else the file."""
    return lambda answer: (fault if answer.headers["Range"] else honest)(answer)


def shifted_range(by: int) -> Fault:
    """Send another range than the asked one, with its honest Content-Range."""

    def fault(answer: Answer) -> None:
        start = max(1, answer.start + by)
        answer.head_of(start, len(answer.content))
        answer.wfile.write(answer.content[start:])

    return fault


def bad_range(value: str | None) -> Fault:
    """Send 206 with a Content-Range that says nothing useful, and bytes of another place."""

    def fault(answer: Answer) -> None:
        answer.head(206, Content_Length=1000, Content_Range=value, ETag=answer.state.etag)
        answer.wfile.write(answer.content[:1000])

    return fault


def small_ranges(size: int) -> Fault:
    """Send at most `size` bytes for a range, as RFC 9110 allows."""

    def fault(answer: Answer) -> None:
        start, whole = answer.start, len(answer.content)
        end = min(whole, start + size)
        answer.head(206, Content_Length=end - start, ETag=answer.state.etag,
                    Content_Range=f"bytes {start}-{end - 1}/{whole}")  # fmt: skip
        answer.wfile.write(answer.content[start:end])

    return fault


def page(status: int, **headers: Any) -> Fault:
    """Send a web page."""

    def fault(answer: Answer) -> None:
        answer.head(
            status, **({"Content_Length": len(PAGE), "Content_Type": "text/html"} | headers)
        )
        answer.wfile.write(PAGE)

    return fault


def status(code: int, **headers: Any) -> Fault:
    return lambda answer: answer.head(code, **({"Content_Length": 0} | headers))


def redirect(to: str, code: int = 302, **headers: Any) -> Fault:
    return status(code, Location=to, **headers)


def slow(pause: float, step: int = 1) -> Fault:
    """Send a few bytes at a time."""

    def fault(answer: Answer) -> None:
        answer.head_of(answer.start, len(answer.content))
        for offset in range(answer.start, len(answer.content), step):
            answer.wfile.write(answer.content[offset : offset + step])
            time.sleep(pause)

    return fault


def silent(seconds: float) -> Fault:
    """Send the head and nothing else for some seconds."""

    def fault(answer: Answer) -> None:
        answer.head_of(answer.start, len(answer.content))
        time.sleep(seconds)

    return fault


def chunked(end_after: int | None = None) -> Fault:
    """Send chunks without a length. With `end_after`, drop the connection in the middle."""

    def fault(answer: Answer) -> None:
        answer.head(200, Transfer_Encoding="chunked", ETag=answer.state.etag)
        for offset in range(0, len(answer.content), 5000):
            if end_after is not None and offset >= end_after:
                return
            data = answer.content[offset : offset + 5000]
            answer.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        answer.wfile.write(b"0\r\n\r\n")

    return fault


def without_length(by: int = 0) -> Fault:
    """Send the file, less its last `by` bytes, without any length."""

    def fault(answer: Answer) -> None:
        answer.head(200, Connection="close", ETag=answer.state.etag)
        answer.wfile.write(answer.content[: len(answer.content) - by])

    return fault


def compressed(answer: Answer) -> None:
    """Send compressed bytes, which nobody asked for."""
    import gzip

    data = gzip.compress(answer.content)
    answer.head(200, Content_Length=len(data), Content_Encoding="gzip", ETag=answer.state.etag)
    answer.wfile.write(data)


def garbage(answer: Answer) -> None:
    """Send something that is not HTTP."""
    answer.wfile.write(b"\x00\xff garbage\r\n\r\n" * 10)


@contextlib.contextmanager
def running(
    content: bytes, *faults: Fault, certificate: Path | None = None, **options: Any
) -> Iterator[Server]:
    """Run a server. `certificate` is a PEM file with a certificate and its key, for https."""
    state = Server(content, list(faults), **options)
    handler = type("Handler", (Answer,), {"state": state})
    server = ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    state.url = f"http{'s' if certificate else ''}://127.0.0.1:{state.port}/file.bin"
    thread = threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
