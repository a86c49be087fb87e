"""scratchlm-data: prepare data, from its source to text that is ready to encode.

scratchlm-data download                          list what can be downloaded by name
scratchlm-data download shakespeare              download a text into data/train
scratchlm-data inspect data/train                show formats, fields, scripts and samples
scratchlm-data clean web --config clean.toml --output cleaned
scratchlm-data dedup web --output unique         drop documents similar to an earlier one
scratchlm-data generate arithmetic --documents 50000 --output sums.jsonl
scratchlm-data tokenize                          encode the Pile's documents to two files of ids
scratchlm-data show --train_data sums.jsonl      show a batch with its documents and targets

scratchlm-data STEP --help explains a step.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from scratchlm.cli.command import Parser, command

STEPS = (
    "download",
    "clean",
    "dedup",
    "generate",
    "inspect",
    "show",
    "tokenize",
)  # each is a module data_STEP, with `add_flags(parser)` and `run(args)`


@command(stops_with_its_reader=True)
def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in STEPS:
        step = importlib.import_module(f"scratchlm.cli.data_{words[0]}")
        parser = _parser(f"scratchlm-data {words[0]}", step.__doc__)
        step.add_flags(parser)
        step.run(parser.parse_args(words[1:]))
        return
    parser = _parser("scratchlm-data", __doc__)
    parser.add_argument("step", metavar="STEP", help=", ".join(STEPS))
    step_name = parser.parse_args(words[:1]).step
    close = difflib.get_close_matches(step_name, STEPS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the steps are {', '.join(STEPS)}"
    raise ValueError(f"no such step ({step_name}); {hint}")


def _parser(name: str, text: str | None) -> Parser:
    summary, _, examples = (text or "").partition("\n\n")
    return Parser(name, summary, examples)


if __name__ == "__main__":
    sys.exit(main())
