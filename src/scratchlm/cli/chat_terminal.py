"""Read and write a chat on a terminal or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

from scratchlm.tokenizer.inspection import CONTROLS, printable

QUOTES = '"""'


class Terminal:
    """Read messages from standard input. Write replies to standard output, and notes to standard
    error.

    `is_typed`: a person types the input, sees a prompt, and may press Ctrl-C.
    `is_seen`: standard output is a terminal.
    """

    def __init__(self) -> None:
        self.is_typed = sys.stdin.isatty()
        self.is_seen = sys.stdout.isatty()
        self._ends_line = False
        if self.is_typed and self.is_seen:
            with suppress(ImportError):  # without this module `input` has no history
                import readline  # noqa: F401

    def read_message(self) -> tuple[str, bool]:
        """Return the next message, and whether it was between quotes. Raise EOFError at the end.

        A line that ends with a backslash continues on the next line. Three quotes begin a block
        and end it. The end of the input ends a block too. Raise ValueError for bytes that are not
        UTF-8.
        """
        message, quoted = self._read_message()
        try:
            message.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the message must be UTF-8 (character {error.start}); convert the text to UTF-8"
            ) from None
        return message, quoted

    def _read_message(self) -> tuple[str, bool]:
        line = self._read_line("> ")
        if line.startswith(QUOTES):
            return "\n".join(self._block(line.removeprefix(QUOTES))), True
        lines = [line]
        with suppress(EOFError):
            while lines[-1].endswith("\\"):
                lines[-1] = lines[-1].removesuffix("\\")
                lines.append(self._read_line(". "))
        return "\n".join(lines), False

    def _block(self, line: str) -> Iterator[str]:
        """Yield the lines of a block. A first or last line with only the quotes does not count."""
        first = True
        with suppress(EOFError):
            while not line.endswith(QUOTES):
                if line or not first:
                    yield line
                first = False
                line = self._read_line(". ")
            if line := line.removesuffix(QUOTES):
                yield line

    def _read_line(self, prompt: str) -> str:
        if self.is_typed and self.is_seen:
            return input(prompt)  # this function uses readline
        if self.is_typed:
            print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    def write(self, piece: str) -> None:
        """Write a piece of a reply. On a terminal, replace the control characters in it."""
        if piece:
            self._ends_line = piece.endswith("\n")
            print(printable(piece, CONTROLS) if self.is_seen else piece, end="", flush=True)

    def end_reply(self) -> None:
        """End the line of a reply, even of an empty reply."""
        if not self._ends_line:
            print(flush=True)
        self._ends_line = False

    def note(self, text: str) -> None:
        """Print a line that is not part of the conversation."""
        print(text, file=sys.stderr, flush=True)
