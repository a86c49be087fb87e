"""Print the table of docs/scaling.md: the hours to prepare 10 GB, 1 TB and 15 TB of text.

`python scripts/data_hours.py` computes the table from measured rates. For your machine, measure the
rates with `bench_data.py --only rates` and `bench_dedup.py`, and change RATES.
"""

from __future__ import annotations

# Megabytes of text per second of one core's time: docs/benchmarks.md has the date and the machine.
RATES = {
    "clean": 7.5,
    "read and encode": 10.8,
    "exact deduplication": 36.0,
    "MinHash deduplication": 17.8,
    "merge": 171.3,
}
WHERE = {"exact deduplication": "one machine", "MinHash deduplication": "one machine",
         "merge": "one core"}  # fmt: skip
SIZES = {"10 GB": 10e9, "1 TB": 1e12, "15 TB": 15e12}
CORES = (2, 64, 1000)


def core_hours(step: str, size: float) -> float:
    """Return the hours of one core for `size` bytes of text."""
    return size / (RATES[step] * 1e6) / 3600


def table() -> str:
    """Return the core hours of each step, and the hours of the steps that use any number of
    machines."""
    rows = [["step", "MB/s a core", *SIZES], ["---", *["---:"] * (len(SIZES) + 1)]]
    for step, rate in RATES.items():
        name = f"{step} ({WHERE[step]})" if step in WHERE else step
        hours = [_told(core_hours(step, size)) for size in SIZES.values()]
        rows.append([f"{name}, core hours", f"{rate}", *hours])
    spread = [step for step in RATES if step not in WHERE]
    for cores in CORES:
        sums = [sum(core_hours(step, size) for step in spread) for size in SIZES.values()]
        hours = [_told(total / cores) for total in sums]
        rows.append([f"{', '.join(spread)} on {cores:,} cores, hours", "", *hours])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _told(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


if __name__ == "__main__":
    print(table(), end="")
