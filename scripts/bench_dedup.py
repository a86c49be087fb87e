"""Measure deduplication: `python scripts/bench_dedup.py [--megabytes 1000] [--data FOLDER]`.

The script needs the extra `data` and a folder with books_train.txt.xz (or $SCRATCHLM_DATA). It
writes JSON lines of documents: random lines of books, 10 % copies with other white space, and 10 %
copies with some other words. Then it runs `scratchlm-data dedup` with and without --exact. It
prints the megabytes per second of time and of CPU time, the peak memory of all processes together,
and how many of the copies the command found. If datasketch is installed, it also compares the CPU
time of the signatures. Other programs on the machine change the time, but hardly the CPU time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import lzma
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

KINDS = ("new", "equal", "similar")
SIGNATURE_TEXTS = 5000  # that the comparison with datasketch uses; datasketch gets a tenth
ITEM_TEXTS = 250  # about 1 MB: the command computes the signatures of so many texts at once


class Run(NamedTuple):
    seconds: float
    cpu: float
    memory: float  # MB


def documents(data: Path, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) without end."""
    with lzma.open(data / "books_train.txt.xz", "rt", encoding="utf-8") as file:
        text = file.read()
    lines = [line for line in text.split("\n") if line.strip()]
    words = text[:2_000_000].split()
    rng, recent = random.Random(seed), [""]
    while True:
        kind = rng.choices(KINDS, [8, 1, 1])[0] if len(recent) > 100 else "new"
        if kind == "new":
            document = "\n".join(rng.choices(lines, k=rng.randrange(3, 30)))
            recent.append(document)
            del recent[:-20_000]
        elif kind == "equal":
            document = rng.choice(recent[1:]).replace("\n", " \n")
        else:
            parts = rng.choice(recent[1:]).split(" ")
            for _ in range(max(1, len(parts) // 200)):
                parts[rng.randrange(len(parts))] = rng.choice(words)
            document = " ".join(parts)
        yield kind, document


def write(data: Path, path: Path, size: int) -> tuple[Counter[str], list[str]]:
    """Write about `size` bytes of JSON lines. Return the number of each kind, and some texts."""
    kinds: Counter[str] = Counter()
    some: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for kind, text in documents(data):
            file.write(json.dumps({"text": text, "kind": kind}, ensure_ascii=False) + "\n")
            kinds[kind] += 1
            if len(some) < SIGNATURE_TEXTS:
                some.append(text)
            if file.tell() >= size:
                return kinds, some
    raise AssertionError


def measured(words: list[str]) -> Run:
    """Run a command and watch its processes."""
    before, begin = _cpu(), time.monotonic()
    peak = 0.0
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(_memory, _family(process.pid))))
            time.sleep(0.2)
    assert process.returncode == 0, words
    return Run(time.monotonic() - begin, _cpu() - before, peak)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _family(pid: int) -> list[int]:
    try:
        files = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(child) for file in files for child in file.read_text("utf-8").split()]
    except OSError:
        return []
    return [pid, *(each for child in children for each in _family(child))]


def _memory(pid: int) -> float:
    """Return the memory of a process in MB. Shared memory counts in parts (PSS)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("Pss:")), 0.0)


def kinds_in(folder: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for path in folder.glob("*.jsonl.zst"):
        with zstandard.open(path, "rt", encoding="utf-8") as file:
            found.update(json.loads(line)["kind"] for line in file)
    return found


def signatures(texts: list[str]) -> Iterator[tuple[str, float]]:
    """Yield a name and the megabytes of text per second of CPU time."""
    from scratchlm.data.deduplication.steps import Exact, MinHash

    def rate(texts: list[str], function: Callable[[list[str]], Any]) -> float:
        begin = time.process_time()
        for start in range(0, len(texts), ITEM_TEXTS):
            function(texts[start : start + ITEM_TEXTS])
        return sum(len(text.encode()) for text in texts) / 1e6 / (time.process_time() - begin)

    MinHash().signatures(["prepare the tables"])
    yield "exact", rate(texts, Exact().signatures)
    yield "MinHash", rate(texts, MinHash().signatures)
    if importlib.util.find_spec("datasketch"):
        yield "datasketch", rate(texts[::10], _datasketch)


def _datasketch(texts: list[str]) -> None:
    from datasketch import MinHash, MinHashLSH  # type: ignore[import-not-found]

    lsh = MinHashLSH(num_perm=112, params=(14, 8))
    for number, text in enumerate(texts):
        words = text.lower().split()
        ngrams = {" ".join(words[start : start + 5]) for start in range(len(words) - 4)}
        minhash = MinHash(num_perm=112)
        minhash.update_batch([ngram.encode() for ngram in ngrams])
        lsh.insert(number, minhash)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    default = Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=os.environ.get("SCRATCHLM_DATA", default))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "in.jsonl")
        kinds, texts = write(Path(args.data), source, args.megabytes * 1_000_000)
        told = ", ".join(f"{kinds[kind]:,} {kind}" for kind in KINDS)
        print(f"{source.stat().st_size / 1e6:,.0f} MB, {kinds.total():,} documents: {told}\n")
        print(
            "| command | MB/s | MB/s of CPU time | peak memory, MB | equal found | similar found |"
        )
        print("|---|---|---|---|---|---|")
        for flags in (["--exact"], []):
            output = Path(name, "-".join(["out", *flags]))
            words = [sys.executable, "-m", "scratchlm.cli.data", "dedup", str(source)]
            run = measured([*words, *flags, "--num_workers", "2", "--output", str(output)])
            kept, size = kinds_in(output), source.stat().st_size / 1e6
            found = [f"{1 - kept[kind] / kinds[kind]:.2%}" for kind in KINDS[1:]]
            rates = [f"{size / run.seconds:.1f}", f"{size / run.cpu:.1f}", f"{run.memory:.0f}"]
            print("|", " ".join(["dedup", *flags]), "|", " | ".join([*rates, *found]), "|")
    print("\n| signatures | MB/s of CPU time |\n|---|---|")
    for peer, speed in signatures(texts):
        print(f"| {peer} | {speed:.1f} |")


if __name__ == "__main__":
    main()
