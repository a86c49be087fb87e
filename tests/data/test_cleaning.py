"""Cleaning: every document is accounted for, for any number of workers and after any kill."""

from __future__ import annotations

import errno
import gc
import gzip
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from helpers import forked, tiny
from helpers.stopped import Stopped, stop_before
from scratchlm.data.cleaning import pipeline
from scratchlm.data.cleaning.accounting import Accounting, Amount, Tally, add
from scratchlm.data.cleaning.edits import Nfc, Separator, StripReturns
from scratchlm.data.cleaning.filters import Length, Sample
from scratchlm.data.cleaning.gopher import Repetition
from scratchlm.data.cleaning.pipeline import clean
from scratchlm.data.cleaning.step import Comparison
from scratchlm.data.cleaning.work_folder import MANIFEST, PROGRESS, unfinished
from scratchlm.data.reading.records import read_records
from scratchlm.data.reading.settings import Reading
from scratchlm.errors import FileFormatError
from scratchlm.files import atomic
from scratchlm.files.lock import lock_file
from scratchlm.tokenizer import workers


@dataclass(frozen=True)
class Same(Comparison):
    """Drop a text that occurs before. The slow and plain way: a set of 4-byte hashes."""

    kind: ClassVar[str] = "same"

    @property
    def signature_size(self) -> int:
        return 4

    def signatures(self, texts: Sequence[str]) -> bytes:
        return b"".join(zlib.crc32(text.encode()).to_bytes(4, "big") for text in texts)

    def repeated(self, signatures: Sequence[Path], scratch: Path) -> np.ndarray:
        assert list(scratch.iterdir()) == []
        (scratch / "run").write_bytes(b"x")
        data = b"".join(path.read_bytes() for path in signatures)
        records = [data[i : i + 4] for i in range(0, len(data), 4)]
        again = [i for i, record in enumerate(records) if record in set(records[:i])]
        return np.array(again, np.int64)


STEPS = [StripReturns(), Length(40, 1000), Same(), Nfc(), Sample(0.8), Separator("cat", "dog")]


def text_of(number: int) -> str:
    text = tiny.text(5 + number % 150 % 60, seed=number % 150)
    return text.replace("\n", "\r\n") if number % 3 else text


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """300 documents in four files and formats: repeated, short, empty ones, and other fields."""
    folder = tmp_path_factory.mktemp("source")
    lines = [{"id": n, "text": text_of(n) if n % 20 else "", "meta": {"a": [n, "é"]}}
             for n in range(200)]  # fmt: skip
    lines[ODD]["meta"] = {"half": "\ud800", "not": [float("nan"), -math.inf, 1.5]}
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(data, mtime=0))
    (folder / "b.txt").write_text("§".join(map(text_of, range(200, 240))), "utf-8", newline="")
    rows = {"text": [text_of(n) for n in range(240, 270)], "score": list(range(30))}
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "c.parquet")
    (folder / "d.json").write_text(json.dumps([text_of(n) for n in range(270, 300)]))
    return folder


READING = Reading(separator="§")
ODD = 32  # the number of a document that stays


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Use several items, workers and parts, even for few documents."""
    monkeypatch.setattr(pipeline, "ITEM_BYTES", 2000)
    monkeypatch.setattr(pipeline, "PART_BYTES", 9000)
    monkeypatch.setattr(workers, "SMALL_BYTES", 0)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def documents_in(folder: Path) -> list[object]:
    """Return the lines of all shards, as an independent reader has them."""
    found = []
    for path in sorted(folder.glob("clean-*.jsonl.zst")):
        with zstandard.open(path, "rt", encoding="utf-8") as file:
            found += [json.loads(line, parse_constant=pytest.fail) for line in file]
    return found


def by_hand(source: Path) -> tuple[list[object], dict[str, int]]:
    """Clean with a plain loop. Return the documents, and the number that each step drops."""
    kept, seen = [], set()
    dropped = {"empty": 0, "length (step 2)": 0, "same (step 3)": 0, "sample (step 5)": 0}
    for record in read_records(source, READING):
        text = record.text.replace("\r\n", "\n")
        if not text:
            dropped["empty"] += 1
        elif not 40 <= len(text) <= 1000:
            dropped["length (step 2)"] += 1
        elif text in seen:
            dropped["same (step 3)"] += 1
        elif Sample(0.8).reason(text) is not None:
            seen.add(text)
            dropped["sample (step 5)"] += 1
        else:
            seen.add(text)
            value = record.value if isinstance(record.value, dict) else {}
            if value.get("id") == ODD:
                value["meta"]["not"] = [None, None, 1.5]  # JSON has no NaN and no infinity
            kept.append(value | {"text": text.replace("cat", "dog")})
    return kept, dropped


def test_the_output_is_the_input_without_what_the_steps_drop(source, tmp_path):
    account = clean(source, tmp_path / "out", STEPS, reading=READING)
    kept, dropped = by_hand(source)
    assert min(dropped.values()) >= 5
    assert len(kept) > 80
    assert documents_in(tmp_path / "out") == kept
    assert {step.name: step.dropped.documents for step in account.steps
            if step.dropped.documents} == dropped  # fmt: skip
    assert account.read == Amount(
        300, sum(record.num_bytes for record in read_records(source, READING))
    )
    assert account.text_bytes == sum(len(document["text"].encode()) for document in kept)
    shards = [path.name for path in sorted((tmp_path / "out").glob("*.zst"))]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [shard["name"] for shard in manifest["shards"]] == shards
    assert len(shards) > 2
    assert sum(shard["documents"] for shard in manifest["shards"]) == len(kept)
    assert Accounting.from_json(manifest["accounting"]) == account
    assert manifest["settings"]["length (step 2)"] == {
        "kind": "length",
        "min_chars": 40,
        "max_chars": 1000,
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*shards, "manifest.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    # The output can be read as an input, and a second cleaning changes nothing.
    again = clean(tmp_path / "out", tmp_path / "again", [StripReturns(), Same(), Nfc()])
    assert again.read.documents == again.kept.documents == len(kept)
    assert documents_in(tmp_path / "again")[-1] == kept[-1]


def test_the_account_is_an_equation_that_is_told(source, tmp_path):
    account = clean(source, tmp_path / "out", STEPS, reading=READING)
    lines = list(account.lines())
    for line, whole in zip(lines, (300, account.read.bytes), strict=False):
        told = re.findall(r"([\d,]+) (?=in|kept|dropped|rejected)", line)
        numbers = [int(number.replace(",", "")) for number in told]
        assert numbers[0] == whole == sum(numbers[1:])
    changes = {step.name: step.changed for step in account.steps if step.changed.documents}
    assert changes.keys() == {"strip_returns (step 1)", "separator (step 6)"}
    assert changes["strip_returns (step 1)"].bytes < 0
    assert "separator (step 6) changed" in "\n".join(lines)


def test_a_lost_document_is_noticed():
    tally = Tally()
    add(tally, "kept", num_bytes=10)
    add(tally, "dropped", "length (step 1)", "too short", num_bytes=5)
    tally.update({("text", "before"): 9, ("text", "after"): 9})
    Accounting.of(tally, ["length (step 1)"], Amount(2, 15), Amount())
    Accounting.of(tally, ["length (step 1)"], Amount(3, 16), Amount(1, 1))
    for read, rejected in ((Amount(3, 15), Amount()), (Amount(2, 16), Amount()),
                           (Amount(2, 15), Amount(1, 1))):  # fmt: skip
        with pytest.raises(FileFormatError, match="lost or counted twice"):
            Accounting.of(tally, ["length (step 1)"], read, rejected)
    tally[("text", "after")] += 1
    with pytest.raises(FileFormatError, match="bytes of text"):
        Accounting.of(tally, ["length (step 1)"], Amount(2, 15), Amount())


def test_any_number_of_workers_writes_the_same(source, tmp_path):
    for num in (1, 2, 5):
        clean(source, tmp_path / str(num), STEPS, reading=READING, num_workers=num)
    assert content(tmp_path / "1") == content(tmp_path / "2") == content(tmp_path / "5")


def test_two_comparisons_and_filters_between_them(source, tmp_path):
    """The second comparison sees only what the first and the filters left."""
    steps = [Length(40), Same(), Separator("1", "2"), Repetition(), Same()]
    account = clean(source, tmp_path / "out", steps, reading=READING)
    texts = [document["text"] for document in documents_in(tmp_path / "out")]
    assert len(texts) == len(set(texts))
    dropped = {step.name: step.dropped.documents for step in account.steps}
    assert dropped["same (step 2)"] > 20
    assert dropped["repetition (step 4)"] > 0
    plain, seen = [], set()
    first = set()
    for record in read_records(source, READING):
        if len(record.text) >= 40 and record.text not in first:
            first.add(record.text)
            text = record.text.replace("1", "2")
            if Repetition().reason(text) is None and text not in seen:
                seen.add(text)
                plain.append(text)
    assert texts == plain


def test_rejects_are_counted_and_kept_aside(tmp_path):
    lines = [json.dumps({"text": f"text {number}"}) for number in range(40)]
    lines[7] = lines[7][:-1]
    lines[21] = '{"other": 1}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    rejects = tmp_path / "bad.jsonl"
    with pytest.raises(ValueError, match=r"a\.jsonl:8"):
        clean(tmp_path / "a.jsonl", tmp_path / "out", [Same()])
    with pytest.raises(ValueError, match=r"a\.jsonl:22|'text'"):
        clean(tmp_path / "a.jsonl", tmp_path / "out", [Same()], rejects=rejects, max_bad=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]
    account = clean(tmp_path / "a.jsonl", tmp_path / "out", [Same()], rejects=rejects, max_bad=2)
    assert account.rejected == Amount(2, len(lines[7]) + len(lines[21]))
    assert account.read == Amount(40, sum(map(len, lines)))
    assert account.kept.documents == 38
    assert [json.loads(line)["line"] for line in rejects.read_text().splitlines()] == [8, 22]


def test_nothing_left_is_no_shard(source, tmp_path):
    account = clean(source, tmp_path / "out", [Length(100_000)], reading=READING)
    assert account.kept == Amount()
    told = "warning: no document remains; check the settings of length (step 1)"
    assert list(account.lines())[-1] == told
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


# --- killed and resumed ---------------------------------------------------------------------------


def kill_and_resume(source: Path, folder: Path, kills: int) -> int:
    """Kill running cleanings `kills` times. Return how many kills left complete parts."""
    begin = time.monotonic()
    clean(source, folder / "whole", STEPS, reading=READING, num_workers=2)
    seconds, whole = time.monotonic() - begin, content(folder / "whole")
    rng, killed, with_parts, output = random.Random(kills), 0, 0, folder / "killed"
    work = unfinished(output)

    def start(num_workers: int) -> Any:
        begun = any((work / name).exists() for name in (PROGRESS, MANIFEST)) or output.exists()

        def run() -> None:
            clean(source, output, STEPS, reading=READING, num_workers=num_workers, resume=begun)

        return forked.start(run)

    for attempt in range(20 * kills):
        killed += forked.kill_after(start(1 + attempt % 2), rng.random() * seconds / 2)
        if output.exists():
            assert content(output) == whole, "a part is taken for the whole"
            shutil.rmtree(output)  # so that every kill finds something to stop
        for path in work.glob("clean-*.zst"):
            assert path.read_bytes() == whole[path.name], "a part is taken for the whole"
        with_parts += any(work.glob("clean-*.zst")) or any(work.glob("survey-*"))
        if killed == kills:
            break
    assert killed == kills
    assert forked.wait(start(2)) == 0
    assert content(output) == whole
    assert sorted(path.name for path in folder.iterdir()) == ["killed", "whole"]
    return with_parts


def test_killed_three_times_and_resumed_is_as_never_killed(source, tmp_path):
    kill_and_resume(source, tmp_path, 3)


@pytest.mark.slow
def test_killed_twenty_times_and_resumed_is_as_never_killed(source, tmp_path):
    assert kill_and_resume(source, tmp_path, 20) >= 10


@pytest.mark.parametrize(
    ("target", "name", "count"),
    [
        ("replace", ".signatures", 1),
        ("replace", ".signatures", 3),
        ("replace", ".verdicts", 2),
        ("replace", "verdicts-1", 1),
        ("replace", "progress.json", 1),
        ("replace", "progress.json", 2),
        ("replace", "progress.json", 4),
        ("unlink", ".signatures", 1),
        ("replace", ".zst", 1),
        ("replace", ".zst", 3),
        ("replace", "bad.jsonl", 1),
        ("replace", "bad.jsonl", 2),
        ("replace", "manifest.json", 1),
        ("unlink", "progress.json", 1),
        ("rename", "stopped", 1),
    ],
)
def test_stopped_between_any_two_steps(source, tmp_path, monkeypatch, target, name, count):
    settings = {"reading": READING, "rejects": tmp_path / "bad.jsonl", "num_workers": 1}
    clean(source, tmp_path / "whole", STEPS, **settings)
    output, whole = tmp_path / "stopped", content(tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_before(patch, target, name, count)
        with pytest.raises(Stopped):
            clean(source, output, STEPS, **settings)
    assert not output.exists()
    for path in unfinished(output).glob("clean-*.zst"):
        assert path.read_bytes() == whole[path.name]
    clean(source, output, STEPS, **settings, resume=unfinished(output).exists())
    assert content(output) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "stopped", "whole"]


def test_a_resumed_run_repeats_no_finished_part(source, tmp_path, monkeypatch):
    judged = []

    class Counted(Same):
        def signatures(self, texts):
            judged.extend(texts)
            return super().signatures(texts)

    steps = [Counted()]
    clean(source, tmp_path / "whole", steps, reading=READING, num_workers=1)
    total = len(judged)
    judged.clear()
    with monkeypatch.context() as patch:
        stop_before(patch, "replace", ".signatures", 4)
        with pytest.raises(Stopped):
            clean(source, tmp_path / "out", steps, reading=READING, num_workers=1)
    first = len(judged)
    clean(source, tmp_path / "out", steps, reading=READING, num_workers=1, resume=True)
    assert total <= len(judged) < total + first / 2
    judged.clear()
    again = clean(source, tmp_path / "out", steps, reading=READING, resume=True)  # finished
    assert (judged, again.read.documents) == ([], 300)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_full_disk_leaves_nothing_half_written(source, tmp_path, monkeypatch):
    """The disk is full at the first write, then at the second write of the resumed run, …"""
    whole = clean(source, tmp_path / "whole", STEPS, reading=READING, num_workers=1)
    output, original = tmp_path / "out", atomic.sync
    calls = 0

    def full(file):
        nonlocal calls
        calls += 1
        if calls == limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(file)

    monkeypatch.setattr(atomic, "sync", full)
    for limit in range(1, 30):  # noqa: B007 (`full` reads it)
        calls, resume = 0, unfinished(output).exists()
        try:
            clean(source, output, STEPS, reading=READING, num_workers=1, resume=resume)
        except OSError as error:
            told = str(error)
        else:
            break
        assert f"No space left on device: '{tmp_path}" in told
        assert not output.exists()
        assert not [path for path in unfinished(output).glob("*") if ".tmp-" in path.name]
    assert limit > 5
    assert content(output) == content(tmp_path / "whole")
    assert whole.kept.documents > 80


def test_an_error_stops_the_workers_at_once(source, tmp_path, monkeypatch):
    """Not later, when the garbage collector finds them: that can wait for a lock forever."""
    gc.disable()
    try:
        stop_before(monkeypatch, "replace", ".signatures", 2)
        with pytest.raises(Stopped) as stopped:
            clean(source, tmp_path / "out", STEPS, reading=READING, num_workers=2)
        assert stopped.value.__traceback__ is not None  # holds the frames of the run
        assert multiprocessing.active_children() == []
    finally:
        gc.enable()


# --- refused --------------------------------------------------------------------------------------


@pytest.fixture
def begun(source, tmp_path, monkeypatch) -> Path:
    """The output of a run that was stopped in its second pass."""
    with monkeypatch.context() as patch:
        stop_before(patch, "replace", ".zst", 2)
        with pytest.raises(Stopped):
            clean(source, tmp_path / "out", STEPS, reading=READING)
    return tmp_path / "out"


def test_resuming_with_other_steps_files_or_fields(source, begun, tmp_path):
    before = content(unfinished(begun))
    for steps, reading, told in (
        (
            [*STEPS[:1], Length(41, 1000), *STEPS[2:]],
            READING,
            r"min_chars of length \(step 2\) was 40 and is now 41",
        ),
        (STEPS[:-1], READING, r"separator \(step 6\) was present and is now absent"),
        (STEPS, Reading(field="body"), "field was 'text' and is now 'body'"),
    ):
        with pytest.raises(FileFormatError, match=rf"other settings \(.*{told}"):
            clean(source, begun, steps, reading=reading, resume=True)
    with pytest.raises(FileFormatError, match=r"other files \(.*a\.jsonl\.gz.* changed\)"):
        clean(source / "b.txt", begun, STEPS, reading=READING, resume=True)
    assert content(unfinished(begun)) == before


def test_a_damaged_part_of_a_killed_run(source, begun):
    shard = unfinished(begun) / "clean-00000.jsonl.zst"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"finished part is missing or changed \(.*00000"):
        clean(source, begun, STEPS, reading=READING, resume=True)
    shard.unlink()
    with pytest.raises(FileFormatError, match=r"finished part is missing or changed \(.*00000"):
        clean(source, begun, STEPS, reading=READING, resume=True)
    (unfinished(begun) / PROGRESS).write_text("{}")
    with pytest.raises(FileFormatError, match="does not describe a cleaning"):
        clean(source, begun, STEPS, reading=READING, resume=True)


def test_outputs_that_are_refused(source, begun, tmp_path):
    with pytest.raises(ValueError, match=r"already contains a run \(.*unfinished\); continue with"):
        clean(source, begun, STEPS, reading=READING)
    with pytest.raises(ValueError, match=r"--resume needs a run that began \(.*new has none"):
        clean(source, tmp_path / "new", STEPS, resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("the user's own")
    with pytest.raises(ValueError, match=r"new or empty folder \(.*full\)"):
        clean(source, tmp_path / "full", STEPS)
    with pytest.raises(ValueError, match=r"a folder, not a file \(.*notes\.txt\)"):
        clean(source, tmp_path / "full" / "notes.txt", STEPS)
    with pytest.raises(ValueError, match="output must not be among the inputs"):
        clean(source, source / "out", STEPS)
    with pytest.raises(FileNotFoundError):
        clean(source, tmp_path / "none" / "out", STEPS)
    with (
        lock_file(unfinished(begun) / ".lock", "x", "y"),
        pytest.raises(ValueError, match="another process is cleaning into the folder"),
    ):
        clean(source, begun, STEPS, reading=READING, resume=True)
    (tmp_path / "empty").mkdir()
    assert clean(source, tmp_path / "empty", STEPS, reading=READING).kept.documents > 80


def test_a_line_without_a_change_stays_as_it_is(tmp_path):
    lines = ['{ "n": [1.10, 1E5, 1e400], "text": "caf\\u00e9"}', '{"text": "x\\r\\ny", "n": 1.10}',
             '"a string"', '{"text": "z", "n": NaN}']  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes("\r\n".join(lines).encode())
    clean(tmp_path / "a.jsonl", tmp_path / "out", [StripReturns()])
    with zstandard.open(tmp_path / "out" / "clean-00000.jsonl.zst", "rt", encoding="utf-8") as file:
        assert file.read().splitlines() == [
            lines[0], '{"text": "x\\ny", "n": 1.1}', '{"text": "a string"}',
            '{"text": "z", "n": null}',
        ]  # fmt: skip


def test_a_file_that_changes_during_the_run(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a text")

    class Slow(Nfc):
        def edit(self, text):
            path.write_text("another text")
            return text

    with pytest.raises(FileFormatError, match=r"a file changed during the cleaning \(.*a\.txt"):
        clean(path, tmp_path / "out", [Slow()], num_workers=1)
    assert not (tmp_path / "out").exists()
