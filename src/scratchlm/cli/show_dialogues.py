"""The part of scratchlm-data show that prints dialogues, and what a model learns of them."""

from __future__ import annotations

import sys
from argparse import Namespace
from itertools import islice

from scratchlm.cli.command import Once, Parser, has_colour
from scratchlm.cli.streams import text

OWN = ("template", "format", "train_on", "system")  # the flags that only dialogues have
SHARED = ("data.tokenizer", "print_rows")


def add_dialogue_flags(parser: Parser) -> None:
    flag = parser.add_argument
    flag("dialogues", nargs="*", metavar="FILE", help="files, folders or globs of dialogues")
    flag("--template", action=Once, choices=("auto", "chatml", "llama3", "plain_alpaca"),
         help="the markers of a dialogue's turns (auto: the tokenizer decides)")  # fmt: skip
    flag("--format", action=Once,
         choices=("auto", "messages", "sharegpt", "alpaca", "prompt_completion", "ultrachat"),
         help="the form of the dialogues (auto: the first record of a file decides)")  # fmt: skip
    flag("--train_on", default="assistant", action=Once, choices=("assistant", "last", "all"),
         help="what the model learns: each answer of the assistant (default), the last answer, "
         "or all tokens")  # fmt: skip
    flag("--system", action=Once, type=text, metavar="TEXT",
         help="the system text of dialogues that have none")  # fmt: skip


def check_no_dialogue_flags(args: Namespace) -> None:
    """Raise ValueError for a flag of dialogues if the command reads no file of dialogues."""
    for name, (flag, value) in getattr(args, "given", {}).items():
        if name in OWN:
            raise ValueError(
                f"{flag} has no effect without dialogues ({value}); add a file of dialogues"
            )


def show_dialogues(args: Namespace) -> None:
    """Print the first `print_rows` dialogues. Raise ValueError for a flag without an effect."""
    for name, (flag, value) in getattr(args, "given", {}).items():
        if name not in OWN + SHARED:
            raise ValueError(f"{flag} has no effect on dialogues ({value}); remove {flag}")
    path = getattr(args, "data.tokenizer")
    if path is None:
        raise ValueError(
            "dialogues need a tokenizer (no --tokenizer_path); set --tokenizer_path FILE, or show "
            "a text with --train_data"
        )
    from scratchlm.data.conversations.dialogue_text import LEGEND, dialogue_text
    from scratchlm.data.conversations.dialogues import read_dialogues
    from scratchlm.tokenizer.bpe import BPETokenizer
    from scratchlm.tokenizer.chat_template import template_for_training

    tokenizer = BPETokenizer.load(path)
    template = template_for_training(args.template or "auto", tokenizer)
    read = read_dialogues(args.dialogues, args.format or "auto", args.system)
    dialogues = list(islice(read, args.print_rows))
    if new := template.tokenizer.special_tokens[len(tokenizer.special_tokens) :]:
        ids = ", ".join(f"{each} (id {template.tokenizer.token_to_id(each)})" for each in new)
        print(f"{path} has no such special tokens, so {template.name} adds {ids}", file=sys.stderr)
    print(LEGEND[has_colour()])
    for dialogue in dialogues:
        lines = dialogue_text(dialogue, template, args.train_on, colour=has_colour())
        print(*lines, sep="\n")
