r"""A text as its tokens: coloured on a terminal, and as a page in which one types.

Both show what `encode` gives, so a special token in the text is one token, with its id.

>>> from scratchlm.tokenizer.bpe import BPETokenizer
>>> tokens = [b"a", b" ", b"\xe4", b"\xb8", b"\xad", b" a", b"\xe4\xb8"]
>>> merges = [(b" ", b"a"), (b"\xe4", b"\xb8")]
>>> print(show(BPETokenizer(dict(enumerate(tokens)), merges), "a a中"))
a| a|<E4><B8>|<AD>
ids  0 5 6 4
tokens 4, characters 4, bytes 6, bytes/token 1.50

The page (`playground.html`) is one file that asks nothing of any network: the vocabulary, the
merges and the pattern stand in it as JSON: 1.0 MB for GPT-2's 50,257 ids. The pattern's classes are
those of Unicode 16, whatever the browser's are; a normalization is by the browser's Unicode. A text
box makes every line's end one line feed, so CRLF is asked for beside it.
"""

from __future__ import annotations

import itertools
import json
import re
from importlib import resources
from typing import Any

from scratchlm.files.atomic import write_file
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.formats.content import to_characters
from scratchlm.tokenizer.formats.json_content import StrPath
from scratchlm.tokenizer.inspection import printable
from scratchlm.tokenizer.pieces.patterns import PATTERNS
from scratchlm.tokenizer.playground.browser_pattern import browser_pattern

_BACKGROUNDS = (153, 157, 223, 218, 183)  # light ones, for `painted`
_PLACE = "{{tokenizer}}"


def show(tokenizer: BPETokenizer, text: str, *, colour: bool = False) -> str:
    """The tokens of a text, in `colour` or with bars between them; the ids; the counts.

    Bytes of a character that is cut stand as <E4>, control characters as \\x1b. ValueError as in
    `encode`.
    """
    ids = tokenizer.encode(text)
    tokens = [visible(tokenizer.vocab[id]) for id in ids]
    if colour:
        line = "".join(map(painted, tokens, itertools.cycle(_BACKGROUNDS)))
    else:
        line = "|".join(tokens)
    size = len(text.encode())
    counts = f"tokens {len(ids):,}, characters {len(text):,}, bytes {size:,}"
    ratio = f", bytes/token {size / len(ids):.2f}" if ids else ""
    return f"{line}\nids  {' '.join(map(str, ids)) or 'none'}\n{counts}{ratio}"


def painted(text: str, background: int) -> str:
    """In black on one of the 256 colours that terminals have."""
    return f"\x1b[30;48;5;{background}m{text}\x1b[0m"


def visible(token: bytes) -> str:
    """A token's text; what is no character of its own as <E4>."""
    text = printable(token.decode("utf-8", "surrogateescape"))
    return re.sub("[\udc80-\udcff]", lambda match: f"<{ord(match[0]) - 0xDC00:02X}>", text)


def write_page(tokenizer: BPETokenizer, path: StrPath, name: str) -> int:
    """Write the page, whole or not at all, and return its bytes; `name` is what it calls the
    tokenizer. ValueError where a browser cannot have its pattern."""
    page = page_of(tokenizer, name).encode()
    write_file(path, page)
    return len(page)


def page_of(tokenizer: BPETokenizer, name: str = "tokenizer.json") -> str:
    """The page's HTML; errors as in `write_page`."""
    if tokenizer.normalized_tokens or tokenizer.unk_token is not None:
        raise ValueError(
            "a page cannot have special tokens in normalized text, nor an unknown token "
            f"({[*tokenizer.normalized_tokens, tokenizer.unk_token][0]!r}); leave the page out"
        )
    ids = {token: id for id, token in tokenizer.vocab.items()}
    patterns = [key for key, pattern in PATTERNS.items() if pattern == tokenizer.pattern]
    content: dict[str, Any] = {
        "name": name,
        "patternName": " = ".join(patterns) or "of its own",
        "pattern": browser_pattern(tokenizer.pattern),
        # A byte is written as one character, as in tokenizer.json; an id without a token is null.
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
    # In a script element only `<` could end the data.
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", r"\u003c")
    page = resources.files("scratchlm.tokenizer.playground").joinpath("playground.html")
    return page.read_text(encoding="utf-8").replace(_PLACE, data, 1)
