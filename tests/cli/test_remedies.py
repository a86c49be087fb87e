"""If an error or a run prints a command, this command works."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers import tiny
from helpers.refusals import check_refusal
from scratchlm import BPETokenizer, save_checkpoint
from scratchlm.cli.chat import main as chat
from scratchlm.cli.convert import main as convert
from scratchlm.cli.generate import main as generate
from scratchlm.cli.inspect import main as inspect
from scratchlm.cli.tokenize import main as tokenize
from scratchlm.cli.train import main as train

MAIN: dict[str, Callable[..., int]] = {
    "train": train, "generate": generate, "chat": chat, "tokenize": tokenize,
    "convert": convert, "inspect": inspect,
}  # fmt: skip
SHAPE = "--d_model 16 --num_heads 2 --num_layers 1 --max_seq_len 16 --batch_size 2 --device cpu"
RUN = f"--vocab_size 300 --iterations 1 {SHAPE}"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny.corpus(tmp_path)
    tokenizer = tiny.tokenizer(tmp_path)
    tokenizer.save("tokenizer.json")
    np.save("ids.npy", (np.arange(2000) % 256).astype(np.uint16))
    save_checkpoint("m.pt", tiny.model(), None, 1, tokenizer=tokenizer.to_json())
    save_checkpoint("bare.pt", tiny.model(), None, 1)
    Path("theta.toml").write_text("[model]\nvocab_size = 300\nrope_theta = 5e5\n", encoding="utf-8")
    return tmp_path


# command, its words, the remedy in the error, the new words; {} is the remedy
CASES = [
    ("train", f"corpus.txt {RUN}", "write (--train_data corpus.txt)", f"{{}} {RUN}"),
    ("train", "--dry_run", "set (--vocab_size) N", "--dry_run {} 300"),
    ("train", "--dry_run", "add the text with (--train_data) FILE", "--dry_run {} corpus.txt"),
    ("train", "--dry_run --vocab_size 300 --moe 4", "use (--model.moe.num_experts) and",
     "--dry_run --vocab_size 300 {} 4 --model.moe.num_active 2"),
    ("train", "--dry_run --vocab_size 300 --model.moe 4", "such as (model.moe.num_experts)",
     "--dry_run --vocab_size 300 --{} 4 --model.moe.num_active 2"),
    ("train", "--dry_run --vocab_size 300 --d_model 30 --num_heads 4", "use (d_model 32)",
     "--dry_run --vocab_size 300 --{} --num_heads 4"),
    ("train", "--dry_run --config theta.toml --model.position learned", "defaults: (10000)",
     "--dry_run --config theta.toml --model.position learned --rope_theta {}"),
    ("train", f"--train_data corpus.txt {RUN} --optim.momentum 0.9",
     r"remove this setting with (--optim.momentum none)", f"--train_data corpus.txt {RUN} {{}}"),
    ("train", f"--train_data corpus.txt {RUN} --norm layernorm", "write (--model.norm)",
     f"--train_data corpus.txt {RUN} {{}} layernorm"),
    ("train", f"--train_data corpus.txt {RUN} --optimizer adam", "one of: (adamw)",
     f"--train_data corpus.txt {RUN} --optimizer {{}}"),
    ("train", f"--train_data corpus.txt {RUN} --out theta.toml", "choose a name such as (theta)",
     f"--train_data corpus.txt {RUN} --out {{}}"),
    ("generate", "--model_path m.pt 'the cat'", "write (--prompt 'the cat')",
     "--model_path m.pt {}"),
    ("generate", "--model_path bare.pt --prompt the", "add (--tokenizer_path) FILE",
     "--model_path bare.pt --prompt the {} tokenizer.json"),
    ("generate", "--model_path m.pt --prompt_file corpus.txt", "set (overflow to slide)",
     "--model_path m.pt --prompt_file corpus.txt --max_tokens 1 --overflow slide"),
    ("tokenize", "corpus.txt --vocab_size 300", "write (--corpus corpus.txt)",
     "{} --vocab_size 300"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "words", "told", "again"), CASES)
def test_a_remedy_works(command, words, told, again, folder, capsys):
    assert MAIN[command](shlex.split(words)) == 2
    [remedy] = re.findall(told, capsys.readouterr().err)
    assert MAIN[command](shlex.split(again.format(remedy))) == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "chat", "convert", "inspect"])
def test_a_command_alone_gives_an_example_of_itself(command, folder, capsys):
    assert MAIN[command]([]) == 2
    [line] = capsys.readouterr().err.splitlines()
    name, *words = shlex.split(line.partition("for example: ")[2])
    assert name == f"scratchlm-{command}"
    assert MAIN[command](words) in (0, 2, 3)
    assert "no such flag" not in capsys.readouterr().err, "only its files are missing here"


@pytest.mark.parametrize("data", ["corpus.txt", "ids.npy"])
def test_the_last_line_of_a_run_is_a_command_that_works(data, folder, capsys):
    """The command also works for a folder with a space in its name, and for ids without a
    tokenizer."""
    BPETokenizer.load("tokenizer.json").save(folder / "tokenizer.json")
    out = folder / "Anna's first run"
    assert train([*shlex.split(f"--train_data {data} {RUN}"), "--out", str(out)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("generate: scratchlm-generate ")
    assert generate(shlex.split(line)[2:]) == 0


@pytest.mark.parametrize("main", [generate, chat])
def test_a_recipe_is_no_model(main, folder, capsys):
    check_refusal(main, ["--model_path", "tiny"], 2, "scratchlm-train --config tiny", capsys)
