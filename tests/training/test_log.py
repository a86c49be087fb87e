from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scratchlm.errors import FileFormatError
from scratchlm.training.log import (
    JsonlLog,
    Smoothed,
    TensorBoardLog,
    bits_per_byte,
    peak_memory,
    read_log,
)


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


def events(folder: Path):
    """What TensorBoard itself reads."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(folder))
    return accumulator.Reload()


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    with TensorBoardLog(tmp_path / "run" / "tensorboard") as log:
        log.write(step=1, loss=2.5, tokens=1024, mfu=None, expert_load=[[0.5, 0.5]])
        log.write(step=2, loss=2.25, tokens=2048, mfu=0.25, sample="*ROMEO*:\n\n  <b>Ha!")
    read = events(tmp_path / "run" / "tensorboard")
    assert set(read.Tags()["scalars"]) == {"loss", "tokens", "mfu"}
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(1, 2.5), (2, 2.25)]
    assert [event.value for event in read.Scalars("tokens")] == [1024, 2048]
    assert [(event.step, event.value) for event in read.Scalars("mfu")] == [(2, 0.25)]
    (sample,) = read.Tensors("sample/text_summary")
    (text,) = sample.tensor_proto.string_val
    assert sample.step == 2
    html = pytest.importorskip("markdown").markdown(text.decode())
    assert html == "<pre><code>*ROMEO*:\n\n  &lt;b&gt;Ha!\n</code></pre>"


def test_tensorboard_hides_the_steps_that_are_taken_again(tmp_path):
    pytest.importorskip("tensorboard")
    with TensorBoardLog(tmp_path) as log:
        for step in (1, 2, 3, 4):
            log.write(step=step, loss=float(step))
    with TensorBoardLog(tmp_path, resume_at=2) as log:
        log.write(step=3, loss=30.0)
    losses = [(event.step, event.value) for event in events(tmp_path).Scalars("loss")]
    assert losses == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_without_tensorboard_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"\(not installed\); run: pip install 'scratchlm\[viz\]'"):
        TensorBoardLog(tmp_path / "tensorboard")
    assert not any(tmp_path.iterdir())


def test_tensorboard_and_torch_are_imported_when_first_used():
    code = (
        "import sys, scratchlm.training.log; print(*{'torch', 'tensorboard'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_smoothed_is_adams_corrected_average():
    rng = random.Random(0)
    smoothed, m, beta = Smoothed(0.9), 0.0, 0.9
    for t in range(1, 200):
        x = rng.gauss(5, 1)
        m = beta * m + (1 - beta) * x
        assert smoothed.update(x) == pytest.approx(m / (1 - beta**t), rel=1e-12)


def test_smoothed_starts_at_the_first_value_and_keeps_a_constant():
    smoothed = Smoothed(0.99)
    assert [smoothed.update(0.1) for _ in range(50)] == pytest.approx([0.1] * 50, rel=1e-14)
    assert Smoothed(0.99).update(6.25) == 6.25
    nothing = Smoothed(0)
    assert [nothing.update(x) for x in (3.0, 1.0, 2.0)] == [3.0, 1.0, 2.0]
    for beta in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="beta"):
            Smoothed(beta)


def test_smoothed_goes_on_from_its_state_to_the_bit():
    values = [random.Random(1).gauss(0, 1) for _ in range(20)]
    through = Smoothed(0.95)
    expected = [through.update(value) for value in values]
    first = Smoothed(0.95)
    for value in values[:7]:
        first.update(value)
    resumed = Smoothed(0.95, json.loads(json.dumps(first.state())))
    assert [resumed.update(value) for value in values[7:]] == expected[7:]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux keeps it there")
def test_the_peak_of_a_process_is_in_bytes():
    """At least what is resident now, by another count, and nowhere near a thousand times it."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    peak = peak_memory(torch.device("cpu"))
    assert 0.95 * resident <= peak < 50 * resident


def test_the_peak_of_a_process_has_the_unit_of_its_system(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=7))
    for system, peak in {"linux": 7 * 1024, "darwin": 7, "win32": None}.items():
        monkeypatch.setattr("sys.platform", system)
        assert peak_memory(torch.device("cpu")) == peak
    assert peak_memory(torch.device("mps")) is None


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_that_of_its_tensors():
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    x = torch.empty(1 << 20, dtype=torch.uint8, device=device)
    del x
    assert peak_memory(device) == before + (1 << 20)
