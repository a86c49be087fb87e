"""Commands read and write UTF-8 in every locale."""

from __future__ import annotations

import argparse
import codecs
import io
import os
import sys
from contextlib import suppress

CONVERT = "convert the text to UTF-8"


def use_utf8() -> None:
    """Make standard input, output and error UTF-8 in every locale, so that no text becomes "?".

    The program writes each line to a log file at once. The input loses its byte
    order mark. An input byte that is not UTF-8 becomes a lone surrogate, which the tokenizer
    refuses.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="utf8_or_escaped", line_buffering=True)
    if isinstance(sys.stdin, io.TextIOWrapper):
        with suppress(io.UnsupportedOperation):  # the program has already read from stdin
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")


def _utf8_or_escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode lone surrogates.

    The result is the UTF-8 of a file's name that the locale could not read, or else \\uXXXX.
    """
    assert isinstance(error, UnicodeEncodeError)
    found = error.object[error.start : error.end]
    try:
        name = found.encode("ascii", "surrogateescape")
        name.decode()
    except UnicodeError:
        return "".join(f"\\u{ord(each):04x}" for each in found), error.end
    return name, error.end


codecs.register_error("utf8_or_escaped", _utf8_or_escaped)


def text(word: str) -> str:
    """Return a text of the command line. Its bytes are UTF-8 in every locale."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"the text must be UTF-8 ({word!r}); {CONVERT}") from None
