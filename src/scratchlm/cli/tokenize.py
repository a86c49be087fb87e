"""scratchlm-tokenize: train a tokenizer on text, and encode text to token files.

scratchlm-tokenize --corpus corpus.txt --vocab_size 10000 --output_tokenizer tokenizer.json
scratchlm-tokenize --tokenizer_path tokenizer.json --encode corpus.txt --output corpus.bin
scratchlm-tokenize --tokenizer_path tokenizer.json --encode 'web/*.jsonl' --output shards \\
    --val_fraction 0.01
scratchlm-tokenize --inspect tokenizer.json --sample corpus.txt --word unbelievable
scratchlm-tokenize --tokenizer_path tokenizer.json --show 'some text' --html playground.html
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from scratchlm.cli.command import command
from scratchlm.cli.tokenize_flags import parse


@command()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv, __doc__ or "")
    # These imports are slow, and --help does not need them.
    from scratchlm.cli import tokenize_steps as steps
    from scratchlm.tokenizer.bpe import BPETokenizer

    if args.inspect is not None:
        print(steps.inspection(args))
        return
    if args.corpus:
        tokenizer, path = steps.train(args)
    else:
        path = Path(args.tokenizer_path)
        tokenizer = BPETokenizer.load(path)
    if args.show is not None:
        print(steps.show(tokenizer, args))
    if args.html is not None:
        steps.write_page(tokenizer, path, args)
    if args.to_folder:
        steps.encode_documents(tokenizer, args)
    elif args.encode:
        steps.encode_file(tokenizer, path, args)


if __name__ == "__main__":
    sys.exit(main())
