"""scratchlm-data show: print the text of a batch or of dialogues, with their targets.

scratchlm-data show --train_data data/train/pile_train.h5 --batch_size 8 --context_length 128
scratchlm-data show --train_data corpus.txt --data.documents separate --step 100
scratchlm-data show --config runs/2026-01-31-120000/config.toml --step 100
scratchlm-data show dialogues.jsonl --tokenizer_path t.json --template chatml

It prints what scratchlm-train reads with the same flags, or what a run read. So it needs the same
data, also for validation. Of dialogues, it prints the tokens and ids, and which of them a model
learns.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scratchlm.cli.command import Once, Parser, has_colour
from scratchlm.cli.recipes import find_config
from scratchlm.cli.show_dialogues import add_dialogue_flags, check_no_dialogue_flags, show_dialogues
from scratchlm.cli.train_flags import add_key

if TYPE_CHECKING:
    from scratchlm.data.prepare import Prepared
    from scratchlm.training.train_config import TrainConfig

FLAGS = (
    "data.train", "data.val", "data.tokenizer", "data.field", "data.separator", "data.documents",
    "data.rows", "model.vocab_size", "model.context_length", "train.batch_size",
    "train.accumulate", "train.seed",
)  # fmt: skip


# {whether standard output has colours: an explanation}
LEGEND = {
    False: "a line is a document; the loss predicts all tokens outside ⟨⟩",
    True: "a colour is a document; the loss predicts all tokens that are not grey",
}


def add_flags(parser: Parser) -> None:
    add_dialogue_flags(parser)
    parser.add_argument("--config", action=Once, metavar="NAME|FILE",
                        help="a recipe's name, or a TOML file, such as a run's")  # fmt: skip
    for name in FLAGS:
        add_key(parser, name)
    parser.add_argument("--step", type=int, default=1, action=Once, metavar="N",
                        help="the step of a run, counted from 1 (1)")  # fmt: skip
    parser.add_argument("--print_rows", type=int, default=4, action=Once, metavar="N",
                        help="how many rows or dialogues to print (4)")  # fmt: skip


def run(args: Namespace) -> None:
    for flag in ("step", "print_rows"):
        if getattr(args, flag) < 1:
            raise ValueError(f"{flag} must be at least 1 ({getattr(args, flag)}); use 1")
    if args.dialogues:
        show_dialogues(args)
        return
    check_no_dialogue_flags(args)
    flags = {name: value for name in FLAGS if (value := getattr(args, name)) is not None}
    if not (args.config or "data.train" in flags):
        raise ValueError("the data is missing (no --train_data, no --config); set one of them")
    file = find_config(args.config) if args.config else None
    from scratchlm.training.run_data import prepare_for

    with tempfile.TemporaryDirectory() as folder:
        # A run's own folder stays as it is: a text is tokenized a second time, with the same ids.
        run_folder = Path(folder) / "run"
        config, weights = _config(file, flags | {"train.out": str(run_folder)})
        config, data = prepare_for(config, weights, run_folder, _say)
        print(LEGEND[has_colour()])
        for lines in islice(_rows(config, data, args.step - 1), args.print_rows):
            print("\n".join(lines))


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _config(file: Path | None, flags: dict[str, Any]) -> tuple[TrainConfig, str | None]:
    """Return the configuration, and the weights whose tokenizer and template the data uses.

    A run's config.toml is complete, and the run has its own tokenizer. So it needs no weights.
    """
    from scratchlm import config as configuration
    from scratchlm.training.run_config import resolve
    from scratchlm.training.train_config import TrainConfig

    if file is None or not _is_of_a_run(file):
        config, _ = resolve(file, flags, say=_say)
        return config, config.train.init_from
    own = {"data": {"tokenizer": str(file.with_name("tokenizer.json"))}}
    if flags.get("data.val") == "none":
        flags = flags | {"data.val": None}
    tree = configuration.merge(configuration.read_toml(file), own, configuration.nest(flags))
    return configuration.build(TrainConfig, tree), None


def _is_of_a_run(file: Path) -> bool:
    has = file.with_name("checkpoints").is_dir() and file.with_name("tokenizer.json").is_file()
    return has and file.name == "config.toml"


def _rows(config: TrainConfig, data: Prepared, step: int) -> Iterator[list[str]]:
    """Yield the lines of each row of a step, counted from 0."""
    import numpy as np

    from scratchlm.data.batch_text import batch_text
    from scratchlm.data.mixture import MixedBatches

    size, tokenizer = config.train.batch_size, data.tokenizer
    vocab = None if tokenizer is None else tokenizer.vocab
    separator = None
    if tokenizer and config.data.separator in tokenizer.special_tokens:
        separator = tokenizer.token_to_id(config.data.separator)
    batches = data.train_batches(size, config.train.seed)
    first = config.train.first_micro_batch(step)
    for index in range(first, first + config.train.micro_batches(step)):
        names = [""] * size
        if isinstance(batches, MixedBatches):
            sources, _ = batches.turns.of(index * size + np.arange(size))
            names = [f" of {batches.names[source]}" for source in sources]
        shown = batch_text(batches.batch(index), vocab, separator, colour=has_colour())
        for row, (name, lines) in enumerate(zip(names, shown, strict=True), (index - first) * size):
            yield [f"row {row}{name}: {lines[0]}", *lines[1:]]
