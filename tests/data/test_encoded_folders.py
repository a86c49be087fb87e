"""Folders of documents to HDF5 files: the ids of each document, for any workers, after any kill."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tiktoken
import zstandard

from helpers import tiny
from helpers.pairs import pair
from helpers.tokenizer_texts import texts
from scratchlm import BPETokenizer
from scratchlm.data import corpora
from scratchlm.data.batches import EvalBatches
from scratchlm.data.corpus_writer import CorpusSettings
from scratchlm.data.encoded_folders import encode_folders, folders_of
from scratchlm.data.shards import open_shard
from scratchlm.errors import FileFormatError
from scratchlm.tokenizer import workers

END = "<|endoftext|>"
OUTPUTS = ("train.h5", "val.h5")


def write_pile(path: Path, documents: list[str]) -> None:
    """Write documents in the Pile's form."""
    names = ("Pile-CC", "Github", "Wikipedia (en)")
    lines = [
        json.dumps({"text": text, "meta": {"pile_set_name": names[number % 3]}}) + "\n"
        for number, text in enumerate(documents)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zstandard.ZstdCompressor().compress("".join(lines).encode()))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> BPETokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def pile(tmp_path, tokenizer, monkeypatch) -> dict[str, list[str]]:
    """Two training files and a validation file below the current folder. Return the documents of
    each file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpora, "ITEM_CHARACTERS", 2000)
    monkeypatch.setattr(workers, "SMALL_BYTES", 0)
    documents = {
        "train/00": [tiny.text(30 + number % 40, seed=number) for number in range(60)],
        "train/01": [f"a{END}b", *(text for text in texts(3, 60) if text)],
        "val/val": [tiny.text(50, seed=100 + number) for number in range(20)],
    }
    for name, own in documents.items():
        write_pile(Path(f"{name}.jsonl.zst"), own)
    tokenizer.save("t.json")
    return documents


def encode(tokenizer: BPETokenizer, num_workers: int = 1, resume: bool = False, **settings):
    folders = folders_of([(name.split(".")[0], f"{name[:-3]}/{name}") for name in OUTPUTS])
    return encode_folders(
        tokenizer, Path("t.json"), folders, CorpusSettings(**settings), num_workers, resume=resume
    )


def content() -> list[bytes]:
    return [Path(name[:-3], name).read_bytes() for name in OUTPUTS]


def test_the_files_have_the_ids_of_each_document(pile, tokenizer):
    train, val = encode(tokenizer, max_documents=50)
    end = tokenizer.token_to_id(END)
    wanted = {"train": pile["train/00"][:50] + pile["train/01"][:50], "val": pile["val/val"]}
    for name, total in (("train", train), ("val", val)):
        own = [id for text in wanted[name] for id in [*tokenizer.encode(text, "none"), end]]
        with h5py.File(f"{name}/{name}.h5") as file:
            assert file["tokens"][:].tolist() == own
        shard = open_shard(f"{name}/{name}.h5", verify=True)
        assert isinstance(shard.tokens, np.memmap)
        assert shard.tokens.tolist() == own
        assert (shard.info.count, shard.max_id) == (len(own), max(own)) == (total.tokens, max(own))
        assert (
            shard.info.text_bytes
            == total.text_bytes
            == sum(len(text.encode()) for text in wanted[name])
        )
        assert shard.info.tokenizer == "../t.json"
        assert total.documents == len(wanted[name])
        assert sorted(path.name for path in Path(name).iterdir() if path.suffix != ".zst") == [
            f"{name}.h5"
        ]


def test_the_ids_are_tiktokens(pile, shared_data):
    ours = BPETokenizer.from_gpt2(shared_data / "gpt2_vocab.json", shared_data / "gpt2_merges.txt")
    ranks = {token: id for id, token in ours.vocab.items() if id != 50256}
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    theirs = tiktoken.Encoding(
        "r50k_base", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END: 50256}
    )
    ours.save("t.json")
    encode(ours)
    wanted = []
    for text in pile["train/00"] + pile["train/01"]:
        wanted += [*theirs.encode_ordinary(text), 50256]
    assert open_shard("train/train.h5").tokens.tolist() == wanted


def test_any_workers_and_any_parts_give_the_same_files(pile, tokenizer):
    found = []
    for num, shard_tokens in ((1, 10**9), (2, 300), (5, 1000)):
        encode(tokenizer, num, shard_tokens=shard_tokens)
        found.append(content())
        time.sleep(0.01)  # the files do not contain the time
    assert found[0] == found[1] == found[2]


def test_token_files_in_the_folder_are_no_documents(pile, tokenizer):
    """The outputs are in the folder of the documents, and so may be other files of ids."""
    encode(tokenizer)
    before = content()
    np.save("train/more.npy", np.zeros(9, "<u2"))
    Path("train/more.bin").write_bytes(bytes(20))
    tokenizer.save("train/r50k_base.json")
    Path("train/.hidden.txt").write_text("no document", encoding="utf-8")
    encode(tokenizer)
    assert content() == before


def test_the_windows_of_train_llm_from_scratch_are_among_ours(pile, tokenizer, tmp_path):
    """That project reads `context + 1` ids at each multiple of `context`, from int32 in chunks."""
    encode(tokenizer)
    tokens = open_shard("train/train.h5").tokens
    with h5py.File("theirs.h5", "w") as file:
        theirs = file.create_dataset("tokens", (0,), maxshape=(None,), dtype="i")
        for text in pile["train/00"] + pile["train/01"]:
            ids = [*tokenizer.encode(text, "none"), tokenizer.token_to_id(END)]
            theirs.resize(theirs.shape[0] + len(ids), axis=0)
            theirs[-len(ids) :] = ids
    length = 32
    with h5py.File("theirs.h5") as file:
        windows = {
            tuple(file["tokens"][start : start + length + 1].tolist())
            for start in range(0, len(file["tokens"]) - length, length)
        }
    assert len(windows) > 50
    for ids in (tokens, open_shard("theirs.h5").tokens):
        ours = set()
        for inputs, targets in map(pair, EvalBatches(ids, 8, length)):
            ours |= {
                (*row, target[-1])
                for row, target in zip(inputs.tolist(), targets.tolist(), strict=True)
            }
        assert windows <= ours


# --- refused --------------------------------------------------------------------------------------


def stop_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Encoding stops as a kill does, after some texts."""

    class Stopped(BaseException):
        pass

    original = BPETokenizer.encode_array
    left = iter(range(calls))

    def encode_array(self, *arguments, **options):
        if next(left, None) is None:
            raise Stopped
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(BPETokenizer, "encode_array", encode_array)
        with pytest.raises(Stopped):
            encode(BPETokenizer.load("t.json"), shard_tokens=300)


def test_an_unfinished_encoding_is_neither_lost_nor_forgotten(pile, tokenizer, monkeypatch):
    with pytest.raises(ValueError, match=r"--resume needs .*\(train/\.train\.h5\.parts does not"):
        encode(tokenizer, resume=True, shard_tokens=300)
    encode(tokenizer, shard_tokens=300)
    whole = content()
    total = sum(map(len, pile.values()))
    for calls in (20, 60, total - 10, total - 1):  # the last ones are in the validation documents
        stop_after(monkeypatch, calls)
        assert content() == whole
        with pytest.raises(ValueError, match=r"unfinished .*\.parts\); continue with --resume, or"):
            encode(tokenizer, shard_tokens=300)
        with pytest.raises(FileFormatError, match="max_documents was None and is now 3") as caught:
            encode(tokenizer, resume=True, shard_tokens=300, max_documents=3)
        (note,) = caught.value.__notes__
        assert note == "or remove train/.train.h5.parts, and repeat the command without --resume"
        encode(tokenizer, resume=True, shard_tokens=300)
        assert content() == whole


@pytest.mark.parametrize(
    ("method", "name", "has_parts"),
    [
        ("replace", "train.h5", True),
        ("replace", "val.h5", True),
        ("rename", "train.h5.parts.removed", True),
        ("rename", "val.h5.parts.removed", False),
    ],
)
def test_stopped_at_each_of_the_last_steps(pile, tokenizer, monkeypatch, method, name, has_parts):
    encode(tokenizer, shard_tokens=300)
    whole = content()
    for output in OUTPUTS:
        Path(output[:-3], output).unlink()
    original = getattr(Path, method)

    def stopped(self, other):
        result = original(self, other)
        if str(other).endswith(name):
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Path, method, stopped)
        with pytest.raises(KeyboardInterrupt):
            encode(tokenizer, shard_tokens=300)
    encode(tokenizer, shard_tokens=300, resume=has_parts)
    assert content() == whole
    assert not [path for path in Path().rglob(".*") if path.is_dir()]


def test_bad_documents_leave_the_old_files(pile, tokenizer):
    encode(tokenizer)
    before = content()
    lines = '{"text": "good"}\n{"title": "bad"}\n'
    Path("val/more.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(ValueError, match=r"no field 'text' \(val/more\.jsonl:2 has 'title'\)"):
        encode(tokenizer)
    Path("val/more.jsonl").unlink()
    assert content() == before
    encode(tokenizer, resume=True)  # the training documents are encoded already
    assert content() == before


@pytest.mark.parametrize(
    ("paths", "error", "message"),
    [
        (
            [("train", "a.h5"), ("train", "b.h5")],
            ValueError,
            r"same file \(train/0\d",
        ),
        (
            [(".", "a.h5"), ("val", "b.h5")],
            ValueError,
            r"same file \(val/val\.jsonl",
        ),
        ([("train", "a.h5"), ("val", "./a.h5")], ValueError, r"the same file \(a\.h5\); choose"),
        ([("train", "a.bin")], ValueError, r"must end in \.h5 \(a\.bin\); use the name a\.h5"),
        ([("train", "none/a.h5")], FileNotFoundError, "no such folder"),
        ([("train", "folder.h5")], IsADirectoryError, "folder.h5"),
        ([("none", "a.h5")], FileNotFoundError, "none"),
        (
            [("train/00.jsonl.zst", "a.h5")],
            ValueError,
            r"must be a folder \(train/00",
        ),
        ([("folder.h5", "a.h5")], ValueError, r"no text \(folder\.h5: 1 files, .*ids\.npy\)"),
    ],
)
def test_folders_that_cannot_be_encoded(pile, paths, error, message):
    Path("folder.h5").mkdir()
    np.save("folder.h5/ids.npy", np.zeros(9, "<u2"))
    with pytest.raises(error, match=message):
        folders_of(paths)


# --- killed and resumed ---------------------------------------------------------------------------

SCRIPT = """
import sys
from scratchlm.cli.data import main
from scratchlm.data import corpora, encoded_folders
from scratchlm.tokenizer import workers
encoded_folders.SHARD_TOKENS, corpora.ITEM_CHARACTERS, workers.SMALL_BYTES = 300, 2000, 0
sys.exit(main([
    "tokenize", "--train_dir", "train", "--val_dir", "val", "--out_train_file", "train/train.h5",
    "--out_val_file", "val/val.h5", "--tokenizer_path", "t.json", *sys.argv[1:],
]))
"""


def start(num_workers: int, folder: str = ".") -> subprocess.Popen[bytes]:
    begun = any(
        (Path(name[:-3], f".{name}.parts") / file).exists()
        for name in OUTPUTS
        for file in ("progress.json", "corpus.json")
    )
    words = ["--num_workers", str(num_workers), *["--resume"] * begun]
    command = [sys.executable, "-c", SCRIPT, *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)


def kill_and_resume(kills: int) -> int:
    """Return how many kills hit the process while it worked."""
    began = time.monotonic()
    assert start(2).wait(timeout=60) == 0
    whole, seconds = content(), time.monotonic() - began
    for name in OUTPUTS:
        Path(name[:-3], name).unlink()
    rng, killed = random.Random(kills), 0
    for kill in range(kills):
        process = start(1 + kill % 2)
        while not any(Path("train").glob(".*.parts/.lock")) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.random() * seconds / 4)
        process.send_signal(signal.SIGKILL)
        killed += process.wait(timeout=60) == -signal.SIGKILL
        for name, bytes_ in zip(OUTPUTS, whole, strict=True):
            if (path := Path(name[:-3], name)).exists():
                assert path.read_bytes() == bytes_, "a part is taken for the whole"
        if process.returncode == 0:  # so that every kill finds something to stop
            assert content() == whole
            for name in OUTPUTS:
                Path(name[:-3], name).unlink()
    assert start(2).wait(timeout=60) == 0
    assert content() == whole
    return killed


def test_killed_three_times_and_resumed_is_as_never_killed(pile):
    assert kill_and_resume(3) >= 1


@pytest.mark.slow
def test_killed_twenty_times_and_resumed_is_as_never_killed(pile):
    assert kill_and_resume(20) >= 10
