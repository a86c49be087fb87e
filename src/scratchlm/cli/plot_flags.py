"""The flags of `scratchlm-plot`, and the checks of their combinations."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from scratchlm.cli.command import Once, Parser
from scratchlm.cli.streams import text

FLAGS = {
    "init": ("config", "train_data", "steps"),
    "sampling": ("model_path", "tokenizer_path", "prompt"),
    "run": ("x",),
}


def parse(argv: Sequence[str] | None, description: str) -> Namespace:
    """Parse the flags. Raise ValueError for a flag without effect or an invalid value."""
    summary, _, examples = description.partition("\n\n")
    parser = Parser("scratchlm-plot", summary, examples)
    flag = parser.add_argument
    flag("figure", choices=list(FLAGS), help="what to draw")
    flag("runs", nargs="*", default=[], metavar="RUN",  # without a default, RUN is required
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
