"""scratchlm-tokenize: train a tokenizer on text, encode text to token shards.

scratchlm-tokenize --corpus corpus.txt --vocab_size 10000 --output_tokenizer tokenizer.json
scratchlm-tokenize --tokenizer_path tokenizer.json --encode corpus.txt --output corpus.bin
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scratchlm.cli.command import command
from scratchlm.cli.tokenize_flags import parse


@command()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv, __doc__ or "")
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


if __name__ == "__main__":
    sys.exit(main())
