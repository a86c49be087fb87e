"""scratchlm-tokenize: train a tokenizer on text, encode text to token shards.

scratchlm-tokenize --corpus corpus.txt --vocab_size 10000 --output_tokenizer tokenizer.json
scratchlm-tokenize --tokenizer_path tokenizer.json --encode corpus.txt --output corpus.bin
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scratchlm.cli.command import Once, Parser, command


def _parser() -> Parser:
    summary, _, examples = (__doc__ or "").partition("\n\n")
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


@command()
def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    _check_together(args)
    # Imported here so that --help answers at once.
    from scratchlm.data.shards import write_shard
    from scratchlm.tokenizer.bpe import BPETokenizer
    from scratchlm.tokenizer.training import train_bpe

    start = time.perf_counter()
    if args.corpus:
        tokenizer = train_bpe(args.corpus, args.vocab_size, num_workers=args.num_workers)
        path = Path(args.output_tokenizer or "tokenizer.json")
        tokenizer.save(path)
        print(f"trained {len(tokenizer):,} ids in {time.perf_counter() - start:.1f} s: {path}")
        if len(tokenizer) < args.vocab_size:
            print(
                f"the corpus has no more pairs to merge: {len(tokenizer)} of {args.vocab_size} ids"
            )
    else:
        path = Path(args.tokenizer_path)
        tokenizer = BPETokenizer.load(path)
    if args.encode:
        start, source = time.perf_counter(), Path(args.encode)
        output = Path(args.output or f"{args.encode}.bin")
        info = write_shard(
            tokenizer, source, output, num_workers=args.num_workers, tokenizer_path=path
        )
        print(
            f"encoded {info.text_bytes:,} bytes to {info.count:,} tokens "
            f"({info.text_bytes / max(info.count, 1):.2f} bytes each) in "
            f"{time.perf_counter() - start:.1f} s: {output}"
        )


def _check_together(args) -> None:  # type: ignore[no-untyped-def]
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
    inputs = {Path(name).resolve() for name in [*(args.corpus or []), args.encode] if name}
    for flag in ("output_tokenizer", "output"):
        path = Path(getattr(args, flag) or "tokenizer.json")
        if path.resolve() in inputs:
            raise ValueError(f"--{flag} would replace what is read ({path}); name another file")
        if not path.parent.is_dir():
            raise ValueError(f"--{flag} is in no folder ({path}); make {path.parent} first")
    if args.output and Path(args.output).suffix != ".bin":
        raise ValueError(f"a token shard ends in .bin (--output {args.output}); name it so")
    if args.num_workers is not None and args.num_workers < 1:
        raise ValueError(
            f"num_workers is at least 1 ({args.num_workers}); leave it out for all cores"
        )


if __name__ == "__main__":
    sys.exit(main())
