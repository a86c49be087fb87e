"""Ids -> text as it comes, in pieces that never cut a character or give away a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence

from scratchlm.generation.sampling import Continuation
from scratchlm.tokenizer.bpe import BPETokenizer


class TextStream:
    """The text of one sequence of ids, given one at a time.

    A token may end in the middle of a UTF-8 sequence, or of what may become a stop string: that
    much waits for the next. What is left at the end, or is not UTF-8, becomes U+FFFD, as in
    `tokenizer.decode`.

    `stopped` is set at the first stop string to be complete; it and what follows are no part of the
    text. `count` is how many ids have come. ValueError for a stop string that is empty.
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
        """The text that is certain now and was not before; often none."""
        self.count += 1
        return self._release(self._decoder.decode(self.tokenizer.decode_bytes([id])))

    def close(self) -> str:
        """What was held back, when no more ids come."""
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
            _, start = min(found)  # that which ends first, wherever tokens end
            return text[:start]
        kept = max((_overlap(text, each) for each in self.stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def check_stop(stop: Sequence[str], ids: Sequence[int] = (), vocab_size: int = 0) -> None:
    """ValueError for a stop string that would end every text, and an id that no text has."""
    if "" in stop:
        raise ValueError("a stop string is not empty (''); leave it out")
    for id in ids:
        if not 0 <= id < vocab_size:
            raise ValueError(
                f"a stop id is not in the vocabulary ({id} of {vocab_size}); see "
                "scratchlm-tokenize --show"
            )


def _overlap(text: str, stop: str) -> int:
    """How many of the text's last characters are the first ones of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def text_pieces(
    ids: Iterable[int], tokenizer: BPETokenizer, stop: Sequence[str] = ()
) -> Iterator[str]:
    """The text of a stream of ids, by `TextStream`; it ends at the first stop string."""
    text = TextStream(tokenizer, stop)
    for each in ids:
        if piece := text.push(each):
            yield piece
        if text.stopped:
            return
    if piece := text.close():
        yield piece


def with_text(
    steps: Iterable[list[Continuation]], tokenizer: BPETokenizer, stop: Sequence[str] = ()
) -> Iterator[tuple[list[str], list[Continuation]]]:
    """The steps of `sampling.decode` with what each adds to the texts; a stop string ends one."""
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
