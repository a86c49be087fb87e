"""The table of downloads: what it contains, and which tables are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scratchlm.data.download.table import TABLE, files_of, find_source, read_table
from scratchlm.errors import FileFormatError

GOOD = {
    "about": "a text",
    "licence": "MIT",
    "home": "https://example.org",
    "files": [{"url": "https://example.org/a.txt", "part": "train"}],
}
FOLDERS = {"train": "t", "val": "v", "": "o"}


def test_the_table_has_what_the_documentation_promises():
    table = read_table()
    assert {
        "pile", "fineweb-edu", "tinystories", "shakespeare", "wikipedia-zh", "alpaca",
        "smol-smoltalk", "minimind", "hh-rlhf", "hellaswag", "arc", "gsm8k", "lambada",
        "gpt2-124m", "smollm2-135m", "gpt2", "r50k_base", "cl100k_base",
    } <= table.keys()  # fmt: skip
    for source in table.values():
        assert all(entry.url.startswith("https://") for entry in source.entries)
        assert source.home.startswith("https://")


def test_the_files_of_the_pile():
    files = files_of(read_table()["pile"], FOLDERS)
    assert [file.path for file in files[:30]] == [Path(f"t/{i:02}.jsonl.zst") for i in range(30)]
    assert files[29].url.endswith("/resolve/main/train/29.jsonl.zst")
    assert [file.path for file in files[30:]] == [Path("v/val.jsonl.zst")]
    two = files_of(read_table()["pile"], FOLDERS, train_max=2)
    assert [file.path.name for file in two] == ["00.jsonl.zst", "01.jsonl.zst", "val.jsonl.zst"]


def test_the_tokenizers_have_the_sha256_of_tiktoken():
    """tiktoken states the hash of each file that it downloads."""
    module = pytest.importorskip("tiktoken_ext.openai_public")
    source = Path(module.__file__).read_text(encoding="utf-8")
    for name in ("gpt2", "r50k_base", "cl100k_base"):
        for entry in read_table()[name].entries:
            assert entry.url in source
            assert entry.sha256 in source


def test_a_mirror_replaces_the_server():
    source = read_table()["smollm2-135m"]
    files = files_of(source, {"": "~/m"}, mirror="https://hf-mirror.com/")
    assert files[0].address == (
        "https://hf-mirror.com/HuggingFaceTB/SmolLM2-135M/resolve/main/config.json"
    )
    assert files[0].url == source.entries[0].url
    assert files[0].path == Path.home() / "m" / "config.json"


def test_an_unknown_name_gets_a_hint():
    with pytest.raises(ValueError, match="did you mean tinystories"):
        find_source(read_table(), "tinystory")


def entry(**keys):
    return {"files": [GOOD["files"][0] | keys]}


BAD = {
    "not json": ("{", "valid"),
    "a list": ("[]", "object"),
    "no names": ("{}", "object"),
    "a name with a slash": (json.dumps({"a/b": GOOD}), "a name must"),
    "a string": (json.dumps({"a": "b"}), "must be an object"),
    "a name twice": ('{"a": 1, "a": 2}', "twice"),
    "no licence": ({"licence": None}, "licence"),
    "an unknown key": ({"sha": "1"}, "unknown key 'sha'"),
    "files of another type": ({"files": {}}, "type list"),
    "no files": ({"files": []}, "must have files"),
    "a file of another type": ({"files": ["https://a.org/b"]}, "must be an object"),
    "no url": ({"files": [{"name": "a"}]}, "'url'"),
    "an unknown key of a file": (entry(hash="1"), "unknown key 'hash'"),
    "file:": (entry(url="file:///etc/passwd"), "web address"),
    "ftp:": (entry(url="ftp://example.org/a"), "web address"),
    "no host": (entry(url="https:///a"), "web address"),
    "a space in the url": (entry(url="https://example.org/a b"), "web address"),
    "a newline in the url": (entry(url="https://example.org/a\nHost: x"), "web address"),
    "a url without a name": (entry(url="https://example.org/"), "plain name"),
    "a name that leaves the folder": (entry(name="../a"), "plain name"),
    "a hidden name": (entry(name=".a"), "plain name"),
    "an absolute name": (entry(name="/etc/a"), "plain name"),
    "an escaped slash": (entry(url="https://example.org/..%2Fa"), "plain name"),
    "a part that is none": (entry(part="test"), "part"),
    "no part and no folder": ({"files": [{"url": "https://example.org/a"}]}, "folder"),
    "a size below 0": (entry(size=-1), "size"),
    "a size of true": (entry(size=True), "type int"),
    "a short sha256": (entry(sha256="abc"), "sha256"),
    "a count without a place": (entry(count=3), "count"),
    "a place without a count": (entry(url="https://example.org/{00}"), "count"),
    "a count of 0": (entry(url="https://example.org/{00}", count=0), "count"),
    "one size for two files": (entry(url="https://example.org/{0}", count=2, size=1), "one file"),
    "one name for two files": (entry(url="https://example.org/{0}", count=2, name="a"), "own name"),
    "two files of one name": ({"files": GOOD["files"] * 2}, "own name"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_refused(name, tmp_path):
    content, message = BAD[name]
    if isinstance(content, dict):
        value = {key: each for key, each in (GOOD | content).items() if each is not None}
        content = json.dumps({"good": GOOD, "a": value})
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(FileFormatError, match=message) as got:
        read_table(path)
    assert str(path) in str(got.value)


def test_the_table_is_formatted_as_it_is_read():
    assert json.loads(TABLE.read_text(encoding="utf-8")).keys() == read_table().keys()
