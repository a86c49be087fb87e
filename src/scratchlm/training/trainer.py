"""The only training loop: accumulate, clip, step, validate, log, save, resume.

    micro-batches(step) ─> objective.backward(), accumulated ─> clip ─> lr(step) ─> optimizer.step()
                                   every N steps: validate, sample, save

Everything that a step uses is a function of seed and step, or is in the checkpoint. So a resumed
run takes the same steps as an uninterrupted run. Compilation, DDP and FSDP wrap the `objective`
from outside, and the loop does not know which.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scratchlm.checkpoint.payload import best_with_its_own
from scratchlm.checkpoint.pointers import naming_an_earlier
from scratchlm.checkpoint.run_folder import CheckpointFolder
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.config import takes_synonyms
from scratchlm.data.prefetch import loaded_ahead
from scratchlm.devices.batch import Batch
from scratchlm.devices.compilation import compiling
from scratchlm.devices.ranks import ALONE, Ranks, as_lost_rank, reducing
from scratchlm.devices.runtime import autocast, deferred_signals
from scratchlm.errors import Interrupted, NumericalError
from scratchlm.files.lock import locked
from scratchlm.files.paths import StrPath
from scratchlm.model.transformer import Transformer
from scratchlm.optim.clip import scale_gradients
from scratchlm.training import resume
from scratchlm.training.micro_batches import Batches, MicroBatches, StepBatches
from scratchlm.training.objective import Objective
from scratchlm.training.progress import Progress, Record, to_numbers
from scratchlm.training.time_limit import TimeLimit
from scratchlm.training.trainer_config import TrainerConfig
from scratchlm.training.validation import check_finite, mean_figures


@dataclass(frozen=True, eq=False)
class Notes:
    """What the log, the screen and the checkpoints contain about a run.

    These values change no step. data_id: plain values that identify the batches; a checkpoint with
    another `data_id` does not resume. extra: more content for each checkpoint (recipe, tokenizer,
    identity of the validation data). compiled: torch compiles the objective. recomputed: activation
    checkpointing. attention: the name of the function that computes attention. bytes_of: (vocab,)
    bytes of each id's text, for bits per byte. sample: model -> text, for `config.sample_every`.
    flops_per_token and peak (FLOP/s of all devices) determine the MFU. sources: number of
    micro-batches -> how many sequences come from each source of a mixture.
    """

    data_id: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    compiled: bool = False
    recomputed: bool = False
    attention: str = "sdpa"
    bytes_of: Tensor | None = None
    sample: Callable[[nn.Module], str] | None = None
    flops_per_token: float = 0.0
    peak: float | None = None
    sources: Callable[[int], list[int]] | None = None


@takes_synonyms()
class Trainer:
    """A trainer changes `model` in place. `fit` trains until step `config.iterations`.

    schedule: step (from 1) -> factor on every parameter group's learning rate. val_batches: the
    fixed validation batches. config.out: the folder of the log and the checkpoints; with None,
    the trainer writes nothing. objective: `Objective(model)`, compiled or spread over `ranks`.
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
        objective: nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
        ranks: Ranks = ALONE,
        notes: Notes | None = None,
    ) -> None:
        notes = Notes() if notes is None else notes
        if config.iterations is None:
            raise ValueError(
                "the trainer needs a number of steps (iterations is None); set iterations"
            )
        if iter(val_batches) is val_batches:
            raise ValueError("val_batches must be readable many times (a generator); pass a list")
        self.model, self.optimizer, self.config = model, optimizer, config
        self.objective = Objective(model, config.z_loss) if objective is None else objective
        self.params = [param for param in model.parameters() if param.requires_grad]
        self.iterations = config.iterations
        self.schedule, self.val_batches = schedule, val_batches
        self.device, self.dtype, self.ranks = self.params[0].device, dtype, ranks
        self.data_id, self.extra = dict(notes.data_id), dict(notes.extra)
        self.bytes_of, self.sample = notes.bytes_of, notes.sample
        self.sources = notes.sources
        self.flops_per_token, self.peak = notes.flops_per_token, notes.peak
        self.micro_batches = MicroBatches(batches, config, ranks, pinned=self.device.type == "cuda")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        # A gradient too large for fp16 is not an error: the scaler skips the step and scales less.
        self.finite = ("loss",) if self.scaler.is_enabled() else ("loss", "grad_norm")
        self.compiling = compiling if notes.compiled else nullcontext
        self.environment = resume.environment(
            model, dtype, notes.compiled, notes.recomputed, ranks, notes.attention
        )
        self.out = None if config.out is None else Path(config.out)
        self.folder: CheckpointFolder | None = None
        if self.out:
            folder = self.out / "checkpoints"
            self.folder = CheckpointFolder(folder, config.save_format, config.keep_last, ranks)
        self.step, self.tokens = 0, 0
        self.limit: TimeLimit | None = None
        # best_before: the best loss and step at the last save that is known to be complete.
        self.best_val_loss, self.best_step = self.best_before = (math.inf, 0)
        self.smoothed: dict[str, float] | None = None
        self.pending: Record | None = None  # a step that waits for its validation
        self.history: list[dict[str, Any]] = []
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        # A GPU's synchronization takes time. On a CPU we check each loss before the weights change.
        self.look_every = 1 if self.device.type == "cpu" else config.log_every

    def fit(self) -> None:
        """Train to the last step.

        Raise Interrupted after a signal. Raise NumericalError if a loss or gradient is not finite.
        A note of the exception contains the path of the last good checkpoint on the disk.
        """
        if self.step >= self.iterations and self.pending is None:
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
                start = self.step - (self.pending is not None)
                progress = stack.enter_context(Progress(
                    start, self.iterations, self.device, out=self.out, speaks=self.ranks.first,
                    tensorboard=self.config.tensorboard, smoothed=self.smoothed,
                    tokens=self.tokens, flops_per_token=self.flops_per_token, peak=self.peak,
                ))  # fmt: skip
                if self.pending is not None:
                    self._finish_step(progress)
                stopped_by = stack.enter_context(deferred_signals())
                load = loaded_ahead(self.micro_batches.of, lambda: self.iterations - 1)
                self._loop(progress, stopped_by, stack.enter_context(load))
        except Exception as error:
            error = as_lost_rank(error, self.ranks)
            if self.saved and self.out:
                error.add_note(resume.how_to_go_on(error, self.saved, self.out, self.optimizer))
            raise error

    def _loop(
        self, progress: Progress, stopped_by: Sequence[int], load: Callable[[int], StepBatches]
    ) -> None:
        config = self.config
        while self.step < self.iterations:
            record = self.train_step(load(self.step))
            progress.note(record)
            look = _due(self.step, self.look_every) or _due(self.step, config.sample_every)
            save = _due(self.step, config.save_every)
            if not (look or save or self.step == self.iterations or self._validation_is_due()):
                continue
            stop = self.ranks.any(bool(stopped_by), self.device)
            try:
                for each in progress.read():
                    check_finite(each, *self.finite)
            except NumericalError:
                progress.write()  # the log keeps the steps before the error
                raise
            self._keep_within_limit(progress)
            last = self.step == self.iterations
            self.smoothed = progress.smoothed.state()
            save |= stop or last
            beside = save or self._validation_is_due() or self._sample_is_due()
            self._validate_and_save(progress, record, save)
            if self.limit and beside:
                self.limit.restart_clock(self.step)
            if stop and not last:
                if self.folder:
                    self.folder.wait()
                # Without a signal of its own, this rank stops for the signal of another rank.
                number = stopped_by[0] if stopped_by else signal.SIGTERM
                raise Interrupted(number, f"stopped at step {self.step} of {self.iterations}")

    def _keep_within_limit(self, progress: Progress) -> None:
        """Change the number of steps, on all ranks, if the time limit allows fewer or more."""
        if self.limit is None:
            return
        before = self.iterations
        total = self.ranks.gather(self.limit.total(self.step, before))[0]
        if total != before and self.limit.replanned(total):
            self.note_change({"train.iterations": [before, total]})
            progress.set_total(total)

    def _validate_and_save(self, progress: Progress, record: Record, save: bool) -> None:
        """Validate, sample, save and log a step, each if it is due.

        The save comes first, because validation and sampling may take a long time. Afterwards
        `best` points at this checkpoint if its loss is the best.
        """
        save |= self._lost_a_save(wait=save)
        lost, before, early = False, self.saved, False
        if self._validation_is_due() or self._sample_is_due():
            progress.write(but=1)
            if early := save and self.folder is not None:
                self.save(pending=record)
            try:
                self._evaluate(record)
            except NumericalError:
                progress.write()
                if early and self.folder:
                    self.folder.withdraw(before)
                raise
            lost = self._lost_a_save(wait=record.get("val_loss", math.inf) < self.best_val_loss)
        improved = self._note_best(record)
        progress.write()
        if self.folder and early:
            if improved and not lost:  # the next step saves what was lost
                self.folder.name_best()
        elif self.folder and (save or lost or improved):
            self.save(best=improved)
        progress.restart_clock()

    def _finish_step(self, progress: Progress) -> None:
        """Validate, sample and log a resumed step whose checkpoint was written before these."""
        assert self.pending is not None
        progress.note(self.pending)
        self._evaluate(self.pending)
        if self._note_best(self.pending) and self.folder:
            self.folder.go_on_from(self.saved, self.best_step)
        progress.write()
        self.pending = None

    def _evaluate(self, record: Record) -> None:
        """Add the validation loss and the sample, if they are due, to the step's log line."""
        if self._validation_is_due():
            record |= self.validate()
        if self.sample is not None and self._sample_is_due() and self.ranks.first:
            record["sample"] = self.sample(self.model)

    def _note_best(self, record: Record) -> bool:
        """Record this step's validation loss if it is the best so far. Return whether it is."""
        if improved := record.get("val_loss", math.inf) < self.best_val_loss:
            self.best_val_loss, self.best_step = record["val_loss"], self.step
        return improved

    def _validation_is_due(self) -> bool:
        due = self.step == self.iterations or _due(self.step, self.config.eval_every)
        return due and bool(self.val_batches)

    def _sample_is_due(self) -> bool:
        return self.sample is not None and _due(self.step, self.config.sample_every)

    def train_step(self, batches: StepBatches | None = None) -> Record:
        """Take one optimizer step and return its log line. Some figures may still be tensors.

        batches: the batches of this step, if they are already loaded.
        """
        self.objective.train()
        self.optimizer.zero_grad(set_to_none=True)
        micro, own_terms, num_forward = batches or self.micro_batches.of(self.step)
        num_terms = self.ranks.total(own_terms, self.device)
        figures: dict[str, Tensor] = {}
        for i, batch in enumerate(micro):
            # We divide the sum over all micro-batches and ranks by the number of all targets (or of
            # all pairs). The result equals one large batch, even if micro-batches hold unequal
            # numbers of targets.
            with self.compiling(), reducing(self.objective, now=i == len(micro) - 1):
                loss, sums, routers = self._losses(batch)
                mean = loss / num_terms + routers / num_forward
                self.scaler.scale(mean * self.ranks.size).backward()  # DDP, FSDP: mean over ranks
            for name, value in sums.items():
                figures[name] = figures.get(name, 0) + value / num_terms
        for value in figures.values():
            self.ranks.sum(value)
        self.scaler.unscale_(self.optimizer)
        grad_norm = scale_gradients(self.params, self.config.max_grad_norm)
        step = self.step + 1
        lr = self._set_lr(step)
        self.tokens += sum(batch.inputs.numel() for batch in micro) * self.ranks.size
        record = {"step": step, "tokens": self.tokens, **figures, "lr": lr, "grad_norm": grad_norm}
        if _due(step, self.look_every):
            if isinstance(self.model, Transformer) and (load := self.model.expert_load()):
                record["expert_load"] = load  # (layer, expert), last micro-batch
            if self.sources is not None:
                record["source_sequences"] = self.sources(self.config.first_micro_batch(step))
            if self.scaler.is_enabled():
                record["loss_scale"] = self.scaler.get_scale()
        if self.look_every == 1:
            to_numbers([record])
            check_finite(record, *self.finite)  # before the step damages the weights
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step = step
        return record

    def _losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return loss, figures and routers' loss of `Objective`."""
        batch = batch.each(lambda tensor: tensor.to(self.device, non_blocking=True))
        with autocast(self.device, self.dtype):
            return self.objective(**batch.given())

    def figures(self, batch: Batch) -> dict[str, Tensor]:
        """Return the figures of `Objective`: sums over the batch."""
        with self.compiling():
            return self._losses(batch)[1]

    def _set_lr(self, step: int) -> float:
        factor = self.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return self.optimizer.param_groups[0]["lr"]

    def validate(self) -> dict[str, float]:
        """Return the means over the validation data, and bits per byte if `bytes_of` is set."""
        self.objective.eval()
        found = mean_figures(self.figures, self.val_batches, self.ranks, self.bytes_of)
        check_finite({"step": self.step, **found}, "val_loss")
        return found

    # --- checkpoints ---------------------------------------------------------------------------

    def _lost_a_save(self, wait: bool) -> bool:
        """Return whether the last write failed on any rank. If so, restore `best_before`.

        wait: wait for the end of the write first.
        """
        failed = self.folder is not None and self.folder.failed(wait)
        if lost := self.ranks.any(failed, self.device):
            self.best_val_loss, self.best_step = self.best_before
        elif wait:
            self.best_before = self.best_val_loss, self.best_step
        return lost

    def save(self, *, best: bool = False, pending: Record | None = None) -> None:
        """Copy the state of this step. A thread writes it and points `last` (and `best`) at it.

        pending: the step's log line, if its validation comes later.
        """
        assert self.folder is not None
        state = self._state(pending)
        self.folder.save(self.model, self.optimizer, self.step, best=best, **state, **self.extra)

    def _state(self, pending: Record | None) -> dict[str, Any]:
        """Return what a checkpoint holds beside weights, optimizer and `extra`."""
        return {
            "best_val_loss": self.best_val_loss,
            "best_step": self.best_step,
            "pending": pending,
            "smoothed": self.smoothed,
            "tokens": self.tokens,
            "cursor": self.micro_batches.cursor(self.step),
            "scaler": self.scaler.state_dict(),
            "optimizer_name": type(self.optimizer).__name__,
            "rng": resume.all_rng_states(self.ranks),
            "data_id": self.data_id,
            "environment": self.environment,
            "history": self.history,
        }

    def resume(self, path: StrPath) -> list[str]:
        """Resume from a checkpoint: weights, optimizer, step, random states.

        Return the lines to print: changed settings, and why the run may not be bit-exact. The
        current optimizer keeps its learning rate, weight decay and betas.
        """
        path = Path(path)
        with naming_an_earlier(path):
            payload = read_checkpoint(path, mapped=self.ranks.size > 1)
        resume.check(payload, path, data_id=self.data_id, recipe=self.extra.get("recipe", {}),
                     cursor=self.micro_batches.cursor,
                     optimizer_name=type(self.optimizer).__name__)  # fmt: skip
        resume.restore_keeping_settings(payload, self.model, self.optimizer, str(path))
        self.step, self.tokens = payload["step"], payload["tokens"]
        best = self.ranks.gather(best_with_its_own(payload, path))[0]
        self.best_val_loss, self.best_step, self.pending = best
        self.smoothed, self.history = payload["smoothed"], payload["history"]
        if payload["scaler"]:
            self.scaler.load_state_dict(payload["scaler"])
        if self.folder:
            self.folder.saved = path
        resume.set_own_rng_state(payload["rng"], self.ranks, self.config.seed + self.step)
        if changed := resume.changes(payload.get("recipe", {}), self.extra.get("recipe", {})):
            self.note_change(changed)
        if otherwise := resume.validated_otherwise(payload, self.extra):
            self.best_val_loss = math.inf  # `best` stays until a new best replaces it
        self.best_before = self.best_val_loss, self.best_step
        news = resume.news_of(changed, otherwise, payload["environment"], self.environment)
        return [f"resumed at step {self.step}: {path}", *news]

    def note_change(self, changed: Mapping[str, Any]) -> None:
        """Add changed settings, {key: [was, is]}, to the history in each later checkpoint."""
        self.history = [*self.history, {"step": self.step, "changed": changed}]

    @property
    def saved(self) -> Path | None:
        """The last complete checkpoint."""
        return self.folder.saved if self.folder else None


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
