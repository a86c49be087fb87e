"""The output of a run: the progress bar, status lines and the logs.

`note` takes figures that may still be on the GPU. `read` synchronizes once for all of them.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from scratchlm.costs.gpus import mfu
from scratchlm.training.log import JsonlLog
from scratchlm.training.peak_memory import peak_memory
from scratchlm.training.smoothed import Smoothed
from scratchlm.training.tensorboard import TensorBoardLog

Record = dict[str, Any]

# The figures of a step that a person reads, in this order.
_SHOWN = {
    "loss": "loss {:.4f}",
    "reward_accuracy": "reward_accuracy {:.1%}",
    "reward_margin": "reward_margin {:.4f}",
    "val_loss": "val_loss {:.4f}",
    "val_bits_per_byte": "bits/byte {:.4f}",
    "val_reward_accuracy": "val_reward_accuracy {:.1%}",
    "val_reward_margin": "val_reward_margin {:.4f}",
}


class Progress:
    """The progress from step `start` to `total`.

    speaks: whether this rank prints and logs; only rank 0 does. tokens: the number of tokens before
    `start`. out: the folder of `log.jsonl` and `tensorboard/`. flops_per_token and peak (FLOP/s of
    all devices together, None if unknown) determine the MFU.
    """

    def __init__(
        self,
        start: int,
        total: int,
        device: torch.device,
        *,
        out: Path | None = None,
        tensorboard: bool = False,
        speaks: bool = True,
        smoothed: dict[str, float] | None = None,
        tokens: int = 0,
        flops_per_token: float = 0.0,
        peak: float | None = None,
    ) -> None:
        self.total, self.device = total, device
        self.smoothed = Smoothed(state=smoothed)
        self.flops_per_token, self.peak = flops_per_token, peak
        self._noted: list[Record] = []
        self._tokens, self._since = tokens, time.perf_counter()
        self._start, self._began = start, time.monotonic()
        self._stack = ExitStack()
        self._logs: list[JsonlLog | TensorBoardLog] = []
        if out is not None and speaks:
            self._logs.append(self._stack.enter_context(JsonlLog(out / "log.jsonl", start)))
            if tensorboard:
                board = TensorBoardLog(out / "tensorboard", start)
                self._logs.append(self._stack.enter_context(board))
        self._bar = tqdm(total=total, initial=start, unit="step", disable=None if speaks else True)
        self._stack.enter_context(self._bar)
        # Without a bar, twenty lines show that the run is alive.
        self._sign_of_life = max(1, total // 20) if speaks and self._bar.disable else 0
        self.speaks = speaks

    def note(self, record: Record) -> None:
        """Add the figures of a step. Some figures may be 0-dim tensors."""
        self._noted.append(record)
        self._bar.update()

    def read(self) -> list[Record]:
        """Return the records since the last `write` as numbers. This synchronizes the device."""
        to_numbers(self._noted)
        seconds = time.perf_counter() - self._since
        speed = (self._noted[-1]["tokens"] - self._tokens) / seconds
        for record in self._noted:
            record["loss_smoothed"] = self.smoothed.update(record["loss"])
            record["tokens_per_second"] = round(speed, 1)
            record["mfu"] = mfu(speed, self.flops_per_token, self.peak)
            record["memory"] = peak_memory(self.device)
        return self._noted

    def write(self, *, but: int = 0) -> None:
        """Log the records, print the last one and restart the throughput clock.

        but: keep the last `but` records for later, and print nothing yet.
        """
        number = len(self._noted) - but
        for record in self._noted[:number]:
            for log in self._logs:
                log.write(**record)
        if but:
            self._noted = self._noted[number:]
            return
        self._tokens = self._noted[-1]["tokens"]
        if self.speaks:
            self._say(self._noted[-1])
        self._noted = []
        self.restart_clock()

    def set_total(self, total: int) -> None:
        """Let the run end at step `total`, because its pace differs from the plan."""
        if self.speaks:
            why = "fewer" if total < self.total else "more"
            tqdm.write(f"{why} steps fit into the time: {self.total} -> {total} iterations")
        self.total = self._bar.total = total

    def restart_clock(self) -> None:
        """Leave the time since the last `write` out of the throughput: it was not training time."""
        self._since = time.perf_counter()

    def _say(self, record: Record) -> None:
        shown = {"loss": f"{record['loss_smoothed']:.3f}", "lr": f"{record['lr']:.1e}"}
        if "reward_accuracy" in record:
            shown["reward_accuracy"] = f"{record['reward_accuracy']:.0%}"
        self._bar.set_postfix(shown, refresh=False)
        step = record["step"]
        alive = self._sign_of_life and step % self._sign_of_life == 0
        if "val_loss" in record or step == self.total or alive:
            tqdm.write(f"{line_of(record, self.total)}  {self._time(step)}")
        if "sample" in record:
            tqdm.write(f"--- a sample at step {step}\n{record['sample']}\n---")

    def _time(self, step: int) -> str:
        """Return the elapsed and the remaining time, such as `01:10, 09:40 remaining`."""
        seconds = time.monotonic() - self._began
        left = seconds / (step - self._start) * (self.total - step)
        return f"{tqdm.format_interval(seconds)}, {tqdm.format_interval(left)} remaining"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._stack.close()


def line_of(record: Record, total: int) -> str:
    """Return the line of a step that a person reads."""
    parts = [f"step {record['step']}/{total}"]
    parts += [text.format(record[name]) for name, text in _SHOWN.items() if name in record]
    parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    if record["mfu"] is not None:
        parts.append(f"MFU {record['mfu']:.1%}")
    return "  ".join(parts)


def to_numbers(records: list[Record]) -> None:
    """Turn every 0-dim tensor into a float, with one transfer from the device."""
    places = [
        (record, key)
        for record in records
        for key, value in record.items()
        if isinstance(value, Tensor)
    ]
    if places:
        together = torch.stack([record[key].float() for record, key in places])
        for (record, key), value in zip(places, together.tolist(), strict=True):
            record[key] = value
