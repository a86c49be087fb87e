"""`TextStream` turns ids into pieces of text, without cut characters and without stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence

from scratchlm.generation.sampling import Continuation
from scratchlm.tokenizer.bpe import BPETokenizer


class TextStream:
    """The text of one sequence of ids, which come one at a time.

    A token may end inside a UTF-8 sequence, or inside a possible stop string. The stream keeps this
    part until the next ids complete it. Bytes that are not UTF-8, or are incomplete at the end,
    become U+FFFD, as in `tokenizer.decode`.

    The first complete stop string sets `stopped`. The text ends before this string. `count` is the
    number of ids so far. Raise ValueError for an empty stop string.
    """

    def __init__(self, tokenizer: BPETokenizer, stop: Sequence[str] = ()) -> None:
        check_stop(stop)
        self.tokenizer = tokenizer
        self.stop = stop
        self.stopped = False
        self.count = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def push(self, id: int) -> str:
        """Return the text that `id` completes. This text is often empty."""
        self.count += 1
        return self._release(self._decoder.decode(self.tokenizer.decode_bytes([id])))

    def close(self) -> str:
        """Return the rest of the text, after the last id."""
        text = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text if self.stopped else text + rest

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [(at + len(each), at) for each in self.stop if (at := text.find(each)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            _, start = min(found)  # the string that ends first; token boundaries do not matter
            return text[:start]
        kept = max((_overlap(text, each) for each in self.stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def check_stop(stop: Sequence[str], ids: Sequence[int] = (), vocab_size: int = 0) -> None:
    """Raise ValueError if a stop string is empty, or a stop id is not in the vocabulary."""
    if "" in stop:
        raise ValueError("a stop string must not be empty (''); leave out this string")
    for id in ids:
        if not 0 <= id < vocab_size:
            raise ValueError(
                f"a stop id is not in the vocabulary ({id}, vocab_size {vocab_size}); find ids "
                "with scratchlm-tokenize --show"
            )


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a proper prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def with_text(
    steps: Iterable[list[Continuation]], tokenizer: BPETokenizer, stop: Sequence[str] = ()
) -> Iterator[tuple[list[str], list[Continuation]]]:
    """Yield the steps of `sampling.decode`, each with the text that the step adds to every row.

    A stop string ends a row.
    """
    texts: list[TextStream] = []
    for rows in steps:
        texts = texts or [TextStream(tokenizer, stop) for _ in rows]
        pieces = []
        for text, row in zip(texts, rows, strict=True):
            piece = "".join(map(text.push, row.ids[text.count :]))
            if text.stopped:
                row.finish_reason = "stop"
            pieces.append(piece + (text.close() if row.finish_reason else ""))
        yield pieces, rows
