"""A name that ends in a format which is not written is refused, and nothing is made."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from refusals import check_refusal
from scratchlm import save_checkpoint, to_hf
from scratchlm.cli.convert import main as convert
from scratchlm.cli.tokenize import main as tokenize
from scratchlm.cli.train import main as train

CASES = [
    (tokenize, "--tokenizer_path t.json --encode a.txt --output out.h5", ".bin file, or into a f"),
    (tokenize, "--tokenizer_path t.json --encode a.txt --output out.H5", ".bin file, or into a f"),
    (tokenize, "--tokenizer_path t.json --encode a.txt --output out.npy", ".bin file, or into a f"),
    (tokenize, "--tokenizer_path t.json --encode a.txt a.jsonl --output o.hdf5", "not a .hdf5"),
    (tokenize, "--corpus a.txt --vocab_size 260 --output_tokenizer t.model", "a tokenizer is a .j"),
    (
        tokenize,
        "--corpus a.txt --vocab_size 260 --output_tokenizer t.bin",
        "_tokenizer t.json",
    ),
    (train, "--train_data a.txt --iterations 1 --out run.pt", "a run is a folder, not a .pt"),
    (convert, "--from m.pt --to hub.safetensors", "a model of the hub is a folder"),
    (convert, "--from m.pt --to other.pt", "a model of the hub is a folder, not a .pt (other.pt)"),
    (convert, "--from hub --to m.ckpt", "a checkpoint is a folder, or one .pt file, not a .ckpt"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    tokenizer = tiny.tokenizer(folder)
    tokenizer.save(folder / "t.json")
    tiny.corpus(folder, name="a.txt")
    (folder / "a.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    save_checkpoint(folder / "m.pt", tiny.model(), None, 1, tokenizer=tokenizer.to_json())
    to_hf(tiny.model(), folder / "hub", tokenizer)
    return folder


@pytest.mark.parametrize(("main", "words", "names"), CASES)
def test_commands_refuse_it(prepared, monkeypatch, capsys, main, words, names):
    monkeypatch.chdir(prepared)
    check_refusal(main, words.split(), 2, names, capsys)


def test_python_refuses_it(prepared, tmp_path):
    model = tiny.model()
    for name in ("a.safetensors", "a.bin", "a.ckpt", "a.PT"):
        with pytest.raises(ValueError, match=rf"one \.pt file, not a .*{name}\); name it so"):
            save_checkpoint(tmp_path / name, model, None, 1)
    tokenizer = tiny.tokenizer(prepared)
    for name in ("a.npy", "a.h5"):
        with pytest.raises(ValueError, match=rf"to a \.bin file .*{name}\); name it a\.bin"):
            tokenizer.encode_file(prepared / "a.txt", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_names_that_only_look_like_an_ending_stay(tmp_path):
    for name in ("run.v2", "llama-3.1b", "step.best", "a.pt.d"):
        save_checkpoint(tmp_path / name, tiny.model(), None, 1)
    (tmp_path / "old.ckpt").mkdir()
    save_checkpoint(tmp_path / "old.ckpt", tiny.model(), None, 1)  # a folder of that name is there
