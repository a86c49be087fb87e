"""python -m scratchlm: list the commands, each with one phrase."""

from __future__ import annotations

import difflib
import importlib
import shlex
import sys
from collections.abc import Sequence

from scratchlm import __version__
from scratchlm.cli.command import command

COMMANDS = ("tokenize", "train", "generate", "chat", "convert", "inspect", "plot", "learn", "data")
# {mode of another project's single command: the command to run here}.
MODES = {
    "demo": "bash scripts/quickstart.sh in a checkout",
    "interactive": "scratchlm-chat",
}


@command(stops_with_its_reader=True)
def main(argv: Sequence[str] | None = None) -> None:
    """List the commands. For other arguments, raise ValueError with the command to use instead."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"scratchlm {__version__}")
    elif words and words not in (["--help"], ["-h"]):
        raise ValueError(
            f"python -m scratchlm only lists the commands ({' '.join(words)}); {_instead(words)}"
        )
    else:
        print(_listing())


def _listing() -> str:
    """Return one line for each command, from the first line of its help."""
    lines = []
    for name in COMMANDS:
        module = importlib.import_module(f"scratchlm.cli.{name}")
        called, _, phrase = (module.__doc__ or "").partition("\n")[0].partition(": ")
        lines.append(f"{called:<19} {phrase.rstrip('.')}")
    return "\n".join([*lines, "", "scratchlm-COMMAND --help lists the flags of COMMAND."])


def _instead(words: Sequence[str]) -> str:
    """Return what to do instead of `words`.

    For `train --epochs 1` and `--mode train --epochs 1`, return `use scratchlm-train --epochs 1`.
    """
    name, *rest = words
    if name == "--mode" and rest:
        name, *rest = rest
    name = name.removeprefix("--mode=").removeprefix("scratchlm-")
    known = MODES | {each: f"scratchlm-{each}" for each in COMMANDS}
    if name in known:
        return f"use {' '.join([known[name], shlex.join(rest)]).strip()}"
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {known[close[0]]}? " if close else ""
    return f"{hint}run python -m scratchlm to list the commands"


if __name__ == "__main__":
    sys.exit(main())
