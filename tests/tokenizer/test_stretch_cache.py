"""The cache of stretches, with an oracle: here the ids of a stretch are its bytes."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

from scratchlm.tokenizer.encoding import stretch_cache
from scratchlm.tokenizer.encoding.stretch_cache import StretchCache
from scratchlm.tokenizer.pieces.byte_strings import Array

SHORT = [b"a", b"the", b"12345678"]
LONG = [b"a stretch of many bytes", b"x" * 20]


def merge(stretches: list[bytes]) -> tuple[Array, Array]:
    return np.frombuffer(b"".join(stretches), np.uint8), np.array([*map(len, stretches)])


def encode(cache: StretchCache, stretches: list[bytes]) -> bytes:
    lengths = np.array([*map(len, stretches)])
    starts = np.cumsum(lengths) - lengths
    return bytes(cache.encode(b"".join(stretches), starts, lengths, merge).astype(np.uint8))


def interrupt_at(line: int) -> Callable[[FrameType, str, Any], Any]:
    """Return a trace function that raises KeyboardInterrupt at this line of the cache's work."""
    lines = itertools.count(1)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        # `encode` itself takes the lock and repairs the cache.
        if code.co_filename != stretch_cache.__file__ or code.co_name == "encode":
            return None
        if event == "line" and next(lines) == line:
            raise KeyboardInterrupt
        return trace

    return trace


def test_an_interrupt_at_any_line_leaves_a_whole_cache() -> None:
    before, during = SHORT[:1] + LONG[:1], SHORT + LONG
    interrupted = 0
    for line in itertools.count(1):
        cache = StretchCache()
        assert encode(cache, before) == b"".join(before)
        tracer = sys.gettrace()
        try:
            sys.settrace(interrupt_at(line))
            encode(cache, during)
        except KeyboardInterrupt:
            interrupted += 1
        else:
            break
        finally:
            sys.settrace(tracer)
        for stretches in (during[::-1], before, during):
            assert encode(cache, stretches) == b"".join(stretches), line
    assert interrupted > 30


def test_a_full_cache_empties_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretch_cache, "CAPACITY", 100)
    cache = StretchCache()
    sizes = []
    for number in range(300):
        stretches = [f"{number}".encode(), f"a long stretch {number}".encode()]
        assert encode(cache, stretches) == b"".join(stretches)
        sizes.append(len(cache))
    assert max(sizes) == 100
    assert min(sizes) == 2


def test_long_stretches_have_a_limit_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretch_cache, "LONG_BYTES", 100)
    cache = StretchCache()
    sizes = []
    for number in range(20):
        stretch = f"{number:20}".encode()
        assert encode(cache, [stretch]) == stretch
        sizes.append(len(cache))
    assert max(sizes) == 5
