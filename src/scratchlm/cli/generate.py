"""scratchlm-generate: continue prompts with a trained model.

scratchlm-generate --model_path runs/2026-01-31-120000 --prompt "Once upon a time" --max_tokens 200
scratchlm-generate --model_path model.pt --tokenizer_path tokenizer.json --prompt "" --top_p 0.9
scratchlm-generate --model_path Qwen3-0.6B --prompt "Paris is" --num_samples 4 --json --seed 1
scratchlm-generate --model_path runs/big --draft_model runs/small --temperature 0 < prompt.txt
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scratchlm.cli.command import command, has_colour
from scratchlm.cli.generate_flags import parse, prompts, strategy
from scratchlm.cli.recipes import check_model, find_config, is_recipe


@command(stops_with_its_reader=True)
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv, __doc__ or "")
    # These imports are slow, and --help does not need them.
    from scratchlm.checkpoint.models import read_config
    from scratchlm.cli import generate_output as output
    from scratchlm.costs.model_costs import generation_report
    from scratchlm.generation.generator import TextGenerator

    if args.dry_run:
        path = args.model_path
        print(generation_report(read_config(find_config(path) if is_recipe(path) else path)))
        return
    check_model(args.model_path)
    texts, how, beams = prompts(args), strategy(args), output.beams(args)
    writer = TextGenerator.load(
        args.model_path,
        args.tokenizer_path,
        args.device,
        dtype=output.dtype(args),
        weights=args.weights,
        compile=args.compile,
        draft_path=args.draft_model,
        num_draft=4 if args.num_draft is None else args.num_draft,
    )
    how |= {"stop": args.stop, "stop_ids": args.stop_id, "overflow": args.overflow}
    seed = output.seed(args)
    one = len(texts) * args.num_samples == 1 and beams is None
    if args.stream or (one and not args.json and not args.show_tokens):
        output.stream(writer, texts, args, seed, how)
        return
    done = output.complete(writer, texts, args, seed, beams, how)
    if args.json:
        output.write_json(done, writer.tokenizer, seed)
    elif args.show_tokens:
        output.write_tokens(done, writer.tokenizer, coloured=has_colour())
    else:
        output.write_texts(done)


if __name__ == "__main__":
    sys.exit(main())
