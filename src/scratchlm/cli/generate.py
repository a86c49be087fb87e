"""scratchlm-generate: continue a prompt with a trained model.

scratchlm-generate --model_path runs/2026-01-31-120000 --prompt "Once upon a time" --max_tokens 200
scratchlm-generate --model_path model.pt --tokenizer_path tokenizer.json --prompt "" --top_p 0.9
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scratchlm.cli.command import Once, Parser, command


def _parser() -> Parser:
    summary, _, examples = (__doc__ or "").partition("\n\n")
    parser = Parser("scratchlm-generate", summary, examples)
    flag = parser.add_argument
    flag("--model_path", action=Once, required=True, metavar="PATH",
         help="a run's folder (the best checkpoint of it), a checkpoint, or a .pt")  # fmt: skip
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
    return parser


@command(stops_with_its_reader=True)
def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    # Imported here so that --help answers at once.
    import torch

    from scratchlm.checkpoint import find_checkpoint, model_from, read_checkpoint, tokenizer_from
    from scratchlm.runtime import resolve_device
    from scratchlm.sampling import Strategy, stream, text_pieces

    strategy = Strategy(
        args.temperature, args.top_k, args.top_p, args.min_p, args.repetition_penalty
    )
    if args.seed is not None and not 0 <= args.seed < 2**63:
        raise ValueError(f"seed is from 0 to 2**63 - 1 ({args.seed}); give such a number")
    device = resolve_device(args.device)
    path = find_checkpoint(args.model_path)
    checkpoint = read_checkpoint(path)
    model = model_from(checkpoint, path).to(device)
    tokenizer = tokenizer_from(checkpoint, path, args.tokenizer_path)
    separator = "<|endoftext|>"
    ends = [tokenizer.token_to_id(separator)] if separator in tokenizer.special_tokens else []
    ids = tokenizer.encode(args.prompt)
    if not ids and not ends:
        raise ValueError("the prompt is empty (''), and nothing marks a start; give --prompt TEXT")
    generator = torch.Generator()
    generator.seed() if args.seed is None else generator.manual_seed(args.seed)
    new_ids = stream(
        model,
        ids or ends,
        args.max_tokens,
        strategy,
        stop=ends,
        generator=generator,
        vocab_size=len(tokenizer),
    )
    room = model.config.context_length - len(ids or ends)
    if args.max_tokens > room:
        print(f"the context ends after {room} of {args.max_tokens} tokens", file=sys.stderr)
    print(args.prompt, end="", flush=True)
    for piece in text_pieces(new_ids, tokenizer):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    sys.exit(main())
