"""The commands, from a text to generated text, in this process and a few in real processes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import tiny
from scratchlm import BPETokenizer, load_model
from scratchlm.checkpoint.pointers import find_checkpoint
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.cli.generate import main as generate
from scratchlm.cli.tokenize import main as tokenize
from scratchlm.cli.train import main as train
from scratchlm.optim.recipe import build_optimizer, build_schedule

SMALL = [
    "--d_model", "32", "--num_heads", "4", "--d_ff", "64", "--num_layers", "2",
    "--max_seq_len", "32", "--batch_size", "4", "--device", "cpu",
]  # fmt: skip
COMMANDS = ["tokenize", "train", "generate", "chat", "convert", "inspect", "plot", "learn", "data"]


def run(command: str, *arguments: object, **options):
    words = [sys.executable, "-m", f"scratchlm.cli.{command}", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, **options)


def log_of(folder: Path):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_whole_journey(tmp_path, monkeypatch, capsys):
    """Text -> tokenizer -> token files -> training -> checkpoint -> text, with the documented
    flags."""
    monkeypatch.chdir(tmp_path)
    corpus = tiny.corpus(tmp_path)
    tiny.corpus(tmp_path, 800, "val.txt")
    assert tokenize(["--corpus", str(corpus), "--vocab_size", "300"]) == 0
    for name in ("corpus", "val"):
        words = ["--tokenizer_path", "tokenizer.json", "--encode", f"{name}.txt"]
        assert tokenize([*words, "--output", f"{name}.bin"]) == 0
    ids = np.fromfile("corpus.bin", dtype="<u2")
    tokenizer = BPETokenizer.load("tokenizer.json")
    assert ids.tolist() == tokenizer.encode(corpus.read_text(encoding="utf-8"))
    words = ["--train_data", "corpus.bin", "--val_data", "val.bin", "--vocab_size", "300", *SMALL]
    assert train([*words, "--iterations", "60", "--out", "run", "--lr", "1e-2"]) == 0
    log = log_of(tmp_path / "run")
    assert log[-1]["loss"] < log[0]["loss"] - 1
    assert log[-1]["val_bits_per_byte"] > 0
    assert BPETokenizer.load("run/tokenizer.json").hash == tokenizer.hash
    saved = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert saved["model"]["d_model"] == 32
    assert saved["train"]["iterations"] == 60
    assert "d_model = 32" in capsys.readouterr().out

    texts = []
    for extra in ([], ["--tokenizer_path", "tokenizer.json"]):
        words = ["--model_path", "run", "--prompt", "the cat", "--max_tokens", "20", "--seed", "1"]
        words += ["--temperature", "0.8", "--top_p", "0.9", "--device", "cpu", *extra]
        assert generate(words) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[0].startswith("the cat")
    assert len(texts[0]) > len("the cat\n")


def test_tokenize_trains_and_encodes_in_one_call(tmp_path, capsys):
    corpus = tiny.corpus(tmp_path)
    words = ["--corpus", corpus, "--vocab_size", 280, "--output_tokenizer", tmp_path / "t.json"]
    words += ["--encode", corpus, "--output", tmp_path / "c.bin"]
    assert tokenize([str(word) for word in words]) == 0
    sidecar = json.loads((tmp_path / "c.bin.json").read_text())
    assert sidecar["text_bytes"] == corpus.stat().st_size
    assert sidecar["tokenizer"] == "t.json"
    assert "280 ids" in capsys.readouterr().out


def test_documents_to_shards_to_training(tmp_path, monkeypatch, capsys):
    """Encode a folder of documents in several formats to shards, hold some out, and train
    on them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    lines = "".join(json.dumps({"body": tiny.text(60, i)}) + "\n" for i in range(100))
    (tmp_path / "texts" / "a.jsonl").write_text(lines)
    (tmp_path / "texts" / "b.txt").write_text("<|endoftext|>".join([tiny.text(60)] * 50))
    tiny.tokenizer(tmp_path).save("tokenizer.json")
    words = ["--tokenizer_path", "tokenizer.json", "--encode", "texts", "--output", "shards"]
    words += ["--field", "body", "--val_fraction", "0.2", "--shard_tokens", "3000"]
    assert tokenize(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("encoding 2 files into shards: field body, val_fraction 0.2, shard_")
    manifest = json.loads((tmp_path / "shards" / "corpus.json").read_text())
    for line, split in zip(said[1:3], ("train", "val"), strict=True):
        info = manifest[split]
        assert line.startswith(f"{split}: {info['documents']} documents, {info['text_bytes']:,} by")
        assert f"in {len(info['shards'])} shard" in line
    assert manifest["train"]["documents"] + manifest["val"]["documents"] == 150
    assert len(manifest["train"]["shards"]) > 1

    assert tokenize([*words, "--resume"]) == 0, "a finished corpus stays"
    words = ["--train_data", "shards/train-00000.bin", "--val_data", "shards/val-00000.bin"]
    assert train([*words, *SMALL, "--iterations", "2", "--out", "run"]) == 0
    assert log_of(tmp_path / "run")[-1]["val_bits_per_byte"] > 0


def test_a_folder_output_splits_one_text_at_its_separator(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("one<|endoftext|>two<s>three")
    BPETokenizer({i: bytes([i]) for i in range(256)}, [], ["<s>"]).save(tmp_path / "t.json")
    words = ["--tokenizer_path", tmp_path / "t.json", "--encode", tmp_path / "a.txt"]
    words += ["--output", tmp_path / "shards", "--separator", "<s>"]
    assert tokenize([str(word) for word in words]) == 0
    ids = np.fromfile(tmp_path / "shards" / "train-00000.bin", dtype="<u2").tolist()
    assert ids == [*b"one<|endoftext|>two", 256, *b"three", 256]


def test_every_format_trains_the_same_tokenizer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    texts = [tiny.text(200, i) for i in range(20)]
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(texts))
    half = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "b.jsonl").write_text("".join(half[:10]))
    (tmp_path / "c.txt").write_text("<|endoftext|>".join(texts[10:]))
    hashes = set()
    for paths in (["a.txt"], ["b.jsonl", "c.txt"], ["[bc].*"]):
        words = ["--corpus", *paths, "--vocab_size", "300", "--output_tokenizer", "t.json"]
        assert tokenize(words) == 0
        hashes.add(BPETokenizer.load("t.json").hash)
    assert len(hashes) == 1
    assert "learning from 2 files: vocab_size 300" in capsys.readouterr().out


def test_the_flags_of_a_new_tokenizer(tmp_path, capsys):
    from scratchlm.tokenizer.pieces.patterns import CL100K

    corpus = tiny.corpus(tmp_path)
    words = ["--corpus", corpus, "--vocab_size", 320, "--output_tokenizer", tmp_path / "t.json"]
    words += ["--special_tokens", "<s>", "</s>", "--pattern", "cl100k", "--max_token_length", 3]
    assert tokenize([str(word) for word in words]) == 0
    tokenizer = BPETokenizer.load(tmp_path / "t.json")
    assert tokenizer.special_tokens == ["<s>", "</s>"]
    assert tokenizer.pattern == CL100K
    ordinary = [tokenizer.vocab[id] for id in range(len(tokenizer) - 2)]
    assert max(map(len, ordinary)) == 3
    assert tokenize([str(word) for word in [*words, "--min_frequency", 1000]]) == 0
    assert len(BPETokenizer.load(tmp_path / "t.json")) < 320
    said = capsys.readouterr().out
    assert "no more pairs to merge with --min_frequency and --max_token_length: " in said
    assert f"{tmp_path / 't.json'} replaced another file; encode your texts a second time" in said


def test_the_command_says_when_it_replaces_a_file(tmp_path, capsys):
    """The same tokenizer makes no file useless, so it is no news."""
    corpus, path, output = tiny.corpus(tmp_path), tmp_path / "t.json", tmp_path / "t.bin"
    words = ["--corpus", corpus, "--vocab_size", 300, "--output_tokenizer", path]
    words += ["--encode", corpus, "--output", output]
    for replaced in (False, True):
        assert tokenize(list(map(str, words))) == 0
        said = capsys.readouterr().out
        assert f"{path} replaced" not in said
        assert (f"{output} replaced an older file" in said) == replaced


def test_a_value_is_no_flag_whatever_its_letters(tmp_path, monkeypatch):
    """Without its first two letters, `t.inspect` is the name of a flag."""
    monkeypatch.chdir(tmp_path)
    tiny.tokenizer(tmp_path).save("t.inspect")
    assert tokenize(["--inspect", "t.inspect"]) == 0


def test_inspect_prints(tmp_path, capsys):
    tiny.tokenizer(tmp_path).save(tmp_path / "t.json")
    (tmp_path / "sample.txt").write_text(tiny.text(50))
    words = ["--inspect", tmp_path / "t.json", "--sample", tmp_path / "sample.txt"]
    assert tokenize([str(word) for word in [*words, "--word", "birds"]]) == 0
    said = capsys.readouterr().out
    assert "300" in said
    assert "'birds' is cut into 1 piece" in said


def test_training_on_text_trains_its_own_tokenizer_once(tmp_path, capsys):
    corpus, out = tiny.corpus(tmp_path), tmp_path / "run"
    words = ["--train_data", str(corpus), "--vocab_size", "300", *SMALL, "--out", str(out)]
    assert train([*words, "--iterations", "2"]) == 0
    said = capsys.readouterr().out
    assert said.count("held out") == 1
    assert "trained a tokenizer of 300" in said
    assert train([*words, "--iterations", "4", "--resume", "auto"]) == 0
    said = capsys.readouterr().out
    assert "already tokenized" in said
    assert "resumed at step 2" in said
    assert [line["step"] for line in log_of(out)] == [1, 2, 3, 4]


def test_training_on_text_with_a_tokenizer(tmp_path):
    corpus, out = tiny.corpus(tmp_path), tmp_path / "run"
    tiny.tokenizer(tmp_path, 290).save(tmp_path / "t.json")
    words = ["--train_data", corpus, "--tokenizer_path", tmp_path / "t.json", "--out", out]
    assert train([str(word) for word in [*words, *SMALL, "--iterations", 1]]) == 0
    assert load_model(out, "cpu").config.vocab_size == 290, "the tokenizer's, where none is given"


def test_a_bin_without_a_sidecar_is_read_as_uint16(tmp_path, capsys):
    (np.arange(2000) % 100).astype("<u2").tofile(tmp_path / "bare.bin")
    words = ["--train_data", str(tmp_path / "bare.bin"), "--vocab_size", "100", *SMALL]
    assert train([*words, "--iterations", "1", "--out", str(tmp_path / "run")]) == 0
    assert "no sidecar: its ids are read as uint16" in capsys.readouterr().out
    assert "val_bits_per_byte" not in log_of(tmp_path / "run")[-1]


def test_epochs_count_passes_over_the_data(tmp_path):
    np.save(tmp_path / "ids.npy", (np.arange(32 * 44) % 100).astype(np.uint16))
    words = ["--train_data", str(tmp_path / "ids.npy"), "--vocab_size", "100", *SMALL]
    assert train([*words, "--epochs", "2", "--out", str(tmp_path / "run")]) == 0
    windows = (len(np.load(tmp_path / "ids.npy")) * 9 // 10 + 1 - 32) // 32
    assert len(log_of(tmp_path / "run")) == -(-2 * windows // 4)


def test_a_single_file_generates_on_its_own(tmp_path, capsys):
    corpus, out = tiny.corpus(tmp_path), tmp_path / "run"
    words = ["--train_data", str(corpus), "--vocab_size", "300", *SMALL, "--out", str(out)]
    assert train([*words, "--iterations", "2", "--save_format", "pt"]) == 0
    alone = tmp_path / "alone.pt"
    find_checkpoint(out).rename(alone)
    capsys.readouterr()
    assert generate(["--model_path", str(alone), "--prompt", "a", "--max_tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("a")


def test_names_of_other_projects(tmp_path):
    np.save(tmp_path / "ids.npy", (np.arange(2000) % 100).astype(np.uint16))
    words = ["--train-data", tmp_path / "ids.npy", "--vocab-size=100", "--n_embd", 32]
    words += ["--n_head", 4, "--n_layer=1", "--block_size", 16, "--max_iters", 1, "--lr", "1e-3"]
    words += ["--optim.weight-decay", 0, "--model.qk_norm=true", "--out", tmp_path / "run"]
    assert train([str(word) for word in words]) == 0
    saved = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert saved["model"]["context_length"] == 16
    assert saved["model"]["qk_norm"] is True
    assert saved["optim"]["weight_decay"] == 0.0


CONFIGS = sorted(Path(__file__).parents[2].glob("configs/*.toml"))
WITH_MODEL = [path for path in CONFIGS if "d_model" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_MODEL, ids=lambda path: path.stem)
def test_every_config_builds(tmp_path, path):
    from scratchlm import Transformer
    from scratchlm.training import run_config

    np.save(tmp_path / "ids.npy", np.zeros(50_000, dtype=np.uint16))
    ids = str(tmp_path / "ids.npy")
    flags = {"data.train": ids, "data.val": ids, "model.vocab_size": "300"}
    config, _ = run_config.resolve(path, flags)
    with torch.device("meta"):
        model = Transformer(config.model)
    build_optimizer(config.optim, model)
    assert build_schedule(config.optim, config.train.iterations or 1000)(1) > 0


# --- real processes -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_fast_and_imports_no_torch(command):
    code = f"import sys; from scratchlm.cli.{command} import main\ntry: main(['--help'])\n"
    code += "except SystemExit: assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert f"usage: scratchlm-{command}" in done.stdout
    # Processor time, which other processes on the machine hardly change.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_ctrl_c_and_sigterm_end_a_real_run_with_a_checkpoint(tmp_path):
    np.save(tmp_path / "ids.npy", (np.arange(20_000) % 100).astype(np.uint16))
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        out = tmp_path / f"run-{code}"
        words = ["--train_data", tmp_path / "ids.npy", "--vocab_size", 100, *SMALL, "--out", out]
        process = subprocess.Popen(
            [sys.executable, "-m", "scratchlm.cli.train",
             *map(str, [*words, "--iterations", 1_000_000])],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not (out / "log.jsonl").exists() or not (out / "log.jsonl").stat().st_size:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code
        assert "Traceback" not in errors
        assert errors.count("scratchlm: stopped at step") == 1
        step = read_checkpoint(find_checkpoint(out))["step"]
        assert log_of(out)[-1]["step"] == step


def test_a_closed_pipe_is_no_error(tmp_path):
    from scratchlm import save_checkpoint

    tokenizer = tiny.tokenizer(tmp_path)
    save_checkpoint(tmp_path / "m.pt", tiny.model(), None, 1, tokenizer=tokenizer.to_json())
    words = [sys.executable, "-m", "scratchlm.cli.generate", "--model_path", tmp_path / "m.pt"]
    process = subprocess.Popen(
        [*words, "--prompt", "the", "--max_tokens", "5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_a_folder_that_cannot_be_written(tmp_path):
    if os.geteuid() == 0:
        target = Path("/proc/scratchlm/tokenizer.json")  # root may write anywhere else
    else:
        target = tmp_path / "locked" / "tokenizer.json"
        target.parent.mkdir(mode=0o500)
    done = run("tokenize", "--corpus", tiny.corpus(tmp_path), "--vocab_size", 260,
               "--output_tokenizer", target)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("scratchlm: error: ")
