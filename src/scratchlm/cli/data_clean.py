"""scratchlm-data clean: change and drop documents by the steps of a config.

scratchlm-data clean README.md docs --config docs/clean.toml --output cleaned
scratchlm-data clean 'web/*.gz' --config c.toml --output out --rejects bad.jsonl --max_bad 10
scratchlm-data clean web --config c.toml --output out --report report.json --plot report.png

The output is a folder of .jsonl.zst files in the order of the input, and manifest.json. If a
command stops, repeat it with --resume. docs/data.md lists the steps.
"""

from __future__ import annotations

import json
import signal
from argparse import Namespace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from scratchlm.cli.command import Once, Parser
from scratchlm.cli.streams import text
from scratchlm.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scratchlm.data.cleaning.step import Step


def add_flags(parser: Parser) -> None:
    parser.add_argument("--config", required=True, action=Once, metavar="FILE.toml",
                        help="the steps, one [[step]] table each (docs/data.md lists their "
                        "kinds)")  # fmt: skip
    add_pipeline_flags(parser)


def add_pipeline_flags(parser: Parser) -> None:
    """Add the flags of every command that runs steps on documents."""
    parser.add_argument("paths", nargs="+", metavar="PATH",
                        help="files, folders and globs: .txt .md .json .jsonl .ndjson, plain, .gz "
                        "or .zst, and .parquet")  # fmt: skip
    parser.add_argument("--output", required=True, action=Once, metavar="DIR",
                        help="a new folder for the remaining documents")  # fmt: skip
    parser.add_argument("--field", default="text", type=text, action=Once, metavar="NAME",
                        help="the key of the text in JSON and Parquet, such as meta.body "
                        "(default: text)")  # fmt: skip
    parser.add_argument("--join", type=text, action=Once, metavar="TEXT",
                        help=r"the text between the strings of a text that is a list, such as "
                        r"\n\n")  # fmt: skip
    parser.add_argument("--separator", type=text, action=Once, metavar="TEXT",
                        help="the text between the documents of a plain text (default: "
                        "<|endoftext|>)")  # fmt: skip
    parser.add_argument("--rejects", action=Once, metavar="FILE.jsonl",
                        help="a file for the records that cannot be read")  # fmt: skip
    parser.add_argument("--max_bad", type=int, default=0, action=Once, metavar="N",
                        help="how many records that cannot be read the command accepts "
                        "(default: 0)")  # fmt: skip
    parser.add_argument("--num_workers", type=int, action=Once, metavar="N",
                        help="the number of processes (default: one a core)")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="continue a run that stopped")
    parser.add_argument("--report", action=Once, metavar="FILE.json",
                        help="a file for the account: the numbers of each step")  # fmt: skip
    parser.add_argument("--plot", action=Once, metavar="FILE.png",
                        help="a figure of the account")  # fmt: skip


def run(args: Namespace) -> None:
    from scratchlm.data.cleaning.kinds import read_steps

    run_steps(args, read_steps(args.config))


def _check_outputs(args: Namespace, steps: Sequence[Step]) -> None:
    from scratchlm.data.outputs import check_file, check_outputs

    for path, ending in ((args.rejects, ""), (args.report, ""), (args.plot, ".png")):
        if path is not None:
            check_file(path, ending)
    outputs = {f"--{flag}": getattr(args, flag) for flag in ("output", "rejects", "report", "plot")}
    config = getattr(args, "config", None)  # dedup has none
    others = [path for step in steps for path in step.files()]
    check_outputs(outputs, [*args.paths, *others, *filter(None, [config])])


def run_steps(args: Namespace, steps: Sequence[Step]) -> None:
    """Print what the steps do. Run them on the documents. Print, save and draw the account."""
    from scratchlm.data.cleaning.pipeline import clean
    from scratchlm.data.cleaning.work_folder import PROGRESS, unfinished
    from scratchlm.data.reading.settings import Reading
    from scratchlm.data.reading.text_warnings import read_as_text
    from scratchlm.data.sources import find_files
    from scratchlm.figures.style import require_matplotlib
    from scratchlm.files.atomic import write_file

    if args.plot is not None:
        require_matplotlib()
    _check_outputs(args, steps)
    given = {"field": args.field, "separator": args.separator, "join": args.join}
    reading = Reading(**{name: value for name, value in given.items() if value is not None})
    files = find_files(args.paths)
    for line in chain(read_as_text(files), filter(None, (step.about() for step in steps))):
        print(line, flush=True)
    try:
        account = clean(
            files, args.output, steps, reading=reading, rejects=args.rejects,
            max_bad=args.max_bad, num_workers=args.num_workers, resume=args.resume,
        )  # fmt: skip
    except (KeyboardInterrupt, Interrupted) as stop:
        if not (unfinished(Path(args.output)) / PROGRESS).exists():
            raise
        raise Interrupted(
            getattr(stop, "signum", signal.SIGINT),
            "stopped; to continue, repeat the command with --resume",
        ) from None
    for line in account.lines():
        print(line)
    if args.report is not None:
        write_file(args.report, json.dumps(account.to_json(), indent=2).encode() + b"\n")
    if args.plot is not None:
        from scratchlm.figures.cleaning import draw_account

        draw_account(account, args.plot)
    many = "s" * (account.kept.documents != 1)
    kept = f"{account.kept.documents:,} document{many}, {account.text_bytes:,} bytes of text"
    print(f"{kept}: {args.output}")
