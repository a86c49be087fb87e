"""Read documents from files: plain text split at a separator, JSON, JSON lines, Parquet.

    text             only the separator splits a text into documents
    JSON lines       one document per line: a string, or the string in `field` of an object
    JSON             a list of such strings or objects
    Parquet          one document per row, in column `field`

`sources` determines a file's format from its name. The reader unpacks `.gz` and `.zst`. It keeps a
newline next to a separator, so the documents, joined with the separator, equal the file. It drops a
byte order mark at the start of a file, and empty documents. It refuses content that is not text,
for any file name.

A plain text may be one document of many gigabytes, so the reader yields documents in chunks. Memory
contains at most a line of JSON, a few rows of Parquet, or a MiB of text. Only a JSON list must fit
into memory as a whole.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scratchlm.data.extra import extra
from scratchlm.data.sources import find_files, format_of
from scratchlm.errors import FileFormatError
from scratchlm.files.file_kinds import HEAD, kind_of
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer
from scratchlm.tokenizer.pieces.text_files import BYTE_ORDER_MARK, checked, decoded, not_utf8
from scratchlm.tokenizer.special_tokens import END_OF_TEXT

READ_BYTES = 1 << 20  # in one read of a file
READ_BYTES_ZST = 1 << 12  # packed bytes in one read; unpacked, they are at most 128 MB
ROWS = 64  # rows of Parquet in memory at a time

Progress = Callable[[int], object]  # receives the number of bytes read since its last call


class Chunk(NamedTuple):
    """Store a part of document number `document`. `last` is true for the document's last part."""

    document: int
    text: str
    last: bool


def read_documents(
    paths: StrPath | Sequence[StrPath],
    field: str = "text",
    separator: str = END_OF_TEXT,
    progress: Progress = lambda size: None,
) -> Iterator[Chunk]:
    """Yield the documents of all files in chunks. `find_files` finds the files.

    Document numbers start at 0. Raise ValueError for content that is not text or not UTF-8 (with
    its offset), for a line, item or row without a string in `field` (with its number), and for a
    missing optional package. Raise FileFormatError for a damaged Parquet, gz or zst file.
    """
    if not separator:
        raise ValueError("the separator must not be empty (''); specify the text between documents")
    document, started = 0, False
    for path in find_files(paths):
        for text, last in _read(path, field, separator, progress):
            started = started or bool(text)
            if started and (text or last):
                yield Chunk(document, text, last)
            if started and last:
                document, started = document + 1, False


def read_texts(
    paths: StrPath | Sequence[StrPath],
    field: str = "text",
    separator: str = END_OF_TEXT,
    *,
    pattern: str,
    special_tokens: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the documents of `read_documents` as strings for BPE training, in bounded memory.

    It splits a document of several chunks only where the split does not change the pattern's
    pieces.
    """
    pretokenizer = Pretokenizer(pattern, special_tokens)
    chunks = read_documents(paths, field, separator)
    for chunk in chunks:
        if chunk.last:
            yield chunk.text
        else:
            yield from pretokenizer.blocks(rest_of_document(chunk, chunks))


def rest_of_document(first: Chunk, chunks: Iterator[Chunk]) -> Iterator[str]:
    """Yield the text of a document, chunk by chunk, starting with its first chunk."""
    yield first.text
    while not first.last:
        first = next(chunks)
        yield first.text


def read_as_text(files: Iterable[Path]) -> Iterator[str]:
    """Yield a warning for each kind of file that looks like JSON, a web page or a table but is read
    as plain text."""
    found: dict[str, list[Path]] = {}
    for file in dict.fromkeys(files):
        kind, packed = format_of(file)
        if kind == "text" and (what := _looks_like(file, packed)):
            found.setdefault(what, []).append(file)
    for what, alike in found.items():
        more = f" (and {len(alike) - 1:,} more)" if len(alike) > 1 else ""
        yield f"{alike[0]}{more} {what}"


def _looks_like(path: Path, packed: str) -> str:
    head = next(_bytes(path, packed), b"")[:HEAD]
    kind = kind_of(head)
    if kind and kind.is_text:
        return f"is {kind.name}, and its tags are read as text"
    if re.match(rb'\{\s*"|\[\s*[{"]', _stripped(head)):
        return (
            "is read as plain text but looks like JSON; change the file's ending to "
            f".json{packed} to read its documents"
        )
    signs = {".csv": "commas", ".tsv": "tabs"}.get(
        Path(path.name.lower().removesuffix(packed)).suffix
    )
    return f"is a table, and its {signs} are read as text; save the text as .jsonl" if signs else ""


def _read(path: Path, field: str, separator: str, progress: Progress) -> Iterator[tuple[str, bool]]:
    """Yield (text, whether the document ends with this text)."""
    kind, packed = format_of(path)
    if kind == "parquet":
        _check_kind(path, "a Parquet file")
        return ((text, True) for text in _parquet(path, field, progress))
    chunks = checked(path, _bytes(path, packed, progress), html=kind == "text")
    if kind == "text":
        return _split(decoded(path, chunks), separator)
    is_list = False
    if kind == "json":
        first = b""
        while (len(first) < 4 or not _stripped(first)) and (data := next(chunks, b"")):
            first += data
        is_list = _stripped(first).startswith(b"[")
        chunks = itertools.chain([first], chunks)
    read = _json_list if is_list else _json_lines
    return ((text, True) for text in read(path, chunks, field))


def _stripped(data: bytes) -> bytes:
    return data.removeprefix(BYTE_ORDER_MARK.encode()).lstrip()


def _check_kind(path: Path, expected: str) -> None:
    """Raise FileFormatError if the content has a known kind other than `expected`."""
    with path.open("rb") as file:
        kind = kind_of(file.read(HEAD))
    if kind is not None and kind.name != expected:
        raise FileFormatError(f"the file looks like {kind.name} ({path}); {kind.remedy}")


def _bytes(path: Path, packed: str, progress: Progress = lambda size: None) -> Iterator[bytes]:
    """Yield the unpacked content of the file."""
    if packed:
        yield from _unpacked(path, packed, progress)
        return
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            progress(len(data))
            yield data


def _unpacked(path: Path, packed: str, progress: Progress) -> Iterator[bytes]:
    _check_kind(path, {".gz": "gzip data", ".zst": "Zstandard data"}[packed])
    new, bad = _unpacker(path, packed)
    frame = None
    try:
        with path.open("rb") as file:
            while data := file.read(READ_BYTES_ZST):
                progress(len(data))
                while data:  # a file may contain several frames
                    if frame is None and packed == ".gz":
                        data = data.lstrip(b"\0")  # zero padding after a frame
                        if not data:
                            break
                    frame = frame or new()
                    unpacked = frame.decompress(data)
                    for start in range(0, len(unpacked), READ_BYTES):
                        yield unpacked[start : start + READ_BYTES]
                    data = frame.unused_data
                    if frame.eof:
                        frame = None
    except bad as error:
        raise FileFormatError(
            f"the {packed[1:]} file is damaged ({path}: {error}); copy the file again from the "
            "source"
        ) from None
    if frame or not path.stat().st_size:
        raise FileFormatError(
            f"the {packed[1:]} file is truncated ({path}); copy the file again from the source"
        )


def _unpacker(path: Path, packed: str) -> tuple[Callable[[], Any], type[Exception]]:
    """Return a function that makes a decompressor for one frame, and the decompressor's error."""
    if packed == ".gz":
        return lambda: zlib.decompressobj(wbits=31), zlib.error  # 31: the header of gzip
    zstandard = extra("zstandard", path)
    return lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError


def _split(texts: Iterable[str], separator: str) -> Iterator[tuple[str, bool]]:
    """Split a text that arrives in chunks, as `str.split` splits the whole text."""
    held = ""
    for text in texts:
        *documents, held = (held + text).split(separator)
        for document in documents:
            yield document, True
        keep = min(len(held), len(separator) - 1)
        yield held[: len(held) - keep], False
        held = held[len(held) - keep :]
    yield held, True


def _json_lines(path: Path, chunks: Iterable[bytes], field: str) -> Iterator[str]:
    offset, started = 0, False
    for number, line in enumerate(_lines(chunks), 1):
        try:
            text = line.decode()
            text = text.removeprefix(BYTE_ORDER_MARK) if number == 1 else text
            # Skip blank lines: many files end with one. Other programs write NaN in keys that we do
            # not read, so this is not `strict_json`.
            value = json.loads(text) if text.strip() else None
        except UnicodeDecodeError as error:
            raise not_utf8(path, error, offset) from None
        except (ValueError, RecursionError) as error:
            reason = str(error) or type(error).__name__
            remedy = "correct or remove the line"
            if not started and format_of(path).kind == "json":
                remedy = "write a list of objects or strings, or an object or string on each line"
            raise ValueError(
                f"each line must be JSON ({path}:{number}: {reason}); {remedy}"
            ) from None
        offset += len(line) + 1
        if text.strip():
            started = True
            yield _string_in(value, field, "a line", f"{path}:{number}", escaped="\\u" in text)


def _json_list(path: Path, chunks: Iterable[bytes], field: str) -> Iterator[str]:
    data = b"".join(chunks)
    try:
        text = data.decode().removeprefix(BYTE_ORDER_MARK)
        values = json.loads(text)
    except UnicodeDecodeError as error:
        raise not_utf8(path, error, 0) from None
    except (ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"the file must be a JSON list ({path}: {reason}); correct the file"
        ) from None
    del data
    escaped = "\\u" in text
    for number, value in enumerate(values):
        yield _string_in(value, field, "an item", f"{path}, item {number}", escaped=escaped)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines without their newlines. Join the parts of a long line only once."""
    parts: list[bytes] = []
    for data in chunks:
        *lines, rest = data.split(b"\n")
        for line in lines:
            yield b"".join([*parts, line])
            parts.clear()
        parts.append(rest)
    yield b"".join(parts)


def _string_in(value: Any, field: str, what: str, place: str, *, escaped: bool) -> str:
    if not isinstance(value, dict | str):
        kind = type(value).__name__
        raise ValueError(
            f'{what} must be an object or a string ({place}: {kind}); write {{"{field}": "text"}}'
        )
    if isinstance(value, dict) and field not in value:
        has = ", ".join(map(repr, list(value)[:8])) or "none"
        raise ValueError(
            f"there is no field {field!r} ({place} has {has}); choose a field with --field"
        )
    text = value[field] if isinstance(value, dict) else value
    if not isinstance(text, str):
        kind = type(text).__name__
        raise ValueError(
            f"field {field!r} must be a string ({place}: {kind}); choose another field with --field"
        )
    if escaped:  # JSON can contain half of a surrogate pair, which is not a character
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text has a lone surrogate ({place}: U+{ord(text[error.start]):04X} at "
                f"character {error.start}); replace the surrogate, for example with U+FFFD"
            ) from None
    return text


def _parquet(path: Path, field: str, progress: Progress) -> Iterator[str]:
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
