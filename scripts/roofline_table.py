"""Print the table of docs/scaling.md, which shows what bounds a training run.

`python scripts/roofline_table.py` prints the whole table. With a config, it prints one row for your
own run. Give the network of your node in bytes/s per GPU, in one direction:

    python scripts/roofline_table.py configs/llama3-8b.toml --device H100 --ranks 64 \\
        --parallel fsdp --activation_checkpointing --network 50e9
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from scratchlm import config as configuration
from scratchlm.costs.model_costs import GIB
from scratchlm.costs.roofline import DEVICES, MFU, Device, Parallel, Plan, Roofline, roofline, share
from scratchlm.model.config import ModelConfig

CONFIGS = Path(__file__).parents[1] / "configs"
# config, device, ranks, parallel, activation checkpointing, sequences per micro-batch (None: as in
# the config)
ROWS: list[tuple[str, str, int, Parallel, bool, int | None]] = [
    ("gpt2-124m", "A100", 1, "ddp", False, None),
    ("gpt2-124m", "A100", 8, "ddp", False, None),
    ("gpt2-124m", "H100", 8, "ddp", False, None),
    ("gpt2-124m", "H100", 64, "ddp", False, None),
    ("gpt2-350m", "A100", 8, "ddp", False, None),
    ("gpt2-350m", "H100", 8, "ddp", False, None),
    ("gpt2-1.5b", "A100", 8, "ddp", False, None),
    ("gpt2-1.5b", "H100", 8, "ddp", False, None),
    ("gpt2-1.5b", "H100", 64, "fsdp", False, None),
    ("gpt2-1.5b", "H100", 64, "fsdp", False, 8),
    ("llama3-8b", "H100", 8, "ddp", True, None),
    ("llama3-8b", "A100", 8, "fsdp", True, None),
    ("llama3-8b", "H100", 8, "fsdp", True, None),
    ("llama3-8b", "H200", 8, "fsdp", False, None),
    ("llama3-8b", "H100", 512, "fsdp", True, None),
    ("llama3-70b", "H100", 8, "fsdp", True, None),
    ("llama3-70b", "A100", 64, "fsdp", True, None),
    ("llama3-70b", "H100", 64, "fsdp", True, None),
    ("llama3-70b", "H200", 64, "fsdp", True, None),
    ("llama3-70b", "H100", 1024, "fsdp", True, None),
]
COLUMNS = (
    "model", "GPUs", "parallel", "tokens a GPU", "GiB a GPU", "compute", "memory", "interconnect",
    "bound", "hides from", f"step at {MFU:.0%}", "whole run",
)  # fmt: skip


def row(
    file: Path,
    device: Device,
    ranks: int,
    parallel: Parallel,
    checkpointing: bool,
    batch_size: int | None = None,
) -> tuple[str, ...]:
    """Return the cells of a config's step on `ranks`, by `batch_size` if given."""
    tree = configuration.read_toml(file)
    config = configuration.build(ModelConfig, tree["model"], "model.")
    train: dict[str, Any] = tree["train"]
    sequences = train["batch_size"] * train["accumulate"]
    batch_size = batch_size or train["batch_size"]
    if sequences % batch_size:
        raise ValueError(f"micro-batches of {batch_size} make no step of {sequences} sequences")
    micro_batch, micro_steps = share(batch_size, sequences // batch_size, ranks)
    plan = Plan(device, ranks, micro_batch, micro_steps, parallel, checkpointing)
    found = roofline(config, plan)
    how = "one" if ranks == 1 else parallel
    return (
        file.stem,
        f"{ranks} {device.name}",
        how + (", checkpointed" if checkpointing else ""),
        f"{micro_steps} x {micro_batch * config.context_length:,}",
        _needed(found),
        _seconds(found.compute),
        _seconds(found.memory),
        _seconds(found.interconnect) if ranks > 1 else "",
        found.bound,
        f"{found.tokens_to_hide:,}" if ranks > 1 else "",
        _seconds(found.at_mfu),
        _duration(found.at_mfu * train["iterations"]),
    )


def _needed(found: Roofline) -> str:
    return f"{found.needed.peak / GIB:,.0f}" + ("" if found.fits else ": does not fit")


def _seconds(time: float) -> str:
    return f"{time:,.1f} s" if time >= 1 else f"{1000 * time:.1f} ms"


def _duration(time: float) -> str:
    hours = time / 3600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:,.0f} days"


def table() -> str:
    """Return the table of docs/scaling.md in Markdown."""
    rows = [
        row(CONFIGS / f"{name}.toml", DEVICES[gpu], ranks, parallel, checkpointing, batch_size)
        for name, gpu, ranks, parallel, checkpointing, batch_size in ROWS
    ]
    lines = [COLUMNS, ("---",) * 4 + ("---:",) * 4 + ("---",) + ("---:",) * 3, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("config", nargs="?", type=Path, help="a TOML file of configs/")
    parser.add_argument("--device", choices=DEVICES, default="H100")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--activation_checkpointing", action="store_true")
    parser.add_argument(
        "--batch_size", type=int, help="sequences per micro-batch; the step stays the same"
    )
    parser.add_argument("--network", type=float, help="bytes/s per GPU, one direction")
    given = parser.parse_args()
    if given.config is None:
        print(table())
        return
    device = DEVICES[given.device]
    if given.network is not None:
        device = dataclasses.replace(device, network=given.network)
    try:
        cells = row(
            given.config,
            device,
            given.ranks,
            given.parallel,
            given.activation_checkpointing,
            given.batch_size,
        )
    except ValueError as error:
        parser.error(str(error))
    for name, cell in zip(COLUMNS, cells, strict=True):
        print(f"{name:<14}{cell}")


if __name__ == "__main__":
    main()
