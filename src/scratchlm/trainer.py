"""The only training loop: accumulate, clip, step, validate, log, save, resume.

    micro-batches(step) ─> objective.backward(), accumulated ─> clip ─> lr(step) ─> optimizer.step()
                                   every N steps: validate, sample, save

Everything a step draws on is a function of the seed and the step, or is in the checkpoint, so a
resumed run takes the very steps that the uninterrupted one would have taken. Compilation, DDP and
FSDP wrap the `objective` from outside; nothing here asks which.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scratchlm.checkpoint import read_checkpoint
from scratchlm.checkpoint_folder import CheckpointFolder
from scratchlm.checkpoint_pointers import naming_an_earlier
from scratchlm.compilation import compiling
from scratchlm.data.batches import Batch
from scratchlm.data.prefetch import loaded_ahead
from scratchlm.distributed import ALONE, Ranks, as_lost_rank, reducing
from scratchlm.errors import Interrupted, NumericalError
from scratchlm.lock import locked
from scratchlm.micro_batches import Batches, MicroBatches, StepBatches
from scratchlm.model.transformer import Transformer
from scratchlm.objective import Objective
from scratchlm.optim.clip import scale_gradients
from scratchlm.progress import Progress, Record, to_numbers
from scratchlm.run_state import (
    all_rng_states,
    changes,
    check,
    environment,
    how_to_go_on,
    news_of,
    restore_keeping_settings,
    set_own_rng_state,
    validated_otherwise,
)
from scratchlm.runtime import autocast, deferred_signals
from scratchlm.trainer_config import TrainerConfig
from scratchlm.validation import check_finite, mean_loss

__all__ = ["Trainer", "TrainerConfig"]


class Trainer:
    """Trains `model` in place; `fit` runs until `config.iterations` steps are done.

    schedule: step (from 1) -> factor on every parameter group's learning rate.
    val_batches: the fixed batches of validation. bytes_of: (vocab,) bytes of text of each id, for
    bits per byte. With `config.out` a folder, the log and checkpoints go there; without one nothing
    is written. `extra` is stored in each checkpoint (the recipe, the tokenizer's text, which data
    it is validated on); `data_id` says in plain values which batches are drawn, and a checkpoint
    with another is not resumed.
    objective: `Objective(model)`, where it is compiled or spread over `ranks`. sample: model ->
    text, for `config.sample_every`. peak: FLOP/s of all devices, for the log's MFU.
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
        objective: nn.Module | None = None,
        ranks: Ranks = ALONE,
        compiled: bool = False,
        recomputed: bool = False,
        sample: Callable[[nn.Module], str] | None = None,
        flops_per_token: float = 0.0,
        peak: float | None = None,
    ) -> None:
        if config.iterations is None:
            raise ValueError("the trainer counts in steps (iterations is None); set iterations")
        if iter(val_batches) is val_batches:
            raise ValueError("val_batches are read again and again (a generator); pass a list")
        self.model, self.optimizer, self.config = model, optimizer, config
        self.objective = Objective(model, config.z_loss) if objective is None else objective
        self.params = [param for param in model.parameters() if param.requires_grad]
        self.iterations = config.iterations
        self.schedule, self.val_batches, self.bytes_of = schedule, val_batches, bytes_of
        self.device, self.dtype, self.ranks = self.params[0].device, dtype, ranks
        self.extra, self.data_id, self.sample = extra or {}, data_id or {}, sample
        self.flops_per_token, self.peak = flops_per_token, peak
        self.micro_batches = MicroBatches(batches, config, ranks, pinned=self.device.type == "cuda")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        # A gradient that is too large for fp16 is no error: that step is skipped, and scaled less.
        self.finite = ("loss",) if self.scaler.is_enabled() else ("loss", "grad_norm")
        self.compiling = compiling if compiled else nullcontext
        self.environment = environment(model, dtype, compiled, recomputed, ranks)
        self.out = None if config.out is None else Path(config.out)
        self.folder: CheckpointFolder | None = None
        if self.out:
            folder = self.out / "checkpoints"
            self.folder = CheckpointFolder(folder, config.save_format, config.keep_last, ranks)
        self.step, self.tokens = 0, 0
        # Before: as of the last save that is known to be whole.
        self.best_val_loss, self.best_step = self.best_before = (math.inf, 0)
        self.smoothed: dict[str, float] | None = None
        self.history: list[dict[str, Any]] = []
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        # Waiting for an accelerator costs; a CPU's figures are there, and a step can be refused.
        self.look_every = 1 if self.device.type == "cpu" else config.log_every

    def fit(self) -> None:
        """Train to the last step. Raises Interrupted after a signal, NumericalError for a loss or
        gradient that is not finite. Whatever ends it, the last good checkpoint stays, and is named
        in a note of the exception."""
        if self.step >= self.iterations:
            if self.folder:
                self.folder.go_on_from(self.saved, self.best_step, back=False)
            return
        try:
            with ExitStack() as stack:
                if self.out and self.ranks.first:
                    stack.enter_context(locked(self.out))
                if self.folder:
                    stack.enter_context(self.folder)
                    if self.step:
                        self.folder.go_on_from(self.saved, self.best_step)
                progress = stack.enter_context(self._progress())
                stopped_by = stack.enter_context(deferred_signals())
                load = loaded_ahead(self.micro_batches.of, last=self.iterations - 1)
                self._loop(progress, stopped_by, stack.enter_context(load))
        except Exception as error:
            error = as_lost_rank(error, self.ranks)
            if self.saved and self.out:
                error.add_note(how_to_go_on(error, self.saved, self.out, self.optimizer))
            raise error

    def _loop(
        self, progress: Progress, stopped_by: Sequence[int], load: Callable[[int], StepBatches]
    ) -> None:
        config = self.config
        while self.step < self.iterations:
            record = self.train_step(load(self.step))
            progress.note(record)
            last = self.step == self.iterations
            validate = bool(self.val_batches) and (last or _due(self.step, config.eval_every))
            sample = self.ranks.first and _due(self.step, config.sample_every)
            save = last or _due(self.step, config.save_every)
            look = _due(self.step, self.look_every) or _due(self.step, config.sample_every)
            if not (validate or save or look):
                continue
            stop = self.ranks.any(bool(stopped_by), self.device)
            try:
                for each in progress.read():
                    check_finite(each, *self.finite)
                if validate:
                    record |= self.validate()
            except NumericalError:
                progress.write()  # the steps that led to it
                raise
            found = record.get("val_loss", math.inf)
            save |= self._lost_a_save(wait=save or stop or found < self.best_val_loss)
            improved = found < self.best_val_loss
            if improved:
                self.best_val_loss, self.best_step = found, self.step
            if sample and self.sample is not None:
                record["sample"] = self.sample(self.model)
            self.smoothed = progress.smoothed.state()
            progress.write()
            if self.folder and (save or improved or stop):
                self.save(best=improved)
                progress.restart_clock()
            if stop and not last:
                if self.folder:
                    self.folder.wait()
                number = stopped_by[0] if stopped_by else signal.SIGTERM  # another rank's
                raise Interrupted(number, f"stopped at step {self.step} of {self.iterations}")

    def train_step(self, batches: StepBatches | None = None) -> Record:
        """One optimizer step, on the batches of its number, which may have been loaded before.
        Returns its line of the log, in which figures may still be tensors."""
        self.objective.train()
        self.optimizer.zero_grad(set_to_none=True)
        micro, own_targets, num_forward = batches or self.micro_batches.of(self.step)
        num_targets = self.ranks.total(own_targets, self.device)
        loss = torch.zeros((), device=self.device)
        for i, (inputs, targets) in enumerate(micro):
            # Sums over all micro-batches and ranks / all targets: equal to one large batch, even
            # where the micro-batches hold different numbers of targets.
            with self.compiling(), reducing(self.objective, now=i == len(micro) - 1):
                total, nats, routers = self._losses(inputs, targets)
                mean = total / num_targets + routers / num_forward
                self.scaler.scale(mean * self.ranks.size).backward()  # ranks are averaged
            loss += nats / num_targets
        self.ranks.sum(loss)
        self.scaler.unscale_(self.optimizer)
        grad_norm = scale_gradients(self.params, self.config.max_grad_norm)
        step = self.step + 1
        lr = self._set_lr(step)
        self.tokens += sum(inputs.numel() for inputs, _ in micro) * self.ranks.size
        record = {"step": step, "tokens": self.tokens, "loss": loss, "lr": lr,
                  "grad_norm": grad_norm}  # fmt: skip
        if _due(step, self.look_every):
            if isinstance(self.model, Transformer) and (load := self.model.expert_load()):
                record["expert_load"] = load  # shares of the last micro-batch, layer by layer
            if self.scaler.is_enabled():
                record["loss_scale"] = self.scaler.get_scale()
        if self.look_every == 1:
            to_numbers([record])
            check_finite(record, *self.finite)  # before the step does harm
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step = step
        return record

    def _losses(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """inputs, targets (batch, seq) -> what `Objective` gives: loss, nats, routers' loss."""
        inputs = inputs.to(self.device, non_blocking=True)
        targets = targets.to(self.device, non_blocking=True)
        with autocast(self.device, self.dtype):
            return self.objective(inputs, targets)

    def _nats(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with self.compiling():
            return self._losses(inputs, targets)[1]

    def _set_lr(self, step: int) -> float:
        factor = self.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return self.optimizer.param_groups[0]["lr"]

    def validate(self) -> dict[str, float]:
        """Mean loss over the fixed validation batches, and bits per byte where bytes are known."""
        self.objective.eval()
        found = mean_loss(self._nats, self.val_batches, self.ranks, self.bytes_of)
        check_finite({"step": self.step, **found}, "val_loss")
        return found

    # --- checkpoints ---------------------------------------------------------------------------

    def _lost_a_save(self, wait: bool) -> bool:
        """Whether the last write failed, on any rank. If the best was in it, the one before is."""
        failed = self.folder is not None and self.folder.failed(wait)
        if lost := self.ranks.any(failed, self.device):
            self.best_val_loss, self.best_step = self.best_before
        elif wait:
            self.best_before = self.best_val_loss, self.best_step
        return lost

    def save(self, *, best: bool = False) -> None:
        """Take the state of this step; a thread writes it, and lets `last` (and `best`) name it."""
        assert self.folder is not None
        self.folder.save(
            self.model,
            self.optimizer,
            self.step,
            best=best,
            best_val_loss=self.best_val_loss,
            best_step=self.best_step,
            smoothed=self.smoothed,
            tokens=self.tokens,
            cursor=self.micro_batches.cursor(self.step),
            scaler=self.scaler.state_dict(),
            optimizer_name=type(self.optimizer).__name__,
            rng=all_rng_states(self.ranks),
            data_id=self.data_id,
            environment=self.environment,
            history=self.history,
            **self.extra,
        )

    def resume(self, path: str | Path) -> list[str]:
        """Go on from a checkpoint: weights, optimizer, step, random states. Returns what there is
        to say: what was changed, and why the run may not be equal to the bit to one uninterrupted.
        Learning rate, decay and betas are those of the optimizer at hand."""
        with naming_an_earlier(Path(path)):
            payload = read_checkpoint(path, mapped=self.ranks.size > 1)
        check(payload, path, data_id=self.data_id, cursor=self.micro_batches.cursor,
              optimizer_name=type(self.optimizer).__name__, iterations=self.iterations)  # fmt: skip
        restore_keeping_settings(payload, self.model, self.optimizer, str(path))
        self.step, self.tokens = payload["step"], payload["tokens"]
        self.best_val_loss, self.best_step = payload["best_val_loss"], payload["best_step"]
        self.smoothed, self.history = payload["smoothed"], payload["history"]
        if payload["scaler"]:
            self.scaler.load_state_dict(payload["scaler"])
        if self.folder:
            self.folder.saved = Path(path)
        set_own_rng_state(payload["rng"], self.ranks, self.config.seed + self.step)
        if changed := changes(payload.get("recipe", {}), self.extra.get("recipe", {})):
            self.history = [*self.history, {"step": self.step, "changed": changed}]
        if otherwise := validated_otherwise(payload, self.extra):
            self.best_val_loss = math.inf  # what was the best is kept until there is another
        self.best_before = self.best_val_loss, self.best_step
        news = news_of(changed, otherwise, payload["environment"], self.environment)
        return [f"resumed at step {self.step}: {path}", *news]

    # --- what is said --------------------------------------------------------------------------

    @property
    def saved(self) -> Path | None:
        """The last checkpoint that is whole."""
        return self.folder.saved if self.folder else None

    def _progress(self) -> Progress:
        return Progress(
            self.step, self.iterations, self.device, out=self.out, speaks=self.ranks.first,
            tensorboard=self.config.tensorboard, smoothed=self.smoothed, tokens=self.tokens,
            flops_per_token=self.flops_per_token, peak=self.peak,
        )  # fmt: skip


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
