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

from scratchlm.cli.command import command
from scratchlm.cli.plot_flags import parse
from scratchlm.cli.recipes import find_config


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
    from scratchlm.config import read_toml
    from scratchlm.figures.initializations import SMALL, plot_init

    model = SMALL if args.config is None else read_toml(find_config(args.config)).get("model", {})
    plot_init(model, args.train_data, args.output, steps=args.steps, progress=print)


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
