"""Read text files in bounded memory, and cut them into ranges for worker processes."""

from __future__ import annotations

import codecs
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tqdm import tqdm

from scratchlm.files.file_kinds import HEAD, kind_of
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer

BYTE_ORDER_MARK = "\ufeff"

WINDOW = 1 << 16  # bytes to search for a border
_CONTINUING = bytes(range(0x80, 0xC0))  # UTF-8 continuation bytes


class Range(NamedTuple):
    """A part of a file. The pieces of the part are also pieces of the whole file."""

    path: StrPath
    start: int
    end: int


def read_text(
    path: StrPath, bar: tqdm[Any] | None = None, start: int = 0, end: int | None = None
) -> Iterator[str]:
    """Yield the text of a file, or of a range of it, in chunks of up to 1 MiB; see `decoded`.

    `bar` advances by the number of bytes in each chunk. Raise ValueError if the file is not text,
    or if a byte is not UTF-8. The message contains the byte's offset.
    """
    chunks = _bytes(path, bar, start, end)
    if start == 0 and end is None:
        chunks = checked(path, chunks)
    elif start == 0:  # a short range may not show the kind of the file
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
    """Call `check_text` with the first bytes of a whole file, then yield all its chunks."""
    chunks = iter(chunks)
    held: list[bytes] = []
    while sum(map(len, held)) < HEAD and (data := next(chunks, b"")):
        held.append(data)
    check_text(path, b"".join(held), html=html)
    return itertools.chain(held, chunks)


def check_text(path: StrPath, head: bytes, *, html: bool = True) -> None:
    """Raise ValueError if the first bytes of a file show that the file is not the expected text.

    The file may be a picture, for example, or a Git LFS pointer, which only refers to the real
    file. `html`: accept a web page.
    """
    kind = kind_of(head[:HEAD])
    if kind and not (kind.is_text and html):
        raise ValueError(f"the file looks like {kind.name} ({os.fspath(path)}); {kind.remedy}")


def decoded(path: StrPath, chunks: Iterable[bytes], start: int = 0) -> Iterator[str]:
    """Decode UTF-8 bytes that begin at offset `start` of the file.

    Keep newlines unchanged. Drop a byte order mark at the start of the file.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, at_start = start, start == 0
    for data in itertools.chain(chunks, [b""]):
        pending = len(decoder.getstate()[0])  # bytes of an incomplete character
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
    """Return the error for bytes that begin at offset `start` of the file."""
    return ValueError(
        f"the file is not UTF-8 ({os.fspath(path)}: byte 0x{error.object[error.start]:02x} at "
        f"offset {start + error.start}); convert the file to UTF-8"
    )


def cut_file(
    path: StrPath, pretokenizer: Pretokenizer, size: int, bar: tqdm[Any]
) -> Iterator[Range | str]:
    """Cut a file into ranges of about `size` bytes. A worker reads a range with `texts_of`.

    A pattern without proven borders needs the whole text before a cut. Then this process reads the
    file and yields blocks of text. `bar` advances with every item.
    """
    if not pretokenizer.known:
        yield from pretokenizer.blocks(read_text(path, bar))
        return
    start, total = 0, os.path.getsize(path)
    with open(path, "rb") as file:
        end = size
        while end < total:
            file.seek(max(start, end - WINDOW))
            before = file.read(end - file.tell())
            before = before.lstrip(_CONTINUING) if end - start > WINDOW else before
            # `after` must contain the next character and a complete special token.
            after = file.read(4 * pretokenizer.longest_special + 4)
            text = (before + after).decode("utf-8", "surrogateescape")
            whole = len(before.decode("utf-8", "ignore"))  # without a character that `end` cuts
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
    """Return the blocks of an item. Read a range from its file. Return texts unchanged."""
    if isinstance(item, Range):
        return pretokenizer.blocks(read_text(item.path, None, item.start, item.end))
    return [item] if isinstance(item, str) else item
