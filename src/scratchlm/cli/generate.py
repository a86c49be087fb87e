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

    from scratchlm.checkpoint import load_with_tokenizer, read_config
    from scratchlm.costs import generation_report
    from scratchlm.runtime import resolve_device
    from scratchlm.sampling import Strategy, stream, text_pieces

    if args.dry_run:
        print(generation_report(read_config(args.model_path)))
        return
    strategy = Strategy(
        args.temperature, args.top_k, args.top_p, args.min_p, args.repetition_penalty
    )
    device = resolve_device(args.device)
    model, tokenizer, ends, starts = load_with_tokenizer(args.model_path, args.tokenizer_path)
    model = model.to(device)
    ids = starts + tokenizer.encode(args.prompt) or ends[:1]
    if not ids:
        raise ValueError("the prompt is empty (''), and nothing marks a start; give --prompt TEXT")
    generator = torch.Generator()
    generator.seed() if args.seed is None else generator.manual_seed(args.seed)
    new_ids = stream(
        model,
        ids,
        args.max_tokens,
        strategy,
        stop=ends,
        generator=generator,
        vocab_size=len(tokenizer),
    )
    room = model.config.context_length - len(ids)
    if args.max_tokens > room:
        print(f"the context ends after {room} of {args.max_tokens} tokens", file=sys.stderr)
    print(args.prompt, end="", flush=True)
    for piece in text_pieces(new_ids, tokenizer):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    sys.exit(main())
