"""scratchlm-plot: draw figures as PNG files.

scratchlm-plot init --output init.png
scratchlm-plot init --config shakespeare --train_data shakespeare.bin --output init.png
scratchlm-plot sampling --output sampling.png
scratchlm-plot sampling --model_path runs/shakespeare --prompt "I will not be a"
scratchlm-plot run runs/a runs/b --output run.png

init: for each initialization, the scale of activations and gradients by layer, and the first losses
of a training run.
sampling: how each sampling strategy changes the next token's probabilities. The probabilities are
made up, or a model computes them.
run: loss, learning rate, gradient norm and throughput of runs, from their logs.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scratchlm.cli.command import command
from scratchlm.cli.plot_flags import parse
from scratchlm.cli.recipes import find_config

SMALL = {"vocab_size": 512, "context_length": 64, "d_model": 128, "num_layers": 8, "num_heads": 4}


@command()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv, __doc__ or "")
    # These imports are slow, and --help does not need them.
    from scratchlm.figures.style import require_matplotlib

    require_matplotlib()  # check it before minutes of work
    output = Path(args.output)
    if output.suffix != ".png" or output.is_dir():
        raise ValueError(f"a figure must be a .png file ({output}); set --output FIGURE.png")
    if not output.parent.is_dir():
        raise ValueError(f"the figure's folder must exist ({output}); create the folder first")
    {"init": _init, "sampling": _sampling, "run": _run}[args.figure](args)
    print(f"saved: {args.output}")


def _init(args: Namespace) -> None:
    from scratchlm.config import build, read_toml
    from scratchlm.data.shards import open_shard
    from scratchlm.figures import initializations
    from scratchlm.model.config import ModelConfig

    model = SMALL if args.config is None else read_toml(find_config(args.config)).get("model", {})
    if args.train_data is None:
        config = build(ModelConfig, model, "model.")
        tokens: Any = initializations.made_up_language(config.vocab_size)
        source = "a made-up language"
    else:
        shard, source = open_shard(args.train_data), args.train_data
        known = shard.max_id + 1 if shard.info is None else shard.info.vocab_size
        config = build(ModelConfig, model | {"vocab_size": known}, "model.")
        tokens = shard.tokens
    initializations.check_size(config)
    runs = initializations.init_runs(config, tokens, steps=args.steps, progress=print)
    zero = ", residual branches start at zero" if config.residual_init == "zero" else ""
    shape = f"{config.num_layers} layers of {config.d_model}"
    how = f"AdamW, lr {initializations.LR}, batches of {initializations.BATCH_SIZE}"
    title = f"{shape}, on {source}; {how}{zero}\n"
    initializations.draw_init(runs, args.output, title)


def _sampling(args: Namespace) -> None:
    from scratchlm.figures.sampling import draw_sampling, made_up, of_model
    from scratchlm.generation.generator import TextGenerator

    if args.model_path is None:
        next_token = made_up()
    else:
        writer = TextGenerator.load(args.model_path, args.tokenizer_path, "cpu")
        next_token = of_model(writer, args.prompt)
    draw_sampling(next_token, args.output)


def _run(args: Namespace) -> None:
    from scratchlm.figures.runs import draw_runs, read_runs

    draw_runs(read_runs(args.runs, args.x), args.output, args.x)


if __name__ == "__main__":
    sys.exit(main())
