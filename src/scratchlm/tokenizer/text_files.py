"""Text files: read in bounded memory, and cut into ranges that worker processes read themselves."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tqdm import tqdm

from scratchlm.tokenizer.parts import StrPath
from scratchlm.tokenizer.pretokenize import Pretokenizer

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
    """The file's text in chunks of up to 1 MiB, every byte as it is: no newline is translated.

    `bar` is moved on by the bytes read. ValueError with the offset where a byte is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = start
    with open(path, "rb") as file:
        file.seek(start)
        while True:
            data = file.read(1 << 20 if end is None else min(1 << 20, end - offset))
            pending = len(decoder.getstate()[0])  # bytes of a character cut between two reads
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{os.fspath(path)} is not UTF-8 (byte 0x{error.object[error.start]:02x} "
                    f"at offset {offset - pending + error.start}); convert the file to UTF-8"
                ) from None
            if not data:
                return
            offset += len(data)
            if bar is not None:
                bar.update(len(data))
            yield text


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
