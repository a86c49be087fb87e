"""Compare the path from documents to token files with peers: `python scripts/bench_data.py`.

The script needs the extra `bench`, two cores, and Linux. It reads the books of $SCRATCHLM_DATA, or
of `shared/data` beside the checkout. Without these books, it reads Python's library. Each
measurement is its own process. Ours and the peers take turns, and a ratio is the median over the
rounds. The time starts with files of JSON lines in Zstandard and ends with token files. It does not
include imports.

Other programs on the machine change the seconds. The CPU seconds of all processes of a path change
much less, so the table has their ratio too. The script also compares the ids of each path with the
ids of tiktoken.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from bench_data_paths import END, expected_ids, ids_of, job, rates_of, write_documents
from peak_memory import peak_of

ROUNDS = 3
PEERS = {
    "datatrove": "datatrove's DocumentTokenizer, 2 tasks",
    "datatrove-threads": "the same, 1 task with 2 threads",
    "datasets": "datasets.map and a memory-mapped file",
    "datasets-tiktoken": "the same, with tiktoken",
}
ASKED = {"datatrove": 2.0, "datatrove-threads": 2.0, "datasets": 3.0}
LONG_LINE = 200_000_000  # bytes
LINES = 2_000_000_000  # bytes


@dataclass
class Row:
    """One line of the table. `cpu` is the ratio of the CPU seconds."""

    task: str
    peer: str
    ours: str
    theirs: str
    ratio: str
    cpu: str
    asked: str

    def print(self) -> None:
        print("| " + " | ".join(asdict(self).values()) + " |", flush=True)


def measured(name: str, folder: Path) -> tuple[float, float]:
    """Run a path in a fresh process. Return its seconds, and the CPU seconds of all processes."""
    subprocess.run(["rm", "-rf", str(folder / name)], check=True)
    command = [sys.executable, __file__, "--job", name, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, cpu = map(float, done.stdout.split())
    return seconds, cpu


def run_job(name: str, folder: Path) -> None:
    """Print the seconds of a path, and the CPU seconds of this process and its children."""
    timed = job(name, folder)
    start, before = time.perf_counter(), cpu_seconds()
    timed()
    print(time.perf_counter() - start, cpu_seconds() - before)


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def compare_paths(folder: Path, data: Path) -> list[Row]:
    names = ["ours", *PEERS]
    rounds = [{name: measured(name, folder) for name in names} for _ in range(ROUNDS)]
    rows = []
    for peer, what in PEERS.items():
        asked = f"≥ {ASKED[peer]}x" if peer in ASKED else ""
        rows.append(row("documents to token files", what, rounds, "ours", peer, asked))
        rows[-1].print()
    plain, obeyed = (expected_ids(folder, obeyed=obeyed) for obeyed in (False, True))
    for name in names:
        found = ids_of(name, folder)
        if np.array_equal(found, plain):
            told = "each text's ids as plain text, as tiktoken's encode_ordinary"
        else:
            assert np.array_equal(found, obeyed), f"{name} wrote other ids"
            told = f"{len(plain) - len(found):,} ids fewer: it obeys {END} in texts"
        notes.append(f"{name}: {len(found):,} ids, {told}")
    return rows


def compare_encoder(folder: Path, data: Path) -> list[Row]:
    rounds = [{name: measured(name, folder) for name in ("ours", "encoder")} for _ in range(ROUNDS)]
    what = "the encoder alone, from memory, writes nothing"
    found = row("documents to token files", what, rounds, "ours", "encoder", "≥ 0.8x")
    found.print()
    return [found]


def row(
    task: str,
    peer: str,
    rounds: Sequence[dict[str, tuple[float, float]]],
    ours: str,
    theirs: str,
    asked: str,
) -> Row:
    """Return the medians of both, and the medians of the ratios of each round."""
    mine, other = (statistics.median(each[who][0] for each in rounds) for who in (ours, theirs))
    ratio, cpu = (
        statistics.median(each[theirs][i] / each[ours][i] for each in rounds) for i in (0, 1)
    )
    return Row(task, peer, f"{mine:.1f} s", f"{other:.1f} s", f"{ratio:.2f}x", f"{cpu:.2f}x", asked)


def measure_memory(folder: Path, data: Path) -> list[Row]:
    """Encode 2 GB of JSON lines with one line of 200 MB, and measure all our processes together."""
    import zstandard

    source, output = folder / "large.jsonl.zst", folder / "large"
    text = " ".join(
        path.read_text(encoding="utf-8") for path in Path(json.__file__).parent.glob("*.py")
    )
    small = json.dumps({"text": text[:4000]}).encode() + b"\n"
    with zstandard.open(source, "wb") as file:
        for number in range(LINES // 2 // len(small) * 2):
            if number == LINES // 2 // len(small):
                file.write(json.dumps({"text": text * (LONG_LINE // len(text))}).encode() + b"\n")
            file.write(small)
    program = "from scratchlm.cli.tokenize import main; import sys; sys.exit(main(sys.argv[1:]))"
    arguments = ["--tokenizer_path", folder / "tokenizer.json", "--encode", source,
                 "--output", output, "--num_workers", "2"]  # fmt: skip
    peak, seconds = peak_of([sys.executable, "-c", program, *map(str, arguments)])
    memory = f"{peak / 1e6:,.0f} MB"
    found = Row(
        "peak memory: 2 GB of JSON lines, one of 200 MB", "", memory, "", f"{seconds:.0f} s", "",
        "≤ 600 MB",
    )  # fmt: skip
    found.print()
    return [found]


def measure_rates(folder: Path, data: Path) -> list[Row]:
    """Measure the steps of docs/scaling.md in one process, in MB of text per CPU second."""
    rows = []
    for step, (megabytes, timed) in rates_of(folder).items():
        before = cpu_seconds()
        timed()
        rate = megabytes / (cpu_seconds() - before)
        rows.append(Row(f"{step}, one process", "", f"{rate:.1f} MB/s of CPU time", "", "", "", ""))
        rows[-1].print()
    return rows


PARTS: dict[str, Callable[[Path, Path], list[Row]]] = {
    "path": compare_paths,
    "encoder": compare_encoder,
    "memory": measure_memory,
    "rates": measure_rates,
}
notes: list[str] = []


def machine() -> str:
    versions = [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("datatrove", "datasets", "tokenizers", "tiktoken", "numpy")
    ]
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    load = f"load {os.getloadavg()[0]:.1f}"
    return ", ".join(
        [time.strftime("%Y-%m-%d"), model, f"Python {platform.python_version()}", *versions, load]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=os.environ.get("SCRATCHLM_DATA", default))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table to FILE")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        run_job(args.job, args.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        notes.append(write_documents(args.data, Path(name)))
        print(machine())
        columns = ("task", "peer", "ours", "peer's", "ratio", "ratio of CPU seconds", "asked for")
        print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
        rows = [found for part in args.only for found in PARTS[part](Path(name), args.data)]
    print("\n" + "\n".join(notes))
    if args.json:
        content = {"machine": machine(), "notes": notes, "rows": list(map(asdict, rows))}
        args.json.write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
