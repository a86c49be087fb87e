"""The runs that bench_finetuning.py compares: the same dialogues, trained in several ways.

Each run begins with the same weights, and takes the same number of steps with about the same number
of dialogues. The measured time does not include the preparation of the data.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scratchlm import AdamW, Transformer, from_hf
from scratchlm.data.conversations.batches import DialogueBatches, Examples
from scratchlm.data.packing import Numbers
from scratchlm.devices.batch import Batch
from scratchlm.devices.runtime import autocast, compile_blocks
from scratchlm.functional import IGNORED
from scratchlm.optim.groups import adamw_groups
from scratchlm.training.micro_batches import Batches
from scratchlm.training.trainer import Trainer
from scratchlm.training.trainer_config import TrainerConfig

CPU = torch.device("cpu")
BATCH = 8  # dialogues in a padded batch: the default of transformers
LR, BETAS, MAX_NORM = 1e-3, (0.9, 0.999), 1.0
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """What is the same for all runs. folder: the initial weights, in the files of Hugging Face.

    A step has `rows` packed rows of `row_length` tokens, or `batches` padded batches of BATCH
    dialogues. In all steps together, each run trains once on each dialogue.
    """

    examples: Examples
    folder: Path
    dtype: torch.dtype
    steps: int
    rows: int
    row_length: int
    batches: int


@dataclass(frozen=True)
class Measured:
    """What the steps of a run took, and the trained weights. places: tokens and padding."""

    seconds: float
    cpu_seconds: float
    targets: int
    places: int
    weights: Weights


Run = Callable[[Task], Measured]


class Stopwatch:
    """Measure the seconds and the CPU seconds from `start` to `stop`."""

    def start(self) -> None:
        self.seconds, self.cpu_seconds = -time.perf_counter(), -time.process_time()

    def stop(self) -> None:
        self.seconds += time.perf_counter()
        self.cpu_seconds += time.process_time()


class GivenBatches:
    """The batches of a list, in the form that `Trainer` reads."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches

    def batch(self, step: int) -> Batch:
        return self.batches[step]


def counts(batches: Sequence[Batch]) -> tuple[int, int]:
    """Return the number of targets and of places."""
    targets = sum(int((batch.targets != IGNORED).sum()) for batch in batches)
    return targets, sum(batch.targets.numel() for batch in batches)


def in_batches(examples: Examples, by_length: bool, seed: int = 0) -> list[Numbers]:
    """Return the numbers of the dialogues in each batch of an epoch, in random order.

    by_length: the dialogues of a batch have similar lengths. Otherwise, they are random.
    """
    generator = np.random.default_rng(seed)
    numbers = generator.permutation(len(examples))
    if by_length:
        numbers = numbers[np.argsort(examples.lengths[numbers], kind="stable")]
    batches = [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]
    return [batches[place] for place in generator.permutation(len(batches))]


def padded(examples: Examples, numbers: Numbers) -> Batch:
    """Return a batch with a dialogue in each row, and padding up to the longest dialogue."""
    batch = examples.batch(
        list(numbers[:, None]), len(numbers), int(examples.lengths[numbers].max())
    )
    return Batch(batch.inputs, batch.targets)


def packed(compiled: bool) -> Run:
    """Return a run of `Trainer` on packed rows. All passes of a compiled run use one compilation,
    because all batches have the same shape."""
    models: list[Transformer] = []

    def run(task: Task) -> Measured:
        if not models:
            models.append(from_hf(task.folder))
            if compiled:
                compile_blocks(models[0].layers)
        batches = DialogueBatches(task.examples, task.rows, task.row_length, seed=0)
        config = TrainerConfig(iterations=task.steps, batch_size=task.rows)
        return with_trainer(models[0], task, batches, config)

    return run


def padded_in_trainer(by_length: bool) -> Run:
    """Return a run of `Trainer` on padded batches."""

    def run(task: Task) -> Measured:
        numbers = in_batches(task.examples, by_length)
        batches = GivenBatches([padded(task.examples, each) for each in numbers])
        config = TrainerConfig(iterations=task.steps, batch_size=BATCH, accumulate=task.batches)
        return with_trainer(from_hf(task.folder), task, batches, config)

    return run


def with_trainer(
    model: Transformer, task: Task, batches: Batches, config: TrainerConfig
) -> Measured:
    model.load_state_dict(from_hf(task.folder).state_dict())
    optimizer = AdamW(adamw_groups(model.named_parameters(), 0.0), lr=LR, betas=BETAS)
    trainer = Trainer(model, optimizer, batches, config, dtype=task.dtype)
    watch = Stopwatch()
    watch.start()
    for _ in range(task.steps):
        trainer.train_step()
    watch.stop()
    seen = [batches.batch(number) for number in range(config.first_micro_batch(task.steps))]
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    return Measured(watch.seconds, watch.cpu_seconds, *counts(seen), weights)


def padded_in_transformers(by_length: bool) -> Run:
    """Return a loop over the Llama of `transformers`, with torch's fused AdamW."""

    def run(task: Task) -> Measured:
        numbers = in_batches(task.examples, by_length)
        seen = [padded(task.examples, each) for each in numbers]
        lengths = [torch.from_numpy(task.examples.lengths[each]) for each in numbers]
        model = their_model(task.folder)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=LR, betas=BETAS, weight_decay=0.0, fused=True
        )
        watch = Stopwatch()
        watch.start()
        for start in range(0, len(seen), task.batches):
            micro = slice(start, start + task.batches)
            targets = counts(seen[micro])[0]
            for batch, sizes in zip(seen[micro], lengths[micro], strict=True):
                with autocast(CPU, task.dtype):
                    their_loss(model, batch, sizes, targets).backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            optimizer.zero_grad()
        watch.stop()
        return Measured(watch.seconds, watch.cpu_seconds, *counts(seen), as_ours(model))

    return run


def their_loss(model: Any, batch: Batch, lengths: Tensor, targets: int) -> Tensor:
    """Return the sum of a batch's losses, divided by the number of all targets of a step.

    The collators of `transformers` pass a mask of the padding to the model, and so does this
    function.
    """
    mask = torch.arange(batch.inputs.shape[1]) < lengths[:, None]
    output = model(batch.inputs, attention_mask=mask.long(), use_cache=False,
                   labels=batch.targets, shift_labels=batch.targets,
                   num_items_in_batch=targets)  # fmt: skip
    return output.loss


def their_model(folder: Path) -> Any:
    """Return the Llama of `transformers` with the weights of a folder."""
    import transformers

    return transformers.LlamaForCausalLM.from_pretrained(folder).train()


def as_ours(model: Any) -> Weights:
    """Return the weights of a Llama of `transformers`, under our names."""
    with tempfile.TemporaryDirectory() as name:
        model.save_pretrained(name)
        return from_hf(name).state_dict()


def has_trl() -> bool:
    return importlib.util.find_spec("trl") is not None


def packed_in_trl(task: Task) -> Measured:
    """Train with trl's `SFTTrainer` and its packing, on the same ids and the same targets.

    trl joins the rows of a batch into one sequence. On a CPU, a mask of the whole sequence
    separates the dialogues. So trl is fastest with one row at a time: 8 rows at a time take five
    times as long. Activation checkpointing is trl's default, but it only costs time here.
    """
    import transformers
    import trl

    watch, counted = Stopwatch(), [0, 0]

    class Timed(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            watch.start()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            watch.stop()

    class Counted(trl.SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **settings: Any) -> Any:
            counted[0] += int((inputs["labels"] != IGNORED).sum())
            counted[1] += inputs["labels"].numel()
            return super().compute_loss(model, inputs, *args, **settings)

    with tempfile.TemporaryDirectory() as name:
        settings = trl.SFTConfig(
            name, max_length=task.row_length, packing=True, max_steps=task.steps, use_cpu=True,
            per_device_train_batch_size=1, gradient_accumulation_steps=task.rows,
            activation_checkpointing=False, bf16=task.dtype == torch.bfloat16, learning_rate=LR,
            lr_scheduler_type="constant", weight_decay=0.0, adam_beta1=BETAS[0],
            adam_beta2=BETAS[1], max_grad_norm=MAX_NORM, save_strategy="no", report_to="none",
            logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = Counted(
            their_model(task.folder), settings, train_dataset=their_dataset(task.examples),
            processing_class=transformers.AutoTokenizer.from_pretrained(task.folder),
            callbacks=[Timed()],
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    weights = as_ours(trainer.model)
    return Measured(watch.seconds, watch.cpu_seconds, counted[0], counted[1], weights)


def their_dataset(examples: Examples) -> Any:
    """Return examples as `datasets` has them. trl makes the targets from `assistant_masks`."""
    import datasets

    def rows() -> Iterator[dict[str, list[int]]]:
        for number in range(len(examples)):
            ids, is_target = examples[number]
            yield {"input_ids": ids.tolist(), "assistant_masks": is_target.astype(int).tolist()}

    return datasets.Dataset.from_list(list(rows()))
