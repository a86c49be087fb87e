"""`scratchlm-data tokenize`, and the journey from documents of the Pile to generated text."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import zstandard

from helpers import tiny
from helpers.refusals import check_refusal
from scratchlm import BPETokenizer
from scratchlm.cli.data import main as data
from scratchlm.cli.generate import main as generate
from scratchlm.cli.train import main as train
from scratchlm.data.shards import open_shard

END = "<|endoftext|>"


@pytest.fixture
def pile(tmp_path, monkeypatch) -> list[str]:
    """Documents below the current folder. Return the training documents."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    texts = [tiny.text(100 + number, seed=number) for number in range(30)]
    for name, own in (("train/00", texts), ("val/val", texts[:3])):
        lines = [
            json.dumps({"text": text, "meta": {"pile_set_name": "Pile-CC"}}) + "\n" for text in own
        ]
        path = Path("data", f"{name}.jsonl.zst")
        path.parent.mkdir(parents=True)
        path.write_bytes(zstandard.ZstdCompressor().compress("".join(lines).encode()))
    return texts


@pytest.fixture
def gpt2(pile, shared_data, tmp_path) -> BPETokenizer:
    """GPT-2's files, where `scratchlm-data download gpt2` saves them."""
    folder = tmp_path / "home/.cache/scratchlm"
    folder.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shared_data / f"gpt2_{name}", folder / name)
    return BPETokenizer.from_gpt2(folder / "vocab.json", folder / "merges.txt")


def words_of(line: str) -> list[str]:
    """Return the words of a command that a line names, without its program."""
    _, _, command = line.partition(": ")
    return shlex.split(command)[1:]


def test_the_journey(pile, gpt2, capsys):
    """Each command prints the next command. A refused command leaves no tokenizer."""
    assert data(["tokenize", "--field", "body"]) == 2
    assert not Path("data/train/r50k_base.json").exists()
    capsys.readouterr()
    assert data(["tokenize", "--max_data", "20"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "encoding the first 20 documents of 1 file in data/train: 00.jsonl.zst …"
    assert said[2].startswith("data/train/pile_train.h5: 20 documents, ")
    assert said[-1] == "train: scratchlm-train --config pile-13m"
    ids = [id for text in pile[:20] for id in [*gpt2.encode(text, "none"), 50256]]
    assert open_shard("data/train/pile_train.h5", verify=True).tokens.tolist() == ids

    small = ["--d_model", "16", "--num_heads", "2", "--iterations", "2", "--batch_size", "2"]
    more = ["--eval_batches", "1", "--out", "run", "--device", "cpu"]
    assert train([*words_of(said[-1]), *small, *more]) == 0
    said = capsys.readouterr().out.splitlines()
    assert BPETokenizer.load("run/tokenizer.json").hash == gpt2.hash
    lines = Path("run/log.jsonl").read_text(encoding="utf-8").splitlines()
    log = list(map(json.loads, lines))
    assert log[0]["loss"] == pytest.approx(10.8, abs=0.2)  # ln 50257 = 10.82
    assert log[-1]["val_bits_per_byte"] > 0

    assert said[-1].startswith("generate: scratchlm-generate --model_path run --prompt")
    words = words_of(said[-1])
    words[words.index("--prompt") + 1] = "the cat"
    assert generate([*words, "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("the cat")


def test_another_tokenizer_and_other_paths(pile, tmp_path, capsys):
    tokenizer = tiny.tokenizer(tmp_path)
    tokenizer.save("my t.json")
    words = ["--out_train_file", "data/a.h5", "--out_val_file=data/b.hdf5", "--max-data", "0"]
    assert data(["tokenize", "--tokenizer_path", "my t.json", *words]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("encoding all documents of 1 file in data/train")
    assert said[-1] == (
        "train: scratchlm-train --config pile-13m --train_data data/a.h5 --val_data data/b.hdf5 "
        "--vocab_size 300"
    )
    shard = open_shard("data/b.hdf5", verify=True)
    assert tokenizer.decode(shard.tokens) == "".join(text + END for text in pile[:3])
    assert shard.info.tokenizer == "../my t.json"
    Path("data/train/j.txt").write_text('{"text": "a"}\n', encoding="utf-8")
    Path("data/val/a.jsonl").write_text('{"text": ["one", "two"]}', encoding="utf-8")
    assert data(["tokenize", "--tokenizer_path", "my t.json", *words, "--join", r"\n"]) == 0
    said = capsys.readouterr().out
    assert "data/train/j.txt is read as plain text but looks like JSON" in said
    assert "data/a.h5 replaced an older file" in said
    ids = open_shard("data/b.hdf5").tokens
    assert tokenizer.decode(ids).startswith(f"one\ntwo{END}")


@pytest.mark.parametrize(
    ("words", "code", "names"),
    [
        ([], 2, "(~/.cache/scratchlm has no r50k_base.tiktoken and no vocab.json with merges.txt); "
                "run scratchlm-data download r50k_base"),
        (["--tokenizer_dir", "my files"], 2, "download r50k_base --output 'my files'"),
        (["--tokenizer_name", "o200k"], 2, "no such tokenizer (o200k); choose gpt2, r50k_base"),
        (["--tokenizer_name", "gpt2", "--tokenizer_path", "t.json"], 2, "must have one tokenizer"),
        (["--tokenizer_path", "none.json"], 2, "none.json"),
        (["--tokenizer_path", "data/train/00.jsonl.zst"], 3, "00.jsonl.zst"),
        (["--tokenizer_path", "t.json", "--max_data", "-1"], 2, "at least 0 (-1)"),
        (["--tokenizer_path", "t.json", "--num_workers", "0"], 2, "at least 1 (0)"),
        (["--tokenizer_path", "t.json", "--separator", "<s>"], 2, "with --separator"),
        (["--tokenizer_path", "t.json", "--field", "body"], 2, "no field 'body'"),
        (["--tokenizer_path", "t.json", "--resume"], 2, "--resume needs an unfinished encoding"),
        (["--tokenizer_path", "t.json", "--out_val_file", "b.bin"], 2, "use the name b.h5"),
        (["--tokenizer_path", "t.json", "--out_val_file", "link.h5"], 2, "must not be a link"),
        (["--train_dir", "data/train/*"], 2, "data/train/*"),
        (["--val_dir", "data/test"], 2, "data/test"),
        (["--val_dir", "data"], 2, "two folders must not have the same file"),
        (["--train", "data"], 2, "no such flag (--train)"),
    ],
)  # fmt: skip
def test_what_is_refused(pile, tmp_path, capsys, words, code, names):
    tiny.tokenizer(tmp_path).save("t.json")
    Path("link.h5").symlink_to("other.h5")
    check_refusal(data, ["tokenize", *words], code, names, capsys)


def test_another_tokenizer_beside_the_ids(pile, gpt2, tmp_path, capsys):
    tiny.tokenizer(tmp_path).save("data/train/r50k_base.json")
    check_refusal(data, ["tokenize"], 3, "another tokenizer (data/train/r50k_base.json)", capsys)
