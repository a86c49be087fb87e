"""Corpora: the shards contain the documents, for any number of workers and after any kill."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from helpers import forked, tiny
from helpers.corpus_files import content
from helpers.stopped import Stopped, stop_before
from scratchlm import BPETokenizer
from scratchlm.data import corpora
from scratchlm.data.corpora import encode_corpus, encode_files
from scratchlm.data.corpus_writer import CorpusSettings
from scratchlm.data.documents import read_documents
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import Reading
from scratchlm.data.shards import open_shard
from scratchlm.errors import FileFormatError
from scratchlm.files.lock import lock_file
from scratchlm.tokenizer import workers

END = "<|endoftext|>"
SETTINGS = {"val_fraction": 0.2, "shard_tokens": 1000}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> BPETokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """150 documents in two files, one of them long; some with a special token in their text."""
    folder = tmp_path_factory.mktemp("source")
    texts = [tiny.text(30 + i % 40, seed=i) for i in range(120)]
    texts[40] = tiny.text(2000, seed=1)
    texts[7] = texts[90] = f"a{END}b" * 3
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[60:])
    (folder / "b.jsonl").write_text(lines)
    texts[7] = "no token in plain text"
    (folder / "a.txt").write_text(END.join(texts[:60]), encoding="utf-8", newline="")
    return folder


@pytest.fixture(autouse=True)
def small_items(monkeypatch):
    """Use several items, workers and reads, even for a small corpus."""
    monkeypatch.setattr(corpora, "ITEM_CHARACTERS", 2000)
    monkeypatch.setattr(workers, "SMALL_BYTES", 0)
    monkeypatch.setattr("scratchlm.tokenizer.pieces.pretokenize.BLOCK_CHARACTERS", 1500)


def is_held_out(seed: int, document: int, fraction: float) -> bool:
    """As a shell computes it: `printf '0 0' | sha256sum` begins with 933305f987bc."""
    digits = hashlib.sha256(f"{seed} {document}".encode()).hexdigest()[:12]
    return int(digits, 16) < fraction * 2**48


def documents_of(source: Path) -> list[str]:
    texts: list[str] = []
    for chunk in read_documents(source):
        texts += [""] * (chunk.document == len(texts))
        texts[-1] += chunk.text
    return texts


def ids_of(folder: Path, split: str) -> list[int]:
    paths = sorted(folder.glob(f"{split}-*.bin"))
    return [int(id) for path in paths for id in open_shard(path, verify=True).tokens]


def test_the_shards_are_the_documents(tokenizer, source, tmp_path):
    info = encode_corpus(tokenizer, source, tmp_path / "out", **SETTINGS)
    documents = documents_of(source)
    end = tokenizer.token_to_id(END)
    held_out = [is_held_out(0, i, 0.2) for i in range(len(documents))]
    assert 10 < sum(held_out) < 40
    for name, split, wanted in (("train", info.train, False), ("val", info.val, True)):
        own = [text for text, held in zip(documents, held_out, strict=True) if held == wanted]
        ids = ids_of(tmp_path / "out", name)
        assert ids == [id for text in own for id in [*tokenizer.encode(text, "none"), end]]
        assert (split.documents, split.tokens) == (len(own), len(ids))
        assert split.text_bytes == sum(len(text.encode()) for text in own)
        assert tokenizer.decode(ids) == "".join(text + END for text in own)
        infos = [open_shard(tmp_path / "out" / shard).info for shard in split.shards]
        assert [i.count for i in infos[:-1]] == [1000] * (len(infos) - 1)
        assert 0 < infos[-1].count <= 1000
        assert sum(i.text_bytes for i in infos) == split.text_bytes
        assert [i.max_id for i in infos] == [
            int(open_shard(tmp_path / "out" / shard).tokens.max()) for shard in split.shards
        ]
        assert {i.tokenizer for i in infos} == {"tokenizer.json"}
    assert BPETokenizer.load(tmp_path / "out" / "tokenizer.json").hash == tokenizer.hash
    manifest = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert manifest["train"]["documents"] + manifest["val"]["documents"] == 120
    assert manifest["settings"]["tokenizer"] == tokenizer.hash
    assert [Path(entry["path"]).name for entry in manifest["inputs"]] == ["a.txt", "b.jsonl"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    shards = {*info.train.shards, *info.val.shards}
    assert names == {*shards, *(f"{shard}.json" for shard in shards),
                     "corpus.json", "tokenizer.json"}  # fmt: skip


def test_any_number_of_workers_writes_the_same(tokenizer, source, tmp_path):
    for num in (1, 2, 5):
        encode_corpus(tokenizer, source, tmp_path / str(num), num_workers=num, **SETTINGS)
    assert content(tmp_path / "1") == content(tmp_path / "2") == content(tmp_path / "5")


def test_the_first_documents_of_each_file(tokenizer, source, tmp_path):
    settings = CorpusSettings(max_documents=5)
    files = [source / "a.txt", source / "b.jsonl"]
    info = encode_files(tokenizer, files, tmp_path / "out", settings)
    assert info.train.documents == 10
    documents = documents_of(source)
    own = [*documents[:5], *documents[60:65]]
    assert tokenizer.decode(ids_of(tmp_path / "out", "train")) == "".join(t + END for t in own)
    assert info.settings["max_documents"] == 5
    with pytest.raises(FileFormatError, match="max_documents was 5 and is now None"):
        encode_corpus(tokenizer, files, tmp_path / "out", resume=True)


def test_the_split_is_by_document_whatever_the_shards_or_formats(tokenizer, source, tmp_path):
    table = pyarrow.table({"text": documents_of(source)})
    pyarrow.parquet.write_table(table, tmp_path / "all.parquet")
    encode_corpus(tokenizer, source, tmp_path / "a", **SETTINGS)
    encode_corpus(
        tokenizer, tmp_path / "all.parquet", tmp_path / "b", val_fraction=0.2, num_workers=2
    )
    for split in ("train", "val"):
        assert ids_of(tmp_path / "a", split) == ids_of(tmp_path / "b", split)
    encode_corpus(tokenizer, source, tmp_path / "c", val_fraction=0.2, seed=1)
    assert ids_of(tmp_path / "c", "val") != ids_of(tmp_path / "a", "val")
    info = encode_corpus(tokenizer, source, tmp_path / "d")
    assert info.val.shards == []
    assert info.train.documents == 120


@pytest.mark.parametrize("fraction", [0.1, 0.7])
def test_the_split_stays_what_it_was(tokenizer, source, tmp_path, fraction):
    """A corpus encoded by a later version holds out the same documents."""
    encode_corpus(tokenizer, source, tmp_path / "out", val_fraction=fraction, seed=3)
    documents = documents_of(source)
    held_out = [text for i, text in enumerate(documents) if is_held_out(3, i, fraction)]
    assert 0 < len(held_out) < len(documents)
    assert tokenizer.decode(ids_of(tmp_path / "out", "val")) == "".join(
        text + END for text in held_out
    )


def test_wide_ids(source, tmp_path):
    vocab = {byte: bytes([byte]) for byte in range(256)} | {70_000: b"th"}
    tokenizer = BPETokenizer(vocab, [(b"t", b"h")], [END])
    info = encode_corpus(tokenizer, source, tmp_path / "out", shard_tokens=5000)
    shard = open_shard(tmp_path / "out" / info.train.shards[0], verify=True)
    assert shard.tokens.dtype == np.uint32
    assert shard.max_id == 70_001
    assert tokenizer.decode(ids_of(tmp_path / "out", "train")[:2000]).startswith(
        documents_of(source)[0]
    )


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_record_is_a_document_or_counted_as_dropped(tokenizer, tmp_path, num_workers):
    lines = [json.dumps({"text": tiny.text(20, seed=i)}) for i in range(40)]
    lines[3], lines[20], lines[30] = '{"text": ""}', '{"text": 1}', "{"
    lines[39] = f'{{"text": "é{END}"}}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with Rejects(tmp_path / "r.jsonl", max_bad=2) as rejects:
        info = encode_corpus(
            tokenizer,
            tmp_path / "a.jsonl",
            tmp_path / "out",
            rejects=rejects,
            num_workers=num_workers,
            **SETTINGS,
        )
    text_bytes = sum(len(tiny.text(20, seed=i).encode()) for i in range(39))
    text_bytes -= sum(len(tiny.text(20, seed=i).encode()) for i in (3, 20, 30))
    assert info.reading == {
        "records": 40, "empty": 1, "rejected": 2,
        "text_bytes": text_bytes + len(f"é{END}".encode()), "rejected_bytes": 12,
    }  # fmt: skip
    assert info.train.documents + info.val.documents == 37
    rejected = (tmp_path / "r.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in rejected] == [21, 31]
    assert json.loads((tmp_path / "out" / "corpus.json").read_text())["reading"] == info.reading
    with Rejects(tmp_path / "r.jsonl", max_bad=2) as rejects:
        again = encode_corpus(
            tokenizer, tmp_path / "a.jsonl", tmp_path / "out", rejects=rejects, resume=True,
            **SETTINGS,
        )  # fmt: skip
    assert again == info
    assert (tmp_path / "r.jsonl").read_text().splitlines() == rejected, "nothing was read"


def test_a_record_that_disappears_is_an_error(tokenizer, source, tmp_path, monkeypatch):
    def without_one(*arguments: object, **options: object) -> object:
        return (chunk for chunk in read_documents(*arguments, **options) if chunk.document != 5)

    monkeypatch.setattr(corpora, "read_documents", without_one)
    with pytest.raises(AssertionError, match="a record disappeared"):
        encode_corpus(tokenizer, source, tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out" / "corpus.json").exists()


# --- killed and resumed ---------------------------------------------------------------------------

SCRIPT = """
import sys
from scratchlm import BPETokenizer
from scratchlm.data import corpora
from scratchlm.tokenizer import workers
from scratchlm.tokenizer.pieces import pretokenize
corpora.ITEM_CHARACTERS, workers.SMALL_BYTES, pretokenize.BLOCK_CHARACTERS = 2000, 0, 1500
tokenizer, source, output, num_workers, resume = sys.argv[1:]
corpora.encode_corpus(
    BPETokenizer.load(tokenizer), source, output, val_fraction=0.2, shard_tokens=300,
    num_workers=int(num_workers), resume=resume == "resume",
)
"""


def start(tokenizer: Path, source: Path, output: Path, num_workers: int) -> subprocess.Popen[bytes]:
    begun = any((output / name).exists() for name in ("progress.json", "corpus.json"))
    words = [tokenizer, source, output, num_workers, "resume" if begun else "begin"]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *map(str, words)])


def kill_and_resume(tokenizer: BPETokenizer, source: Path, folder: Path, kills: int) -> int:
    """Return how many kills hit the process while it ran."""
    tokenizer.save(folder / "t.json")
    begin = time.monotonic()
    assert start(folder / "t.json", source, folder / "whole", 2).wait(timeout=60) == 0
    whole, seconds = content(folder / "whole"), time.monotonic() - begin
    rng, killed, output = random.Random(kills), 0, folder / "killed"
    for kill in range(kills):
        process = start(folder / "t.json", source, output, 1 + kill % 2)
        while not (output / ".lock").exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.random() * seconds / 4)
        process.send_signal(signal.SIGKILL)
        killed += process.wait(timeout=60) == -signal.SIGKILL
        for path in output.glob("*.bin"):
            assert open_shard(path, verify=True).info is not None
            assert path.read_bytes() == whole[path.name], "a part is taken for the whole"
        if process.returncode == 0:  # so that every kill finds something to stop
            for path in output.iterdir():
                path.unlink()
    assert start(folder / "t.json", source, output, 2).wait(timeout=60) == 0
    assert content(output) == whole
    return killed


def test_killed_three_times_and_resumed_is_as_never_killed(tokenizer, source, tmp_path):
    assert kill_and_resume(tokenizer, source, tmp_path, 3) >= 1


@pytest.mark.slow
def test_killed_twenty_times_and_resumed_is_as_never_killed(tokenizer, source, tmp_path):
    assert kill_and_resume(tokenizer, source, tmp_path, 20) >= 10


@pytest.mark.parametrize(
    ("target", "name", "count"),
    [
        ("replace", ".bin", 1),
        ("replace", ".bin", 4),
        ("replace", ".bin.json", 4),
        ("replace", "progress.json", 1),
        ("replace", "progress.json", 2),
        ("replace", "progress.json", 5),
        ("replace", "tokenizer.json", 1),
        ("replace", "corpus.json", 1),
        ("unlink", "progress.json", 1),
    ],
)
def test_stopped_between_any_two_steps(
    tokenizer, source, tmp_path, monkeypatch, target, name, count
):
    encode_corpus(tokenizer, source, tmp_path / "whole", **SETTINGS)
    output = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        stop_before(patch, target, name, count)
        with pytest.raises(Stopped):
            encode_corpus(tokenizer, source, output, **SETTINGS)
    whole = content(tmp_path / "whole")
    resume = output.exists()
    if resume:
        for path in output.glob("*.bin"):
            assert open_shard(path, verify=True).info is not None
            assert path.read_bytes() == whole[path.name]
    encode_corpus(tokenizer, source, output, **SETTINGS, resume=resume)
    assert content(output) == whole


def test_a_resumed_run_encodes_only_what_is_missing(tokenizer, source, tmp_path, monkeypatch):
    output, encoded = tmp_path / "out", []
    with monkeypatch.context() as patch:
        stop_before(patch, "replace", ".bin", 12)
        with pytest.raises(Stopped):
            encode_corpus(tokenizer, source, output, **SETTINGS)
    places = json.loads((output / "progress.json").read_text())
    assert places["train"]["shards"] + places["val"]["shards"] == 11
    whole = BPETokenizer.encode_array

    def counted(self: BPETokenizer, text: str, **options: object) -> object:
        encoded.append(len(text.encode()))
        return whole(self, text, **options)

    monkeypatch.setattr(BPETokenizer, "encode_array", counted)
    info = encode_corpus(tokenizer, source, output, **SETTINGS, num_workers=1, resume=True)
    done = sum(open_shard(output / name).info.text_bytes for name in info.train.shards[:9])
    assert sum(encoded) < info.train.text_bytes + info.val.text_bytes - done + 3 * 4000
    encoded.clear()
    again = encode_corpus(tokenizer, source, output, **SETTINGS, resume=True)
    assert again == info
    assert encoded == []


def test_what_killed_runs_left_is_removed(tokenizer, source, tmp_path):
    output = tmp_path / "out"
    encode_corpus(tokenizer, source, output, **SETTINGS)
    whole = content(output)
    for name in (".train-00003.bin.partial", ".train-00002.bin.json.tmp-99999999", "val-00090.bin",
                 ".corpus.json.tmp-99999999", "train-00077.bin.json"):  # fmt: skip
        (output / name).write_bytes(b"part")
    (output / "notes.txt").write_text("the user's own")
    encode_corpus(tokenizer, source, output, **SETTINGS, resume=True)
    assert content(output) == whole | {"notes.txt": b"the user's own"}


# --- refused --------------------------------------------------------------------------------------


@pytest.fixture
def begun(tokenizer, source, tmp_path, monkeypatch) -> Path:
    """A folder with some shards of a run that was stopped."""
    with monkeypatch.context() as patch:
        stop_before(patch, "replace", ".bin", 3)
        with pytest.raises(Stopped):
            encode_corpus(tokenizer, source, tmp_path / "begun", **SETTINGS)
    return tmp_path / "begun"


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"val_fraction": 0.3}, "val_fraction was 0.2 and is now 0.3"),
        ({"shard_tokens": 2000}, "shard_tokens was 1000 and is now 2000"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"reading": Reading("body")}, "field was 'text' and is now 'body'"),
    ],
)
def test_resuming_with_other_settings(tokenizer, source, begun, change, names):
    before = content(begun)
    with pytest.raises(FileFormatError, match=rf"{names}\); use the same settings, or choose"):
        encode_corpus(tokenizer, source, begun, **(SETTINGS | change), resume=True)
    assert content(begun) == before


def test_resuming_with_another_tokenizer_or_other_files(tokenizer, source, begun, tmp_path):
    other = BPETokenizer(tokenizer.vocab, tokenizer.merges[:-1], [END])
    files = [source / "a.txt", source / "b.jsonl"]
    with pytest.raises(FileFormatError, match=r"tokenizer was '[0-9a-f]{64}' and is now"):
        encode_corpus(other, source, begun, **SETTINGS, resume=True)
    with pytest.raises(FileFormatError, match=r"other files \(.*b\.jsonl changed\); encode"):
        encode_corpus(tokenizer, source / "a.txt", begun, **SETTINGS, resume=True)
    with pytest.raises(FileFormatError, match=r"other files \(.*their order changed\); encode"):
        encode_corpus(tokenizer, files[::-1], begun, **SETTINGS, resume=True)
    status = (source / "a.txt").stat()
    try:
        os.utime(source / "a.txt", ns=(1, 1))
        with pytest.raises(FileFormatError, match=r"other files \(.*a\.txt changed\); encode"):
            encode_corpus(tokenizer, source, begun, **SETTINGS, resume=True)
    finally:
        os.utime(source / "a.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
    encode_corpus(tokenizer, source, begun, **SETTINGS, resume=True)


def test_a_folder_with_a_corpus_is_never_written_over(tokenizer, source, begun, tmp_path):
    before = content(begun)
    with pytest.raises(
        ValueError, match=r"a corpus \(.*progress\.json\); continue with --resume, or"
    ):
        encode_corpus(tokenizer, source, begun, **SETTINGS)
    assert content(begun) == before
    encode_corpus(tokenizer, source, begun, **SETTINGS, resume=True)
    before = content(begun)
    with pytest.raises(ValueError, match=r"a corpus \(.*corpus\.json\); choose another folder"):
        encode_corpus(tokenizer, source, begun, **SETTINGS)
    assert content(begun) == before
    (begun / "corpus.json").unlink()
    with pytest.raises(ValueError, match=r"a corpus \(.*train-00000\.bin\); choose another folder"):
        encode_corpus(tokenizer, source, begun, **SETTINGS)


def test_a_finished_shard_that_is_damaged_or_gone(tokenizer, source, begun):
    shard = begun / "train-00000.bin"
    data = shard.read_bytes()
    shard.write_bytes(data[:-2])
    with pytest.raises(FileFormatError, match=r"train-00000\.bin"):
        encode_corpus(tokenizer, source, begun, **SETTINGS, resume=True)
    shard.unlink()
    with pytest.raises(FileFormatError, match=r"missing .*train-00000\.bin\); encode the files"):
        encode_corpus(tokenizer, source, begun, **SETTINGS, resume=True)
    progress = begun / "progress.json"
    whole = json.loads(progress.read_bytes())
    for change in ({"shards": -1}, {"shards": "3"}, {"item": 10**6}, {"id": -10}, {"item": None}):
        progress.write_text(json.dumps(whole | {"train": whole["train"] | change}))
        with pytest.raises(
            FileFormatError, match=r"progress\.json: the file's sha256 does not match"
        ):
            encode_corpus(tokenizer, source, begun, **SETTINGS, resume=True)
    for text, reason in (("{", "Expecting"), ("[" * 100_000, "nested"), ('{"a":1,"a":2}', "an ")):
        progress.write_text(text)
        told = rf"does not describe a corpus \(.*progress\.json: {reason}"
        with pytest.raises(FileFormatError, match=told):
            encode_corpus(tokenizer, source, begun, **SETTINGS, resume=True)


@pytest.mark.parametrize("name", ["train-00000.bin", "val-00000.bin", "corpus.json"])
def test_a_finished_corpus_that_is_damaged(tokenizer, source, tmp_path, name):
    encode_corpus(tokenizer, source, tmp_path / "out", **SETTINGS)
    before = content(tmp_path / "out")
    path = tmp_path / "out" / name
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    for damaged in (bytes(data), bytes(data[:-2]), None):
        path.write_bytes(damaged) if damaged else path.unlink()
        error = ValueError if name == "corpus.json" and damaged is None else FileFormatError
        with pytest.raises(
            error, match=re.escape(name) if damaged else "missing|--resume needs a corpus"
        ):
            encode_corpus(tokenizer, source, tmp_path / "out", **SETTINGS, resume=True)
    rest = content(tmp_path / "out")
    assert rest == {key: value for key, value in before.items() if key != name}


def test_nothing_to_resume(tokenizer, source, tmp_path):
    with pytest.raises(
        ValueError, match=r"--resume needs a corpus \(.*out contains none\); remove"
    ):
        encode_corpus(tokenizer, source, tmp_path / "out", resume=True)
    assert not (tmp_path / "out").exists()


def test_a_failure_before_the_first_shard_leaves_nothing(tokenizer, source, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.jsonl:1"):
        encode_corpus(tokenizer, [source, tmp_path / "bad.jsonl"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"must have a document \(.*empty\.txt"):
        encode_corpus(tokenizer, tmp_path / "empty.txt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_run_at_a_time(tokenizer, source, begun, tmp_path):
    with lock_file(begun / ".lock", "", ""):
        other = forked.start(
            lambda: encode_corpus(tokenizer, source, begun, resume=True), file=tmp_path / "said"
        )
        assert forked.wait(other) == 1
    told = f"another process is encoding into the folder ({begun}, process {os.getpid()}); wait"
    assert told in forked.traceback_in(tmp_path / "said")
    assert not (begun / ".lock").exists()


def test_settings_that_cannot_be(tokenizer, source, tmp_path):
    for value in (1.0, -0.1, float("nan")):
        with pytest.raises(
            ValueError, match=r"val_fraction must be .* 0 and less than 1 \(.*\); ch"
        ):
            encode_corpus(tokenizer, source, tmp_path / "out", val_fraction=value)
    with pytest.raises(ValueError, match=r"shard_tokens must be at least 1 \(0\); use"):
        encode_corpus(tokenizer, source, tmp_path / "out", shard_tokens=0)
    with pytest.raises(
        ValueError, match=r"must be a special .*\('<s>', but .* has <\|endoftext\|>\);"
    ):
        encode_corpus(tokenizer, source, tmp_path / "out", reading=Reading(separator="<s>"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"must be a folder, not a file \(.*file\); choose"):
        encode_corpus(tokenizer, source, tmp_path / "file")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tokenizer.json").write_text(tokenizer.to_json())
    other = BPETokenizer(tokenizer.vocab, tokenizer.merges[:-1], [END])
    with pytest.raises(FileFormatError, match=r"folder contains another tokenizer \(.*\); choose"):
        encode_corpus(other, source, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tokenizer.json"]


def test_a_file_that_changes_while_it_is_read(tokenizer, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a text")

    class Slow(BPETokenizer):
        def encode_array(self, *arguments, **options):
            path.write_text("another text")
            return super().encode_array(*arguments, **options)

    tokenizer = Slow.from_parts(tokenizer.parts)
    with pytest.raises(FileFormatError, match=r"a file changed during the encoding \(.*a\.txt"):
        encode_corpus(tokenizer, path, tmp_path / "out", num_workers=1)
    assert not (tmp_path / "out" / "corpus.json").exists()
