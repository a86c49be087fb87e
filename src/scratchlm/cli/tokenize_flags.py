"""What may be typed after `scratchlm-tokenize`, and what goes together."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from scratchlm.cli.command import Once, Parser


def parse(argv: Sequence[str] | None, description: str) -> Namespace:
    """The flags; ValueError where they contradict each other or would overwrite what is read."""
    args = _parser(description).parse_args(argv)
    _check_together(args)
    _check_outputs(args)
    return args


def _parser(description: str) -> Parser:
    summary, _, examples = description.partition("\n\n")
    parser = Parser("scratchlm-tokenize", summary, examples)
    flag = parser.add_argument
    flag(
        "--corpus",
        nargs="+",
        action="extend",
        metavar="FILE",
        help="UTF-8 text to train a tokenizer on",
    )
    flag("--vocab_size", type=int, action=Once, metavar="N",
         help="ids of the new tokenizer: 256 bytes, the merges, the special token")  # fmt: skip
    flag("--output_tokenizer", action=Once, metavar="FILE",
         help="where it is written (default: tokenizer.json)")  # fmt: skip
    flag("--tokenizer_path", action=Once, metavar="FILE", help="use this tokenizer, train none")
    flag("--encode", action=Once, metavar="FILE", help="UTF-8 text to encode")
    flag("--output", action=Once, metavar="FILE", help="the token shard (default: FILE.bin)")
    flag("--num_workers", type=int, action=Once, metavar="N",
         help="processes (default: one a core; the result is the same)")  # fmt: skip
    return parser


def _check_together(args: Namespace) -> None:
    if args.corpus and args.tokenizer_path:
        raise ValueError(
            f"a tokenizer is trained or given, not both (--corpus, --tokenizer_path "
            f"{args.tokenizer_path}); leave one out"
        )
    if not args.corpus and not (args.tokenizer_path and args.encode):
        raise ValueError(
            "nothing to do (no --corpus, nor --tokenizer_path with --encode); give --corpus FILE "
            "--vocab_size N to train, --tokenizer_path FILE --encode FILE to encode"
        )
    if args.corpus and args.vocab_size is None:
        raise ValueError(
            "a new tokenizer needs its size (no --vocab_size); give --vocab_size 10000"
        )
    for flag in ("vocab_size", "output_tokenizer"):
        if not args.corpus and getattr(args, flag) is not None:
            raise ValueError(
                f"--{flag} is for a new tokenizer ({getattr(args, flag)}); give --corpus too"
            )
    if args.output and not args.encode:
        raise ValueError(f"--output is for an encoded file ({args.output}); give --encode FILE")
    if args.num_workers is not None and args.num_workers < 1:
        raise ValueError(
            f"num_workers is at least 1 ({args.num_workers}); leave it out for all cores"
        )


def _check_outputs(args: Namespace) -> None:
    inputs = {Path(name).resolve() for name in [*(args.corpus or []), args.encode] if name}
    for flag in ("output_tokenizer", "output"):
        path = Path(getattr(args, flag) or "tokenizer.json")
        if path.resolve() in inputs:
            raise ValueError(f"--{flag} would replace what is read ({path}); name another file")
        if not path.parent.is_dir():
            raise ValueError(f"--{flag} is in no folder ({path}); make {path.parent} first")
    if args.output and Path(args.output).suffix != ".bin":
        raise ValueError(f"a token shard ends in .bin (--output {args.output}); name it so")
