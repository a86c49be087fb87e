"""Records: equal to what `json`, `gzip` and pyarrow give, and nothing disappears in silence."""

from __future__ import annotations

import base64
import datetime
import decimal
import gzip
import io
import json
import random
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from scratchlm.data.documents import read_documents
from scratchlm.data.reading.fields import with_text
from scratchlm.data.reading.record import place
from scratchlm.data.reading.records import read_records
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import Reading
from scratchlm.errors import FileFormatError

END = "<|endoftext|>"
FIELDS = {"text": ["text"], "meta.body": ["meta", "body"], '["a.b"]': ["a.b"]}
WORDS = ["the", "é", "中文", "😀", "\u2028", "\x00", "\\u0041", END, "\r", '"', "\n", " ", "{}"]


def a_text(rng: random.Random, *, plain: bool = False) -> str:
    words = [word for word in WORDS if word != END] if plain else WORDS
    return "".join(rng.choices(words, k=rng.randrange(0 if not plain else 1, 30)))


def an_object(keys: list[str], text: Any, number: int) -> dict[str, Any]:
    for key in reversed(keys[1:]):
        text = {key: text, "other": number}
    return {"id": number, keys[0]: text, "more": [1.5, None, {"text": "no"}]}


def write_file(rng: random.Random, folder: Path, number: int) -> tuple[Path, Reading]:
    """Write a file of some format with a few documents, chosen by `rng`."""
    field, keys = rng.choice(list(FIELDS.items()))
    join = rng.choice([None, "\n\n", "\\n"])
    ending = rng.choice([".jsonl", ".ndjson", ".JSON", ".json", ".txt", ".md", ".parquet"])
    packed = "" if ending == ".parquet" else rng.choice(["", ".gz", ".zst"])
    path = folder / f"{number}{ending}{packed}"
    count = rng.randrange(1, 9)
    lists = join is not None and rng.random() < 0.7
    texts: list[Any] = [a_text(rng, plain=ending in (".txt", ".md")) for _ in range(count)]
    if lists and ending not in (".txt", ".md"):
        texts = [[a_text(rng) for _ in range(rng.randrange(4))] for _ in texts]
    if ending == ".parquet":
        rows = [an_object(keys, text, i) | {"more": i} for i, text in enumerate(texts)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=3)
        return path, Reading(field, join=join)
    if ending in (".txt", ".md"):
        content = END.join(texts).encode()
    else:
        values = [
            text if isinstance(text, str) and rng.random() < 0.3 else an_object(keys, text, i)
            for i, text in enumerate(texts)
        ]
        ascii_only = rng.random() < 0.5
        if ending == ".json":
            indent = rng.choice([None, 2])
            content = json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode()
        else:
            lines = [json.dumps(value, ensure_ascii=ascii_only) for value in values]
            content = rng.choice(["\n", "\r\n", "\n\n"]).join(lines).encode()
        content = rng.choice([b"", b"\xef\xbb\xbf"]) + content + rng.choice([b"", b"\n"])
    match packed:
        case ".gz":
            content = gzip.compress(content)
        case ".zst":
            content = zstandard.ZstdCompressor().compress(content)
    path.write_bytes(content)
    return path, Reading(field, join=join)


def oracle(path: Path, reading: Reading) -> list[tuple[str, Any]]:
    """Return (text, input object) of each record, read in the simplest way."""
    keys = FIELDS[reading.field]
    if path.suffix == ".parquet":
        values = pyarrow.parquet.read_table(path).to_pylist()
    else:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        if path.suffix == ".zst":
            data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
        text = data.decode("utf-8-sig")
        if ".txt" in path.name or ".md" in path.name:
            return [(part, part) for part in text.split(END) if part]
        is_list = ".json" in path.suffixes
        lines = [line for line in text.split("\n") if line.strip()]
        values = json.loads(text) if is_list else list(map(json.loads, lines))
    found = []
    for value in values:
        text = value
        for key in keys if isinstance(value, dict) else []:
            text = text[key]
        if isinstance(text, list):
            text = {"\n\n": "\n\n", "\\n": "\n"}[reading.join].join(text)
        found.append((text, value))
    return found


def check_files(folder: Path, seeds: range) -> None:
    for seed in seeds:
        path, reading = write_file(random.Random(seed), folder, seed)
        records = list(read_records(path, reading))
        wanted = oracle(path, reading)
        assert [(record.text, record.value) for record in records] == wanted, path
        groups = groupby(read_documents(path, reading), lambda chunk: chunk.document)
        joined = ["".join(chunk.text for chunk in chunks) for _, chunks in groups]
        assert joined == [text for text, _ in wanted if text], path
        path.unlink()


def test_records_are_what_json_gzip_and_pyarrow_read(tmp_path):
    check_files(tmp_path, range(80))


@pytest.mark.slow
def test_records_of_2000_files_are_what_json_gzip_and_pyarrow_read(tmp_path):
    check_files(tmp_path, range(80, 2080))


# --- fields ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "keys"),
    [
        ("text", ("text",)),
        ("a.b.c", ("a", "b", "c")),
        ('["a.b"]', ("a.b",)),
        (' ["a"]', (' ["a"]',)),
        ('["", "x"]', ("", "x")),
    ],
)
def test_the_keys_of_a_field(field, keys):
    assert Reading(field).keys == keys


@pytest.mark.parametrize("field", ["", ".", "a..b", "a.", ".a"])
def test_an_empty_key_is_refused(field):
    with pytest.raises(ValueError, match=rf"have an empty key \('{re.escape(field)}'\); write"):
        Reading(field)


@pytest.mark.parametrize("field", ["[", "[]", "[1]", '["a"', '["a", null]', "[" * 100_000])
def test_a_list_of_keys_must_be_one(field):
    with pytest.raises(ValueError, match=r"must be a JSON list of keys \(.*\); write for example"):
        Reading(field)


BAD_FIELDS = [
    ({"a": {"b": 1}}, r"field 'a\.b' must be a string \(.*:1: 1\); choose another field"),
    ({"a": {"c": 1}}, r"no field 'a\.b', because 'b' is missing \(.*:1: 'a' has 'c'\); choose a"),
    (
        {"x": {"b": "t"}},
        r"no field 'a\.b', because 'a' is missing \(.*:1 has 'x'\); choose a field",
    ),
    ({"a.b": "t"}, r"""'a' is missing \(.* has 'a\.b'\); for a key with .* --field '\["a\.b"\]'"""),
    (
        {"a": "t"},
        r"field 'a' must be an object \(.*:1: a string\); choose another field with --field",
    ),
    (
        {"a": {"b": ["t"]}},
        r"must be a string \(.*:1: a list\); join .* with --join '\\n\\n', or ch",
    ),
]


@pytest.mark.parametrize(("value", "message"), BAD_FIELDS, ids=[m for _, m in BAD_FIELDS])
def test_a_nested_field_that_is_not_there(tmp_path, value, message):
    (tmp_path / "a.jsonl").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=message):
        list(read_records(tmp_path / "a.jsonl", Reading("a.b")))


def test_a_list_must_have_strings_only(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ["a", 2]}')
    with pytest.raises(ValueError, match=r"list of strings \(.*:1: item 1 is 2\); choose"):
        list(read_records(tmp_path / "a.jsonl", Reading(join=" ")))


@pytest.mark.parametrize("separator", ["\n\t", r"\n\t"])
def test_a_separator_may_contain_newlines(tmp_path, separator):
    (tmp_path / "a.txt").write_text("one\n\ttwo", encoding="utf-8")
    reading = Reading(separator=separator)
    assert [record.text for record in read_records(tmp_path, reading)] == ["one", "two"]
    assert {chunk.document for chunk in read_documents(tmp_path, reading)} == {0, 1}


def test_with_text_replaces_the_text_alone():
    value = {"a": {"b": "old", "c": 1}, "d": [2]}
    assert with_text(value, "new", Reading("a.b")) == {"a": {"b": "new", "c": 1}, "d": [2]}
    assert value["a"]["b"] == "old"
    assert with_text({"a.b": ["x"]}, "new", Reading('["a.b"]', join="")) == {"a.b": "new"}
    assert with_text("a bare string", "new", Reading("a.b")) == {"a": {"b": "new"}}


# --- places and sizes -----------------------------------------------------------------------------


def test_places_and_sizes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ['{"text": "é"}', "", '"中文"', '{"text": ""}']
    Path("a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    Path("b.json").write_text('[ "é", {"text" : "b"} ]', encoding="utf-8")
    Path("c.txt").write_text(f"{END}é\n{END}{END}two", encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["é", ""]}), "d.parquet")
    found = [(place(each), each.num_bytes) for each in read_records(".")]
    assert found == [
        ("a.jsonl:1", 14), ("a.jsonl:3", 8), ("a.jsonl:4", 12),
        ("b.json, item 0", 4), ("b.json, item 1", 14),
        ("c.txt:0", 3), ("c.txt:1", 3),
        ("d.parquet, row 0", 2), ("d.parquet, row 1", 0),
    ]  # fmt: skip


def test_a_row_of_parquet_becomes_json_values(tmp_path):
    path = tmp_path / "a.parquet"
    row = {
        "text": "t", "score": 2.5, "tags": ["a"], "meta": {"n": 1}, "none": None,
        "day": datetime.date(2024, 1, 31), "at": datetime.datetime(2024, 1, 31, 5, 6),
        "price": decimal.Decimal("1.50"),
    }  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    (record,) = read_records(path)
    json_values = {"day": "2024-01-31", "at": "2024-01-31 05:06:00.000000", "price": "1.50"}
    assert json.loads(json.dumps(record.value)) == row | json_values
    pyarrow.parquet.write_table(pyarrow.table({"text": ["t"], "image": [b"\xff"]}), path)
    with pytest.raises(ValueError, match=r"'image' must .* JSON can store \(.*: binary\); remove"):
        list(read_records(path))
    assert [chunk.text for chunk in read_documents(path)] == ["t"]


def test_a_nested_column(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"a": {"b": "one", "n": 1}, "a.b": "x"}, {"a": {"b": "two", "n": 2}, "a.b": "y"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert [chunk.text for chunk in read_documents(path, Reading("a.b"))] == ["one", "two"]
    assert [chunk.text for chunk in read_documents(path, Reading('["a.b"]'))] == ["x", "y"]
    with pytest.raises(ValueError, match=r"no column 'a\.c' \(.*: 'a' has b, n\); choose"):
        list(read_documents(path, Reading("a.c")))
    with pytest.raises(ValueError, match=r"no column 'a\.b\.c' \(.*: 'b' has nothing\); choose"):
        list(read_documents(path, Reading("a.b.c")))


# --- rejects --------------------------------------------------------------------------------------


def rejected(path: Path) -> list[tuple[str, int, bytes]]:
    """Return (file name, line, bytes) of each reject. Check that each has a reason."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        assert entry.keys() == {"path", "line", "reason", "bytes"}
        assert re.fullmatch(r".+ \(.*\); .+", entry["reason"])
        found.append((Path(entry["path"]).name, entry["line"], base64.b64decode(entry["bytes"])))
    return found


@pytest.fixture
def bad(tmp_path) -> Path:
    """Files with 7 bad records, 4 good records and 1 empty text."""
    folder = tmp_path / "bad"
    folder.mkdir()
    lines = [b'{"text": "good"}', b'{"text": 1}', b"", b'{"text": "a\xff"}', b"{", b'"good"']
    (folder / "a.jsonl").write_bytes(b"\n".join(lines))
    (folder / "b.json").write_text('["good", 7, {"txt": "x"}, ""]')
    array = pyarrow.array([b"good", b"\xff\xfe", None]).cast(pyarrow.string(), safe=False)
    pyarrow.parquet.write_table(pyarrow.table({"text": array}), folder / "c.parquet")
    return folder


def test_bad_records_are_kept_aside(bad, tmp_path):
    with Rejects(tmp_path / "rejects.jsonl", max_bad=7) as rejects:
        records = list(read_records(bad, rejects=rejects))
    assert [record.text for record in records] == ["good", "good", "good", "", "good"]
    kept = rejected(tmp_path / "rejects.jsonl")
    assert kept == [
        ("a.jsonl", 2, b'{"text": 1}'),
        ("a.jsonl", 4, b'{"text": "a\xff"}'),
        ("a.jsonl", 5, b"{"),
        ("b.json", 1, b"7"),
        ("b.json", 2, b'{"txt": "x"}'),
        ("c.parquet", 1, b"\xff\xfe"),
        ("c.parquet", 2, b'{"text": null}'),
    ]
    assert (rejects.records, rejects.count) == (12, 7)
    assert rejects.num_bytes == sum(len(data) for _, _, data in kept)
    lines = [record.num_bytes for record in records if record.path.name == "a.jsonl"]
    assert sum(lines) + 11 + 14 + 1 + 5 == (bad / "a.jsonl").stat().st_size  # and 5 newlines


def test_documents_are_the_same_with_rejects(bad, tmp_path):
    with Rejects(tmp_path / "rejects.jsonl", max_bad=7) as rejects:
        chunks = list(read_documents(bad, rejects=rejects))
    assert [(chunk.document, chunk.text) for chunk in chunks] == [(i, "good") for i in range(4)]
    assert (rejects.records, rejects.count, rejects.empty) == (12, 7, 1)


@pytest.mark.parametrize("max_bad", range(7))
def test_the_reading_stops_at_one_bad_record_more(bad, tmp_path, max_bad):
    path = tmp_path / "rejects.jsonl"
    path.write_text("old")
    with (
        pytest.raises(ValueError, match=r"(a\.jsonl:|item |row )\d") as caught,
        Rejects(path, max_bad) as rejects,
    ):
        list(read_records(bad, rejects=rejects))
    assert rejects.count == max_bad
    note = f"this is bad record {max_bad + 1} (max_bad {max_bad})"
    if not max_bad:
        note = "or accept N bad records with --max_bad N --rejects FILE.jsonl"
    assert caught.value.__notes__ == [note]
    assert path.read_text() == "old", "the file is not replaced by a part"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bad", "rejects.jsonl"]


def test_problems_of_a_whole_file_are_never_rejects(tmp_path):
    whole = gzip.compress(b'{"text": "abcdefgh"}\n' * 1000)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.json").write_text('["a", "b" "c"]')
    (tmp_path / "c.txt").write_bytes(b"\xff")
    pyarrow.parquet.write_table(pyarrow.table({"n": [1]}), tmp_path / "d.parquet")
    for path, error in zip(
        sorted(tmp_path.iterdir()),
        (FileFormatError, ValueError, ValueError, ValueError),
        strict=True,
    ):
        with pytest.raises(error), Rejects(tmp_path / "r", 1000) as rejects:
            list(read_records(path, rejects=rejects))
        assert rejects.count == 0
        assert not (tmp_path / "r").exists()


def test_rejects_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match=r"max_bad must be at least 0 \(-1\); use"):
        Rejects(max_bad=-1)
    with pytest.raises(ValueError, match=r"need a file \(max_bad 3\); add --rejects FILE\.jsonl"):
        Rejects(max_bad=3)


def test_records_without_a_field_are_whole_objects(tmp_path):
    """Evaluation sets and dialogues have no single text."""
    values = [{"ctx": "a", "endings": ["b", "c"], "label": n} for n in range(100)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    (tmp_path / "b.json").write_text(json.dumps([*values, "bare"]))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), tmp_path / "c.parquet")
    records = list(read_records(tmp_path, Reading(field=None)))
    assert [record.value for record in records] == [*values, *values, "bare", *values]
    assert [record.text for record in records] == [*[""] * 200, "bare", *[""] * 100]
    (tmp_path / "d.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match=r"object or a string \(.*a list\); write a JSON"):
        list(read_records(tmp_path / "d.jsonl", Reading(field=None)))


def test_a_row_that_is_not_utf8_has_no_value_without_a_field(tmp_path):
    column = pyarrow.array([b"good", b"\xff", b"more"]).cast(pyarrow.binary())
    table = pyarrow.table({"a": pyarrow.Array.from_buffers(pyarrow.string(), 3, column.buffers())})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with Rejects(tmp_path / "bad.jsonl", max_bad=1) as rejects:
        records = list(read_records(tmp_path / "a.parquet", Reading(field=None), rejects))
    assert [record.value for record in records] == [{"a": "good"}, {"a": "more"}]
    assert rejects.count == 1
