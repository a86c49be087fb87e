from __future__ import annotations

import json
import math

import pytest

from scratchlm.metrics import JsonlLog, bits_per_byte


def test_bits_per_byte_by_hand():
    """A uniform guess among 256 bytes costs 8 bits a byte; two bytes a token halve it."""
    assert bits_per_byte(math.log(256), 1.0) == pytest.approx(8.0)
    assert bits_per_byte(math.log(256), 2.0) == pytest.approx(4.0)


def test_a_resumed_log_drops_later_and_broken_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    with JsonlLog(path) as log:
        for step in (1, 2, 3):
            log.write(step=step)
    with path.open("a") as file:
        file.write("[]\n{\n\n")
    with JsonlLog(path, resume_at=2) as log:
        log.write(step=3, again=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path):
    with JsonlLog(tmp_path / "log.jsonl") as log:
        log.write(step=1, loss=2.5)
        assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 1, "loss": 2.5}
