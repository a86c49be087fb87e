"""The only training loop: accumulate, clip, step, validate, log, save, resume.

    batch(step) ─> loss.backward(), accumulated ─> clip ─> lr(step) ─> optimizer.step()
                                every N steps: validate, save

Everything a step draws on is a function of the seed and the step, or is in the checkpoint, so a
resumed run takes the very steps that the uninterrupted one would have taken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from scratchlm.checkpoint import read_checkpoint, restore
from scratchlm.checkpoint_folder import CheckpointFolder
from scratchlm.data.batches import Batch
from scratchlm.errors import FileFormatError, Interrupted, NumericalError
from scratchlm.functional import IGNORED
from scratchlm.metrics import JsonlLog, bits_per_byte
from scratchlm.model.transformer import Transformer
from scratchlm.optim.clip import clip_grad_norm
from scratchlm.runtime import autocast, deferred_signals, rng_state, set_rng_state


class Batches(Protocol):
    """A pure function of the micro-step: (inputs, targets), both (batch, seq), -100 not counted."""

    def batch(self, step: int) -> Batch: ...


@dataclass(frozen=True)
class TrainerConfig:
    """`batch_size`: sequences a micro-batch; `accumulate`: micro-batches a step. `iterations`
    steps, or `epochs` passes over the data. Validation and saving also happen at the last step;
    0 is only then. `eval_batches` 0 is the whole set. `keep_last`: checkpoints kept beside the best
    (0 keeps all)."""

    out: str | None = None
    iterations: int | None = None
    epochs: float | None = None
    batch_size: int = 32
    accumulate: int = 1
    max_grad_norm: float = 1.0
    eval_every: int = 250
    eval_batches: int = 50
    save_every: int = 1000
    save_format: Literal["directory", "pt"] = "directory"
    keep_last: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations is not None and self.epochs is not None:
            raise ValueError(
                f"iterations and epochs exclude each other ({self.iterations} and {self.epochs}); "
                "give one of them"
            )
        ranges = {"iterations": (1, 10**12), "batch_size": (1, 10**6), "accumulate": (1, 10**6),
                  "eval_every": (0, 10**12), "eval_batches": (0, 10**9), "save_every": (0, 10**12),
                  "keep_last": (0, 10**9), "seed": (0, 2**63 - 1)}  # fmt: skip
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                bound = f"at least {least}" if value < least else f"at most {most}"
                raise ValueError(f"train.{name} is {bound} ({value}); give such a number")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise ValueError(f"train.epochs is above 0, and finite ({self.epochs}); change it")
        if not self.max_grad_norm > 0:
            raise ValueError(
                f"train.max_grad_norm is above 0 ({self.max_grad_norm}); inf clips nothing"
            )


class Trainer:
    """Trains `model` in place; `fit` runs until `config.iterations` steps are done.

    schedule: step (from 1) -> factor on every parameter group's learning rate.
    val_batches: the fixed batches of validation. bytes_of: (vocab,) bytes of text of each id, for
    bits per byte. With `config.out` a folder, the log and checkpoints go there; without one nothing
    is written. `extra` is stored in each checkpoint (the recipe, the tokenizer's text); `data_id`
    says in plain values which batches are drawn, and a checkpoint with another is not resumed.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        config: TrainerConfig,
        *,
        schedule: Callable[[int], float] = lambda step: 1.0,
        val_batches: Iterable[Batch] = (),
        bytes_of: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        extra: dict[str, Any] | None = None,
        data_id: dict[str, Any] | None = None,
    ) -> None:
        if config.iterations is None:
            raise ValueError("the trainer counts in steps (iterations is None); set iterations")
        if iter(val_batches) is val_batches:
            raise ValueError("val_batches are read again and again (a generator); pass a list")
        self.model, self.optimizer, self.batches, self.config = model, optimizer, batches, config
        self.iterations = config.iterations
        self.schedule, self.val_batches, self.bytes_of = schedule, val_batches, bytes_of
        self.device, self.dtype = next(model.parameters()).device, dtype
        self.extra, self.data_id = extra or {}, data_id or {}
        self.out = None if config.out is None else Path(config.out)
        self.folder: CheckpointFolder | None = None
        if self.out:
            folder = self.out / "checkpoints"
            self.folder = CheckpointFolder(folder, config.save_format, config.keep_last)
        self.step = 0
        self.best_val_loss, self.best_step = math.inf, 0
        self.saved: Path | None = None  # the last checkpoint
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def fit(self) -> None:
        """Train to the last step. Raises Interrupted after a signal, NumericalError for a loss or
        gradient that is not finite; both leave the last good checkpoint."""
        if self.folder and self.step:
            self.folder.point_best_at(self.best_step)
        with ExitStack() as stack:
            log = (
                stack.enter_context(JsonlLog(self.out / "log.jsonl", self.step))
                if self.out
                else None
            )
            stopped_by = stack.enter_context(deferred_signals())
            bar = stack.enter_context(
                tqdm(total=self.iterations, initial=self.step, unit="step", disable=None)
            )
            while self.step < self.iterations:
                record = self.train_step()
                bar.update()
                bar.set_postfix(loss=f"{record['loss']:.3f}", lr=f"{record['lr']:.1e}")
                last = self.step == self.iterations
                improved = False
                if self.val_batches and (last or _due(self.step, self.config.eval_every)):
                    record |= self.validate()
                    improved = record["val_loss"] < self.best_val_loss
                    if improved:
                        self.best_val_loss, self.best_step = record["val_loss"], self.step
                if log:
                    log.write(**record)
                sign_of_life = bar.disable and _due(self.step, max(1, self.iterations // 20))
                if "val_loss" in record or last or sign_of_life:
                    tqdm.write(self._line(record))
                if self.out and (
                    last or improved or stopped_by or _due(self.step, self.config.save_every)
                ):
                    self.save(best=improved)
                if stopped_by and not last:
                    raise Interrupted(stopped_by[0], self._stopped_line())

    def train_step(self) -> dict[str, Any]:
        """One optimizer step; returns its line of the log."""
        start = time.perf_counter()
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        first = self.step * self.config.accumulate
        micro = [self.batches.batch(first + i) for i in range(self.config.accumulate)]
        num_targets = sum(int((targets != IGNORED).sum()) for _, targets in micro)
        if num_targets == 0:
            raise ValueError(f"no target counts (all are -100 at step {self.step + 1}); mask fewer")
        total = torch.zeros((), device=self.device)
        for inputs, targets in micro:
            # The sum over all micro-batches / all targets: equal to one large batch, even
            # where the micro-batches hold different numbers of targets.
            loss = self._sum_loss(inputs, targets) / num_targets
            (loss + self._router_loss() / self.config.accumulate).backward()
            total += loss.detach()
        step = self.step + 1
        if not math.isfinite(total.item()):
            raise NumericalError(self._not_finite("loss", total.item(), step))
        try:
            grad_norm = clip_grad_norm(self.model.parameters(), self.config.max_grad_norm)
        except NumericalError:
            raise NumericalError(self._not_finite("gradient norm", math.nan, step)) from None
        factor = self.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimizer.step()
        self.step = step
        tokens = sum(inputs.numel() for inputs, _ in micro)
        return {
            "step": step,
            "loss": total.item(),
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": float(grad_norm),
            "tokens_per_second": round(tokens / (time.perf_counter() - start), 1),
            **self._expert_load(),
        }

    def _router_loss(self) -> Tensor | float:
        """What the experts' routers lost in the last forward pass, beside the cross-entropy."""
        loss = self.model.auxiliary_loss() if isinstance(self.model, Transformer) else None
        return 0.0 if loss is None else loss

    def _expert_load(self) -> dict[str, list[list[float]]]:
        """For the log: each expert's share of the last micro-batch, layer by layer."""
        load = self.model.expert_load() if isinstance(self.model, Transformer) else []
        return {"expert_load": load} if load else {}

    def _sum_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, summed over the targets; inputs and targets (batch, seq)."""
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        with autocast(self.device, self.dtype):
            logits = self.model(inputs)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean loss over the fixed validation batches, and bits per byte where bytes are known."""
        self.model.eval()
        nats, count, text_bytes = 0.0, 0, 0
        for inputs, targets in self.val_batches:
            nats += self._sum_loss(inputs, targets).item()
            counted = targets[targets != IGNORED]
            count += counted.numel()
            if self.bytes_of is not None:
                text_bytes += int(self.bytes_of[counted].sum())
        if count == 0:
            raise ValueError("no target counts in the validation data (all are -100); mask fewer")
        loss = nats / count
        if not math.isfinite(loss):
            raise NumericalError(self._not_finite("validation loss", loss, self.step))
        if not text_bytes:
            return {"val_loss": loss}
        return {"val_loss": loss, "val_bits_per_byte": bits_per_byte(loss, text_bytes / count)}

    # --- checkpoints ---------------------------------------------------------------------------

    def save(self, *, best: bool = False) -> None:
        """Write the checkpoint of this step and let `last` (and `best`) name it."""
        assert self.folder is not None
        self.saved = self.folder.save(
            self.model,
            self.optimizer,
            self.step,
            best=best,
            best_val_loss=self.best_val_loss,
            best_step=self.best_step,
            optimizer_name=type(self.optimizer).__name__,
            rng=rng_state(),
            data_id=self.data_id,
            **self.extra,
        )

    def resume(self, path: str | Path) -> None:
        """Go on from a checkpoint: weights, optimizer, step, random states.

        Hyperparameters (learning rate, decay, betas) are those of the optimizer at hand: equal to
        the saved ones unless the user changed them.
        """
        payload = read_checkpoint(path)
        for key in ("rng", "best_val_loss", "best_step", "optimizer_name", "data_id"):
            if key not in payload:
                raise FileFormatError(
                    f"not a trainer's checkpoint ({path} has no {key}); resume from a run's "
                    "folder, or start a new run"
                )
        for key in self.data_id | payload["data_id"]:
            here, there = self.data_id.get(key), payload["data_id"].get(key)
            if here != there:
                raise FileFormatError(
                    f"the run would go on with other batches ({path}: {key} was {there!s:.12}, "
                    f"is now {here!s:.12}); resume with its own, or start a new run"
                )
        name = type(self.optimizer).__name__
        if payload["optimizer_name"] != name:
            raise FileFormatError(
                f"the checkpoint is of another optimizer ({path}: {payload['optimizer_name']}, "
                f"not {name}); use the config it was trained with"
            )
        if payload["step"] > self.iterations:
            raise ValueError(
                f"the checkpoint is past the last step ({payload['step']} of {self.iterations}); "
                "give more iterations"
            )
        chosen = [
            {key: value for key, value in group.items() if key != "params"}
            for group in self.optimizer.param_groups
        ]
        restore(payload, self.model, self.optimizer, name=str(path))
        for group, settings in zip(self.optimizer.param_groups, chosen, strict=True):
            group.update(settings)
        self.step, self.saved = payload["step"], Path(path)
        self.best_val_loss, self.best_step = payload["best_val_loss"], payload["best_step"]
        set_rng_state(payload["rng"])

    # --- what is said --------------------------------------------------------------------------

    def _line(self, record: dict[str, Any]) -> str:
        parts = [f"step {record['step']}/{self.iterations}", f"loss {record['loss']:.4f}"]
        if "val_loss" in record:
            parts.append(f"val_loss {record['val_loss']:.4f}")
        if "val_bits_per_byte" in record:
            parts.append(f"bits/byte {record['val_bits_per_byte']:.4f}")
        return "  ".join([*parts, f"{record['tokens_per_second']:,.0f} tokens/s"])

    def _not_finite(self, what: str, value: float, step: int) -> str:
        kept = f"; the last good checkpoint is {self.saved}" if self.saved else ""
        return (
            f"the {what} is not finite ({value} at step {step}{kept}); lower the learning "
            "rate, lengthen the warm-up, or check the data"
        )

    def _stopped_line(self) -> str:
        where = (
            f"saved {self.saved}; go on with scratchlm-train --resume {self.out}"
            if self.out
            else "not saved"
        )
        return f"stopped at step {self.step} of {self.iterations}; {where}"


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
