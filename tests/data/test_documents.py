"""Documents: the files are read right for every size of a read, and errors name bad files."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tarfile
import tracemalloc
from itertools import groupby
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from scratchlm.data.documents import read_documents, read_texts
from scratchlm.data.reading import parquet, unpacked
from scratchlm.data.reading.settings import Reading
from scratchlm.data.sources import find_files
from scratchlm.errors import FileFormatError, Notice
from scratchlm.tokenizer.pieces.patterns import GPT2

END = "<|endoftext|>"
TEXTS = ["one\n", "\ntwo é 中文 😀", " ", END[:5], "line 1\nline 2\r\n", "\u2028 \x00 end"]


def joined(
    path: str | Path | list[Path], max_documents: int | None = None, **reading: str
) -> list[str]:
    """Join the chunks of each document, and check their numbers and `last`."""
    found = []
    chunks = list(read_documents(path, Reading(**reading), max_documents=max_documents))
    for number, group in groupby(chunks, lambda chunk: chunk.document):
        parts = list(group)
        assert number == len(found)
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
        found.append("".join(part.text for part in parts))
    return found


def write_all(folder: Path, texts: list[str]) -> list[Path]:
    """The same documents in every format."""
    lines = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts))
    plain = END.join(texts).encode()
    pack = zstandard.ZstdCompressor().compress
    contents = {
        "a.txt": plain,
        "a.unknown": plain,
        "a.txt.zst": pack(plain),
        "a.txt.gz": gzip.compress(plain[:9]) + gzip.compress(plain[9:]) + b"\0" * 9,  # padded
        "a.jsonl": lines.encode(),
        "a.jsonl.zst": pack(lines[:20].encode()) + pack(lines[20:].encode()),  # two frames
        "A.JSONL": lines.encode(),
        "marked.ndjson": b"\xef\xbb\xbf" + lines.encode(),
        "a.jsonl.gz": gzip.compress(lines.encode()),
        "lines.json": lines.encode(),  # as many files of this name on the hub are
        "strings.jsonl": "".join(json.dumps(text) + "\n" for text in texts).encode(),
        "strings.json": json.dumps(texts, ensure_ascii=False).encode(),
        "objects.json": json.dumps([{"text": text} for text in texts], indent=1).encode(),
        "marked.json": b"\xef\xbb\xbf \n" + json.dumps(texts).encode(),
        "a.json.zst": pack(json.dumps(texts).encode()),
        "unescaped.jsonl": "\n".join(
            json.dumps({"text": text}, ensure_ascii=False) for text in texts
        ).encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    table = pyarrow.table({"id": range(len(texts)), "text": texts})
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=2)
    return [*(folder / name for name in contents), folder / "a.parquet"]


@pytest.mark.parametrize("read", [1, 2, 3, 7, 1 << 20])
def test_every_format_gives_the_documents_as_they_are(tmp_path, monkeypatch, read):
    for name in ("READ_BYTES", "READ_BYTES_ZST"):
        monkeypatch.setattr(unpacked, name, read)
    monkeypatch.setattr(parquet, "ROWS", read)
    for path in write_all(tmp_path, TEXTS):
        assert joined(path) == TEXTS, path


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffone \ufeff" + END + "two", encoding="utf-8")
    (tmp_path / "b.txt").write_text("\ufeff", encoding="utf-8")
    assert joined(tmp_path) == ["one \ufeff", "two"]
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbfab\xff")
    with pytest.raises(ValueError, match=r"byte 0xff at offset 5"):
        joined(tmp_path / "c.txt")


@pytest.mark.parametrize("read", [1, 2, 5, 1 << 20])
@pytest.mark.parametrize("separator", ["a", "aa", "aba", "\n", "é中", "abab"])
def test_text_is_split_as_str_split_does(tmp_path, monkeypatch, read, separator):
    monkeypatch.setattr(unpacked, "READ_BYTES", read)
    path = tmp_path / "text.txt"
    for text in ("", "a", "aaa", "abababaab\n\né中é中abaabbaaaababab", "é中", "\naba\n"):
        path.write_bytes(text.encode())
        assert joined(path, separator=separator) == [t for t in text.split(separator) if t]


def test_empty_documents_are_left_out_and_not_counted(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(f"{END}{END}one{END}{END}two{END}")
    assert joined(path) == ["one", "two"]
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n\n{"text": "three"}\n  \n{"text": ""}')
    assert joined([path, tmp_path / "b.jsonl"]) == ["one", "two", "three"]
    path.write_text("")
    assert joined(path) == []


def test_a_file_is_the_end_of_a_document(tmp_path):
    for name, text in (("a.txt", "one"), ("b.txt", "two" + END + "three")):
        (tmp_path / name).write_text(text)
    assert joined(tmp_path) == ["one", "two", "three"]


def test_a_separator_in_json_is_text(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"body": f"a{END}b"}))
    assert joined(tmp_path / "a.jsonl", field="body") == [f"a{END}b"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.jsonl.zst", "a.txt.zst"])
def test_progress_counts_the_files_bytes(tmp_path, name):
    paths = write_all(tmp_path, TEXTS * 50)
    path = next(path for path in paths if path.name == name)
    read = []
    list(read_documents(path, progress=read.append))
    assert sum(read) == path.stat().st_size


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "objects.json", "a.parquet", "a.jsonl.zst"])
def test_the_first_documents_of_each_file(tmp_path, name):
    """An empty document counts, and yields nothing."""
    texts = ["one", "", "two" * 1000, "three", *TEXTS]
    path = next(path for path in write_all(tmp_path, texts) if path.name == name)
    other = path.rename(tmp_path / f"b{name}")
    write_all(tmp_path, texts)
    for count in (1, 2, 3, 4, len(texts), 1000):
        first = [text for text in texts[:count] if text]
        assert joined([path, other], max_documents=count) == first * 2
        read = []
        list(read_documents(path, progress=read.append, max_documents=count))
        assert sum(read) == path.stat().st_size
    with pytest.raises(ValueError, match=r"max_documents must be at least 1 \(0\); use"):
        list(read_documents(path, max_documents=0))


def test_a_document_of_any_length_is_read_in_bounded_memory(tmp_path):
    texts = [os.urandom(10_000).hex() for _ in range(1500)]
    (tmp_path / "a.txt").write_text("".join(texts))
    (tmp_path / "b.txt.zst").write_bytes(
        zstandard.ZstdCompressor().compress("".join(texts).encode())
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "c.parquet")
    del texts
    tracemalloc.start()
    read = 0
    for chunk in read_documents(tmp_path):
        read += len(chunk.text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == 3 * 1500 * 20_000
    assert peak < 20_000_000


def test_texts_to_learn_from_are_cut_between_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacked, "READ_BYTES", 100)
    path = tmp_path / "a.txt"
    path.write_text("the cat sat. " * 100 + END + "short")
    texts = list(read_texts(path, pattern=GPT2))
    assert "".join(texts) == "the cat sat. " * 100 + "short"
    assert texts[-1].endswith("short")
    assert all(not text.startswith(("he", "at")) for text in texts)


# --- which files ----------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    names = ["b.txt", "a.md", "sub/c.jsonl", "sub/deep/d.parquet", "sub/e.jsonl.zst", "[x].txt"]
    left_out = ["t.json", "x.bin", "x.bin.json", ".hidden.txt", ".git/f.txt", "b.txt~", "g.py"]
    for name in names + left_out:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_of(paths: object) -> list[str]:
    return [path.as_posix() for path in find_files(paths)]


@pytest.mark.filterwarnings("ignore:skipped:scratchlm.errors.Notice")
def test_a_folder_gives_its_text_sorted(tree):
    everything = ["[x].txt", "a.md", "b.txt", "sub/c.jsonl", "sub/deep/d.parquet"]
    assert names_of(".") == [*everything, "sub/e.jsonl.zst"]
    assert names_of(Path("sub")) == ["sub/c.jsonl", "sub/deep/d.parquet", "sub/e.jsonl.zst"]


def test_the_order_named_is_kept_and_no_file_comes_twice(tree):
    assert names_of(["sub/c.jsonl", "b.txt", "sub", "./b.txt", tree / "b.txt"]) == [
        "sub/c.jsonl",
        "b.txt",
        "sub/deep/d.parquet",
        "sub/e.jsonl.zst",
    ]
    assert names_of(["g.py", "t.json"]) == ["g.py", "t.json"], "a file that is named is taken"


@pytest.mark.filterwarnings("ignore:skipped:scratchlm.errors.Notice")
def test_a_folder_gives_the_json_files_that_are_lists(tree):
    (tree / "t.json").write_text('{"model": {}}')  # as a tokenizer.json is
    (tree / "sub" / "list.JSON").write_text('\n["a"]')
    (tree / "sub" / "F.GZ").touch()
    assert names_of("sub/*.JSON") == ["sub/list.JSON"]
    assert names_of("sub")[-1] == "sub/list.JSON"
    assert "t.json" not in names_of(".")


@pytest.mark.filterwarnings("ignore:skipped:scratchlm.errors.Notice")
def test_a_folder_tells_what_it_skips(tree):
    """`find_files` reads JSON lines in .json files and linked folders, and reports other files."""
    (tree / "t.json").write_text('{"model": {}}')
    (tree / "sub" / "lines.json").write_text('\ufeff{"text": "a"}\r\n\n{"text": "b"}\n', "utf-8")
    (tree / "sub" / "pretty.json").write_text('{\n "a": {"b": 1}\n}')
    (tree / "sub" / "lines.json.gz").write_bytes(gzip.compress(b'"a"\n"b"'))
    (tree / "sub" / "object.json.gz").write_bytes(gzip.compress(b'{"a": 1}\n'))
    (tree / "top").mkdir()
    (tree / "top" / "part").symlink_to("../sub")
    (tree / "top" / "part" / "up").symlink_to("../top")
    with pytest.warns(Notice) as notices:
        found = names_of("top")
    names = ["c.jsonl", "deep/d.parquet", "e.jsonl.zst", "lines.json", "lines.json.gz"]
    assert found == [f"top/part/{name}" for name in names]
    (told,) = [str(notice.message) for notice in notices]
    assert told.startswith("skipped 2 files in top, such as top/part/object.json.gz: a .json file")
    with pytest.warns(Notice, match=r"skipped 2 files in \., such as b\.txt~: a name must end in"):
        names_of(".")


def test_a_folder_of_shards_is_called_that(tmp_path):
    for number in range(3):
        (tmp_path / f"train-{number}.bin").touch()
    with pytest.raises(
        ValueError, match=r"token files .*3 files, such as .*train-0\.bin\); choose"
    ):
        find_files(tmp_path)


def test_globs(tree):
    assert names_of("*.txt") == ["[x].txt", "b.txt"]
    assert names_of("**/*.jsonl") == ["sub/c.jsonl"]
    assert names_of("su?") == names_of("sub")
    assert names_of("[x].txt") == ["[x].txt"], "an existing file is no pattern"


def test_paths_that_name_nothing(tree):
    (tree / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        find_files(["b.txt", "missing.txt"])
    with pytest.raises(ValueError, match=r"no file matches the pattern \(\*\.csv\); check"):
        find_files(["b.txt", "*.csv"])
    with pytest.raises(ValueError, match=r"contains no text \(empty\); choose .*\.parquet"):
        find_files("empty")
    with pytest.raises(ValueError, match=r"a path must not be empty \(''\); specify"):
        find_files([""])
    with pytest.raises(ValueError, match=r"list of paths must not be empty .*; specify"):
        find_files([])
    os.mkfifo(tree / "pipe")
    with pytest.raises(ValueError, match=r"must be a file or a folder \(pipe\); choose"):
        find_files("pipe")


# --- bad files ------------------------------------------------------------------------------------

BAD_LINES = [
    ('{"text": "a"}\n{"text": "b"', r"each line must be JSON \(.*a\.jsonl:2: .*\); correct"),
    (
        '{"text": "a"}\n\n[1]',
        r"a line must be an object or a string \(.*a\.jsonl:3: a list\); write",
    ),
    ('{"txt": "a", "id": 1}', r"no field 'text' \(.*a\.jsonl:1 has 'txt', 'id'\); choose"),
    ("{}", r"no field 'text' \(.*a\.jsonl:1 has none\); choose"),
    ('{"text": 3}', r"field 'text' must be a string \(.*a\.jsonl:1: 3\); choose"),
    ('{"text": null}', r"field 'text' must be a string \(.*a\.jsonl:1: null\); choose"),
    (
        '{"text": "ab\\ud800"}',
        r"a lone surrogate \(.*a\.jsonl:1: U\+D800 at character 2\); replace",
    ),
    ("[" * 100_000, r"each line must be JSON \(.*a\.jsonl:1: .*inside each other\); correct"),
    ('{"text": ' + "9" * 5000 + "}", r"each line must be JSON \(.*a\.jsonl:1: .*\); correct"),
    ('{"text": "a"}\n\ufeff{}', r"each line must be JSON \(.*a\.jsonl:2: .*BOM.*\); correct"),
]


@pytest.mark.parametrize(("content", "message"), BAD_LINES, ids=[m for _, m in BAD_LINES])
def test_bad_lines(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        list(read_documents(tmp_path / "a.jsonl"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [1, 4, 1 << 20])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_the_offset_of_what_is_not_utf8(tmp_path, monkeypatch, read, name):
    monkeypatch.setattr(unpacked, "READ_BYTES", read)
    content = b'{"text": "\xc3\xa9"}\n{"text": "ab\xff"}\n'
    (tmp_path / name).write_bytes(content)
    offset = content.index(b"\xff")
    line = ":2" if name == "a.jsonl" else ""
    message = rf"is not UTF-8 \(.*{name}{line}: byte 0xff at offset {offset}\); convert"
    with pytest.raises(ValueError, match=message):
        list(read_documents(tmp_path / name))
    (tmp_path / name).write_bytes(content[:11])
    with pytest.raises(ValueError, match=r"byte 0xc3 at offset 10\)"):
        list(read_documents(tmp_path / name))


def test_a_zst_file_with_a_long_window(tmp_path):
    """`zstd --long=28` writes such a file. zstandard reads up to 27 without a setting."""
    settings = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    (tmp_path / "a.jsonl.zst").write_bytes(packer.compress(b'"a"') + packer.flush())
    assert [chunk.text for chunk in read_documents(tmp_path / "a.jsonl.zst")] == ["a"]


def test_bad_zst(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    packed = zstandard.ZstdCompressor().compress(b'{"text": "abcdefgh"}\n' * 1000)
    for cut in (0, 5, len(packed) // 2, len(packed) - 1):
        path.write_bytes(packed[:cut])
        with pytest.raises(FileFormatError, match=r"zst file is truncated \(.*\); copy the file"):
            list(read_documents(path))
    path.write_bytes(b"no zst at all")
    with pytest.raises(
        FileFormatError, match=r"the zst file is damaged \(.*a\.jsonl\.zst: .*\); copy"
    ):
        list(read_documents(path))


def test_bad_gz(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    packed = gzip.compress(b'{"text": "abcdefgh"}\n' * 1000)
    for cut in (0, 5, len(packed) // 2, len(packed) - 1):
        path.write_bytes(packed[:cut])
        with pytest.raises(FileFormatError, match=r"gz file is truncated \(.*a\.jsonl\.gz\); copy"):
            list(read_documents(path))
    path.write_bytes(packed[:-8] + b"1234" + packed[-4:])  # another checksum
    with pytest.raises(
        FileFormatError, match=r"the gz file is damaged \(.*a\.jsonl\.gz: .*\); copy"
    ):
        list(read_documents(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", r"an item must be an object or a string \(.*a\.json, item 0: 1\); write"),
        ('["a", {"txt": 1}]', r"no field 'text' \(.*a\.json, item 1 has 'txt'\); choose"),
        ('["a", {"text": 1}]', r"field 'text' must be a string \(.*item 1: 1\); choose"),
        ('["a\\ud800"]', r"a lone surrogate \(.*item 0: U\+D800 at character 1\); replace"),
        ('["a"', r"must be a JSON list \(.*a\.json: .*\); correct"),
        ("[" * 100_000, r"must be a JSON list \(.*a\.json: .*inside each other\); correct"),
        ('{"a":\n1}', r"each line must be JSON \(.*a\.json:1: .*\); write a list of objects"),
    ],
)
def test_bad_json(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        list(read_documents(tmp_path / "a.json"))
    assert "\n" not in str(caught.value)


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", LFS, r"a Git LFS pointer, not the real file \(.*a\.txt\); fetch"),
        ("a.jsonl", LFS, "a Git LFS pointer"),
        ("a.json.gz", LFS, "a Git LFS pointer"),
        ("a.parquet", LFS, "a Git LFS pointer"),
        ("a.txt", gzip.compress(b"text", mtime=0), r"gzip data \(.*\); .*\.gz"),
        ("a.zst", gzip.compress(b"text", mtime=0), r"gzip data \(.*\); .*\.gz"),
        ("a.txt.gz", gzip.compress(_tar(), mtime=0), "a tar archive"),
        ("a.md", "text ".encode("utf-16-le") * 50, r"UTF-16 text \(.*\); convert the text to UTF"),
        ("a.txt", b"PK\x03\x04\x14\0", "a ZIP archive"),
        ("a.jsonl", b"PAR1\x15\x04", "a Parquet file"),
        ("a", b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    ],
)
def test_what_is_not_text_is_called_what_it_is(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"looks like {message}") as caught:
        list(read_documents(tmp_path / name))
    assert f"({tmp_path / name}); " in str(caught.value)


def test_bad_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None], "n": [1, 2]}), path)
    with pytest.raises(ValueError, match=r"no column 'body' \(.*a\.parquet has text, n\); ch"):
        list(read_documents(path, Reading("body")))
    with pytest.raises(ValueError, match=r"'text' must .* string \(.*row 1: null\); choose"):
        list(read_documents(path))
    with pytest.raises(ValueError, match=r"field 'n' must .* string \(.*row 0: \d\); choose"):
        list(read_documents(path, Reading("n")))
    content = path.read_bytes()
    for bad in (b"", b"PAR1", content[:-20], content[:40] + bytes(60) + content[100:]):
        path.write_bytes(bad)
        with pytest.raises(FileFormatError, match=r"Parquet file is damaged \(.*\); copy the file"):
            list(read_documents(path))
    array = pyarrow.array([b"a", b"\xff"]).cast(pyarrow.string(), safe=False)
    pyarrow.parquet.write_table(pyarrow.table({"text": array}), path)
    with pytest.raises(ValueError, match=r"is not UTF-8 \(.*a.parquet, row 1\); save"):
        list(read_documents(path))


@pytest.mark.parametrize(("name", "package"), [("a.jsonl.zst", "zstandard"), ("a.parquet", "py")])
def test_an_extra_that_is_missing_is_named(tmp_path, monkeypatch, name, package):
    (tmp_path / name).touch()
    for module in ("zstandard", "pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    message = rf"needs a package .*\(.*{name}: {package}.*\); run pip install 'scratchlm\[data\]'"
    with pytest.raises(ValueError, match=message):
        list(read_documents(tmp_path / name))


def test_an_empty_separator(tmp_path):
    with pytest.raises(ValueError, match=r"separator must not be empty \(''\); specify"):
        list(read_documents(tmp_path, Reading(separator="")))
