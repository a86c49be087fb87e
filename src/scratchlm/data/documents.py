"""Documents from files: plain text cut at a separator, JSON lines, parquet.

    .jsonl           one document a line, the string in `field` of a JSON object
    .parquet         one document a row, column `field` (needs pyarrow)
    any other name   UTF-8 text, cut where the separator stands and nowhere else

`.zst` after any of them but parquet is unpacked on the way (needs zstandard). A text is taken as it
is: a newline beside a separator belongs to its document, so that the documents joined by the
separator are the file again. Documents without any character are left out.

A plain text may be one document of many gigabytes. It is therefore given in chunks, and memory is
bounded by a line of JSON, a few rows of parquet, or a MiB of text.
"""

from __future__ import annotations

import codecs
import glob
import importlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.parts import StrPath
from scratchlm.tokenizer.pretokenize import Pretokenizer

FOLDER_SUFFIXES = (".txt", ".md", ".jsonl", ".parquet", ".txt.zst", ".md.zst", ".jsonl.zst")

_READ = 1 << 20
_READ_ZST = 1 << 12  # bytes unpacked at a time: even the most packed give no more than 128 MB
_ROWS = 64  # rows of parquet in memory at a time

Progress = Callable[[int], object]  # told how many bytes of the files were read since


class Chunk(NamedTuple):
    """A part of document number `document`; `last` where the document ends with it."""

    document: int
    text: str
    last: bool


def find_files(paths: StrPath | Sequence[StrPath]) -> list[Path]:
    """The files that paths, folders and globs name, each once, in the order named.

    A folder gives the files in it and below with FOLDER_SUFFIXES, sorted by path, no hidden ones.
    (`.json` is not among them: it is one value, such as a tokenizer, and no list of documents.)
    A string with `*`, `?` or `[` that is no existing file is a glob, `**` crossing folders.
    ValueError for what names no file, FileNotFoundError for a path that is not there.
    """
    found: dict[Path, Path] = {}
    for name in [paths] if isinstance(paths, str | os.PathLike) else paths:
        for path in _matches(os.fspath(name)):
            for file in _files_in(path) if path.is_dir() else [path]:
                if not file.is_file():
                    raise ValueError(f"not a file or folder ({file}); give files of text")
                found.setdefault(file.resolve(), file)
    if not found:
        raise ValueError("no file is given (an empty list); name files, folders or globs")
    return list(found.values())


def _matches(name: str) -> list[Path]:
    if not name:
        raise ValueError("a path is empty (''); name a file, a folder or a glob")
    if any(sign in name for sign in "*?[") and not os.path.exists(name):
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            raise ValueError(f"no file matches ({name}); check the pattern and where you are")
        return [Path(match) for match in matches]
    os.stat(name)  # a missing file is the system's own FileNotFoundError
    return [Path(name)]


def _files_in(folder: Path) -> list[Path]:
    def fail(
        error: OSError,
    ) -> None:  # or a folder that may not be read would be skipped in silence
        raise error

    files = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            Path(parent, name)
            for name in names
            if name.endswith(FOLDER_SUFFIXES) and not name.startswith(".")
        ]
    if not files:
        endings = ", ".join(FOLDER_SUFFIXES)
        raise ValueError(f"the folder has no text ({folder}); give one with files in {endings}")
    return sorted(files)


def is_plain(path: Path) -> bool:
    """Whether the file's bytes are its text."""
    return path.suffix not in (".jsonl", ".parquet", ".zst")


def read_documents(
    paths: StrPath | Sequence[StrPath],
    field: str = "text",
    separator: str = "<|endoftext|>",
    progress: Progress = lambda size: None,
) -> Iterator[Chunk]:
    """All documents of what `find_files` finds, numbered from 0, each in one chunk or several.

    Errors: ValueError for what is not UTF-8 (with its offset), a line or row that has no string in
    `field` (with its number), an extra that is not installed; FileFormatError for a damaged
    parquet or zst file.
    """
    if not separator:
        raise ValueError("the separator is empty (''); give the text that stands between documents")
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
    separator: str = "<|endoftext|>",
    *,
    pattern: str,
    special_tokens: Sequence[str] = (),
) -> Iterator[str]:
    """The same documents as strings to learn merges from, in bounded memory.

    A document in several chunks is cut where the pattern's pieces stay what they were.
    """
    pretokenizer = Pretokenizer(pattern, special_tokens)
    chunks = read_documents(paths, field, separator)
    for chunk in chunks:
        if chunk.last:
            yield chunk.text
        else:
            yield from pretokenizer.blocks(rest_of_document(chunk, chunks))


def rest_of_document(first: Chunk, chunks: Iterator[Chunk]) -> Iterator[str]:
    """The text of a document from its first chunk on."""
    yield first.text
    while not first.last:
        first = next(chunks)
        yield first.text


def _read(path: Path, field: str, separator: str, progress: Progress) -> Iterator[tuple[str, bool]]:
    """(text, whether the document ends there)."""
    if path.suffix == ".parquet":
        return ((text, True) for text in _parquet(path, field, progress))
    chunks = (_unpacked if path.suffix == ".zst" else _bytes)(path, progress)
    if path.name.endswith((".jsonl", ".jsonl.zst")):
        return ((text, True) for text in _json_lines(path, chunks, field))
    return _split(_decoded(path, chunks), separator)


def _bytes(path: Path, progress: Progress) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(_READ):
            progress(len(data))
            yield data


def _unpacked(path: Path, progress: Progress) -> Iterator[bytes]:
    zstandard = _extra("zstandard", path)
    frame = None
    try:
        with path.open("rb") as file:
            while data := file.read(_READ_ZST):
                progress(len(data))
                while data:  # a file may hold several frames
                    frame = frame or zstandard.ZstdDecompressor().decompressobj()
                    unpacked = frame.decompress(data)
                    for start in range(0, len(unpacked), _READ):
                        yield unpacked[start : start + _READ]
                    data = frame.unused_data
                    if frame.eof:
                        frame = None
    except zstandard.ZstdError as error:
        raise FileFormatError(f"not a zst file ({path}: {error}); copy it again") from None
    if frame or not path.stat().st_size:
        raise FileFormatError(f"the zst file is truncated ({path}); copy it again")


def _decoded(path: Path, chunks: Iterable[bytes]) -> Iterator[str]:
    """Every byte as it is: no newline is translated, no byte order mark taken away."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    for data in itertools.chain(chunks, [b""]):
        pending = len(decoder.getstate()[0])  # bytes of a character cut between two reads
        try:
            yield decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error, offset - pending) from None
        offset += len(data)


def _not_utf8(path: Path, error: UnicodeDecodeError, start: int) -> ValueError:
    return ValueError(
        f"{path} is not UTF-8 (byte 0x{error.object[error.start]:02x} at offset "
        f"{start + error.start}); convert the file to UTF-8"
    )


def _split(texts: Iterable[str], separator: str) -> Iterator[tuple[str, bool]]:
    """As `str.split`, of a text in chunks: what could begin a separator is held back."""
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
    offset = 0
    for number, line in enumerate(_lines(chunks), 1):
        try:
            text = line.decode()
            # Blank lines, as at the end of many files, are no documents.
            value = json.loads(text) if text.strip() else None
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error, offset) from None
        except (ValueError, RecursionError) as error:
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"not a line of JSON ({path}:{number}: {reason}); correct or remove the line"
            ) from None
        offset += len(line) + 1
        if text.strip():
            yield _string_in(value, field, f"{path}:{number}", escaped="\\u" in text)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Without their newlines; a line of any length is put together only once."""
    parts: list[bytes] = []
    for data in chunks:
        *lines, rest = data.split(b"\n")
        for line in lines:
            yield b"".join([*parts, line])
            parts.clear()
        parts.append(rest)
    yield b"".join(parts)


def _string_in(value: Any, field: str, place: str, *, escaped: bool) -> str:
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise ValueError(f'a line is a JSON object ({place}: {kind}); write {{"{field}": "text"}}')
    if field not in value:
        has = ", ".join(map(repr, list(value)[:8])) or "none"
        raise ValueError(f"no field {field!r} ({place} has {has}); name one with --field")
    text = value[field]
    if not isinstance(text, str):
        kind = type(text).__name__
        raise ValueError(f"field {field!r} is no string ({place}: {kind}); name the text's --field")
    if escaped:  # JSON can write half of a surrogate pair, which is no character
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text has a lone surrogate ({place}: U+{ord(text[error.start]):04X} at "
                f"character {error.start}); replace it, for example with U+FFFD"
            ) from None
    return text


def _parquet(path: Path, field: str, progress: Progress) -> Iterator[str]:
    parquet = _extra("pyarrow.parquet", path)
    arrow = _extra("pyarrow", path)
    size, row = path.stat().st_size, 0
    try:
        # A buffer lets it read a column page by page instead of a whole row group at once.
        with parquet.ParquetFile(path, buffer_size=_READ, pre_buffer=False) as file:
            columns, rows = file.schema_arrow.names, max(file.metadata.num_rows, 1)
            if field not in columns:
                names = ", ".join(columns[:8])
                raise ValueError(f"no column {field!r} ({path} has {names}); name one with --field")
            for batch in file.iter_batches(_ROWS, columns=[field], use_threads=False):
                for text in batch.column(0).to_pylist():
                    if not isinstance(text, str):
                        raise ValueError(
                            f"the column {field!r} has no string ({path}, row {row}: "
                            f"{type(text).__name__}); name the column of the text with --field"
                        )
                    row += 1
                    yield text
                progress(size * row // rows - size * (row - len(batch)) // rows)
    except UnicodeDecodeError:
        raise ValueError(
            f"{path} is not UTF-8 (in rows from {row}); write the column again as UTF-8"
        ) from None
    except (arrow.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise FileFormatError(f"not a parquet file ({path}: {error}); copy it again") from None


def _extra(module: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(
            f"{path} needs a package that is not installed ({module.split('.')[0]}); "
            "pip install 'scratchlm[data]'"
        ) from None
