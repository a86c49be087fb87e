"""scratchlm-plot: figures, as PNG files.

scratchlm-plot init --output init.png
scratchlm-plot init --config configs/shakespeare.toml --train_data shakespeare.bin --output init.png

init: for each initialisation strategy the scale of activations and gradients by layer, and the
first losses of a training run.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scratchlm.cli.command import Once, Parser, command

SMALL = {"vocab_size": 512, "context_length": 64, "d_model": 128, "num_layers": 8, "num_heads": 4}


@command()
def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    # Imported here so that --help answers at once.
    from scratchlm import plots
    from scratchlm.config import build, read_toml
    from scratchlm.data.shards import open_shard
    from scratchlm.model.config import ModelConfig

    plots.require_matplotlib()  # before minutes go into it
    output = Path(args.output)
    if output.suffix != ".png" or output.is_dir():
        raise ValueError(f"a figure is a .png ({output}); give --output FIGURE.png")
    if not output.parent.is_dir():
        raise ValueError(f"no folder for the figure ({output}); make it first")
    model = SMALL if args.config is None else read_toml(args.config).get("model", {})
    if args.train_data is None:
        config = build(ModelConfig, model, "model.")
        tokens: Any = plots.made_up_language(config.vocab_size)
        text = "a made-up language"
    else:
        shard, text = open_shard(args.train_data), args.train_data
        known = shard.max_id + 1 if shard.info is None else shard.info.vocab_size
        config = build(ModelConfig, model | {"vocab_size": known}, "model.")
        tokens = shard.tokens
    plots.check_size(config)
    runs = plots.init_runs(config, tokens, steps=args.steps, progress=print)
    zero = ", residual branches start at zero" if config.residual_init == "zero" else ""
    shape = f"{config.num_layers} layers of {config.d_model}"
    title = f"{shape}, on {text}; AdamW, lr {plots.LR}, batches of {plots.BATCH_SIZE}{zero}\n"
    plots.draw_init(runs, args.output, title)
    print(f"drawn: {args.output}")


def _parse(argv: Sequence[str] | None) -> Namespace:
    summary, _, examples = (__doc__ or "").partition("\n\n")
    parser = Parser("scratchlm-plot", summary, examples)
    flag = parser.add_argument
    flag("figure", choices=["init"], help="what to draw")
    flag("--output", action=Once, default="init.png", metavar="FILE", help="default: init.png")
    flag("--config", action=Once, metavar="FILE", help="the model (default: 8 layers of 128)")
    flag("--train_data", action=Once, metavar="FILE",
         help="a token shard (default: a made-up language)")  # fmt: skip
    flag("--steps", action=Once, type=int, default=100, metavar="N", help="of training (100)")
    args = parser.parse_args(argv)
    if args.steps < 1:
        raise ValueError(f"steps is at least 1 ({args.steps}); give --steps 100")
    return args


if __name__ == "__main__":
    sys.exit(main())
