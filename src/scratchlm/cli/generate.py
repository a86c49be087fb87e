"""scratchlm-generate: continue a prompt with a trained model.

scratchlm-generate --model_path runs/2026-01-31-120000 --prompt "Once upon a time" --max_tokens 200
scratchlm-generate --model_path model.pt --tokenizer_path tokenizer.json --prompt "" --top_p 0.9
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scratchlm.cli.command import command
from scratchlm.cli.generate_flags import parse


@command(stops_with_its_reader=True)
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv, __doc__ or "")
    # Imported here so that --help answers at once.
    import torch

    from scratchlm.checkpoint import read_config
    from scratchlm.costs import generation_report
    from scratchlm.generator import TextGenerator

    if args.dry_run:
        print(generation_report(read_config(args.model_path)))
        return
    writer = TextGenerator.load(args.model_path, args.tokenizer_path, args.device)
    generator = torch.Generator()
    generator.seed() if args.seed is None else generator.manual_seed(args.seed)
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    strategy = {name: getattr(args, name) for name in names}
    pieces = writer.stream(args.prompt, args.max_tokens, generator=generator, **strategy)
    room = writer.model.config.context_length - len(writer.encode(args.prompt))
    if args.max_tokens > room:
        print(f"the context ends after {room} of {args.max_tokens} tokens", file=sys.stderr)
    print(args.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    sys.exit(main())
