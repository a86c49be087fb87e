"""Training on the files of users: documents in any format, files without text, ten sentences."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import re
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from helpers import tiny
from helpers.refusals import check_refusal
from scratchlm.cli.generate import main as generate
from scratchlm.cli.tokenize import main as tokenize
from scratchlm.cli.train import main as train
from scratchlm.data.documents import read_documents
from scratchlm.data.prepare import DataConfig, default_vocab_size, prepare
from scratchlm.data.reading.text_warnings import read_as_text
from scratchlm.data.vocabulary import suitable_vocab_size

END = "<|endoftext|>"
TEXTS = [tiny.text(60, seed) for seed in range(20)] + [f"special {END} tokens in a document"]
SMALL = [
    "--d_model", "16", "--num_heads", "2", "--num_layers", "1", "--device", "cpu",
    "--compile", "off", "--iterations", "2",
]  # fmt: skip
SENTENCES = """The cat saw the moon.
A dog ate the bone.
My aunt painted the kitchen door.
Nobody understood the question.
The old king lost the war.
Anna sold the bicycle.
We all counted the stars.
A mouse fears the cat.
The teacher opened the book.
Her brother hid the key.
"""


def write_all(folder: Path) -> dict[str, Path]:
    """The same documents in every format, each by its own library."""
    lines = "".join(json.dumps({"id": i, "body": text}) + "\n" for i, text in enumerate(TEXTS))
    objects = [{"body": text} for text in TEXTS]
    contents = {
        "a.jsonl": lines.encode(),
        "A.JSONL": lines.encode(),
        "a.ndjson": b"\xef\xbb\xbf" + lines.encode(),
        "lines.json": lines.encode(),
        "list.json": json.dumps(objects, indent=2).encode(),
        "strings.json": json.dumps(TEXTS).encode(),
        "a.jsonl.gz": gzip.compress(lines.encode()),
        "a.jsonl.zst": zstandard.compress(lines.encode()),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    pyarrow.parquet.write_table(pyarrow.table({"body": TEXTS}), folder / "a.parquet")
    (folder / "folder").mkdir()
    for i, text in enumerate(objects):
        (folder / "folder" / f"{i:02}.jsonl").write_text(json.dumps(text))
    paths = {name: folder / name for name in (*contents, "a.parquet", "folder")}
    return paths | {"glob": folder / "folder" / "*.jsonl"}


def test_every_format_is_trained_on_as_documents(tmp_path):
    """The ids of each document, and then the separator's id, as scratchlm-tokenize writes them."""
    tokenizer = tiny.tokenizer(tmp_path)
    tokenizer.save(tmp_path / "t.json")
    end = tokenizer.token_to_id(END)
    ids = [id for text in TEXTS for id in (*tokenizer.encode(text, "none"), end)]
    (tmp_path / "in").mkdir()
    words = ["--tokenizer_path", tmp_path / "t.json", "--field", "body", "--output"]
    for name, path in write_all(tmp_path / "in").items():
        config = DataConfig(str(path), tokenizer=str(tmp_path / "t.json"), field="body")
        data = prepare(config, 300, 32, tmp_path / name / "data", lambda line: None)
        assert [*data.train, *data.val] == ids, name
        if name in ("list.json", "glob"):
            output = tmp_path / name / "shards"
            assert tokenize([str(word) for word in [*words, output, "--encode", path]]) == 0
            assert np.fromfile(output / "train-00000.bin", "<u2").tolist() == ids


def test_documents_are_tokenized_once_and_split_by_token(tmp_path):
    path, said = write_all(tmp_path)["list.json"], []
    config = DataConfig(str(path), field="body", separator="<s>")
    first = prepare(config, 300, 32, tmp_path / "data", said.append)
    assert first.tokenizer.special_tokens == ["<s>"]
    assert len(first.val) == (len(first.train) + len(first.val)) // 10
    assert "21 documents" in said[1]
    again = prepare(config, 300, 32, tmp_path / "data", said.append)
    assert again.data_id == first.data_id
    assert any("already tokenized" in line for line in said)
    (manifest,) = (tmp_path / "data").glob("train-*/corpus.json")
    manifest.unlink()  # as a kill before the end leaves it
    assert prepare(config, 300, 32, tmp_path / "data", said.append).data_id == first.data_id


def test_training_on_documents_and_resuming(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_all(tmp_path)
    words = ["--train_data", "folder/*.jsonl", "--val_data", "list.json", "--field", "body"]
    assert train([*words, *SMALL, "--context_length", "16", "--out", "run"]) == 0
    said = capsys.readouterr().out
    size = sum(path.stat().st_size for path in Path("folder").iterdir())
    assert f"vocab_size is {suitable_vocab_size(size)}: the default for {size:,} bytes" in said
    assert train(["--resume", "run", "--iterations", "3"]) == 0
    assert "resumed at step 2" in capsys.readouterr().out


def _docx() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", "<w:t>text</w:t>")
    return buffer.getvalue()


NO_TEXT = {
    "a.docx": (_docx(), "a ZIP archive"),
    "a.txt": (gzip.compress(b"text " * 99), "gzip data"),
    "b.txt": ("text ".encode("utf-16-le") * 99, "UTF-16"),
    "c.txt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 4\n", "Git LFS"),
    "a.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "a.pdf": (b"%PDF-1.4\n" + b"all of it is ASCII\n" * 99, "a PDF"),
    "a.bin": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 4\n", "Git LFS"),
}


@pytest.mark.parametrize("name", NO_TEXT)
def test_what_is_no_text_is_never_learned(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    content, what = NO_TEXT[name]
    Path(name).write_bytes(content)
    words = ["--train_data", name, "--vocab_size", "260", *SMALL, "--out", "run"]
    assert train(words) in (2, 3)
    assert what in (error := capsys.readouterr().err)
    assert name in error
    assert not Path("run/checkpoints").exists()
    if not name.endswith(".bin"):
        assert tokenize(["--corpus", name, "--vocab_size", "260"]) == 2
        assert what in capsys.readouterr().err


LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
JSON_AS_TEXT = {
    "lines.txt": LINES.encode(),
    "mark.txt": b"\xef\xbb\xbf" + LINES.encode(),
    "blank.md": b"\n \n" + LINES.encode(),
    "list.txt": json.dumps([{"text": text} for text in TEXTS]).encode(),
    "indented.txt": json.dumps([{"text": text} for text in TEXTS], indent=2).encode(),
    "strings.txt": json.dumps(TEXTS).encode(),
    "long.txt": json.dumps({"text": "the cat sat. " * 9000}).encode(),
    "a.txt.gz": gzip.compress(LINES.encode()),
    "a.txt.zst": zstandard.compress(LINES.encode()),
}


@pytest.mark.parametrize("name", JSON_AS_TEXT)
def test_json_that_is_learned_as_text_is_told_and_the_advice_works(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    path.write_bytes(JSON_AS_TEXT[name])
    [line] = read_as_text([path])
    assert line.startswith(f"{name} is read as plain text but looks like JSON; ")
    ending = line.removesuffix(" to read its documents").rpartition(" ")[2]
    renamed = path.rename(name.replace(".txt", "").replace(".md", "").removesuffix(path.suffix)
                          + ending)  # fmt: skip
    assert list(read_as_text([renamed])) == []
    documents = [chunk.text for chunk in read_documents(renamed)]
    assert documents in (TEXTS, ["the cat sat. " * 9000])


PAGE = b"\n<!DOCTYPE html>\n<html><body>the cat sat</body></html>"
AS_TEXT = {
    "page.txt": (PAGE, "page.txt is an HTML page, and its tags are read as text"),
    "page.html.gz": (
        gzip.compress(PAGE, mtime=0),
        "page.html.gz is an HTML page, and its tags are read as text",
    ),
    "a.csv": (b"id,text\n1,the cat sat\n", "a.csv is a table, and its commas are read as text"),
    "A.TSV.gz": (
        gzip.compress(b"id\ttext\n", mtime=0),
        "A.TSV.gz is a table, and its tabs are read as text",
    ),
}


def test_pages_and_tables_are_told_once_a_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, (content, told) in AS_TEXT.items():
        Path(name).write_bytes(content)
        assert [line.partition(";")[0] for line in read_as_text([Path(name)])] == [told]
    Path("2.txt").write_bytes(PAGE)
    [line] = read_as_text([Path("page.txt"), Path("2.txt"), Path("page.txt")])
    assert line == "page.txt (and 1 more) is an HTML page, and its tags are read as text"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[", '"Hello," she said.', "{not JSON}\n" + LINES, "[1] The cat sat.", "{{ page }}",
     "a <html> page", "The cat:\n" + LINES],
)  # fmt: skip
def test_prose_is_not_told_of(text, tmp_path):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert list(read_as_text([tmp_path / "a.txt"])) == []


def test_each_command_tells_once_what_it_reads_as_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("data.txt").write_text("\n" + LINES, encoding="utf-8")
    Path("b.txt").write_text("the cat sat", encoding="utf-8")
    told = "data.txt is read as plain text but looks like JSON; change the file's ending to"
    assert train(["--train_data", "data.txt", *SMALL, "--out", "run"]) == 0
    assert capsys.readouterr().out.count(told) == 1
    words = ["--corpus", "data.txt", "--vocab_size", "260", "--encode", "data.txt"]
    assert tokenize(words) == 0
    assert capsys.readouterr().out.count(told) == 1
    words = ["--tokenizer_path", "tokenizer.json", "--encode", "data.txt", "b.txt", "--output", "s"]
    assert tokenize(words) == 0
    assert capsys.readouterr().out.count(told) == 1
    np.save("ids.npy", np.arange(99, dtype=np.uint16))
    Path("ids.bin").write_bytes(b'{"' * 99)  # ids are no text
    assert train(["--train_data", "ids.bin", "--vocab_size", "9000", *SMALL, "--max_seq_len", "8",
                  "--out", "b"]) == 0  # fmt: skip
    assert "looks like" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "code", "told"),
    [
        ("a.json", json.dumps({"text": "a"}, indent=2).encode(), 2,
         "write a list of objects or strings, or an object or string on each line"),
        ("a.json.gz", gzip.compress(b"the cat", mtime=0), 2, "write a list of objects"),
        ("a.json", b'{"text": "a"}\n{"text":\n', 2, "; correct or remove the line"),
        ("a.jsonl", b'{"text": "a"}\n{"text":\n', 2, "correct or remove the line"),
        ("a.json", PAGE, 2, "looks like an HTML page (a.json); download the real file"),
        ("a.jsonl", PAGE, 2, "looks like an HTML page (a.jsonl); download the real file"),
        ("a.jsonl.gz", gzip.compress(PAGE, mtime=0), 2, "an HTML page (a.jsonl.gz); download"),
        ("a.parquet", PAGE, 3, "an HTML page"),
        ("a.jsonl.gz", PAGE, 3, "an HTML page"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_told_what_it_is(
    tmp_path, monkeypatch, capsys, name, content, code, told
):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    check_refusal(tokenize, ["--corpus", name, "--vocab_size", "260"], code, told, capsys)


def test_a_sample_is_read_as_documents_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny.tokenizer(tmp_path).save("t.json")
    Path("a.txt").write_text("".join(TEXTS), encoding="utf-8")
    said = []
    for words in (["a.txt"], [str(write_all(tmp_path)["a.jsonl.gz"]), "--field", "body"]):
        assert tokenize(["--inspect", "t.json", "--sample", *words]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert tokenize(["--inspect", "t.json", "--field", "body"]) == 2


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["mixed"], "both token files and texts (mixed: mixed/a.bin, mixed/a.txt); choose a"),
        (["[as]*"], "both token files and texts ([as]*: shards/train-00000.bin, a.jsonl)"),
        (["shards:1,a.txt:1"], "a text in a mixture needs the tokenizer of the token files (a.txt"),
        (["a.txt:1,gone.bin:1"], "gone.bin"),
        (["a.txt,a.jsonl"], "each source of a mixture must have a weight (a.txt,a.jsonl in"),
        (["a.txt:-1,a.jsonl:1"], "must have a weight (a.txt:-1,a.jsonl in"),
        (["a.txt:1,a.jsonl"], "each source of a mixture must have a weight (a.jsonl"),
        (["a.txt", "--field", "body"], "data.field (body) is only for many documents"),
        (["a.txt", "--separator", "<s>"], "data.separator (<s>) is only for many documents"),
        (["a.jsonl", "--field", "body"], "no field 'body'"),
    ],
)
def test_sources_that_cannot_be(tmp_path, monkeypatch, capsys, words, names):
    monkeypatch.chdir(tmp_path)
    Path("shards").mkdir()
    for number in range(2):
        Path(f"shards/train-0000{number}.bin").write_bytes(bytes(100))
    Path("mixed").mkdir()
    Path("mixed/a.bin").write_bytes(bytes(100))
    Path("mixed/a.txt").write_text(SENTENCES, encoding="utf-8")
    Path("a.txt").write_text(SENTENCES, encoding="utf-8")
    Path("a.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    Path("no").mkdir()
    assert train(["--train_data", *words, *SMALL, "--out", "run", "--vocab_size", "260"]) == 2
    assert names in " ".join(capsys.readouterr().err.split()).replace(f"{tmp_path}/", "")


# --- a small text ---------------------------------------------------------------------------------


def test_ten_sentences_train_on_defaults(tmp_path, monkeypatch, capsys):
    """The journey of a newcomer; the model is made small so that the test is quick."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.txt").write_text(SENTENCES, encoding="utf-8")
    assert train(["--train_data", "tiny.txt", *SMALL, "--out", "run"]) == 0
    said = capsys.readouterr().out
    vocab_size = default_vocab_size(DataConfig("tiny.txt"), lambda line: None)
    assert f"vocab_size is {vocab_size}: the default for {len(SENTENCES)} bytes of text" in said
    context = int(re.search(r"context_length is (\d+), not 256: the data is short", said)[1])
    saved = tomllib.loads(Path("run/config.toml").read_text(encoding="utf-8"))
    assert (saved["model"]["vocab_size"], saved["model"]["context_length"]) == (vocab_size, context)
    assert context >= 8
    assert re.search(r"a step reads 32 sequences, but the data has only \d+ of \d+ tokens", said)
    assert generate(["--model_path", "run", "--prompt", "The cat", "--max_tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("The cat")
    assert train(["--resume", "run", "--iterations", "3"]) == 0


def test_what_a_short_text_allows_is_told_in_numbers_that_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.txt").write_text(SENTENCES, encoding="utf-8")
    words = ["--train_data", "tiny.txt", *SMALL, "--vocab_size", "1000"]
    assert train([*words, "--context_length", "64", "--out", "a"]) == 2
    said, error = capsys.readouterr()
    fit = re.search(r"no more pairs to merge: .* of 1,000 ids.*use --vocab_size (\d+)", said)[1]
    assert train(["--train_data", "tiny.txt", *SMALL, "--vocab_size", fit, "--out", "fits"]) == 0
    assert "no more pairs" not in capsys.readouterr().out
    numbers = (
        r"use --context_length (\d+) or less, more text, or --vocab_size (\d+) for .* to (\d+)"
    )
    least, vocab_size, most = re.search(numbers, error).groups()
    assert train([*words, "--context_length", least, "--out", "b"]) == 0
    words[-1] = vocab_size
    assert train([*words, "--context_length", most, "--out", "c"]) == 0
    assert train([*words, "--context_length", str(int(most) + 1), "--out", "d"]) == 2


@pytest.mark.parametrize("text", ["the cat sat. " * 250, "a " * 99, SENTENCES])
def test_a_size_that_suits_is_advised_once(text, tmp_path, monkeypatch, capsys):
    """For the default size there is no advice. The advice for another size leaves no id unused."""
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(text, encoding="utf-8")
    said: list[str] = []
    size = default_vocab_size(DataConfig("a.txt"), said.append)
    prepare(DataConfig("a.txt"), size, 1, tmp_path / "data", said.append)
    assert len([line for line in said if "--vocab_size" in line]) == 0
    words = ["--corpus", "a.txt", "--special_tokens", *(f"<{i}>" for i in range(40))]
    assert tokenize(words) == 2
    fit = re.search(r"set --vocab_size (\d+)", capsys.readouterr().err)[1]
    for vocab_size in (fit, "2000"):
        assert tokenize([*words, "--vocab_size", vocab_size]) == 0
        advice = re.search(r"; use --vocab_size (\d+)", capsys.readouterr().out)
        assert (advice is None) == (vocab_size == fit)
    assert tokenize([*words, "--vocab_size", advice[1]]) == 0
    assert "no more pairs" not in capsys.readouterr().out


def test_packed_bytes_are_not_called_text(tmp_path):
    said: list[str] = []
    for name, path in write_all(tmp_path).items():
        default_vocab_size(DataConfig(str(path)), said.append)
        packed = "packed " if name in ("a.jsonl.gz", "a.jsonl.zst", "a.parquet") else ""
        assert said[-1].endswith(f" bytes of {packed}text"), name


def test_the_type_of_ids_is_refused_for_text_alone_and_before_the_work(tmp_path):
    (tmp_path / "a.txt").write_text(SENTENCES, encoding="utf-8")
    np.arange(99, dtype=np.uint32).tofile(tmp_path / "val.bin")
    config = DataConfig(str(tmp_path / "a.txt"), dtype="uint32")
    said: list[str] = []
    with pytest.raises(ValueError, match=r"data.dtype \(uint32\) is only .*a\.txt\); remove"):
        prepare(config, 300, 8, tmp_path / "data", said.append)
    assert said == []
    config = dataclasses.replace(config, val=str(tmp_path / "val.bin"))
    assert len(prepare(config, 300, 8, tmp_path / "data", said.append).val) == 99


def test_a_short_text_with_ids_to_validate_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.txt").write_text(SENTENCES, encoding="utf-8")
    np.save("val.npy", np.arange(9))
    words = ["--train_data", "tiny.txt", "--val_data", "val.npy", *SMALL, "--out", "run"]
    assert train(words) == 0
    assert "context_length is 8, not 256" in capsys.readouterr().out


def test_the_batch_that_is_told_repeats_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("ids.npy", (np.arange(1000) % 100).astype(np.uint16))
    words = ["--train_data", "ids.npy", "--vocab_size", "100", *SMALL, "--context_length", "32"]
    assert train([*words, "--accumulate", "2", "--out", "a"]) == 0
    advice = re.search(
        r"a step reads 64 .* only 27 .*; set --batch_size (\d+)", capsys.readouterr().out
    )
    assert advice[1] == "13"
    assert train([*words, "--accumulate", "2", "--batch_size", "13", "--out", "b"]) == 0
    assert "a step reads" not in capsys.readouterr().out
