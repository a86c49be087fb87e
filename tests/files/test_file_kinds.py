"""The real kind of a file, compared with files that the libraries of each format write."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import sqlite3
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from matplotlib.figure import Figure

from helpers.text_generators import random_text
from scratchlm.files.file_kinds import HEAD, kind_of

TEXT = "The cat sat on the mat.\n" * 20
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def written(kind: str) -> bytes:
    """A file of this kind, by its own library."""
    buffer = io.BytesIO()
    if kind in ("png", "jpg", "pdf"):
        Figure(figsize=(1, 1)).savefig(buffer, format=kind)
    elif kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("word/document.xml", TEXT)
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": [TEXT]}), buffer)
    elif kind == "arrow":
        table = pyarrow.table({"text": [TEXT]})
        with pyarrow.ipc.new_file(buffer, table.schema) as file:
            file.write_table(table)
    elif kind == "npy":
        np.save(buffer, np.arange(100))
    elif kind == "sqlite":
        with sqlite3.connect(":memory:") as database:
            database.execute("create table texts (text)")
            return database.serialize()
    return buffer.getvalue()


KINDS = {
    "a PNG picture": lambda: written("png"),
    "a JPEG picture": lambda: written("jpg"),
    "a PDF": lambda: written("pdf"),
    "a ZIP archive": lambda: written("zip"),
    "a Parquet file": lambda: written("parquet"),
    "an Arrow file": lambda: written("arrow"),
    "a NumPy array": lambda: written("npy"),
    "an SQLite database": lambda: written("sqlite"),
    "gzip data": lambda: gzip.compress(TEXT.encode()),
    "Zstandard data": lambda: zstandard.compress(TEXT.encode()),
    "xz data": lambda: lzma.compress(TEXT.encode()),
    "bzip2 data": lambda: bz2.compress(TEXT.encode()),
    "UTF-16 text": lambda: TEXT.encode("utf-16-le"),
    "UTF-32 text": lambda: TEXT.encode("utf-32"),
    "binary data": lambda: np.arange(1000, dtype="<u4").tobytes(),
    "a Git LFS pointer": lambda: LFS,
    "an HTML page": lambda: b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
}


@pytest.mark.parametrize("name", KINDS)
def test_files_of_other_libraries_are_called_what_they_are(name):
    kind = kind_of(KINDS[name]()[:HEAD])
    assert kind is not None
    assert kind.name.startswith(name)
    assert kind.is_text == (name == "an HTML page")


@pytest.mark.parametrize("order", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_known_with_its_mark_and_without(order):
    assert kind_of(TEXT.encode(order)).name == "UTF-16 text"


def test_text_is_of_no_kind():
    rng = random.Random(0)
    texts = [random_text(rng) for _ in range(2000)]
    texts += ["", "PK", "GGUF is a format", "BZh", "PAR1", "GIF8", "{\\rt", "%", "\0", "a\0b" * 3]
    for text in texts:
        assert kind_of(text.encode()) is None, text
