"""Compare ways to train on dialogues: `python scripts/bench_finetuning.py FILE…`.

The script needs the extra `dev`, and `trl` of the extra `bench` for the rows about trl. It reads
dialogues from the files, trains a tokenizer on them, and trains a Llama of 10M parameters from new
weights. All ways take turns, each with the same dialogues, and a ratio is the median over the
rounds. Only targets count: the tokens of the answers, and not the prompts.

A step has 8 packed rows of 1,024 tokens, or as many padded batches of 8 dialogues as have about the
same number of tokens. Small padded batches contain less padding, so accumulation is the better
setting for the peers. The loss is of a tenth of the dialogues that no run trains on.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from allocated_memory import peak_bytes
from bench_finetuning_runs import (
    BATCH,
    LR,
    Measured,
    Run,
    Task,
    Weights,
    counts,
    has_trl,
    packed,
    packed_in_trl,
    padded_in_trainer,
    padded_in_transformers,
)

from scratchlm import AdamW, ModelConfig, Transformer, to_hf, train_bpe_from_texts
from scratchlm.costs.model_costs import training_flops_per_token
from scratchlm.data.conversations.batches import DialogueBatches, DialogueEvalBatches, Examples
from scratchlm.data.conversations.dialogues import read_dialogues
from scratchlm.data.conversations.examples import Counts, Learning, examples_of
from scratchlm.data.packing import pack
from scratchlm.devices.runtime import autocast, resolve_compile, resolve_dtype
from scratchlm.model.config import LoRAConfig
from scratchlm.optim.groups import adamw_groups
from scratchlm.tokenizer.chat_template import template_for_training
from scratchlm.training.objective import Objective
from scratchlm.training.trainer import Trainer
from scratchlm.training.trainer_config import TrainerConfig

CPU = torch.device("cpu")
VOCAB, ROW_LENGTH, ROWS = 8192, 1024, 8
SHAPE: dict[str, Any] = {"d_model": 256, "num_layers": 8, "num_heads": 4}
EPOCHS = 3  # a usual length of fine-tuning, which decides whether `scratchlm-train` compiles
PEERS = {
    "padded, random, transformers": ("random batches, padded: transformers' Llama", "≥ 2.0x"),
    "padded, random": ("random batches, padded: our model", "≥ 2.0x"),
    "padded, sorted, transformers": ("batches sorted by length: transformers' Llama", "≥ 1.3x"),
    "padded, sorted": ("batches sorted by length: our model", "≥ 1.3x"),
    "trl": ("trl's SFTTrainer with packing", "≥ 1.5x"),
    "not compiled": ("ours, not compiled", ""),
}
LORA: dict[str, tuple[str, ...]] = {  # the targets of the adapters
    "all weights": (),
    "`q_proj,v_proj`": ("q_proj", "v_proj"),
    "`all-linear`": ("all-linear",),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="dialogues")
    parser.add_argument("--steps", type=int, default=3, help="steps of each run in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    args = parser.parse_args(arguments)
    quiet()
    dtype = resolve_dtype(args.dtype, CPU)
    print(setting(dtype, args.rounds))
    with tempfile.TemporaryDirectory() as name:
        training, held_out, config = prepare(args.files, Path(name) / "model")
        batches = max(1, round(ROWS * ROW_LENGTH / training.lengths.mean() / BATCH))
        chosen = sample(training, args.steps * batches, args.steps * ROWS, ROW_LENGTH)
        task = Task(chosen, Path(name) / "model", dtype, args.steps, ROWS, ROW_LENGTH, batches)
        measure_memory(task, config)
        compare(task, config, runs(training, config), held_out, args.rounds)


def quiet() -> None:
    """Turn off progress bars and warnings of the peers, which would cut the tables."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    if has_trl():
        import datasets

        datasets.disable_progress_bars()


def setting(dtype: torch.dtype, rounds: int) -> str:
    """Return the date, the versions and the state of the machine."""
    names = ["torch", "transformers", *(["trl"] if has_trl() else [])]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return (
        f"{time.strftime('%Y-%m-%d')}, {versions}, {torch.get_num_threads()} threads, "
        f"{rounds} rounds, {str(dtype).removeprefix('torch.')}, load {os.getloadavg()[0]:.1f}"
    )


def prepare(files: list[Path], folder: Path) -> tuple[Examples, Examples, ModelConfig]:
    """Return training and held-out examples, and the model's config. Write new weights and the
    tokenizer to `folder`."""
    dialogues = list(read_dialogues(files))
    texts = (message["content"] for dialogue in dialogues for message in dialogue.messages)
    # The template adds two markers.
    template = template_for_training("chatml", train_bpe_from_texts(texts, VOCAB - 2))
    found = Counts()
    examples = Examples(examples_of(dialogues, template, ROW_LENGTH, Learning(), found))
    order = np.random.default_rng(0).permutation(len(examples))
    tenth = len(order) // 10
    held_out, training = examples.chosen(order[:tenth]), examples.chosen(order[tenth:])
    config = ModelConfig(len(template.tokenizer), ROW_LENGTH, **SHAPE)
    torch.manual_seed(0)
    model = Transformer(config)
    to_hf(model, folder, template.tokenizer, end_ids=[template.end_of_answer])
    print(*found.lines(), sep="\n")
    print(*DialogueBatches(training, ROWS, ROW_LENGTH, 0).told_of_rows(), sep="\n")
    print(f"Llama of {model.num_parameters() / 1e6:.1f}M parameters, AdamW, lr {LR}")
    return training, held_out, config


def sample(examples: Examples, batches: int, rows: int, row_length: int) -> Examples:
    """Return whole batches of similar lengths, at equal distances in the order of length. So sorted
    batches have the same padding as in the whole set.

    Leave out as many of the longest dialogues as do not fit into `rows` rows.
    """
    order = np.argsort(examples.lengths, kind="stable")
    whole = len(order) // BATCH
    if batches > whole:
        raise SystemExit(f"the files must have {batches * BATCH} dialogues ({len(order)}); "
                         "decrease --steps")  # fmt: skip
    starts = ((np.arange(batches) + 0.5) * whole / batches).astype(int) * BATCH
    chosen = order[(starts[:, None] + np.arange(BATCH)).ravel()]
    while len(pack(examples.lengths[chosen], row_length)) > rows:
        chosen = chosen[:-1]
    return examples.chosen(chosen)


def runs(training: Examples, config: ModelConfig) -> dict[str, Run]:
    """Return all runs. "ours" is compiled if `scratchlm-train` would compile it."""
    flops = EPOCHS * int(training.lengths.sum()) * training_flops_per_token(config)
    compiled, reason = resolve_compile("auto", CPU, flops)
    print(f"compilation of {EPOCHS} epochs of all dialogues is {reason}")
    found = {"ours": packed(compiled)}
    found |= {"not compiled": packed(compiled=False)} if compiled else {}
    for name, by_length in (("random", False), ("sorted", True)):
        found[f"padded, {name}"] = padded_in_trainer(by_length)
        found[f"padded, {name}, transformers"] = padded_in_transformers(by_length)
    if has_trl():
        found["trl"] = packed_in_trl
    return found


def compare(
    task: Task, config: ModelConfig, runs: dict[str, Run], held_out: Examples, rounds: int
) -> None:
    """Print the table of speeds, and the losses after the same steps."""
    for run in runs.values():  # compile, and warm up
        run(replace(task, examples=task.examples.chosen(np.arange(BATCH * task.batches)), steps=1))
    measured = [{name: run(task) for name, run in runs.items()} for _ in range(rounds)]
    print(f"\nA step has {task.rows} packed rows, or {task.batches} batches of {BATCH} "
          f"dialogues. Each run has {task.steps} steps.")  # fmt: skip
    print("\n| peer | ours, targets/s | peer's | ratio | ratio of CPU seconds | asked for |")
    print("|---|---:|---:|---:|---:|---|")
    for name, (what, asked) in PEERS.items():
        if name in runs:
            print(row(what, [each["ours"] for each in measured],
                      [each[name] for each in measured], asked))  # fmt: skip
    if "trl" not in runs:
        print("\nThe table has no row for trl: trl is not installed; pip install -e '.[bench]'")
    print("\n| run | targets | places | held-out loss |\n|---|---:|---:|---:|")
    for name, last in measured[-1].items():
        loss = loss_of(last.weights, config, held_out, task)
        print(f"| {name} | {last.targets:,} | {last.places:,} | {loss:.3f} |")


def row(what: str, ours: list[Measured], theirs: list[Measured], asked: str) -> str:
    """Return the medians of the targets a second of both, and the medians of their ratios."""
    speeds = [[each.targets / each.seconds for each in side] for side in (ours, theirs)]
    cpu = [[each.targets / each.cpu_seconds for each in side] for side in (ours, theirs)]
    ratios = [
        statistics.median(a / b for a, b in zip(*both, strict=True)) for both in (speeds, cpu)
    ]
    cells = [f"{statistics.median(each):,.0f}" for each in speeds] + [f"{r:.2f}x" for r in ratios]
    return f"| {what} | " + " | ".join([*cells, asked]) + " |"


@torch.no_grad()
def loss_of(weights: Weights, config: ModelConfig, held_out: Examples, task: Task) -> float:
    """Return the mean loss of the held-out targets, in nats."""
    model = Transformer(config).eval()
    model.load_state_dict(weights)
    objective, nats, targets = Objective(model), 0.0, 0
    for batch in DialogueEvalBatches(held_out, task.rows, task.row_length):
        with autocast(CPU, task.dtype):
            nats += float(objective(batch.inputs, batch.targets, batch.first)[0])
        targets += counts([batch])[0]
    return nats / targets


def measure_memory(task: Task, config: ModelConfig) -> None:
    """Print what a step with adapters allocates, beside a step that trains all weights."""
    print(f"\n| packed rows of {task.row_length} tokens | {' | '.join(LORA)} |")
    print("|---:|" + "---|" * len(LORA))
    for rows in (1, 2, 4):
        found = []
        for targets in LORA.values():
            model = Transformer(config)
            if targets:
                model.add_lora(LoRAConfig(r=8, targets=targets))
            found.append(memory(model, replace(task, rows=rows)) / 1e6)
        cells = [f"{each:,.0f} MB ({each / found[0]:.2f}x)" for each in found]
        print(f"| {rows} | " + " | ".join(cells) + " |", flush=True)


def memory(model: Transformer, task: Task) -> int:
    """Return the bytes of the weights, of AdamW's two moments, and of a step on top of them."""
    trainer = Trainer(
        model,
        AdamW(adamw_groups(model.named_parameters(), 0.0), lr=LR),
        DialogueBatches(task.examples, task.rows, task.row_length, seed=0),
        TrainerConfig(iterations=10**6, batch_size=task.rows),
        dtype=task.dtype,
    )
    moments = 2 * sum(each.nbytes for each in trainer.params)
    weights = sum(each.nbytes for each in model.parameters())
    return weights + moments + peak_bytes(trainer.train_step)


if __name__ == "__main__":
    main()
