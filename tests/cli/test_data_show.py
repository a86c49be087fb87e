"""`scratchlm-data show`: the batches that a run reads."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from helpers import tiny
from helpers.refusals import check_refusal
from scratchlm import BPETokenizer
from scratchlm.cli.data import main as data
from scratchlm.cli.train import main as train
from scratchlm.data.batches import TrainBatches

END = "<|endoftext|>"
SMALL = ["--batch_size", "3", "--context_length", "24"]


@pytest.fixture
def tokenizer(tmp_path, monkeypatch) -> BPETokenizer:
    """Two texts of several documents in the current folder, and their tokenizer."""
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny.tokenizer(tmp_path)
    for name, seed in (("a", 0), ("b", 50)):
        texts = [tiny.text(20, seed=seed + number).replace("\n", "") for number in range(40)]
        Path(f"{name}.txt").write_text(END.join(texts), encoding="utf-8")
        np.save(f"{name}.npy", np.array(tokenizer.encode(END.join(texts)), "<u2"))
    tokenizer.save("t.json")
    return tokenizer


def shown(capsys, *words: str) -> list[str]:
    """Return the printed lines, without the explanation."""
    assert data(["show", *words]) == 0
    explanation, *lines = capsys.readouterr().out.splitlines()
    assert explanation == "a line is a document; the loss predicts all tokens outside ⟨⟩"
    return lines


def rows_in(lines: list[str]) -> list[str]:
    """Return the text of each row."""
    rows: list[str] = []
    for line in lines:
        if re.match(r"row \d", line):
            rows.append("")
        else:
            rows[-1] += re.sub("[⟨⟩]", "", line[6:])
    return rows


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_rows_of_a_step(tokenizer, capsys, accumulate):
    words = ["--train_data", "a.npy", "--tokenizer_path", "t.json", *SMALL, "--seed", "5"]
    more = ["--step", "4", "--print_rows", "9", "--accumulate", str(accumulate), "--val_data=b.npy"]
    lines = shown(capsys, *words, *more)
    batches = TrainBatches(np.load("a.npy"), 3, 24, 5)
    first = 3 * accumulate
    wanted = []
    for index in range(first, first + accumulate):
        batch = batches.batch(index)
        for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
            wanted.append(tokenizer.decode([*inputs.tolist(), int(targets[-1])]))
    assert rows_in(lines) == wanted
    numbers = [int(found[1]) for line in lines if (found := re.match(r"row (\d+):", line))]
    assert numbers == list(range(3 * accumulate))
    assert rows_in(shown(capsys, *words, *more[:2], "--print_rows", "2")) != wanted[:2] or (
        accumulate == 1
    )


def test_separate_documents_and_aligned_rows(tokenizer, capsys):
    words = ["--train_data", "a.npy", "--val_data", "b.npy", "--tokenizer_path", "t.json", *SMALL]
    whole = shown(capsys, *words)
    separate = shown(capsys, *words, "--data.documents", "separate")
    assert rows_in(whole) == rows_in(separate)
    assert sum("⟨" in line for line in whole) == 3
    assert sum("⟨" in line for line in separate) == len(separate) - 3 > 3
    aligned = shown(capsys, *words, "--data.rows", "aligned")
    documents = Path("a.txt").read_text(encoding="utf-8").split(END)
    for line in aligned:
        if not line.startswith("row"):
            text = re.sub("[⟨⟩]", "", line[6:]).removesuffix(END)
            assert any(text in document for document in documents)


def test_a_text_and_runs_on_it(tokenizer, capsys):
    """A run's config.toml is enough. Its folder stays as it is, and so does the current one. The
    second run has the tokenizer of its initial weights."""
    words = ["--train_data", "a.txt", "--val_data", "b.txt", *SMALL]
    small = ["--d_model", "16", "--num_heads", "2", "--num_layers", "1", "--vocab_size", "300"]
    steps = ["--iterations", "2", "--eval_every", "0", "--device", "cpu"]
    own = ["--tokenizer_path", "t.json"]
    assert train([*words, *own, *small, *steps, "--out", "run"]) == 0
    assert train([*words, *steps, "--init_from", "run", "--out", "more", "--seed", "1"]) == 0
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    lines = shown(capsys, "--config", "run/config.toml", "--step", "2")
    assert lines == shown(capsys, *words, *own, "--step", "2")
    assert rows_in(lines)[0] in Path("a.txt").read_text(encoding="utf-8")
    lines = shown(capsys, "--config", "more/config.toml", "--step", "2")
    assert lines == shown(capsys, *words, *own, "--step", "2", "--seed", "1")
    assert lines != shown(capsys, *words, "--step", "2", "--seed", "1")  # a new tokenizer
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_a_mixture_and_a_file_without_a_tokenizer(tokenizer, capsys):
    words = ["--train_data", "a.npy:2,b.npy:1", "--val_data", "b.npy", *SMALL]
    lines = shown(capsys, *words, "--tokenizer_path", "t.json")
    names = re.findall(r"^row \d of (\S+):", "\n".join(lines), re.MULTILINE)
    assert sorted(os.path.basename(name) for name in names) == ["a.npy", "a.npy", "b.npy"]
    lines = shown(
        capsys, "--train_data", "a.npy", "--val_data", "b.npy", "--vocab_size", "300", *SMALL
    )
    batch = TrainBatches(np.load("a.npy"), 3, 24, 0).batch(0)
    assert list(map(int, rows_in(lines)[0].split()))[:24] == batch.inputs[0].tolist()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], "set one of them"),
        (["--train_data", "none.bin"], "none.bin"),
        (["--train_data", "a.txt", "--step", "0"], "step must be at least 1 (0)"),
        (["--train_data", "a.txt", "--print_rows", "0"], "print_rows must be at least 1 (0)"),
        (["--train_data", "a.txt", "--data.documents", "apart"], "apart"),
        (["--train_data", "a.npy"], "the vocabulary size is unknown"),
        (["--config", "none"], "none"),
    ],
)
def test_what_is_refused(tokenizer, capsys, words, names):
    check_refusal(data, ["show", *words], 2, names, capsys)
