"""Inspection: its counts are those of a plain loop, for every format."""

from __future__ import annotations

import json
import random
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from scratchlm.data.inspection import Inspection, inspect
from scratchlm.data.inspection_report import as_json, report
from scratchlm.data.reading import unpacked
from scratchlm.data.reading.settings import Reading
from scratchlm.data.scripts import SCRIPTS, count_scripts

END = "<|endoftext|>"


def test_letters_are_of_the_script_in_their_names():
    """An independent table: the names of Unicode's characters."""
    letters: dict[str, str] = defaultdict(str)
    for character in map(chr, range(0x30000)):
        if unicodedata.category(character) in ("Lu", "Ll", "Lo"):
            letters[unicodedata.name(character, "?").split()[0].lower()] += character
    letters["han"] = letters["cjk"]
    for script in map(str.lower, SCRIPTS):
        assert len(letters[script]) > 25, script
        own = count_scripts(letters[script])[script]
        assert own >= 0.97 * len(letters[script]), script  # a few letters are of several scripts


def test_scripts():
    assert count_scripts("Año 2024: 你好, мир! ひらカタ ") == {
        "latin": 3, "han": 2, "cyrillic": 3, "hiragana": 2, "katakana": 2,
    }  # fmt: skip
    assert count_scripts("ab 1") == {"latin": 2}
    assert count_scripts("\U00010480") == {"other": 1}  # Osmanya
    assert count_scripts("") == {}


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    texts = ["plain words", f"a {END} b {END}", "", "你好 <s>", "x"]
    lines = [json.dumps({"text": text, "meta": {"n": i}}) for i, text in enumerate(texts)]
    lines += ["", '{"meta": {"n": null, "a.b": []}}', '"alone"', "{", "[1]", '{"text": 5}']
    Path("a.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress("\n".join(lines).encode()))
    Path("b.txt").write_text(f"one{END}two <|im_start|>{END}", encoding="utf-8")
    rows = [{"text": "row", "n": 1}, {"text": None, "n": 2}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "c.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"other": [{"k": "v"}] * 3}), "d.parquet")
    return tmp_path


@pytest.mark.parametrize("read", [1, 1 << 20])
def test_counts(files, monkeypatch, read):
    monkeypatch.setattr(unpacked, "READ_BYTES", read)
    found = inspect(".", Reading())
    sizes = {path.name: path.stat().st_size for path in files.iterdir()}
    assert found.files == {"json lines .zst": 1, "text": 1, "parquet": 2}
    assert found.file_bytes == {
        "json lines .zst": sizes["a.jsonl.zst"],
        "text": sizes["b.txt"],
        "parquet": sizes["c.parquet"] + sizes["d.parquet"],
    }
    assert (found.documents, found.empty, found.without_text, found.bad) == (8, 1, 6, 2)
    assert found.records == 17
    documents = ["plain words", f"a {END} b {END}", "你好 <s>", "x", "alone", "one",
                 "two <|im_start|>", "row"]  # fmt: skip
    sizes = [len(text.encode()) for text in documents]
    assert (found.text_bytes, found.longest) == (sum(sizes), max(sizes))
    assert found.special_tokens == {END: 2, "<s>": 1, "<|im_start|>": 1}
    assert found.documents_with == {END: 1, "<s>": 1, "<|im_start|>": 1}
    assert found.fields == {
        "text": Counter({"string": 5 + 2, "number": 1}),
        "meta.n": Counter({"number": 5, "null": 1}),
        '["meta", "a.b"]': Counter({"list": 1}),
        "(a string alone)": Counter({"string": 1}),
        "n": Counter({"int64": 2}),
        "other.k": Counter({"string": 3}),
    }
    assert found.scripts["han"] == 2
    assert "a.jsonl.zst:7 has 'meta'" in found.why_without[0]
    assert [reason.split(" (")[0] for reason in found.why_bad] == [
        "each line must be JSON", "a line must be an object or a string",
    ]  # fmt: skip


def test_another_field(files):
    found = inspect("d.parquet", Reading("other.k"))
    assert (found.documents, found.records) == (3, 3)
    assert found.samples == [(f"d.parquet, row {i}", "v") for i in range(3)]
    (files / "e.jsonl").write_text('{"a": ["x", "y"]}')
    assert inspect("e.jsonl", Reading("a", join=", ")).samples == [("e.jsonl:1", "x, y")]


def test_each_document_has_the_same_chance_to_be_a_sample(tmp_path):
    seen: Counter[str] = Counter()
    for seed in range(60):
        texts = [str(i) for i in range(12)]
        random.Random(seed).shuffle(texts)
        (tmp_path / "a.jsonl").write_text("\n".join(f'"{text}"' for text in texts))
        samples = inspect(tmp_path / "a.jsonl", Reading(), 4).samples
        assert len({place for place, _ in samples}) == 4
        assert samples == inspect(tmp_path / "a.jsonl", Reading(), 4).samples
        seen.update(text for _, text in samples)
    assert len(seen) == 12
    assert min(seen.values()) >= 8  # 20 are expected, with a deviation of 3.7
    with pytest.raises(ValueError, match=r"sample must be at least 0 \(-1\); use 0"):
        inspect(tmp_path / "a.jsonl", Reading(), -1)


def test_special_tokens_at_the_borders_of_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacked, "READ_BYTES", 7)
    specials = ["<|im_start|>", "</s>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "[INST]"]
    words = [*specials, "word", " ", "<|not a|>", "<"]
    text = "".join(random.Random(1).choices(words, k=500))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    found = inspect(tmp_path, Reading())
    assert found.special_tokens == {special: text.count(special) for special in specials}
    assert found.documents_with == dict.fromkeys(specials, 1)


def test_a_report_and_its_json(files):
    found = inspect(".", Reading(), 2)
    lines = report(found, Reading()).splitlines()
    assert lines[3] == f"{END!r} separates the documents of plain texts (see --separator)"
    assert lines[4] == "17 records: 8 documents, 1 empty, 6 without a text in 'text', 2 bad"
    assert "  meta.n            number 5, null 1" in lines
    assert f"  {END}  2 in 1 document" in lines
    content = json.loads(as_json(found))
    assert content["special_tokens"][END] == 2
    assert content["files"]["text"] == 1
    assert content["samples"] == [{"place": place, "text": text} for place, text in found.samples]
    assert report(Inspection(), Reading()).startswith("0 records")


def test_a_report_has_no_control_characters_and_no_long_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = {"text": "a\x9b", "k\x1b[2J": 1, "n" * 300_000: 2}
    Path("new\nline.jsonl").write_text(json.dumps(record), "utf-8")
    lines = report(inspect(".", Reading()), Reading()).splitlines()
    assert lines[-6:] == [
        "  " + "text".ljust(40) + "  string 1",
        "  " + r"k\x1b[2J".ljust(40) + "  number 1",
        "  " + "n" * 39 + "…  number 1",
        "text: 3 bytes, 3 in a document, 3 in the longest",
        "scripts of letters: latin 100%",
        r'sample new\nline.jsonl:1: "a\x9b"',
    ]


def test_many_fields_are_bounded(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "t"} | {f"k{i}": i for i in range(900)}))
    found = inspect(tmp_path, Reading())
    assert len(found.fields) == 200
    assert found.more_fields
    assert "160 or more other fields" in report(found, Reading())
