from __future__ import annotations

import random
import signal

import numpy as np
import pytest
import torch

from scratchlm.devices.runtime import (
    autocast,
    deferred_signals,
    resolve_device,
    resolve_dtype,
    rng_state,
    set_rng_state,
)
from scratchlm.devices.runtime_config import RuntimeConfig


def test_auto_is_a_device_that_is_there():
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "", "cpu:1", "meta", "xpu"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=rf"\({name}\)"):
        resolve_device(name)


def test_auto_is_bfloat16_only_where_it_is_native(monkeypatch):
    cpu = torch.device("cpu")
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda native=native: {"avx512_bf16": native}
        )
        assert resolve_dtype("auto", cpu) == dtype
    assert resolve_dtype("float32", cpu) == torch.float32
    assert resolve_dtype("bfloat16", cpu) == torch.bfloat16


def test_autocast_multiplies_in_its_dtype():
    x = torch.ones(2, 2)
    with autocast(torch.device("cpu"), torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), torch.float32):
        assert (x @ x).dtype == torch.float32


def test_random_states_come_back():
    def draw():
        return random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item()

    np.random.randn()  # leaves half of a pair behind, which is part of the state
    state = rng_state()
    first = draw()
    assert draw() != first
    set_rng_state(state)
    assert draw() == first


def test_threads_are_checked():
    with pytest.raises(ValueError, match=r"runtime.threads must be from 0 to 4096 \(-1\)"):
        RuntimeConfig(threads=-1)


def test_one_signal_waits_and_a_second_does_not():
    with deferred_signals() as noted:
        signal.raise_signal(signal.SIGINT)
        assert list(noted) == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
