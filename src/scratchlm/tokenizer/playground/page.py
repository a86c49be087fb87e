r"""Show the tokens of a text: coloured on a terminal, or as a page with a text box.

Both show the result of `encode`, so a special token in the text is one token, with its id.

>>> from scratchlm.tokenizer.bpe import BPETokenizer
>>> tokens = [b"a", b" ", b"\xe4", b"\xb8", b"\xad", b" a", b"\xe4\xb8"]
>>> merges = [(b" ", b"a"), (b"\xe4", b"\xb8")]
>>> print(show(BPETokenizer(dict(enumerate(tokens)), merges), "a a中"))
a| a|<E4><B8>|<AD>
ids  0 5 6 4
tokens 4, characters 4, bytes 6, bytes/token 1.50

The page (`playground.html`) is one file that needs no network. It contains the vocabulary, the
merges and the pattern as JSON: 1.0 MB for GPT-2's 50,257 ids. The pattern's classes mean Unicode 16
in every browser, but normalization uses the browser's Unicode. A text box turns every line end into
one line feed, so the page has a checkbox for CRLF.
"""

from __future__ import annotations

import itertools
import json
import re
from importlib import resources
from typing import Any

from scratchlm.files.atomic import write_file
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.formats.content import to_characters
from scratchlm.tokenizer.inspection import printable
from scratchlm.tokenizer.pieces.patterns import PATTERNS
from scratchlm.tokenizer.playground.browser_pattern import browser_pattern

BACKGROUNDS = (153, 157, 223, 218, 183)  # light ones, for `painted`
BLACK, GREY = "30", "38;5;244"
_PLACE = "{{tokenizer}}"


def show(tokenizer: BPETokenizer, text: str, *, colour: bool = False) -> str:
    """Return three lines: the tokens, in `colour` or with bars between them; the ids; the counts.

    Bytes of a split character appear as <E4>, control characters as \\x1b. Raise the same errors as
    `encode`.
    """
    ids = tokenizer.encode(text)
    tokens = [visible(tokenizer.vocab[id]) for id in ids]
    if colour:
        line = "".join(map(painted, tokens, itertools.cycle(BACKGROUNDS)))
    else:
        line = "|".join(tokens)
    size = len(text.encode())
    counts = f"tokens {len(ids):,}, characters {len(text):,}, bytes {size:,}"
    ratio = f", bytes/token {size / len(ids):.2f}" if ids else ""
    return f"{line}\nids  {' '.join(map(str, ids)) or 'none'}\n{counts}{ratio}"


def painted(text: str, background: int, foreground: str = BLACK) -> str:
    """Colour the text, on one of a terminal's 256 colours."""
    return f"\x1b[{foreground};48;5;{background}m{text}\x1b[0m"


def visible(token: bytes) -> str:
    """Return a token's text, with each byte of an incomplete character as <E4>."""
    text = printable(token.decode("utf-8", "surrogateescape"))
    return re.sub("[\udc80-\udcff]", lambda match: f"<{ord(match[0]) - 0xDC00:02X}>", text)


def write_page(tokenizer: BPETokenizer, path: StrPath, name: str) -> int:
    """Write the page atomically, and return its size in bytes. The page shows the tokenizer's
    `name`. Raise ValueError if JavaScript cannot express the pattern."""
    page = page_of(tokenizer, name).encode()
    write_file(path, page)
    return len(page)


def page_of(tokenizer: BPETokenizer, name: str = "tokenizer.json") -> str:
    """Return the page's HTML. Raise the same errors as `write_page`."""
    if tokenizer.normalized_tokens or tokenizer.unk_token is not None:
        raise ValueError(
            "a page supports neither special tokens in normalized text nor an unknown token "
            f"({[*tokenizer.normalized_tokens, tokenizer.unk_token][0]!r}); do not write the page"
        )
    ids = {token: id for id, token in tokenizer.vocab.items()}
    patterns = [key for key, pattern in PATTERNS.items() if pattern == tokenizer.pattern]
    content: dict[str, Any] = {
        "name": name,
        "patternName": " = ".join(patterns) or "custom",
        "pattern": browser_pattern(tokenizer.pattern),
        # As in tokenizer.json, one character represents a byte. An id without a token is null.
        "bytes": to_characters(bytes(range(256))),
        "tokens": [
            to_characters(tokenizer.vocab[id]) if id in tokenizer.vocab else None
            for id in range(len(tokenizer))
        ],
        "merges": [ids[part] for pair in tokenizer.merges for part in pair],
        "specials": sorted(tokenizer.special_tokens, key=len, reverse=True),
        "ignoreMerges": tokenizer.ignore_merges,
        "normalization": tokenizer.normalization,
    }
    # Only `<` could end the data in a script element.
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", r"\u003c")
    page = resources.files("scratchlm.tokenizer.playground").joinpath("playground.html")
    return page.read_text(encoding="utf-8").replace(_PLACE, data, 1)
