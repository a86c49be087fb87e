"""scratchlm-data dedup: what it prints, writes and refuses."""

from __future__ import annotations

import json

import pytest
import zstandard

from scratchlm.cli.data import main

TEXTS = ["One two three four five six.", "one TWO three, four five six!", "other", "one  two\n",
         "One two three four five six. ", "one two"]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(TEXTS)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    (tmp_path / "eval.jsonl").write_text('{"question": "two three four five"}\n')
    return tmp_path


def kept(folder) -> list[int]:
    with zstandard.open(folder / "out" / "clean-00000.jsonl.zst", "rt", encoding="utf-8") as file:
        return [json.loads(line)["n"] for line in file]


def test_similar_documents_are_dropped_and_the_parameters_are_printed(folder, capsys):
    assert main(["dedup", "in.jsonl", "--output", "out"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "minhash: b = 14 bands of r = 8 rows, n-grams of 5 words; threshold (1/b)^(1/r) = 0.719; "
        "a pair with similarity 0.8 is found with probability 0.924\n"
    )
    assert "documents: 6 in = 3 kept + 3 dropped by minhash (step 1) + 0 rejected" in printed
    assert kept(folder) == [0, 2, 3]


def test_only_equal_documents_are_dropped_with_exact(folder, capsys):
    assert main(["dedup", "in.jsonl", "--output", "out", "--exact"]) == 0
    assert "2 dropped by exact (step 1)" in capsys.readouterr().out
    assert kept(folder) == [0, 1, 2, 3]


def test_copies_of_an_evaluation_set_are_dropped(folder, capsys):
    words = ["--output", "out", "--against", "eval.jsonl", "--against_ngram", "4"]
    assert main(["dedup", "in.jsonl", *words, "--exact"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("drop_overlap: 1 n-grams of 4 words in eval.jsonl; 0 examples have")
    assert "3 dropped by drop_overlap (step 1) + 1 dropped by exact (step 2)" in printed
    assert kept(folder) == [2, 3]


def test_the_flags_of_minhash(folder, capsys):
    words = ["--minhash_ngram", "1", "--minhash-bands", "3", "--minhash_rows", "4"]
    assert main(["dedup", "in.jsonl", "--output", "out", *words, "--minhash_seed", "7"]) == 0
    assert "b = 3 bands of r = 4 rows, n-grams of 1 words" in capsys.readouterr().out
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert manifest["settings"]["minhash (step 1)"] == {
        "kind": "minhash", "ngram": 1, "bands": 3, "rows": 4, "seed": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--exact", "--minhash_rows", "8"],
         "--minhash_rows has no effect (--exact compares whole texts); remove --exact"),
        (["--against_ngram", "8"],
         "--against_ngram has no effect (8); add --against EVAL.jsonl"),
        (["--minhash_bands", "0"], "minhash.bands must be from 1 to 1000 (0); use e.g. 14"),
        (["--against", "missing.jsonl"], "no such file or directory (missing.jsonl); check"),
        (["--against", "eval.jsonl"],
         "an evaluation set must have an example with at least 13 words (eval.jsonl); choose"),
        (["--against", "bad.jsonl"], "each line must be JSON (bad.jsonl:1: Expecting"),
        (["--against", "list.jsonl"], "a line must be an object or a string (list.jsonl:1: a l"),
        (["--against", "bad.jsonl.zst"], "the zst file is damaged (bad.jsonl.zst: "),
        (["--against", "*.parquet"], "no file matches the pattern (*.parquet); check"),
        (["--minhash_bands", "x"], "argument --minhash_bands: invalid int value: 'x'; scratchlm"),
        (["--minhash_seed=-1"], "minhash.seed must be from 0 to 2**63 - 1 (-1); use e.g. 1"),
        (["--minhash_rows", "8", "--minhash_rows", "9"],
         "two values for one option (--minhash_rows 8, --minhash_rows 9); keep one"),
        (["--against", "in.jsonl", "--against_ngram", "0"],
         "drop_overlap.ngram must be from 1 to 1000 (0); use e.g. 13"),
    ],
)  # fmt: skip
def test_refused(folder, capsys, words, message):
    (folder / "bad.jsonl").write_text('{"question": "two"\n')
    (folder / "list.jsonl").write_text("[1, 2]\n")
    (folder / "bad.jsonl.zst").write_bytes(b"no frame")
    code = 3 if words[-1].endswith(".zst") else 2
    assert main(["dedup", "in.jsonl", "--output", "out", *words]) == code
    assert capsys.readouterr().err.startswith(f"scratchlm: error: {message}")
    assert not (folder / "out").exists()
