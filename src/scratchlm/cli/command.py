"""The parts that all commands share: strict flags, one-line errors, exit codes.

0 ok · 1 a lesson's number or answer is wrong · 2 bad input or usage ·
3 corrupt or incompatible file · 4 numerical failure · 5 resources · 130 SIGINT · 143 SIGTERM
"""

from __future__ import annotations

import argparse
import difflib
import errno
import functools
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from scratchlm import __version__
from scratchlm.cli.foreign_flags import BY_COMMAND, OF_A_WORD
from scratchlm.cli.streams import CONVERT, use_utf8
from scratchlm.config import meant
from scratchlm.errors import (
    FileFormatError,
    Interrupted,
    LessonError,
    Notice,
    NumericalError,
    WorkerError,
)

_EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG, errno.EMFILE}
_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EEXIST: "choose another path",
    errno.EISDIR: "choose a file, not a directory",
    errno.ENOTDIR: "choose a path whose parents are directories",
    errno.EACCES: "change the permissions, or choose another path",
    errno.EROFS: "choose a path where you can write",
    errno.ENOSPC: "free some space, then repeat the command",
    errno.EDQUOT: "free some of your quota, then repeat the command",
    errno.EFBIG: "increase the limit on a file's size (ulimit -f), or choose another disk",
    errno.EMFILE: "increase the limit on open files (ulimit -n)",
    errno.ENOMEM: "free some memory, then repeat the command",
}


class Parser(argparse.ArgumentParser):
    """A parser that accepts no abbreviated flags.

    It accepts `-` for `_`, and the names that other projects use for a flag. Every error is a
    ValueError, which `command` prints.
    """

    def __init__(self, prog: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")
        self.add_argument("--version", action="version", version=f"scratchlm {__version__}")

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:  # type: ignore[no-untyped-def,override]
        words = [self._translated(word) for word in (sys.argv[1:] if args is None else args)]
        # "Intermixed" finds positional words on both sides of a flag.
        values, unknown = self.parse_known_intermixed_args(words, namespace)
        for word in unknown:
            name = word.split("=")[0]
            kind = "flag" if word.startswith("-") else "argument"
            hint = self.hint(name)
            if kind == "argument" and (flag := OF_A_WORD.get(self.prog)):
                hint = f"write {flag} {shlex.quote(word)}"
            raise ValueError(f"no such {kind} ({name}); {hint}")
        return values

    def hint(self, name: str) -> str:
        """Return what to type instead of an unknown flag."""
        bare = name.lstrip("-").replace("-", "_").rpartition(".")[2]
        if known := BY_COMMAND.get(self.prog, {}).get(bare):
            return f"use {known}"
        if own := self._own(bare):
            return f"write {own}"
        # Compare without the dashes, because all flags share them.
        own_flags = [flag[2:] for flag in self._option_string_actions if flag.startswith("--")]
        asked = name.lstrip("-").replace("-", "_")
        close = difflib.get_close_matches(asked, own_flags, n=1, cutoff=0.7)
        return f"did you mean --{close[0]}?" if close else f"{self.prog} --help lists the flags"

    def _translated(self, word: str) -> str:
        """Return `--max_tokens=5` for `--max-tokens=5`, and register another project's name for a
        flag."""
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            return word
        name = name.replace("-", "_").replace("__", "--", 1)
        bare = name.removeprefix("--")
        own = self._own(bare)
        if own is None or bare in BY_COMMAND.get(self.prog, {}):
            return word
        self._option_string_actions.setdefault(name, self._option_string_actions[own])
        return name + equals + value

    def _own(self, name: str) -> str | None:
        """Return our flag for `name`, which may be a synonym of the flag."""
        known = [flag[2:] for flag in self._option_string_actions if flag.startswith("--")]
        own = name if name in known else meant(name, known)
        return None if own is None else f"--{own}"

    def error(self, message: str) -> NoReturn:
        if message.endswith(CONVERT):  # an error of `text` has a remedy already
            raise ValueError(message)
        hint = f"{self.prog} --help lists the flags"
        if "expected one argument" in message:
            hint = "add a value; if the value starts with -, write --flag=VALUE"
        elif "are required" in message:
            example = (self.epilog or "").partition("\n")[0]
            hint = f"for example: {example.partition('   ')[0]}"
        raise ValueError(f"{message}; {hint}")


class Once(argparse.Action):
    """Store a value. A second, different value for the same option is an error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = namespace.__dict__.setdefault("given", {})
        flag, value = given.setdefault(self.dest, (option_string, values))
        if str(value) != str(values):  # compare as text, because nan != nan
            raise ValueError(
                f"two values for one option ({flag} {value}, {option_string} {values}); keep one"
            )
        setattr(namespace, self.dest, values)


def check_seed(seed: int | None) -> None:
    """Raise ValueError for a seed outside the range that all generators accept."""
    if seed is not None and not 0 <= seed < 2**63:
        raise ValueError(f"seed must be from 0 to 2**63 - 1 ({seed}); use e.g. 0")


def has_colour() -> bool:
    """Return whether standard output is a terminal and NO_COLOR is not set (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


Body = Callable[[Sequence[str] | None], None]


def command(*, stops_with_its_reader: bool = False) -> Callable[[Body], Callable[..., int]]:
    """Turn a function that raises errors into `main(argv=None) -> exit code`.

    stops_with_its_reader: a closed standard output is a normal end, because no work is lost.
    """
    return functools.partial(_guarded, stops_with_its_reader)


def _guarded(stops_with_its_reader: bool, body: Body) -> Callable[..., int]:
    @functools.wraps(body)
    def main(argv: Sequence[str] | None = None) -> int:
        use_utf8()
        try:
            with _terminated_as_exception(), _notices_in_one_line():
                body(argv)
        except BrokenPipeError:  # the reader, such as `head`, closed the pipe
            with suppress(BrokenPipeError):
                sys.stdout.close()  # otherwise the interpreter flushes into the pipe at exit
            if stops_with_its_reader:
                return 0
            print(
                "scratchlm: error: standard output was closed (broken pipe), so the work stopped; "
                "send the output to a file, or to a program that reads all of it",
                file=sys.stderr,
            )
            return 5
        except (Exception, KeyboardInterrupt) as error:
            code = exit_code(error)
            if code is None or "--debug" in (sys.argv if argv is None else argv):
                raise
            expected = isinstance(error, Interrupted | KeyboardInterrupt | LessonError)
            kind = "scratchlm:" if expected else "scratchlm: error:"
            print(kind, one_line(error), file=sys.stderr)
            return code
        return 0

    return main


def exit_code(error: BaseException) -> int | None:
    """Return the exit code, or None for an error that a user cannot cause.

    Such an error keeps its traceback.
    """
    match error:
        case Interrupted():
            return 128 + error.signum
        case KeyboardInterrupt():
            return 130
        case LessonError():
            return 1
        case FileFormatError():
            return 3
        case NumericalError():
            return 4
        case MemoryError() | WorkerError():
            return 5
        case OSError():
            return 5 if error.errno in _EXHAUSTED else 2
        case RuntimeError() if _out_of_memory(error):
            return 5
        case ValueError() | ModuleNotFoundError():
            return 2
    return None


def one_line(error: BaseException) -> str:
    """Return the problem and the remedy in one line."""
    match error:
        case KeyboardInterrupt():
            text = "stopped by Ctrl-C; repeat the command to start from the beginning"
        case UnicodeEncodeError():  # a path is bad, because texts are checked earlier
            name = error.object[max(0, error.start - 20) : error.end + 20]
            text = f"a path must be UTF-8 ({name!r}); rename the file, or set PYTHONUTF8=1"
        case MemoryError():
            text = "out of memory; reduce the batch size, the context or the model's size"
        case RuntimeError() if _out_of_memory(error):
            first = str(error).splitlines()[0]
            text = (
                f"out of memory ({first}); reduce the batch size, the context or the model's size"
            )
        case OSError(filename=str() | bytes() as name, strerror=str() as reason):
            remedy = _REMEDIES.get(error.errno or 0, "check the path")
            text = f"{_uncapitalized(reason)} ({name!s}); {remedy}"
        case OSError(errno=int() as number, strerror=str() as reason) if number in _REMEDIES:
            text = f"{_uncapitalized(reason)}; {_REMEDIES[number]}"
        case _:
            text = str(error) or type(error).__name__
    return " ".join("; ".join([text, *getattr(error, "__notes__", [])]).split())


def _uncapitalized(reason: str) -> str:
    """Return a message of the system with a small first letter, like our own messages."""
    return reason[:1].lower() + reason[1:]


def _out_of_memory(error: BaseException) -> bool:
    text = str(error)
    signs = ("out of memory", "not enough memory", "can't allocate", "calculation overflowed")
    return any(sign in text for sign in signs)


@contextmanager
def _terminated_as_exception() -> Iterator[None]:
    """Raise an exception on SIGTERM, so that the program removes its half-written files."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(number, "terminated; repeat the command to start from the beginning")

    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _notices_in_one_line() -> Iterator[None]:
    """Print each `Notice` as one line on standard error, once. Other warnings keep their form."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        before = warnings.showwarning
        shown: set[str] = set()

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, Notice):
                line = " ".join(str(message).split())
                if line not in shown:
                    print("scratchlm:", line, file=sys.stderr)
                shown.add(line)
            else:
                before(message, category, *place, **more)

        warnings.showwarning = show
        yield
