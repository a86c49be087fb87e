from __future__ import annotations

import math

import pytest

from scratchlm.training.validation import bits_per_byte


def test_bits_per_byte_by_hand():
    """A uniform guess among 256 bytes costs 8 bits a byte; two bytes a token halve it."""
    assert bits_per_byte(math.log(256), 1.0) == pytest.approx(8.0)
    assert bits_per_byte(math.log(256), 2.0) == pytest.approx(4.0)
