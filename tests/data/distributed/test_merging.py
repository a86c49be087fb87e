"""Parts: merged, they are the corpus that one process writes, after any kill and in any order."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from helpers import forked, tiny
from helpers.corpus_files import content
from scratchlm import BPETokenizer
from scratchlm.data import corpora
from scratchlm.data.corpora import encode_files
from scratchlm.data.corpus_writer import CorpusSettings
from scratchlm.data.distributed import parts as parts_module
from scratchlm.data.distributed.merging import merge_parts
from scratchlm.data.distributed.parts import write_part
from scratchlm.data.documents import read_documents
from scratchlm.data.reading.rejects import Rejects
from scratchlm.errors import FileFormatError

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BPETokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five files. One has a long document, one has a separator in a text, one has no text."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(5):
        texts = [tiny.text(20 + 7 * i, seed=10 * number + i) for i in range(12)]
        if number == 1:
            texts[3] = tiny.text(3000)
        if number == 2:
            texts[5] = f"a{END}b"
        if number == 3:
            texts = ["", ""]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{number}.jsonl").write_text(lines, encoding="utf-8")
    return sorted(folder.iterdir())


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use several items and blocks, even for a small corpus."""
    monkeypatch.setattr(corpora, "ITEM_CHARACTERS", 700)
    monkeypatch.setattr(parts_module, "BLOCK", 400)


def write(
    tokenizer: BPETokenizer,
    source: list[Path],
    folder: Path,
    order: list[int],
    settings: CorpusSettings | None = None,
) -> None:
    settings = settings or CorpusSettings()
    for number in order:
        account = Rejects()
        texts = (chunk.text for chunk in read_documents(source[number], rejects=account))
        write_part(tokenizer, texts, account, source[number], number, folder, settings)


@pytest.mark.parametrize(
    "settings",
    [
        CorpusSettings(),
        CorpusSettings(shard_tokens=1000),
        CorpusSettings(shard_tokens=777, val_fraction=0.3, seed=5),
    ],
)
def test_the_merged_parts_are_the_corpus_of_one_process(
    tokenizer: BPETokenizer, source: list[Path], tmp_path: Path, settings: CorpusSettings
) -> None:
    encode_files(tokenizer, source, tmp_path / "one", settings)
    write(tokenizer, source, tmp_path / "parts", [4, 0, 3, 2, 1], settings)
    info = merge_parts(tokenizer, source, tmp_path / "parts", tmp_path / "many", settings)
    assert content(tmp_path / "many") == content(tmp_path / "one")
    assert info.train.documents + info.val.documents == 48
    assert bool(info.val.documents) == bool(settings.val_fraction)


def test_a_killed_merge_continues(
    tokenizer: BPETokenizer, source: list[Path], tmp_path: Path
) -> None:
    settings = CorpusSettings(shard_tokens=300, val_fraction=0.3)
    encode_files(tokenizer, source, tmp_path / "one", settings)
    write(tokenizer, source, tmp_path / "parts", [0, 1, 2, 3, 4])
    arguments = (tokenizer, source, tmp_path / "parts", tmp_path / "many", settings)
    shards = len(list((tmp_path / "one").glob("*.bin")))
    for whole in (1, shards // 2, shards - 1):  # kill after this number of shards
        process = forked.start(lambda: merge_parts(*arguments, resume=(tmp_path / "many").exists()))
        while len(list((tmp_path / "many").glob("*.bin"))) < whole and process.is_alive():
            time.sleep(0.0005)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not (tmp_path / "many" / "corpus.json").exists()
    merge_parts(*arguments, resume=True)
    assert content(tmp_path / "many") == content(tmp_path / "one")


def test_only_a_new_part_of_the_same_file_is_merged(
    tokenizer: BPETokenizer, source: list[Path], tmp_path: Path
) -> None:
    settings = CorpusSettings()
    folder, many = tmp_path / "parts", tmp_path / "many"
    write(tokenizer, source, folder, [0, 1, 2, 3])
    with pytest.raises(FileFormatError, match=r"a part is missing \(.*00004.json.*run the tasks"):
        merge_parts(tokenizer, source, folder, many, settings)
    write(tokenizer, source, folder, [4])
    with pytest.raises(FileFormatError, match=r"separator was '<.endoftext.>' and is now '<s>'"):
        merge_parts(tokenizer, source, folder, many, CorpusSettings(separator="<s>"))
    with pytest.raises(FileFormatError, match=r"begun with other files \(.*00000.json"):
        merge_parts(tokenizer, source[::-1], folder, many, settings)
    for name in ("00000.bin", "00000.bin.json"):  # the ids of another file
        (tmp_path / name).write_bytes((folder / name).read_bytes())
        (folder / name).write_bytes((folder / name.replace("00000", "00001")).read_bytes())
    with pytest.raises(FileFormatError, match=r"differs from its description \(.*00000.bin"):
        merge_parts(tokenizer, source, folder, many, settings)
    for name in ("00000.bin", "00000.bin.json"):
        (folder / name).write_bytes((tmp_path / name).read_bytes())
    (folder / "00002.bin").write_bytes((folder / "00002.bin").read_bytes()[:-2])
    with pytest.raises(FileFormatError, match=r"truncated"):
        merge_parts(tokenizer, source, folder, many, settings)
    assert not many.exists()


def test_a_part_that_is_written_again_replaces_the_first(
    tokenizer: BPETokenizer, source: list[Path], tmp_path: Path
) -> None:
    """Its description is missing meanwhile, so that a killed second writing does not count."""
    first = write_part(
        tokenizer, ["one", "two"], Rejects(), source[0], 0, tmp_path, CorpusSettings()
    )
    assert (first.documents, (tmp_path / "00000.bin").exists()) == (2, True)

    def texts():
        yield "three"
        assert not (tmp_path / "00000.json").exists()

    assert (
        write_part(
            tokenizer, texts(), Rejects(), source[0], 0, tmp_path, CorpusSettings()
        ).documents
        == 1
    )
    write_part(tokenizer, [""], Rejects(), source[0], 0, tmp_path, CorpusSettings())
    assert {path.name for path in tmp_path.iterdir()} == {"00000.json"}
