"""Bad texts and mistakes in the commands of data: the exit code, one line, and no new file.

`BAD_FILES` and `BAD_RECORDS` are for each command that reads texts: add the command to `READERS`.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import random
import resource
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from helpers import fault_server as server
from helpers import tiny
from helpers.refusals import check_refusal
from scratchlm.cli.data import main as data
from scratchlm.cli.tokenize import main as tokenize

GOOD = b'{"text": "a document"}\n'
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def zst(content: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(content)


def flipped(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 0x55
    return bytes(changed)


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "text")
    return buffer.getvalue()


def parquet(**columns: object) -> bytes:
    return written(pyarrow.table(columns))


def written(table: pyarrow.Table) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


LINES = GOOD * 2000
RANDOM = b"".join(b'{"text": "%d"}\n' % (i * 7919**3 % 10**9) for i in range(9000))
TABLE = parquet(text=["a document"] * 1000, n=range(1000))
NAMES = written(pyarrow.table([["a"], ["b"]], names=["text", "text"]))
NOT_UTF8 = pyarrow.array([b"a", b"\xff"]).cast(pyarrow.string(), safe=False)

# {file: (content, exit code, what the line must contain)}
BAD_FILES: dict[str, tuple[bytes, int, str]] = {
    "cut.jsonl.zst": (zst(LINES)[:-9], 3, "zst file is truncated (cut.jsonl.zst)"),
    "frame.jsonl.zst": (zst(LINES) + zst(LINES)[:-9], 3, "truncated (frame.jsonl.zst)"),
    "cut.jsonl.gz": (gzip.compress(LINES)[:-9], 3, "gz file is truncated (cut.jsonl.gz)"),
    "member.jsonl.gz": (gzip.compress(LINES) + gzip.compress(LINES)[:-9], 3, "truncated (member"),
    "cut.json.gz": (gzip.compress(b'["a", "b"]')[:-2], 3, "truncated (cut.json.gz)"),
    "cut.txt.zst": (zst(RANDOM)[:-9], 3, "truncated (cut.txt.zst)"),
    "cut.txt.gz": (gzip.compress(RANDOM)[: 1 << 14], 3, "truncated (cut.txt.gz)"),
    "empty.jsonl.zst": (b"", 3, "truncated (empty.jsonl.zst)"),
    "empty.md.gz": (b"", 3, "truncated (empty.md.gz)"),
    "not.jsonl.zst": (GOOD, 3, "zst file is damaged (not.jsonl.zst"),
    "not.jsonl.gz": (GOOD, 3, "gz file is damaged (not.jsonl.gz"),
    "more.jsonl.gz": (gzip.compress(LINES) + b"more", 3, "damaged (more.jsonl.gz"),
    "sum.jsonl.zst": (flipped(zst(RANDOM, write_checksum=True), -2), 3, "damaged (sum.jsonl.zst"),
    "sum.jsonl.gz": (flipped(gzip.compress(RANDOM), -7), 3, "damaged (sum.jsonl.gz"),
    "block.jsonl.gz": (flipped(gzip.compress(LINES), 12), 3, "damaged (block.jsonl.gz"),
    "gz.jsonl.zst": (gzip.compress(LINES), 3, "gzip data (gz.jsonl.zst)"),
    "zst.jsonl.gz": (zst(LINES), 3, "Zstandard data (zst.jsonl.gz)"),
    "zst.jsonl": (zst(LINES), 2, "Zstandard data (zst.jsonl)"),
    "xz.txt": (lzma.compress(LINES), 2, "xz data (xz.txt)"),
    "zip.jsonl": (zipped(), 2, "a ZIP archive"),
    "tar.txt.gz": (gzip.compress(tar()), 2, "a tar archive"),
    "lfs.jsonl": (LFS, 2, "a Git LFS pointer, not the real file (lfs.jsonl)"),
    "lfs.jsonl.zst": (LFS, 3, "a Git LFS pointer"),
    "lfs.parquet": (LFS, 3, "a Git LFS pointer"),
    "page.jsonl": (b"<!DOCTYPE html><html>404", 2, "an HTML page (page.jsonl)"),
    "page.json.gz": (gzip.compress(b"<html>404"), 2, "an HTML page"),
    "picture.txt": (b"\x89PNG\r\n\x1a\n" + bytes(100), 2, "a PNG picture"),
    "utf16.txt": ("text ".encode("utf-16") * 50, 2, "UTF-16 text (utf16.txt)"),
    "latin1.txt": (b"caf\xe9 " * 100, 2, "latin1.txt: byte 0xe9 at offset 3"),
    "latin1.txt.zst": (zst(b"caf\xe9 " * 100), 2, "latin1.txt.zst: byte 0xe9 at offset 3"),
    "cut.txt": ("é".encode()[:1], 2, "cut.txt: byte 0xc3 at offset 0"),
    "latin1.json": (b'["caf\xe9"]', 2, "latin1.json: byte 0xe9 at offset 5"),
    "cut.json": (b'["a", "b"', 2, "must be a JSON list (cut.json: Expecting ',' delimiter"),
    "comma.json": (b'["a", "b",]', 2, "must be a JSON list (comma.json"),
    "more.json": (b'["a"] ["b"]', 2, "must be a JSON list (more.json: Extra data"),
    "deep.json": (b"[" * 100_000, 2, "must be a JSON list (deep.json"),
    "empty.parquet": (b"", 3, "Parquet file is damaged (empty.parquet"),
    "cut.parquet": (TABLE[:-9], 3, "Parquet file is damaged (cut.parquet"),
    "start.parquet": (TABLE[:1000], 3, "Parquet file is damaged (start.parquet"),
    "zeros.parquet": (TABLE[:40] + bytes(60) + TABLE[100:], 3, "damaged (zeros.parquet"),
    "text.parquet": (LINES, 3, "Parquet file is damaged (text.parquet"),
}

# The same for files with a bad record. `inspect` counts such records, and all others refuse them.
BAD_RECORDS: dict[str, tuple[bytes, int, str]] = {
    "byte.jsonl": (b'"a"\n' * 50_000 + b'"b\xff"\n"c"', 2, "byte.jsonl:50001: byte 0xff at offset"),
    "bad.jsonl.zst": (zst(GOOD * 3 + b'{"text": "a'), 2, "must be JSON (bad.jsonl.zst:4: Untermin"),
    "object.jsonl": (GOOD + b"[1]", 2, "an object or a string (object.jsonl:2: a list)"),
    "number.ndjson": (b"17", 2, "an object or a string (number.ndjson:1: 17)"),
    "null.jsonl": (b"null", 2, "an object or a string (null.jsonl:1: null)"),
    "field.jsonl": (GOOD + b'{"txt": "a"}', 2, "no field 'text' (field.jsonl:2 has 'txt')"),
    "none.jsonl": (GOOD + b'{"text": null}', 2, "must be a string (none.jsonl:2: null)"),
    "list.jsonl": (b'{"text": ["a", "b"]}', 2, "(list.jsonl:1: a list); join the strings"),
    "nested.jsonl": (b'{"text": {"a": "b"}}', 2, "must be a string (nested.jsonl:1: an object)"),
    "half.jsonl": (b'{"text": "a\\ud800"}', 2, "lone surrogate (half.jsonl:1: U+D800"),
    "control.jsonl": (b'{"text": "a\x01"}', 2, "control.jsonl:1: Invalid control character"),
    "mark.jsonl": (GOOD + b"\xef\xbb\xbf" + GOOD, 2, "mark.jsonl:2"),
    "deep.jsonl": (b'{"text": "a", "b": ' + b"[" * 100_000, 2, "deep.jsonl:1"),
    "digits.jsonl": (b'{"text": "a", "n": %b}' % (b"9" * 5000), 2, "has 5000 digits); correct"),
    "pretty.json": (b'{\n "text": "a"\n}', 2, "pretty.json:1: Expecting"),
    "item.json": (b'["a", 7]', 2, "an object or a string (item.json, item 1: 7)"),
    "field.json": (b'[{"txt": "a"}]', 2, "no field 'text' (field.json, item 0 has 'txt')"),
    "column.parquet": (parquet(txt=["a"]), 2, "no column 'text' (column.parquet has txt)"),
    "none.parquet": (parquet(text=["a", None]), 2, "(none.parquet, row 1: null)"),
    "number.parquet": (parquet(text=[1.5]), 2, "(number.parquet, row 0: 1.5)"),
    "twice.jsonl": (b'{"text": "a", "b": {"n": 1, "n": 2}}', 2, "1: the key 'n' occurs twice); c"),
    "twice.json": (b'["a", {"text": "a", "text": "b"}]', 2, "the key 'text' occurs twice"),
    "names.parquet": (NAMES, 2, "two columns must not have the same name (names.parquet: 'text')"),
    "utf8.parquet": (parquet(text=NOT_UTF8), 2, "not UTF-8 (utf8.parquet, row 1)"),
}


class Reader(NamedTuple):
    main: Callable[[Sequence[str]], int]
    before: str  # words before the path of a text
    after: str  # words after the path
    reads: tuple[dict[str, tuple[bytes, int, str]], ...]


READERS = {
    "inspect": Reader(data, "inspect", "", (BAD_FILES,)),
    "tokenize": Reader(
        tokenize, "--tokenizer_path t.json --encode", "--output out", (BAD_FILES, BAD_RECORDS)
    ),
    "train a tokenizer": Reader(
        tokenize, "--corpus", "--vocab_size 300 --output_tokenizer new.json", (BAD_RECORDS,)
    ),
    "clean": Reader(data, "clean", "--config c.toml --output out", (BAD_FILES, BAD_RECORDS)),
}
FILES = [
    pytest.param(reader, name, *bad[1:], id=f"{command}-{name}")
    for command, reader in READERS.items()
    for table in reader.reads
    for name, bad in table.items()
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    for name, (content, _, _) in (BAD_FILES | BAD_RECORDS).items():
        (folder / name).write_bytes(content)
    (folder / "good.jsonl").write_bytes(GOOD)
    (folder / "other.jsonl").write_bytes(GOOD * 2)
    (folder / "two.jsonl").write_bytes(GOOD + b"1\n" + GOOD + b"2")
    tiny.tokenizer(folder).save(folder / "t.json")
    (folder / "c.toml").write_text('[[step]]\nkind = "nfc"\n')
    for name in ("folder", "ids"):
        (folder / name).mkdir()
    (folder / "ids" / "a.bin").touch()
    os.mkfifo(folder / "pipe")
    return folder


@pytest.mark.parametrize(("reader", "name", "code", "names"), FILES)
def test_a_bad_text_is_one_line(prepared, monkeypatch, capsys, reader, name, code, names):
    monkeypatch.chdir(prepared)
    words = [*reader.before.split(), name, *reader.after.split()]
    check_refusal(reader.main, words, code, names, capsys)


INSPECT = [
    ("", "PATH"),
    ("missing.jsonl", "missing.jsonl"),
    ("*.csv", "no file matches the pattern (*.csv)"),
    ("folder", "the folder contains no text (folder)"),
    ("ids", "token files but no text (ids: 1 files"),
    ("pipe", "must be a file or a folder (pipe)"),
    ("good.jsonl --sample -1", "sample must be at least 0 (-1)"),
    ("good.jsonl --sample few", "few"),
    ("good.jsonl --field=", "a field must not have an empty key ('')"),
    ("good.jsonl --field a..b", "('a..b')"),
    ('good.jsonl --field ["a"', 'must be a JSON list of keys (["a")'),
    ("good.jsonl --field [1]", "must be a JSON list of keys ([1])"),
    ("good.jsonl --field a --field b", "b"),
    ("good.jsonl --feild a", "--field"),
    ("good.jsonl --json yes", "yes"),
]


@pytest.mark.parametrize(("words", "names"), INSPECT)
def test_a_mistake_in_inspect_is_one_line(prepared, monkeypatch, capsys, words, names):
    monkeypatch.chdir(prepared)
    check_refusal(data, ["inspect", *words.split()], 2, names, capsys)


ENCODE = "--tokenizer_path t.json --output out --encode "
LEARN = "--vocab_size 300 --output_tokenizer new.json --corpus good.jsonl "
REJECTS = " --max_bad 1 --rejects r.jsonl"
TOKENIZE = [
    (ENCODE + "good.jsonl --max_bad 1", "(--max_bad 1, --rejects None); add --rejects FILE.jsonl"),
    (ENCODE + "good.jsonl --rejects r.jsonl", "(--max_bad None, --rejects r.jsonl); add --max_bad"),
    (ENCODE + "good.jsonl --max_bad 0 --rejects r.jsonl", "add --max_bad N"),
    (ENCODE + "good.jsonl --max_bad -1 --rejects r.jsonl", "max_bad must be at least 0 (-1)"),
    (ENCODE + "good.jsonl --max_bad some", "some"),
    (ENCODE + "good.jsonl --max_bad 1 --rejects r.json", "must go to a .jsonl file (r.json)"),
    (ENCODE + "good.jsonl --max_bad 1 --rejects folder", "folder"),
    (ENCODE + "good.jsonl --max_bad 1 --rejects no/r.jsonl", "create no first"),
    (ENCODE + "good.jsonl --max_bad 1 --rejects good.jsonl", "the inputs (good.jsonl, input good"),
    (ENCODE + "goo*.jsonl --max_bad 1 --rejects good2.jsonl", "(good2.jsonl, input goo*.jsonl)"),
    (ENCODE + "two.jsonl" + REJECTS, "(two.jsonl:4: 2); write"),
    (ENCODE + "two.jsonl cut.json --max_bad 5 --rejects r.jsonl", "a JSON list (cut.json"),
    (
        ENCODE + "good.jsonl --field text.a",
        "field 'text' must be an object (good.jsonl:1: a string)",
    ),
    (ENCODE + 'good.jsonl --field ["a.b"]', "no field 'a.b'"),
    (ENCODE + "good.jsonl --field .", "('.')"),
    (LEARN + "two.jsonl" + REJECTS, "this is bad record 2 (max_bad 1)"),
    (LEARN + "--encode other.jsonl --output out" + REJECTS, "--corpus and --encode differ"),
    (LEARN + "--field text.x", "good.jsonl:1: a string"),
    ("--inspect t.json --max_bad 1", "--max_bad"),
    ("--tokenizer_path t.json --show a --join ,", "--join (,) is only for many documents"),
    ("--tokenizer_path t.json --show a --max_bad 1", "--max_bad (1) is only for many documents"),
]


@pytest.mark.parametrize(("words", "names"), TOKENIZE)
def test_a_mistake_in_reading_is_one_line(prepared, monkeypatch, capsys, words, names):
    monkeypatch.chdir(prepared)
    check_refusal(tokenize, words.split(), 2, names, capsys)


def test_steps_that_do_not_exist(capsys):
    check_refusal(data, ["inspekt"], 2, "did you mean inspect?", capsys)
    check_refusal(data, ["xyz"], 2, "the steps are", capsys)
    check_refusal(data, [], 2, "STEP", capsys)


# --- full disk ------------------------------------------------------------------------------------


@pytest.fixture
def small_files():
    """No file may have more than 20,000 bytes, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


FULL = [
    (tokenize, ENCODE + "long.jsonl", "out/train-00000.bin"),
    (tokenize, ENCODE + "bad.jsonl --max_bad 9000 --rejects r.jsonl", "r.jsonl"),
    (data, "generate copy --documents 5000 --output new.jsonl", "new.jsonl"),
]


@pytest.mark.parametrize(("main", "words", "names"), FULL)
def test_a_full_disk_leaves_nothing_half_written(
    prepared, tmp_path, monkeypatch, capsys, request, main, words, names
):
    monkeypatch.chdir(tmp_path)
    Path("t.json").write_bytes((prepared / "t.json").read_bytes())
    Path("long.jsonl").write_text(json.dumps({"text": "x y z " * 10_000}), encoding="utf-8")
    bad = json.dumps({"text": 5, "more": "x" * 1000})
    Path("bad.jsonl").write_text(f'{bad}\n"a"\n' * 40, encoding="utf-8")
    request.getfixturevalue("small_files")
    check_refusal(main, words.split(), 5, names, capsys)


def test_a_full_disk_stops_a_download_which_can_continue(tmp_path, monkeypatch, capsys, request):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.chdir(tmp_path)
    with server.running(random.Random(1).randbytes(50_000)) as state:
        file = {"url": f"http://127.0.0.1:{state.port}/set.bin"}
        source = {"about": "a", "licence": "b", "home": "c", "folder": "set", "files": [file]}
        Path("t.json").write_text(json.dumps({"set": source}), encoding="utf-8")
        request.getfixturevalue("small_files")
        left = {"set", "set/.set.bin.part", "set/.set.bin.source.json"}
        check_refusal(data, ["download", "set", "--table", "t.json"], 5, "set.bin", capsys, left)
