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

from scratchlm.cli.command import Once, Parser, command
from scratchlm.cli.recipes import find_config
from scratchlm.cli.streams import text

SMALL = {"vocab_size": 512, "context_length": 64, "d_model": 128, "num_layers": 8, "num_heads": 4}
FLAGS = {
    "init": ("config", "train_data", "steps"),
    "sampling": ("model_path", "tokenizer_path", "prompt"),
    "run": ("x",),
}


@command()
def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
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


def _parse(argv: Sequence[str] | None) -> Namespace:
    summary, _, examples = (__doc__ or "").partition("\n\n")
    parser = Parser("scratchlm-plot", summary, examples)
    flag = parser.add_argument
    flag("figure", choices=list(FLAGS), help="what to draw")
    flag("runs", nargs="*", metavar="RUN",
         help="for the figure run: folders of runs, or their logs")  # fmt: skip
    flag("--output", action=Once, metavar="FILE",
         help="the PNG file to write (default: the figure's name with .png)")  # fmt: skip
    init = parser.add_argument_group("init").add_argument
    init("--config", action=Once, metavar="NAME|FILE",
         help="the model: a recipe or a TOML file (default: 8 layers of width 128)")  # fmt: skip
    init("--train_data", action=Once, metavar="FILE",
         help="a token file (default: a made-up language)")  # fmt: skip
    init("--steps", action=Once, type=int, default=100, metavar="N", help="training steps (100)")
    sampling = parser.add_argument_group("sampling").add_argument
    sampling("--model_path", action=Once, metavar="PATH",
             help="a model, as for scratchlm-generate (default: made-up numbers)")  # fmt: skip
    sampling("--tokenizer_path", action=Once, metavar="FILE",
             help="tokenizer.json (default: the one in the checkpoint)")  # fmt: skip
    sampling("--prompt", action=Once, type=text, metavar="TEXT",
             help="text that the model continues")  # fmt: skip
    run = parser.add_argument_group("run").add_argument
    run("--x", action=Once, choices=("step", "tokens", "time"), default="step",
        help="what the x-axis shows (step)")  # fmt: skip
    args = parser.parse_args(argv)
    _check(args)
    args.output = args.output or f"{args.figure}.png"
    return args


def _check(args: Namespace) -> None:
    """Raise ValueError for a flag without effect or an invalid value."""
    given = vars(args).get("given", {})
    for figure, names in FLAGS.items():
        for name in names:
            if figure != args.figure and name in given:
                raise ValueError(
                    f"--{name} is only for the figure {figure}, not for {args.figure}; "
                    f"remove --{name}"
                )
    if args.runs and args.figure != "run":
        raise ValueError(f"the figure {args.figure} reads no runs ({args.runs[0]}); remove the run")
    if not args.runs and args.figure == "run":
        raise ValueError("the figure run needs a run (no RUN); add a run's folder")
    if args.steps < 1:
        raise ValueError(f"steps must be at least 1 ({args.steps}); set --steps 100")
    if args.figure == "sampling" and (args.model_path is None) != (args.prompt is None):
        missing = "model_path" if args.model_path is None else "prompt"
        raise ValueError(
            f"a model's figure needs --model_path and --prompt (no --{missing}); add --{missing}"
        )
    if args.tokenizer_path is not None and args.model_path is None:
        raise ValueError(f"a tokenizer ({args.tokenizer_path}) needs a model; add --model_path")


if __name__ == "__main__":
    sys.exit(main())
