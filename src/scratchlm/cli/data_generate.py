"""scratchlm-data generate: write documents of a simple task, which a small model can learn.

scratchlm-data generate arithmetic --documents 50000 --seed 0 --output sums.jsonl
scratchlm-data generate copy --documents 50000 --output words.jsonl
scratchlm-data generate brackets --documents 50000 --output brackets.jsonl

The same task, number and seed give the same file on every machine.
"""

from __future__ import annotations

import shlex
from argparse import Namespace
from pathlib import Path

from scratchlm.cli.command import Once, Parser, check_seed


def add_flags(parser: Parser) -> None:
    parser.add_argument("task", metavar="TASK", help="arithmetic, copy or brackets")
    parser.add_argument("--documents", type=int, required=True, action=Once, metavar="N",
                        help="the number of documents")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, action=Once, metavar="N",
                        help="choose the documents (default: 0)")  # fmt: skip
    parser.add_argument("--output", required=True, action=Once, metavar="FILE.jsonl",
                        help="the file to write, with one document a line; the command replaces "
                        "an existing file")  # fmt: skip


def run(args: Namespace) -> None:
    from scratchlm.data.generated import write_generated

    check_seed(args.seed)
    replaced = Path(args.output).is_file()
    write_generated(args.task, args.documents, args.seed, args.output)
    print(f"generated {args.documents:,} documents of {args.task}: {args.output}")
    if replaced:
        print(f"{args.output} replaced an older file")
    output = shlex.quote(args.output)
    print(f"train: scratchlm-train --train_data {output} --config tiny --vocab_size 257")
