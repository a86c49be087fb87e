"""Split a plain text into documents at a separator, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from scratchlm.data.reading.unpacked import Progress, unpacked
from scratchlm.data.sources import format_of
from scratchlm.tokenizer.pieces.text_files import checked, decoded


def documents(path: Path, separator: str, progress: Progress) -> Iterator[tuple[str, bool]]:
    """Yield (text, whether the document ends with this text)."""
    chunks = checked(path, unpacked(path, format_of(path).packed, progress), html=True)
    return _split(decoded(path, chunks), separator)


def _split(texts: Iterable[str], separator: str) -> Iterator[tuple[str, bool]]:
    """Split a text that arrives in chunks, as `str.split` splits the whole text."""
    held = ""
    for text in texts:
        *found, held = (held + text).split(separator)
        for document in found:
            yield document, True
        keep = min(len(held), len(separator) - 1)
        yield held[: len(held) - keep], False
        held = held[len(held) - keep :]
    yield held, True
