"""What may be typed after `scratchlm-generate`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from scratchlm.cli.command import Once, Parser


def parse(argv: Sequence[str] | None, description: str) -> Namespace:
    """The flags; ValueError for a seed that no generator takes."""
    args = _parser(description).parse_args(argv)
    if args.seed is not None and not 0 <= args.seed < 2**63:
        raise ValueError(f"seed is from 0 to 2**63 - 1 ({args.seed}); give such a number")
    return args


def _parser(description: str) -> Parser:
    summary, _, examples = description.partition("\n\n")
    parser = Parser("scratchlm-generate", summary, examples)
    flag = parser.add_argument
    flag("--model_path", action=Once, required=True, metavar="PATH",
         help="a run's folder (its best checkpoint), a checkpoint, a .pt, or a folder of the "
         "Hugging Face hub; with --dry_run a config file too")  # fmt: skip
    flag("--tokenizer_path", action=Once, metavar="FILE",
         help="tokenizer.json (default: the one in the checkpoint)")  # fmt: skip
    flag("--prompt", action=Once, default="", metavar="TEXT",
         help="text to continue (default: start a new document)")  # fmt: skip
    flag("--max_tokens", action=Once, type=int, default=100, metavar="N", help="new tokens (100)")
    flag("--temperature", action=Once, type=float, default=1.0, metavar="T",
         help="below 1 safer, above 1 wilder, 0 always the likeliest (1.0)")  # fmt: skip
    flag("--top_k", action=Once, type=int, metavar="K", help="draw from the K likeliest tokens")
    flag("--top_p", action=Once, type=float, metavar="P",
         help="draw from the likeliest tokens that hold this probability")  # fmt: skip
    flag("--min_p", action=Once, type=float, metavar="P",
         help="draw from tokens at least P times as likely as the likeliest")  # fmt: skip
    flag("--repetition_penalty", action=Once, type=float, default=1.0, metavar="R",
         help="above 1 makes what was said less likely (1.0)")  # fmt: skip
    flag("--seed", action=Once, type=int, metavar="N", help="the same text every time")
    flag("--device", action=Once, default="auto", help="auto, cpu, cuda, cuda:N or mps")
    flag("--dry_run", action="store_true",
         help="print what the model takes to run, with its KV cache; generate nothing")  # fmt: skip
    return parser
