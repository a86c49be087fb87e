from __future__ import annotations

import json
import math
import re

import pytest

from scratchlm.errors import FileFormatError
from scratchlm.training.log import JsonlLog, read_log


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
    assert (tmp_path / "log.dropped.jsonl").read_text() == '{"step": 3}\n'
    JsonlLog(path, resume_at=1).__exit__(None, None, None)
    dropped = read_log(tmp_path / "log.dropped.jsonl")
    assert [*dropped] == [{"step": 3}, {"step": 2}, {"step": 3, "again": True}]


@pytest.mark.parametrize("step", ["null", '"2"', "true", "1.5", "[]", "[" * 100_000])
def test_a_resumed_log_drops_what_is_no_step(step, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 1}}\n{{"step": {step}}}\n{{"step": 2}}\n')
    with JsonlLog(path, resume_at=2) as log:
        log.write(step=3)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    assert not (tmp_path / "log.dropped.jsonl").exists()


def test_a_number_that_json_does_not_have_is_null(tmp_path):
    with JsonlLog(tmp_path / "log.jsonl") as log:
        log.write(step=1, loss=2.5, grad_norm=math.nan, scale=math.inf)
    line = (tmp_path / "log.jsonl").read_text()
    assert line == '{"step": 1, "loss": 2.5, "grad_norm": null, "scale": null}\n'


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path):
    with JsonlLog(tmp_path / "log.jsonl") as log:
        log.write(step=1, loss=2.5)
        assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 1, "loss": 2.5}


def test_a_log_is_read_without_a_line_that_a_kill_cut(tmp_path):
    path = tmp_path / "log.jsonl"
    whole = '{"step": 1, "loss": 2.5}\n{"step": 2, "sample": "é\\n"}\n'.encode()
    for cut in (b"", b"{", b'{"step": 3, "lo', '{"step": 3, "sample": "é'.encode()[:-1], b"\0" * 9):
        path.write_bytes(whole + cut)
        assert list(read_log(path)) == [{"step": 1, "loss": 2.5}, {"step": 2, "sample": "é\n"}]
    path.write_bytes(whole + b'{"step": 3}')  # whole but for its end
    assert [line["step"] for line in read_log(path)] == [1, 2, 3]


@pytest.mark.parametrize(
    "line",
    ['{"step": 2, "lo', "", "[]", "3", '{"loss": 2}', '{"step": "2"}', '{"step": true}'],
)
def test_a_damaged_line_of_a_log_is_named(line, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(FileFormatError, match=rf"{re.escape(str(path))}, line 2.*; delete"):
        list(read_log(path))
