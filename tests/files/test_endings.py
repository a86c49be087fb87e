"""A file name with the ending of a format that we do not write: it is refused, and no file is
created."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers import tiny
from helpers.refusals import check_refusal
from scratchlm import save_checkpoint, to_hf
from scratchlm.cli.convert import main as convert
from scratchlm.cli.tokenize import main as tokenize
from scratchlm.cli.train import main as train
from scratchlm.data.prepare import DataConfig, default_vocab_size, prepare
from scratchlm.data.shards import open_shard

CASES = [
    (tokenize, "--tokenizer_path t.json --encode a.txt --output out.hdf", "an .h5 file or a"),
    (tokenize, "--tokenizer_path t.json --encode a.txt --output out.hdf4", "an .h5 file or a"),
    (tokenize, "--tokenizer_path t.json --encode a.txt --output out.npy", "an .h5 file or a"),
    (
        tokenize,
        "--tokenizer_path t.json --encode a.txt a.jsonl --output o.hdf5",
        "must be a folder",
    ),
    *(
        (tokenize, f"--tokenizer_path t.json --encode {data} --output hub/out.{ending}", remedy)
        for ending in ("ids", "mmap", "idx", "db", "Txt")
        for data, remedy in (
            ("a.txt", "; set --output hub/out.bin or hub/out.h5, or hub/out for a folder"),
            ("a.jsonl", "; set --output hub/out"),
        )
    ),
    (tokenize, "--corpus a.txt --vocab_size 260 --output_tokenizer t.json5", "_tokenizer t.json"),
    (tokenize, "--corpus a.txt --vocab_size 260 --output_tokenizer hub/t.tok", "hub/t.json"),
    (tokenize, "--corpus a.txt --vocab_size 260 --output_tokenizer t.model", "a tokenizer must be"),
    (
        tokenize,
        "--corpus a.txt --vocab_size 260 --output_tokenizer t.bin",
        "_tokenizer t.json",
    ),
    (train, "--train_data a.txt --iterations 1 --out run.pt", "a run must be a folder, not a .pt"),
    (convert, "--from m.pt --to hub.safetensors", "a Hugging Face model must be a folder"),
    (
        convert,
        "--from m.pt --to other.pt",
        "a Hugging Face model must be a folder, not a .pt file (other.pt)",
    ),
    (
        convert,
        "--from hub --to m.ckpt",
        "a checkpoint must be a folder or one .pt file, not a .ckpt",
    ),
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
        with pytest.raises(ValueError, match=rf"one \.pt file, not a .*{name}\); choose a name"):
            save_checkpoint(tmp_path / name, model, None, 1)
    tokenizer = tiny.tokenizer(prepared)
    for name in ("a.npy", "a.h5", "a.ids"):
        with pytest.raises(ValueError, match=rf"with \.bin .*{name}\); use the name a\.bin"):
            tokenizer.encode_file(prepared / "a.txt", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["shards.v2", "shards-3.1", "shards", "old.ids"])
def test_a_folder_of_ids_has_any_name_without_a_format(name, prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(prepared)
    (tmp_path / "old.ids").mkdir()
    words = ["--tokenizer_path", "t.json", "--encode", "a.txt", "--output", str(tmp_path / name)]
    assert tokenize(words) == 0
    assert (tmp_path / name / "train-00000.bin").is_file()
    new = [str(tmp_path / "t.v2"), str(tmp_path / "t.JSON"), str(tmp_path / "t")]
    for path in new if name == "shards" else []:
        assert (
            tokenize(["--corpus", "a.txt", "--vocab_size", "260", "--output_tokenizer", path]) == 0
        )


def test_shards_end_in_upper_or_lower_case(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--tokenizer_path", f"{prepared}/t.json", "--encode", f"{prepared}/a.txt", "--output"]
    assert tokenize([*words, "a.BIN"]) == 0
    assert Path("a.BIN").is_file()
    ids = open_shard("a.BIN", verify=True).tokens
    np.save("a.npy", ids)
    Path("a.npy").rename("b.NPY")
    Path("bare.Bin").write_bytes(Path("a.BIN").read_bytes())
    for name in ("a.BIN", "b.NPY", "bare.Bin"):
        assert np.array_equal(open_shard(name).tokens, ids)
        data = prepare(DataConfig(name), 300, 8, tmp_path / "data", print)
        assert np.array_equal([*data.train, *data.val], ids)
    assert "bare.Bin has no sidecar: its ids are read as uint16" in capsys.readouterr().out
    assert default_vocab_size(DataConfig("a.BIN")) == 300


def test_names_that_only_look_like_an_ending_stay(tmp_path):
    for name in ("run.v2", "llama-3.1b", "step.best", "a.pt.d"):
        save_checkpoint(tmp_path / name, tiny.model(), None, 1)
    (tmp_path / "old.ckpt").mkdir()
    save_checkpoint(tmp_path / "old.ckpt", tiny.model(), None, 1)  # a folder of that name is there
