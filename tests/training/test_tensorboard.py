from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scratchlm.training.tensorboard import TensorBoardLog


def events(folder: Path):
    """Return the values that TensorBoard reads."""
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
    code = """import sys, scratchlm.training.log, scratchlm.training.tensorboard
print(*{"torch", "tensorboard"} & sys.modules.keys())"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
