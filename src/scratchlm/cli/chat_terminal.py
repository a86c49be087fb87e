"""Where the talk is held: a terminal, or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

from scratchlm.tokenizer.inspection import CONTROLS, printable

QUOTES = '"""'


class Terminal:
    """Messages from standard input, replies to standard output, all else to standard error.

    `is_typed`: somebody sits there, who sees a prompt and may press Ctrl-C.
    """

    def __init__(self) -> None:
        self.is_typed = sys.stdin.isatty()
        self.is_seen = sys.stdout.isatty()
        self._ends_line = False
        if self.is_typed and self.is_seen:
            with suppress(ImportError):  # not in every Python; `input` is then without history
                import readline  # noqa: F401

    def read_message(self) -> tuple[str, bool]:
        """What is typed next, and whether it stood between quotes. EOFError at the end.

        A line that ends with a backslash goes on in the next; three quotes begin a block, and end
        it. So does the end of the input. ValueError for bytes that are not UTF-8.
        """
        message, quoted = self._read_message()
        try:
            message.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the message is not UTF-8 (character {error.start}); convert it to UTF-8"
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
        """Its lines; one that has nothing beside the quotes is none."""
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
            return input(prompt)  # with readline
        if self.is_typed:
            print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    def write(self, piece: str) -> None:
        """A piece of a reply. A terminal gets no control characters of a model's."""
        if piece:
            self._ends_line = piece.endswith("\n")
            print(printable(piece, CONTROLS) if self.is_seen else piece, end="", flush=True)

    def end_reply(self) -> None:
        """A reply ends its line, even where it is empty."""
        if not self._ends_line:
            print(flush=True)
        self._ends_line = False

    def note(self, text: str) -> None:
        """Something that is no part of the conversation."""
        print(text, file=sys.stderr, flush=True)
