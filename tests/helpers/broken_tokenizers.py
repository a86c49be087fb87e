"""Tokenizer files, and ways to break them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.formats.tokenizer_json import write_tokenizer_json
from scratchlm.tokenizer.parts import TokenizerParts
from scratchlm.tokenizer.pieces.patterns import CL100K

END = "<|endoftext|>"

AB = {i: bytes([i]) for i in range(256)} | {256: b"ab", 257: b"abc"}

MERGES = [(b"a", b"b"), (b"ab", b"c")]

PARTS = TokenizerParts(AB | {258: END.encode()}, MERGES, [END], CL100K)

JSON = write_tokenizer_json(PARTS)


def check_is_refused(read: Callable[[], object], path: Path, message: str) -> None:
    start = time.perf_counter()
    with pytest.raises(FileFormatError) as error:
        read()
    assert time.perf_counter() - start < 1
    text = str(error.value)
    assert f" ({path}" in text  # `rule (path: value); remedy`; `message` leaves out the path
    assert re.search(message, re.sub(rf"\({re.escape(str(path))}[^:]*: ", "(", text)), text
    assert "; " in text
    assert "\n" not in text
    assert len(text) < len(str(path)) + 400


Change = Callable[[Any], None]

ID = r"an id must be an int from 0 to 4194303"
