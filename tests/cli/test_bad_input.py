"""Mistakes of users: check the exit code, the one line with the value and the remedy, and that no
new file remains."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import zstandard

from helpers import tiny
from helpers.refusals import check_refusal
from scratchlm import BPETokenizer, save_checkpoint
from scratchlm.cli.generate import main as generate
from scratchlm.cli.tokenize import main as tokenize
from scratchlm.cli.train import main as train
from scratchlm.data.corpora import encode_corpus
from scratchlm.data.shards import write_shard

MAIN = {"tokenize": tokenize, "train": train, "generate": generate}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with good files, and with bad files of every kind."""
    folder = tmp_path_factory.mktemp("prepared")
    corpus = tiny.corpus(folder)
    tokenizer = tiny.tokenizer(folder)
    tokenizer.save(folder / "tokenizer.json")
    other = tiny.tokenizer(folder, 290)
    other.save(folder / "other-tokenizer.json")
    write_shard(tokenizer, corpus, folder / "good.bin", tokenizer_path=folder / "tokenizer.json")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "latin1.txt").write_bytes("café ".encode("latin-1") * 100)
    (folder / "short.txt").write_text("too short")
    np.save(folder / "ids.npy", (np.arange(3000) % 300).astype(np.uint16))
    np.save(folder / "floats.npy", np.zeros(1000))
    np.save(folder / "matrix.npy", np.zeros((10, 100), dtype=np.uint16))
    np.save(folder / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    (folder / "truncated.npy").write_bytes((folder / "ids.npy").read_bytes()[:2000])
    (folder / "not.npy").write_bytes(b"not numpy at all")
    (folder / "empty.bin").write_bytes(b"")
    (folder / "odd.bin").write_bytes(b"12345")
    np.full(2000, 5000, dtype="<u2").tofile(folder / "big-ids.bin")
    for name in ("truncated", "bad-sidecar", "flipped"):
        for suffix in (".bin", ".bin.json"):
            shutil.copy2(folder / f"good{suffix}", folder / f"{name}{suffix}")
    data = (folder / "good.bin").read_bytes()
    (folder / "truncated.bin").write_bytes(data[:-10])
    (folder / "flipped.bin").write_bytes(bytes([data[0] ^ 1]) + data[1:])
    (folder / "bad-sidecar.bin.json").write_text("{")
    (folder / "bad.toml").write_text("[model\n")
    (folder / "unknown.toml").write_text("[model]\nd_modle = 3\n")
    (folder / "no-json.json").write_text("not json")
    BPETokenizer(tokenizer.vocab, tokenizer.merges, pattern=r"\p{Han}|[\s\S]").save(
        folder / "han.json"
    )
    (folder / "page.html").write_text("a page of the user's")
    text = (folder / "tokenizer.json").read_text()
    (folder / "truncated.json").write_text(text[: len(text) // 2])
    (folder / "other-kind.json").write_text(json.dumps({"model": {"type": "Unigram"}}))
    model = tiny.model()
    save_checkpoint(folder / "model.pt", model, None, 1, tokenizer=tokenizer.to_json())
    save_checkpoint(folder / "no-tokenizer.pt", model, None, 1)
    save_checkpoint(folder / "small.pt", tiny.model(vocab_size=280), None, 1)
    save_checkpoint(folder / "no-config.pt", torch.nn.Linear(2, 2), None, 1)
    save_checkpoint(folder / "foreign.pt", torch.nn.Linear(2, 2), None, 1, config={"layers": 3})
    save_checkpoint(folder / "damaged", model, None, 1, tokenizer=tokenizer.to_json())
    weights = folder / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"1234")
    (folder / "empty.pt").write_bytes(b"")
    (folder / "section.toml").write_text("data = 3\n")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "loop").write_text("loop")
    (folder / "folder").mkdir()
    _documents(folder, tokenizer)
    words = ["--train_data", folder / "good.bin", "--iterations", 1, "--out", folder / "run"]
    assert train([str(word) for word in [*words, *SHAPE.split(" ")]]) == 0
    words[-1] = folder / "other-run"
    assert train([str(word) for word in [*words, *SHAPE.split(" ")]]) == 0
    return folder


def _documents(folder: Path, tokenizer) -> None:
    """Good and bad documents, a corpus made from documents, and an unfinished corpus."""
    line = json.dumps({"text": "a document"}) + "\n"
    bad_lines = {
        "docs": "",
        "no-json": "{",
        "no-object": "[]",
        "no-field": '{"body": "a"}',
        "no-string": '{"text": 5}',
        "surrogate": '{"text": "a\\udc80"}',
    }
    for name, bad in bad_lines.items():
        (folder / f"{name}.jsonl").write_text(line * 3 + bad)
    (folder / "latin1.jsonl").write_bytes(line.encode() + '{"text": "é"}'.encode("latin-1"))
    packed = zstandard.ZstdCompressor().compress(line.encode() * 100)
    (folder / "truncated.jsonl.zst").write_bytes(packed[:-9])
    (folder / "not.txt.zst").write_bytes(b"not packed")
    pyarrow.parquet.write_table(pyarrow.table({"n": [1], "t": ["a"]}), folder / "docs.parquet")
    (folder / "truncated.parquet").write_bytes((folder / "docs.parquet").read_bytes()[:-9])
    with contextlib.chdir(folder):
        encode_corpus(tokenizer, "docs.jsonl", "done", shard_tokens=5)
    shutil.copytree(folder / "done", folder / "begun")
    manifest = json.loads((folder / "begun" / "corpus.json").read_text())
    manifest["train"] = manifest["val"] = {"shards": 1, "item": 0, "id": 5}
    manifest["val"] = {"shards": 0, "item": 0, "id": 0}
    del manifest["sha256"]
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    (folder / "begun" / "progress.json").write_text(json.dumps(manifest))
    (folder / "begun" / "corpus.json").unlink()
    shutil.copytree(folder / "begun", folder / "no-progress")
    (folder / "no-progress" / "progress.json").write_text("[]")


SHAPE = "--d_model 32 --num_heads 4 --num_layers 1 --max_seq_len 16 --batch_size 2 --device cpu"
TOKENIZE = "--corpus corpus.txt --vocab_size 300 --output_tokenizer new.json"
ENCODE = "--tokenizer_path tokenizer.json --encode docs.jsonl --output shards"
BEGUN = ENCODE.replace("shards", "begun --shard_tokens 5")
LEARN = "--corpus docs.jsonl --vocab_size 300 --output_tokenizer new.json"
USE = "--tokenizer_path tokenizer.json"
ONE_FILE = ENCODE.replace("docs.jsonl --output shards", "corpus.txt --output x.bin")
TRAIN = "--train_data good.bin --out new --iterations 1 " + SHAPE
GENERATE = "--model_path model.pt --prompt the --device cpu"

SHORT = TRAIN.replace("good.bin", "short.txt --vocab_size 257").replace("--out new", "--out cut")
WHOLE = {"cut", "cut/data", "cut/lock"}
WHOLE |= {f"cut/data/{name}" for name in ("tokenizer.json", "train.bin", "train.bin.json")}

CASES = [
    # command, arguments, exit code, what the line must name
    ("tokenize", "", 2, "nothing to do"),
    ("tokenize", "--corpus missing.txt --vocab_size 300", 2, "missing.txt"),
    ("tokenize", "--corpus folder --vocab_size 300", 2, "folder"),
    ("tokenize", "--corpus empty.txt --vocab_size 300", 2, "empty.txt"),
    ("tokenize", "--corpus latin1.txt --vocab_size 300", 2, "latin1.txt"),
    ("tokenize", "--corpus corpus.txt", 2, "set --vocab_size 5"),  # by the text's size
    ("tokenize", "--corpus corpus.txt --vocab_size 100", 2, "100"),
    ("tokenize", "--corpus corpus.txt --vocab_size -5", 2, "-5"),
    ("tokenize", "--corpus corpus.txt --vocab_size ten", 2, "ten"),
    ("tokenize", "--corpus corpus.txt --vocab_size 300 --vocab_size 400", 2, "400"),
    ("tokenize", "--corpus corpus.txt --vocab 300", 2, "--vocab"),
    ("tokenize", "--corpus corpus.txt --vocabsize 300", 2, "did you mean --vocab_size"),
    ("tokenize", TOKENIZE + " --tokenizer_path tokenizer.json", 2, "not both"),
    ("tokenize", TOKENIZE + " --output x.bin", 2, "--encode"),
    ("tokenize", TOKENIZE + " --num_workers 0", 2, "0"),
    ("tokenize", TOKENIZE + " --encode missing.txt", 2, "missing.txt"),
    ("tokenize", TOKENIZE + "/no/such/folder.json", 2, "new.json/no/such"),
    ("tokenize", "--encode corpus.txt", 2, "--tokenizer_path"),
    ("tokenize", "--tokenizer_path tokenizer.json", 2, "--encode"),
    ("tokenize", "--tokenizer_path missing.json --encode corpus.txt", 2, "missing.json"),
    ("tokenize", "--tokenizer_path no-json.json --encode corpus.txt", 3, "no-json.json"),
    ("tokenize", "--tokenizer_path truncated.json --encode corpus.txt", 3, "truncated.json"),
    ("tokenize", "--tokenizer_path other-kind.json --encode corpus.txt", 3, "other-kind.json"),
    ("tokenize", "--tokenizer_path tokenizer.json --encode latin1.txt --output x.bin", 2, "latin1"),
    ("tokenize", "--tokenizer_path tokenizer.json --encode folder --output x.bin", 2, "folder"),
    ("tokenize", "--tokenizer_path tokenizer.json --encode empty.txt --output x.bin", 2, "empty"),
    ("tokenize", TOKENIZE + " --pattern gpt9", 2, "gpt2, cl100k"),
    ("tokenize", TOKENIZE + " --pattern (a", 2, "(a"),
    ("tokenize", TOKENIZE + " --pattern (\\w)|.", 2, "capturing"),
    ("tokenize", TOKENIZE + " --special_tokens <s> <s>", 2, "<s>"),
    ("tokenize", TOKENIZE + " --special_tokens", 2, "--special_tokens"),
    ("tokenize", TOKENIZE + " --min_frequency -1", 2, "-1"),
    ("tokenize", TOKENIZE + " --max_token_length 0", 2, "0"),
    ("tokenize", TOKENIZE + " --max_token_length long", 2, "long"),
    ("tokenize", TOKENIZE + " --field body", 2, "--field (body) is only for many documents"),
    ("tokenize", TOKENIZE + " --separator <s>", 2, "--separator (<s>) is only for many documents"),
    ("tokenize", TOKENIZE + " --val_fraction 0.1", 2, "--val_fraction (0.1) is only for encoding"),
    ("tokenize", TOKENIZE + " --resume", 2, "--resume (True) is only for encoding"),
    ("tokenize", TOKENIZE + " --word cat", 2, "--inspect"),
    ("tokenize", TOKENIZE.replace("corpus.txt", "*.csv"), 2, "no file matches the pattern (*.csv)"),
    ("tokenize", TOKENIZE.replace("corpus.txt", "no-string.jsonl"), 2, "no-string.jsonl:4"),
    ("tokenize", TOKENIZE.replace("corpus.txt", "docs.parquet"), 2, "no column 'text'"),
    ("tokenize", LEARN + " --field body", 2, "no field 'body' (docs.jsonl:1 has 'text')"),
    ("tokenize", LEARN.replace("new.json", "docs.jsonl"), 2, "must not replace an input"),
    (
        "tokenize",
        LEARN + " --encode docs.jsonl --output shards --special_tokens <s>",
        2,
        "a special token of the new tokenizer ('<|endoftext|>')",
    ),
    ("tokenize", LEARN + " --encode docs.jsonl --output begun", 2, "continue with --resume"),
    ("tokenize", TOKENIZE + " --encode corpus.txt --output new.json", 2, "choose another file"),
    (
        "tokenize",
        TOKENIZE.replace("new.json", "x.bin.json") + " --encode corpus.txt --output x.bin",
        2,
        "must not replace an input or another output (x.bin)",
    ),
    (
        "tokenize",
        "--tokenizer_path x.bin --encode corpus.txt --output x.bin",
        2,
        "(x.bin); choose another file",
    ),
    ("tokenize", TOKENIZE.replace("new.json", "."), 2, "must be a file, not a folder ('.')"),
    ("tokenize", TOKENIZE + " --pattern (?i:x)|\\p{sc=Nobody}", 2, "must be a regular expression"),
    ("tokenize", TOKENIZE + " --pattern \\w+", 2, "write the pattern with classes"),
    ("tokenize", ENCODE + " --pattern gpt2", 2, "--pattern (gpt2) is only for a new tokenizer"),
    ("tokenize", ENCODE + " --special_tokens <s>", 2, "is only for a new tokenizer"),
    ("tokenize", ENCODE + " --val_fraction 1.5", 2, "1.5"),
    ("tokenize", ENCODE + " --val_fraction -1", 2, "-1"),
    ("tokenize", ENCODE + " --val_fraction nan", 2, "nan"),
    ("tokenize", ENCODE + " --val_fraction some", 2, "some"),
    ("tokenize", ENCODE + " --seed 3", 2, "add --val_fraction"),
    ("tokenize", ENCODE + " --shard_tokens 0", 2, "(0)"),
    ("tokenize", ENCODE + " --separator <s>", 2, "('<s>', but the tokenizer has <|endoftext|>)"),
    ("tokenize", ENCODE + " --separator=", 2, "''"),
    ("tokenize", ENCODE + " --field body", 2, "no field 'body' (docs.jsonl:1 has 'text')"),
    ("tokenize", ENCODE + " --sample corpus.txt", 2, "add --inspect"),
    ("tokenize", ENCODE + " --resume", 2, "--resume needs a corpus (shards contains none)"),
    ("tokenize", ENCODE.replace("shards", "folder --resume"), 2, "--resume needs a corpus (folder"),
    ("tokenize", ENCODE.replace("shards", "corpus.txt"), 2, "corpus.txt"),
    ("tokenize", ENCODE.replace("shards", "loop"), 2, "must be a folder, not a file (loop)"),
    ("tokenize", ENCODE.replace("shards", "no/shards"), 2, "no/shards"),
    ("tokenize", ENCODE.replace("shards", "x.bin"), 2, "set --output DIR"),
    ("tokenize", ENCODE.replace(" --output shards", ""), 2, "set --output DIR"),
    ("tokenize", ENCODE.replace("shards", "done"), 2, "done/corpus.json); choose another folder"),
    (
        "tokenize",
        ENCODE.replace("shards", "begun"),
        2,
        "begun/progress.json); continue with --resume",
    ),
    ("tokenize", BEGUN + " --resume --val_fraction 0.5", 3, "val_fraction was 0.0 and is now 0.5"),
    ("tokenize", BEGUN + " --resume --field body", 3, "field was 'text' and is now 'body'"),
    ("tokenize", BEGUN.replace("docs.", "surrogate.") + " --resume", 3, "docs.jsonl and 1 more"),
    (
        "tokenize",
        BEGUN.replace("tokenizer.json", "other-tokenizer.json") + " --resume",
        3,
        "tokenizer was",
    ),
    ("tokenize", BEGUN.replace("begun", "no-progress") + " --resume", 3, "progress.json"),
    ("tokenize", ENCODE.replace("docs.jsonl", "no-json.jsonl"), 2, "no-json.jsonl:4"),
    ("tokenize", ENCODE.replace("docs.jsonl", "no-object.jsonl"), 2, "no-object.jsonl:4: a list"),
    ("tokenize", ENCODE.replace("docs.jsonl", "no-field.jsonl"), 2, "no-field.jsonl:4 has 'body'"),
    ("tokenize", ENCODE.replace("docs.jsonl", "no-string.jsonl"), 2, "no-string.jsonl:4: 5"),
    ("tokenize", ENCODE.replace("docs.jsonl", "surrogate.jsonl"), 2, "U+DC80 at character 1"),
    ("tokenize", ENCODE.replace("docs.jsonl", "latin1.jsonl"), 2, "0xe9 at offset 33"),
    ("tokenize", ENCODE.replace("docs.jsonl", "truncated.jsonl.zst"), 3, "truncated.jsonl.zst"),
    ("tokenize", ENCODE.replace("docs.jsonl", "not.txt.zst"), 3, "not.txt.zst"),
    ("tokenize", ENCODE.replace("docs.jsonl", "docs.parquet"), 2, "docs.parquet has n, t"),
    ("tokenize", ENCODE.replace("docs.jsonl", "docs.parquet --field n"), 2, "row 0: "),
    ("tokenize", ENCODE.replace("docs.jsonl", "truncated.parquet"), 3, "truncated.parquet"),
    ("tokenize", ENCODE.replace("docs.jsonl", "*.csv"), 2, "no file matches the pattern (*.csv)"),
    ("tokenize", ENCODE.replace("docs.jsonl", "folder"), 2, "the folder contains no text (folder)"),
    ("tokenize", ENCODE.replace("docs.jsonl", "docs.jsonl missing.txt"), 2, "missing.txt"),
    ("tokenize", ENCODE.replace("docs.jsonl", "empty.txt"), 2, "must have a document (empty.txt"),
    ("tokenize", ONE_FILE + " --val_fraction 0.1", 2, "set --output DIR"),
    ("tokenize", ONE_FILE + " --resume", 2, "set --output DIR"),
    ("tokenize", ONE_FILE + " --field text", 2, "--field (text) is only for many documents"),
    ("tokenize", ONE_FILE.replace("corpus.txt", "corpus.txt short.txt"), 2, "set --output DIR"),
    ("tokenize", "--inspect tokenizer.json --encode corpus.txt", 2, "--encode"),
    ("tokenize", "--inspect tokenizer.json --num_workers 2", 2, "--num_workers"),
    ("tokenize", "--inspect missing.json", 2, "missing.json"),
    ("tokenize", "--inspect corpus.txt", 3, "corpus.txt"),
    ("tokenize", "--inspect tokenizer.json --sample latin1.txt", 2, "latin1.txt"),
    ("tokenize", "--inspect tokenizer.json --sample missing.txt", 2, "missing.txt"),
    ("tokenize", "--inspect tokenizer.json --show cat", 2, "--show"),
    ("tokenize", "--inspect tokenizer.json --html new.html", 2, "--html"),
    ("tokenize", "--show cat", 2, "nothing to do"),
    ("tokenize", "--html new.html", 2, "nothing to do"),
    ("tokenize", USE + " --show", 2, "--flag=VALUE"),
    ("tokenize", USE + " --show cat --show dog", 2, "dog"),
    ("tokenize", USE + " --show a\udcffb", 2, "the text must be UTF-8"),
    ("tokenize", TOKENIZE + " --show a\udcffb", 2, "the text must be UTF-8"),
    ("tokenize", USE + " --show cat --num_workers 2", 2, "--num_workers (2) is only for training"),
    ("tokenize", USE + " --show cat --field text", 2, "--field (text) is only for many documents"),
    ("tokenize", USE + " --show cat --output x.bin", 2, "add --encode"),
    ("tokenize", USE + " --show cat --pattern gpt2", 2, "is only for a new tokenizer"),
    ("tokenize", "--tokenizer_path missing.json --show cat", 2, "missing.json"),
    ("tokenize", "--tokenizer_path no-json.json --html new.html", 3, "no-json.json"),
    ("tokenize", USE + " --html=", 2, "--html must be a file, not a folder ('')"),
    ("tokenize", USE + " --html folder", 2, "not a folder ('folder')"),
    ("tokenize", USE + " --html corpus.txt", 2, "a page must be an .html file (corpus.txt)"),
    ("tokenize", USE + " --html tokenizer.json", 2, "must be an .html file (tokenizer.json)"),
    ("tokenize", USE + " --html nodir/new.html", 2, "create nodir first"),
    ("tokenize", USE + " --encode page.html --output x.bin --html page.html", 2, "choose another"),
    ("tokenize", "--tokenizer_path han.json --html new.html", 2, "other than Unicode categories"),
    ("tokenize", TOKENIZE + " --html new.html --pattern a++|[\\s\\S]", 2, "possessive repeats"),
    ("train", "", 2, "--train_data"),
    ("train", TRAIN + " --train_data missing.bin", 2, "two values"),
    ("train", TRAIN.replace("good", "missing"), 2, "missing.bin"),
    ("train", TRAIN.replace("good.bin", "missing.txt --vocab_size 300"), 2, "missing.txt"),
    ("train", TRAIN.replace("good.bin", "folder --vocab_size 300"), 2, "folder"),
    ("train", TRAIN.replace("good.bin", "empty.txt --vocab_size 300"), 2, "empty.txt"),
    ("train", TRAIN.replace("good.bin", "latin1.txt --vocab_size 300"), 2, "latin1.txt"),
    ("train", SHORT, 2, "must be longer than the context"),
    ("train", TRAIN.replace("good.bin", "ids.npy"), 2, "--vocab_size"),
    ("train", TRAIN.replace("good.bin", "empty.bin --vocab_size 300"), 3, "empty.bin"),
    ("train", TRAIN.replace("good.bin", "odd.bin --vocab_size 300"), 3, "odd.bin"),
    ("train", TRAIN.replace("good.bin", "big-ids.bin --vocab_size 300"), 2, "5000"),
    ("train", TRAIN.replace("good.bin", "truncated.bin"), 3, "truncated.bin"),
    ("train", TRAIN.replace("good.bin", "flipped.bin"), 3, "flipped.bin"),
    ("train", TRAIN.replace("good.bin", "bad-sidecar.bin"), 3, "bad-sidecar.bin"),
    ("train", TRAIN.replace("good.bin", "floats.npy --vocab_size 300"), 3, "floats.npy"),
    ("train", TRAIN.replace("good.bin", "matrix.npy --vocab_size 300"), 3, "matrix.npy"),
    ("train", TRAIN.replace("good.bin", "objects.npy --vocab_size 300"), 3, "objects.npy"),
    ("train", TRAIN.replace("good.bin", "truncated.npy --vocab_size 300"), 3, "truncated.npy"),
    ("train", TRAIN.replace("good.bin", "not.npy --vocab_size 300"), 3, "not.npy"),
    ("train", TRAIN + " --val_data missing.bin", 2, "missing.bin"),
    ("train", TRAIN + " --val_data big-ids.bin", 2, "big-ids.bin"),
    ("train", TRAIN + " --tokenizer_path other-tokenizer.json", 3, "another tokenizer"),
    ("train", TRAIN + " --tokenizer_path missing.json", 2, "missing.json"),
    ("train", TRAIN + " --vocab_size 200", 2, "200"),
    ("train", TRAIN + " --vocab_size many", 2, "many"),
    ("train", TRAIN + " --d_ff 0", 2, "d_ff"),
    ("train", TRAIN + " --num_kv_heads 3", 2, "num_kv_heads"),
    ("train", TRAIN.replace("--d_model 32", "--d_model 33"), 2, "33"),
    ("train", TRAIN.replace("--batch_size 2", "--batch_size 0"), 2, "0"),
    ("train", TRAIN.replace("--batch_size 2", "--batch_size 2.5"), 2, "2.5"),
    ("train", TRAIN.replace("--iterations 1", "--iterations 0"), 2, "0"),
    ("train", TRAIN + " --epochs 2", 2, "exclude each other"),
    ("train", TRAIN.replace("--max_seq_len 16", "--max_seq_len 100000"), 2, "100001"),
    ("train", TRAIN + " --dropout 1.5", 2, "1.5"),
    ("train", TRAIN + " --lr -1", 2, "-1"),
    ("train", TRAIN + " --lr nan", 2, "nan"),
    ("train", TRAIN + " --optimizer sgd --lr 1e39", 2, "optim.lr must be at most 1e+36"),
    ("train", TRAIN + " --optimizer muon --lr 3e38", 2, "optim.lr must be at most 1e+36"),
    ("train", TRAIN + " --lr inf", 2, "(inf)"),
    ("train", TRAIN + " --optim.weight_decay 1e39", 2, "optim.weight_decay must be at most"),
    ("train", TRAIN + " --min_lr 1", 2, "min_lr"),
    ("train", TRAIN + " --warmup_steps 10", 2, "10"),
    ("train", TRAIN + " --optimizer adam", 2, "adamw"),
    ("train", TRAIN + " --optim.momentum 0.9", 2, "momentum (0.9) has no effect on adamw"),
    ("train", TRAIN + " --optim.betas 0.9", 2, "betas"),
    ("train", TRAIN + " --optim.betas 0.9,1.5", 2, "1.5"),
    ("train", TRAIN + " --optim.learning 1", 2, "optim.learning"),
    ("train", TRAIN + " --model.norm batchnorm", 2, "rmsnorm"),
    ("train", TRAIN + " --n_embd 64", 2, "two values"),
    ("train", TRAIN + " --model.d_model 64", 2, "two values"),
    ("train", TRAIN + " --optim.lr", 2, "--optim.lr"),
    ("train", TRAIN + " --d_modle 64", 2, "did you mean --d_model"),
    ("train", TRAIN + " --ramp_steps 4", 2, "write --train.ramp_steps"),
    ("train", TRAIN + " --num-experts=4", 2, "write --model.moe.num_experts"),
    ("train", TRAIN + " --sample_tokens none", 2, "train.sample_tokens must be a whole number"),
    ("train", TRAIN + " stray", 2, "stray"),
    ("train", TRAIN.replace("--device cpu", "--device cuda:99"), 2, "cuda:99"),
    ("train", TRAIN.replace("--device cpu", "--device tpu9"), 2, "tpu9"),
    ("train", TRAIN + " --dtype float8", 2, "float8"),
    ("train", TRAIN + " --save_format zip", 2, "zip"),
    ("train", TRAIN + " --config missing.toml", 2, "missing.toml"),
    ("train", TRAIN + " --config bad.toml", 2, "bad.toml"),
    ("train", TRAIN + " --config unknown.toml", 2, "did you mean model.d_model"),
    ("train", TRAIN.replace("--out new", "--out run"), 2, "--resume auto"),
    ("train", TRAIN.replace("--out new", "--out corpus.txt"), 2, "corpus.txt"),
    ("train", TRAIN + " --resume missing", 2, "missing"),
    ("train", TRAIN + " --resume folder", 3, "folder"),
    ("train", TRAIN + " --resume damaged", 3, "model.safetensors"),
    ("train", TRAIN + " --resume model.pt", 3, "model.pt"),
    ("train", "--resume run --d_model 64 --d_ff 96", 3, "(300, 32)"),
    ("train", "--resume run --d_model 64 --d_ff 96", 3, "d_model 32 -> 64, model.d_ff 128 -> 96)"),
    ("train", "--resume run --train_data ids.npy", 3, "train data"),
    ("train", TRAIN + " --model.d_model.x 3", 2, "model.d_model"),
    ("train", TRAIN.replace("--iterations 1", "--iterations none"), 2, "--iterations"),
    ("train", TRAIN.replace("--iterations 1", "--epochs inf"), 2, "(inf)"),
    ("train", TRAIN.replace("--iterations 1", "--epochs nan"), 2, "(nan)"),
    ("train", TRAIN + " --seed 99999999999999999999", 2, "99999999999999999999"),
    ("train", TRAIN + " --accumulate 1e19", 2, "train.accumulate must be at most"),
    ("train", TRAIN + " --d_ff 1e18", 5, "model"),
    ("train", TRAIN + " --max_grad_norm nan", 2, "max_grad_norm"),
    ("train", TRAIN + " --runtime.threads 9999999999", 2, "runtime.threads"),
    ("train", TRAIN.replace("--device cpu", "--device cpu:7"), 2, "cpu:7"),
    ("train", TRAIN.replace("--out new", "--out="), 2, "--out"),
    ("train", TRAIN.replace("good.bin", ""), 2, "--train_data"),
    ("train", TRAIN + " --config section.toml", 2, "data must be a section"),
    ("train", "--resume run --batch_size 3", 3, "2, is now 3); resume with --train.batch_size 2"),
    ("train", "--resume run --seed 3", 3, "seed was 0, is now 3"),
    ("train", "--resume run --out other-run", 2, "the folder already contains a run"),
    ("train", "--resume run --optimizer sgd --optim.momentum 0.9", 3, "AdamW, not SGD); remove"),
    ("tokenize", TOKENIZE.replace("new.json", "corpus.txt"), 2, "must not replace an input"),
    ("tokenize", TOKENIZE.replace("new.json", "nodir/t.json"), 2, "nodir"),
    ("tokenize", TOKENIZE + " --encode corpus.txt --output x.txt", 2, "x.txt"),
    ("tokenize", "--tokenizer_path deep.json --encode corpus.txt --output x.bin", 3, "deep.json"),
    ("generate", "--model_path loop", 3, "loop"),
    ("generate", GENERATE + " --seed -1", 2, "-1"),
    ("generate", GENERATE + " --prompt", 2, "--flag=VALUE"),
    ("generate", GENERATE + " --top_p nan", 2, "top_p must be from 0 to 1 (nan)"),
    ("generate", "", 2, "--model_path"),
    ("generate", "--model_path missing.pt", 2, "missing.pt"),
    ("generate", "--model_path folder", 3, "folder"),
    ("generate", "--model_path empty.pt", 3, "empty.pt"),
    ("generate", "--model_path corpus.txt", 3, "corpus.txt"),
    ("generate", "--model_path damaged", 3, "model.safetensors"),
    ("generate", "--model_path no-config.pt", 3, "no-config.pt"),
    ("generate", "--model_path foreign.pt", 3, "foreign.pt"),
    ("generate", "--model_path no-tokenizer.pt", 2, "--tokenizer_path"),
    ("generate", "--model_path small.pt --tokenizer_path tokenizer.json", 3, "280"),
    ("generate", GENERATE + " --tokenizer_path other-tokenizer.json", 3, "another tokenizer"),
    ("generate", GENERATE + " --tokenizer_path missing.json", 2, "missing.json"),
    ("generate", GENERATE + " --temperature -1", 2, "-1"),
    ("generate", GENERATE + " --temperature nan", 2, "nan"),
    ("generate", GENERATE + " --temperature hot", 2, "hot"),
    ("generate", GENERATE + " --top_p 1.5", 2, "1.5"),
    ("generate", GENERATE + " --top_k -3", 2, "-3"),
    ("generate", GENERATE + " --max_tokens -1", 2, "-1"),
    ("generate", GENERATE + " --max_token 5", 2, "did you mean --max_tokens"),
    ("generate", GENERATE.replace("--prompt the", "--prompt " + "the" * 200), 2, "32 fit"),
    ("generate", GENERATE.replace("--prompt the", "--prompt a\udcffb"), 2, "text must be UTF-8"),
    ("generate", GENERATE.replace("cpu", "cuda:99"), 2, "cuda:99"),
    ("generate", GENERATE + " --seed one", 2, "one"),
]


@pytest.mark.parametrize(("command", "arguments", "code", "names"), CASES)
def test_bad_input_gets_one_line(prepared, monkeypatch, capsys, command, arguments, code, names):
    monkeypatch.chdir(prepared)
    words = arguments.split(" ") if arguments else []
    check_refusal(MAIN[command], words, code, names, capsys, ALLOWED.get(arguments, set()))


# What was finished before the command failed is whole, and stays: the next try starts from it.
ALLOWED = {SHORT: WHOLE}


@pytest.mark.parametrize(
    ("command", "arguments", "code"),
    [
        ("train", "--d_modle 3", 2),
        ("generate", "--model_path damaged", 3),
        ("tokenize", "--corpus missing.txt --vocab_size 300", 2),
    ],
)
def test_real_processes_do_the_same(prepared, command, arguments, code):
    words = [sys.executable, "-m", f"scratchlm.cli.{command}", *arguments.split()]
    done = subprocess.run(words, cwd=prepared, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("scratchlm: error: ")


def test_debug_shows_the_traceback(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    with pytest.raises(FileNotFoundError):
        generate(["--model_path", "missing.pt", "--debug"])
