"""Text files: read in bounded memory, and cut into ranges that worker processes read themselves."""

from __future__ import annotations

import codecs
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tqdm import tqdm

from scratchlm.files.file_kinds import HEAD, kind_of
from scratchlm.tokenizer.formats.json_content import StrPath
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer

BYTE_ORDER_MARK = "\ufeff"

_WINDOW = 1 << 16  # bytes in which a border is looked for
_CONTINUING = bytes(range(0x80, 0xC0))  # not the first of a character


class Range(NamedTuple):
    """A part of a file whose pieces are pieces of the whole."""

    path: StrPath
    start: int
    end: int


def read_text(
    path: StrPath, bar: tqdm[Any] | None = None, start: int = 0, end: int | None = None
) -> Iterator[str]:
    """The file's text, or the range of it, in chunks of up to 1 MiB; see `decoded`.

    `bar` is moved on by the bytes read. ValueError for a file that is not text, and with the offset
    where a byte is not UTF-8.
    """
    chunks = _bytes(path, bar, start, end)
    if start == 0 and end is None:
        chunks = checked(path, chunks)
    elif start == 0:  # a range may be too short to show what the file is
        check_text(path, next(_bytes(path, None, 0, HEAD), b""))
    return decoded(path, chunks, start)


def _bytes(path: StrPath, bar: tqdm[Any] | None, start: int, end: int | None) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        while data := file.read(1 << 20 if end is None else min(1 << 20, end - file.tell())):
            if bar is not None:
                bar.update(len(data))
            yield data


def checked(path: StrPath, chunks: Iterable[bytes], *, html: bool = True) -> Iterator[bytes]:
    """The chunks of a whole file, after `check_text` of its first bytes."""
    chunks = iter(chunks)
    held: list[bytes] = []
    while sum(map(len, held)) < HEAD and (data := next(chunks, b"")):
        held.append(data)
    check_text(path, b"".join(held), html=html)
    return itertools.chain(held, chunks)


def check_text(path: StrPath, head: bytes, *, html: bool = True) -> None:
    """ValueError where a file's first bytes show that it is not text, such as a picture, or that it
    is a Git LFS pointer, which is text but not the text. `html`: whether a web page will do."""
    kind = kind_of(head[:HEAD])
    if kind and not (kind.is_text and html):
        raise ValueError(f"{os.fspath(path)} looks like {kind.name}; {kind.remedy}")


def decoded(path: StrPath, chunks: Iterable[bytes], start: int = 0) -> Iterator[str]:
    """UTF-8 bytes, which begin at offset `start` of the file, as text.

    No newline is translated. A byte order mark at the start of the file is no part of its text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, at_start = start, start == 0
    for data in itertools.chain(chunks, [b""]):
        pending = len(decoder.getstate()[0])  # bytes of a character cut between two reads
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise not_utf8(path, error, offset - pending) from None
        offset += len(data)
        if at_start and text:
            text, at_start = text.removeprefix(BYTE_ORDER_MARK), False
        if text:
            yield text


def not_utf8(path: StrPath, error: UnicodeDecodeError, start: int) -> ValueError:
    """The error of bytes that begin at offset `start` of the file."""
    return ValueError(
        f"{os.fspath(path)} is not UTF-8 (byte 0x{error.object[error.start]:02x} at offset "
        f"{start + error.start}); convert the file to UTF-8"
    )


def cut_file(
    path: StrPath, pretokenizer: Pretokenizer, size: int, bar: tqdm[Any]
) -> Iterator[Range | str]:
    """A file in ranges of about `size` bytes, for `texts_of` to read in another process.

    Where the pattern has no borders that can be seen from near by, the file is read here, and its
    blocks are given instead. `bar` is moved on by what is given.
    """
    if not pretokenizer.known:
        yield from pretokenizer.blocks(read_text(path, bar))
        return
    start, total = 0, os.path.getsize(path)
    with open(path, "rb") as file:
        end = size
        while end < total:
            file.seek(max(start, end - _WINDOW))
            before = file.read(end - file.tell())
            before = before.lstrip(_CONTINUING) if end - start > _WINDOW else before
            # What follows must show the next character, and a special token to its last byte.
            after = file.read(4 * pretokenizer.longest_special + 4)
            text = (before + after).decode("utf-8", "surrogateescape")
            whole = len(before.decode("utf-8", "ignore"))  # no character that `end` cuts in two
            border = pretokenizer.border_near(text, whole)
            if border:
                end += len(text[:border].encode("utf-8", "surrogateescape")) - len(before)
                bar.update(end - start)
                yield Range(path, start, end)
                start = end
            end += size
    bar.update(total - start)
    yield Range(path, start, total)


def texts_of(item: Range | str | list[str], pretokenizer: Pretokenizer) -> Iterable[str]:
    """The blocks of a range; a text, and texts, are that already."""
    if isinstance(item, Range):
        return pretokenizer.blocks(read_text(item.path, None, item.start, item.end))
    return [item] if isinstance(item, str) else item
