"""Compare Muon with AdamW: `python scripts/bench_optimizers.py --corpus FILE [--figure FILE.png]`.

Both train the same small model on the bytes of a text (tinyshakespeare), from the same weights and
on the same batches. A grid of learning rates over a short run tunes both. Muon uses AdamW for the
embedding, head and gains, at the rate that is best for AdamW alone. Then AdamW trains for a long
run at its best rate. Muon trains for the same length and for shares of it, each with its whole
schedule. The answer is the shortest run that reaches AdamW's last validation loss.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from scratchlm import config as configuration
from scratchlm import train_bpe
from scratchlm.data.shards import write_shard
from scratchlm.errors import NumericalError
from scratchlm.figures.runs import draw_runs, read_runs
from scratchlm.training.log import read_log
from scratchlm.training.recipe import build
from scratchlm.training.train_config import TrainConfig

RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
SHARES = (1.0, 0.75, 0.65, 0.55, 0.45)
MODEL = {
    "context_length": 64, "d_model": 128, "num_layers": 4, "num_heads": 4, "qk_norm": True,
    "residual_init": "zero",
}  # fmt: skip
SCHEDULE = {"schedule": "wsd", "decay_fraction": 0.6, "weight_decay": 0.0}


Optim = dict[str, Any]


def last_loss(run: Path, optim: Optim, steps: int, shard: Path) -> float:
    """Train, and return the last validation loss. The log of the run is in the folder `run`."""
    tree = {
        "model": {"vocab_size": 257, **MODEL},
        "data": {"train": str(shard)},
        "optim": {**SCHEDULE, "warmup_steps": steps // 20, **optim},
        "train": {"out": str(run), "iterations": steps, "batch_size": 16, "save_every": 0,
                  "eval_every": max(1, steps // 20), "eval_batches": 40},
        "runtime": {"device": "cpu", "compile": "off"},
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        build(configuration.build(TrainConfig, tree), say=lambda line: None).fit()
    return [line["val_loss"] for line in read_log(run / "log.jsonl") if "val_loss" in line][-1]


def tuned(name: str, optim: Optim, steps: int, shard: Path, folder: Path) -> Optim:
    """Return `optim` with the best rate of the grid, and print its row of the table."""
    losses: dict[float, float] = {}
    for lr in RATES:
        try:
            losses[lr] = last_loss(folder / f"{name}-{lr}", {**optim, "lr": lr}, steps, shard)
        except NumericalError:
            losses[lr] = math.inf
    best = min(losses, key=losses.__getitem__)
    cells = (f"**{loss:.4f}**" if lr == best else f"{loss:.4f}" for lr, loss in losses.items())
    print(f"| {name}, {steps} steps | {' | '.join(cells)} |", flush=True)
    return {**optim, "lr": best}


def compare(shard: Path, folder: Path, tuning: int, length: int, figure: Path | None) -> None:
    print(
        f"\n| validation loss at lr | {' | '.join(map(str, RATES))} |\n|---|{'---:|' * len(RATES)}"
    )
    adamw = tuned("AdamW", {"optimizer": "adamw"}, tuning, shard, folder)
    muon = tuned("Muon", {"optimizer": "muon", "adamw_lr": adamw["lr"]}, tuning, shard, folder)
    print(
        "\n| run, with its whole schedule | steps | share | validation loss |\n|---|---:|---:|---:|"
    )
    whole = folder / f"AdamW, {length} steps"
    goal = last_loss(whole, adamw, length, shard)
    print(f"| AdamW, lr {adamw['lr']} | {length} | 1 | {goal:.4f} |", flush=True)
    enough, drawn = math.inf, {str(whole): None}
    for share in SHARES:
        steps = round(share * length)
        run = folder / f"Muon, {steps} steps"
        loss = last_loss(run, muon, steps, shard)
        print(f"| Muon, lr {muon['lr']} | {steps} | {share} | {loss:.4f} |", flush=True)
        drawn[str(run)] = None
        if loss > goal:
            break
        enough = share
    print(f"\nMuon reaches AdamW's loss in {enough} of its steps.")
    if figure is not None:
        draw_runs(read_runs(list(drawn)), figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, metavar="FILE")
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="draw the long runs")
    parser.add_argument(
        "--tuning", type=int, default=300, metavar="STEPS", help="length of a run in the grid"
    )
    parser.add_argument(
        "--length", type=int, default=1000, metavar="STEPS", help="length of AdamW's run"
    )
    args = parser.parse_args(argv)
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {load:.2f} before")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = train_bpe(args.corpus, 257)  # the bytes, and no merges
        tokenizer.save(folder / "tokenizer.json")
        write_shard(tokenizer, args.corpus, folder / "corpus.bin")
        compare(folder / "corpus.bin", folder, args.tuning, args.length, args.figure)


if __name__ == "__main__":
    main()
