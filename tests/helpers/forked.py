"""Start and kill processes. They are forks, so they do not import torch again."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scratchlm.devices.ranks import joined

FORK = multiprocessing.get_context("fork")


def start(function: Callable[..., Any], *args: Any, file: Path | None = None) -> Any:
    """Start a process that calls `function`, and pickles the result or the exception into
    `file`."""

    def body() -> None:
        torch.set_num_threads(1)
        try:
            result: Any = ("ok", function(*args))
        except BaseException as error:
            result = ("error", (type(error).__name__, str(error), traceback.format_exc()))
        if file is not None:
            file.write_bytes(pickle.dumps(result))
        os._exit(0 if result[0] == "ok" else 1)

    process = FORK.Process(target=body)
    process.start()
    return process


def wait(process: Any, seconds: float = 120) -> int | None:
    process.join(seconds)
    if process.is_alive():
        process.kill()
        raise TimeoutError("the process did not end")
    return process.exitcode


def kill_after(process: Any, seconds: float) -> bool:
    """Send SIGKILL. Return whether the process was still running."""
    process.join(seconds)
    killed = process.is_alive()
    if killed:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return killed


def start_ranks(folder: Path, size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Start `size` processes as torchrun does. Their first argument is their `Ranks`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def body(rank: int) -> Any:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
                       "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
                       "LOCAL_WORLD_SIZE": str(size)}  # fmt: skip
        with joined() as ranks:
            return function(ranks, *args)

    return [start(body, rank, file=folder / f"rank-{rank}.pickle") for rank in range(size)]


def traceback_in(file: Path) -> str:
    """Return what `start` wrote into the file."""
    return str(pickle.loads(file.read_bytes())[1][2]) if file.exists() else "killed"


def answer(folder: Path, rank: int) -> Any:
    """Return ("ok", the result of a rank), or ("error", (the exception's name, its text,
    traceback))."""
    return pickle.loads((folder / f"rank-{rank}.pickle").read_bytes())


def run_ranks(folder: Path, size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Return the result of each rank. If a rank raised, raise AssertionError with its traceback."""
    processes = start_ranks(folder, size, function, *args)
    deadline = time.monotonic() + 120
    for process in processes:
        wait(process, max(1.0, deadline - time.monotonic()))
    answers = [answer(folder, rank) for rank in range(size)]
    for kind, value in answers:
        assert kind == "ok", value[2]
    return [value for _, value in answers]
