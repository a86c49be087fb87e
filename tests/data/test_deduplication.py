"""The steps that drop repeated documents, in the pipeline: the same survivors for any number of
workers, any items and any kills."""

from __future__ import annotations

import json
import pickle
import random
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from helpers import forked
from scratchlm.data.cleaning import pipeline
from scratchlm.data.cleaning.kinds import read_steps
from scratchlm.data.cleaning.pipeline import clean
from scratchlm.data.cleaning.work_folder import MANIFEST, PROGRESS, unfinished
from scratchlm.data.deduplication.steps import DropOverlap, Exact, MinHash
from scratchlm.tokenizer import workers

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Use several items, workers, parts, blocks and runs, even for few documents."""
    monkeypatch.setattr(pipeline, "ITEM_BYTES", 10_000)
    monkeypatch.setattr(pipeline, "PART_BYTES", 60_000)
    monkeypatch.setattr(workers, "SMALL_BYTES", 0)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """240 documents: each has the kind of its planted relation to the documents before."""
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("source")

    def words(count: int) -> list[str]:
        return ["".join(rng.choices(LETTERS, k=4)) for _ in range(count)]

    originals: list[list[str]] = []
    documents = []
    for number in range(240):
        kind = rng.choices(["new", "exact", "near", "overlap"], [5, 2, 2, 1])[0]
        if number < 5 or kind == "new":
            kind, text = "new", words(120)
            originals.append(text)
        elif kind == "exact":
            text = list(rng.choice(originals))
        elif kind == "near":
            text = list(rng.choice(originals))
            text[60] = f"changed{LETTERS[number % 26]}{LETTERS[number // 26]},"
        else:
            text = [*words(50), *QUESTION.upper().split(), *words(50)]
        space = "\n" if kind == "exact" else " "
        documents.append({"n": number, "kind": kind, "text": space.join(text)})
    for start in range(0, 240, 80):
        lines = [json.dumps(document) + "\n" for document in documents[start : start + 80]]
        (folder / f"{start:03}.jsonl").write_text("".join(lines), "utf-8")
    (folder / "evaluation").mkdir()
    evaluation = [{"question": QUESTION, "answer": "14"}, {"question": "Why?", "answer": "So."}]
    lines = [json.dumps(example) + "\n" for example in evaluation]
    (folder / "evaluation" / "e.jsonl").write_text("".join(lines), "utf-8")
    return folder


QUESTION = "How many apples does a farmer sell in a week if she sells two of them each day?"


def kept(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.glob("clean-*.jsonl.zst")):
        with zstandard.open(path, "rt", encoding="utf-8") as file:
            found += map(json.loads, file)
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def steps_of(source: Path) -> list[Any]:
    return [DropOverlap(str(source / "evaluation")), Exact(), MinHash()]


def planted(source: Path, *kinds: str) -> list[int]:
    lines = "".join((source / f"{n:03}.jsonl").read_text() for n in range(0, 240, 80)).splitlines()
    return [each["n"] for each in map(json.loads, lines) if each["kind"] in kinds]


def test_each_step_drops_what_is_planted(source, tmp_path):
    for steps, kinds in [
        ([Exact()], ["new", "near", "overlap"]),
        ([MinHash()], ["new", "overlap"]),
        (steps_of(source), ["new"]),
        (steps_of(source)[:1], ["new", "exact", "near"]),
    ]:
        output = tmp_path / str(len(list(tmp_path.iterdir())))
        account = clean(str(source / "*.jsonl"), output, steps)
        assert [document["n"] for document in kept(output)] == planted(source, *kinds)
        dropped = sum(step.dropped.documents for step in account.steps)
        assert account.kept.documents + dropped == account.read.documents == 240


def test_the_survivors_do_not_depend_on_workers_and_items(source, tmp_path, monkeypatch):
    outputs = []
    for size, num_workers in [(10_000, 1), (10_000, 3), (2000, 1)]:
        monkeypatch.setattr(pipeline, "ITEM_BYTES", size)
        outputs.append(tmp_path / f"{size}-{num_workers}")
        clean(str(source / "*.jsonl"), outputs[-1], steps_of(source), num_workers=num_workers)
    assert content(outputs[0]) == content(outputs[1])
    assert kept(outputs[0]) == kept(outputs[2])


def test_the_first_document_stays_in_the_order_of_the_files(source, tmp_path):
    files = sorted(source.glob("*.jsonl"))
    clean(files, tmp_path / "forward", [MinHash()])
    clean(files[::-1], tmp_path / "backward", [MinHash()])
    forward, backward = kept(tmp_path / "forward"), kept(tmp_path / "backward")
    assert len(forward) == len(backward)
    assert {each["n"] // 80 for each in forward} == {0, 1, 2}
    assert sum(each["n"] < 80 for each in forward) > sum(each["n"] < 80 for each in backward)


def kill_and_resume(source: Path, folder: Path, kills: int) -> None:
    """Kill a run `kills` times while it works, each time at a random moment."""
    paths, steps = str(source / "*.jsonl"), steps_of(source)
    begin = time.monotonic()
    clean(paths, folder / "whole", steps, num_workers=2)
    seconds, whole = time.monotonic() - begin, content(folder / "whole")
    rng, killed, output = random.Random(kills), 0, folder / "killed"
    work = unfinished(output)

    def run(num_workers: int) -> Callable[[], None]:
        begun = any((work / name).exists() for name in (PROGRESS, MANIFEST)) or output.exists()

        def body() -> None:
            clean(paths, output, steps, num_workers=num_workers, resume=begun)

        return body

    while killed < kills:
        process = forked.start(run(1 + killed % 2))
        if forked.kill_after(process, rng.random() * seconds):
            killed += 1
        else:
            seconds *= 0.8
        if output.exists():
            assert content(output) == whole
            shutil.rmtree(output)  # so that each kill finds something to stop
    assert forked.wait(forked.start(run(2))) == 0
    assert content(output) == whole
    assert sorted(path.name for path in folder.iterdir()) == ["killed", "whole"]


def test_three_kills_change_no_byte(source, tmp_path):
    kill_and_resume(source, tmp_path, 3)


@pytest.mark.slow
def test_twenty_kills_change_no_byte(source, tmp_path):
    kill_and_resume(source, tmp_path, 20)


def test_a_kill_during_the_merge_leaves_nothing_that_counts(source, tmp_path, monkeypatch):
    """The runs of a killed comparison are still in the scratch folder."""
    paths = str(source / "*.jsonl")
    clean(paths, tmp_path / "whole", [MinHash()])
    written = []

    def stop(scratch: Path) -> None:
        written.extend(scratch.iterdir())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        original = MinHash.repeated
        patch.setattr(MinHash, "repeated", lambda step, paths, scratch: (
            original(step, paths, scratch), stop(scratch)))  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            clean(paths, tmp_path / "out", [MinHash()])
    assert written
    clean(paths, tmp_path / "out", [MinHash()], resume=True)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on a file's size")
def test_a_full_disk_during_the_merge_stops_and_resumes(source, tmp_path):
    """The signatures fit into the limit on a file's size, but the sorted run does not."""
    import resource

    paths, output = str(source / "*.jsonl"), tmp_path / "out"
    clean(paths, tmp_path / "whole", [MinHash()])

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, resource.RLIM_INFINITY))
        clean(paths, output, [MinHash()], num_workers=1)

    assert forked.wait(forked.start(limited, file=tmp_path / "error")) == 1
    kind, (name, told, _) = pickle.loads((tmp_path / "error").read_bytes())
    assert (kind, name) == ("error", "OSError")
    assert re.search(r"File too large: '.*run-00000'", told)
    assert not output.exists()
    clean(paths, output, [MinHash()], resume=True)
    assert content(output) == content(tmp_path / "whole")


def test_all_forms_of_evaluation_sets_are_read(tmp_path):
    halves = QUESTION.split()[:8], QUESTION.split()[8:]
    examples = [
        {"ind": 4, "activity_label": "x", "ctx": QUESTION, "endings": ["a", "b"], "label": 1},
        {"question": QUESTION, "answer": "2 * 7 = 14\n#### 14"},
        {"messages": [{"role": "user", "content": QUESTION}]},
        {"conversations": [{"from": "human", "value": QUESTION}]},
        {"query": QUESTION, "choices": ["14", "7"], "gold": 0},
        {"prompt": " ".join(halves[0]), "completion": " ".join(halves[1])},
        {"text": f"Some words before. {QUESTION} And after."},
        QUESTION,
    ]
    copy = f"A page that quotes: {QUESTION.lower()} Nobody knows."
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps(example) + "\n")
        step = DropOverlap(str(path))
        assert (step.reason(copy), step.reason("Another page. " * 9)) == ("overlap", None)
        assert step.about().endswith("; 0 examples have fewer words")
    lines = (tmp_path / "0.jsonl").read_bytes()
    (tmp_path / "e.json").write_bytes(b"[" + lines + b"]")
    (tmp_path / "e.jsonl.zst").write_bytes(zstandard.compress(lines))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(examples[:1]), tmp_path / "e.parquet")
    for name in ("e.json", "e.jsonl.zst", "e.parquet"):
        assert DropOverlap(str(tmp_path / name)).reason(copy) == "overlap"


def test_the_manifest_describes_the_evaluation_set(source, tmp_path):
    clean(str(source / "*.jsonl"), tmp_path / "out", steps_of(source)[:1])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["inputs"][-1]["path"].endswith("e.jsonl")


def test_the_steps_of_a_config(tmp_path):
    (tmp_path / "c.toml").write_text(
        '[[step]]\nkind = "exact"\n[[step]]\nkind = "minhash"\nbands = 20\n'
        '[[step]]\nkind = "drop_overlap"\nagainst = "e.jsonl"\nngram = 8\n'
    )
    expected = [Exact(), MinHash(bands=20), DropOverlap("e.jsonl", 8)]
    assert read_steps(tmp_path / "c.toml") == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinHash(bands=0), r"minhash\.bands must be from 1 to 1000 \(0\); use"),
        (lambda: MinHash(bands=10**8), r"minhash\.bands must be from 1 to 1000 \(100000000\); use"),
        (lambda: MinHash(rows=-1), r"minhash\.rows must be from 1 to 1000 \(-1\); use"),
        (lambda: MinHash(ngram=0), r"minhash\.ngram must be from 1 to 1000 \(0\); use"),
        (lambda: MinHash(seed=-1), r"minhash\.seed must be from 0 to .* \(-1\); use"),
        (lambda: DropOverlap("e", 0), r"drop_overlap\.ngram must be from 1 to 1000 \(0\); use"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_evaluation_set_of_short_examples_is_refused(tmp_path):
    (tmp_path / "e.jsonl").write_text('{"question": "Why?"}\n')
    (tmp_path / "in.txt").write_text("text")
    with pytest.raises(ValueError, match=r"at least 13 words \(.*e\.jsonl\); choose another"):
        clean(tmp_path / "in.txt", tmp_path / "out", [DropOverlap(str(tmp_path / "e.jsonl"))])
    assert not (tmp_path / "out").exists()
