"""scratchlm-data dedup: drop similar documents, and copies of evaluation sets.

scratchlm-data dedup web --output clean          drop documents similar to an earlier one (MinHash)
scratchlm-data dedup web --exact --output clean  drop only documents equal to an earlier one
scratchlm-data dedup web --output clean --against hellaswag.jsonl --against_ngram 13

The first document stays, in the order of the files and of their lines. The output is a folder of
.jsonl.zst files, and manifest.json. If a command stops, repeat it with --resume.
"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from scratchlm.cli.command import Once, Parser
from scratchlm.cli.data_clean import add_pipeline_flags, run_steps

if TYPE_CHECKING:
    from scratchlm.data.cleaning.step import Step


def add_flags(parser: Parser) -> None:
    add_pipeline_flags(parser)
    parser.add_argument("--exact", action="store_true",
                        help="drop only texts that are equal except for white space")  # fmt: skip
    parser.add_argument("--minhash_ngram", type=int, action=Once, metavar="N",
                        help="compare n-grams of N words (default: 5)")  # fmt: skip
    parser.add_argument("--minhash_bands", type=int, action=Once, metavar="N",
                        help="the number of bands (default: 14)")  # fmt: skip
    parser.add_argument("--minhash_rows", type=int, action=Once, metavar="N",
                        help="the number of hashes in a band (default: 8)")  # fmt: skip
    parser.add_argument("--minhash_seed", type=int, action=Once, metavar="N",
                        help="the seed of the hashes (default: 1)")  # fmt: skip
    parser.add_argument("--against", action=Once, metavar="EVAL.jsonl",
                        help="drop documents that share an n-gram with this evaluation set: a "
                        "file, a folder or a glob")  # fmt: skip
    parser.add_argument("--against_ngram", type=int, action=Once, metavar="N",
                        help="the number of words of that n-gram (default: 13)")  # fmt: skip


def run(args: Namespace) -> None:
    run_steps(args, _steps(args))


def _steps(args: Namespace) -> list[Step]:
    """Return the steps of the flags. Raise ValueError for a flag without an effect."""
    from scratchlm.data.deduplication.steps import DropOverlap, Exact, MinHash

    names = ("ngram", "bands", "rows", "seed")
    given = {name: getattr(args, f"minhash_{name}") for name in names}
    settings = {name: value for name, value in given.items() if value is not None}
    if args.exact and settings:
        raise ValueError(
            f"--minhash_{next(iter(settings))} has no effect (--exact compares whole texts); "
            "remove --exact"
        )
    if args.against is None and args.against_ngram is not None:
        raise ValueError(
            f"--against_ngram has no effect ({args.against_ngram}); add --against EVAL.jsonl"
        )
    steps: list[Step] = [Exact() if args.exact else MinHash(**settings)]
    if args.against is not None:
        ngram = 13 if args.against_ngram is None else args.against_ngram
        steps.insert(0, DropOverlap(args.against, ngram))
    return steps
