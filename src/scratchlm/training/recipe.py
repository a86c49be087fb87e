"""`build(config) -> Trainer`: put the parts of a run together."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scratchlm.costs.gpus import peak_flops
from scratchlm.costs.model_costs import precision_of, training_flops_per_token, training_memory
from scratchlm.data.mixture import MixedBatches, MixedEvalBatches
from scratchlm.data.prepare import Prepared
from scratchlm.devices.ranks import ALONE, Ranks, agreed, data_parallel, fully_sharded
from scratchlm.devices.runtime import (
    CPU_SPEED,
    compile_blocks,
    recompute_activations,
    resolve_compile,
    resolve_device,
    resolve_dtype,
    seed_everything,
)
from scratchlm.files.atomic import write_file
from scratchlm.generation.sampling import generate
from scratchlm.model.transformer import Transformer
from scratchlm.optim.recipe import build_optimizer
from scratchlm.tokenizer.token_files import bytes_of
from scratchlm.training.attention_choice import resolve_attention
from scratchlm.training.early_checks import check_device, check_micro_batches, check_settings
from scratchlm.training.fp8_layers import use_fp8
from scratchlm.training.initial_weights import initialize
from scratchlm.training.micro_batches import EpochBatches
from scratchlm.training.objective import Objective
from scratchlm.training.preference_objective import (
    PreferenceObjective,
    frozen_copy,
    weights_hash,
)
from scratchlm.training.preflight import check_room, memory_of
from scratchlm.training.run_data import prepare_for
from scratchlm.training.run_length import (
    counted,
    given_steps,
    let_it_be_replanned,
    of_length,
    set_length,
    steps_in_time,
    told,
    write_config,
)
from scratchlm.training.time_limit import TimeLimit
from scratchlm.training.train_config import TrainConfig
from scratchlm.training.trainer import Notes, Trainer
from scratchlm.training.trainer_config import TrainerConfig


def build(
    config: TrainConfig,
    *,
    resume: Path | None = None,
    ranks: Ranks = ALONE,
    say: Callable[[str], None] = print,
    typed: Container[str] = ("optim.warmup_steps", "optim.decay_steps"),
    began: float | None = None,
) -> Trainer:
    """Build the trainer of a configuration.

    The function writes config.toml and tokenizer.json to the run's folder. resume: the checkpoint
    that the trainer continues from. typed: the keys that the user set; a short run does not adapt
    these keys. began: the start of the process in `time.monotonic()`, for `train.minutes`; None
    means now.
    """
    began = time.monotonic() if began is None else began
    assert config.train.out is not None
    out = Path(config.train.out)
    device = _set_device(config, ranks)
    config, data = prepare_for(config, resume or config.train.init_from, out, say, ranks)
    config, batches = _planned(config, data, device, ranks, say, typed)
    trainer = _assembled(config, data, batches, _weights(config, resume), device, ranks)
    if config.train.minutes is not None:
        trainer.limit = TimeLimit(60 * config.train.minutes, began)
        with agreed(ranks):
            steps = steps_in_time(trainer, trainer.limit, resume, say)
            config = of_length(config, steps, typed, say)
    with agreed(ranks):
        set_length(trainer, config)
        say(told(config))
        for line in _told_of_mixture(trainer, batches):
            say(line)
        if new := data.new_ids:
            trainer.note_change({"tokens": [new[0], new[-1] + 1]})
        for line in trainer.resume(resume) if resume is not None else ():
            say(line)
    # Change the run's folder only after everything above has succeeded.
    if ranks.first and trainer.step < trainer.iterations:
        out.mkdir(parents=True, exist_ok=True)
        if data.tokenizer is not None:
            write_file(out / "tokenizer.json", data.tokenizer.to_json().encode())
        write_config(config, out)
    if trainer.limit is not None:
        let_it_be_replanned(trainer, trainer.limit, config)
    return trainer


def _set_device(config: TrainConfig, ranks: Ranks) -> torch.device:
    """Return this rank's device. Set torch's CUDA device and its number of threads."""
    with agreed(ranks):
        local_rank = ranks.local_rank if ranks.size > 1 else None
        device = resolve_device(config.runtime.device, local_rank)
        check_settings(config.rows_model, config.train, config.data, config.runtime, ranks)
        check_device(config.model, config.runtime, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    return device


def _weights(config: TrainConfig, resume: Path | None) -> str | None:
    """Return the path of the weights that the run begins with, or None.

    A resumed run has its own weights. But if it learns pairs of answers, the weights at the start
    of the run are the weights of its reference model.
    """
    path = config.train.init_from
    if resume is None or path is None or not config.data.has_reference:
        return path if resume is None else None
    if not Path(path).exists():
        raise FileNotFoundError(
            f"the model that the run began from ({path}) must still exist, because it is the "
            "reference model; move the model back to this path"
        )
    return path


def _planned(
    config: TrainConfig,
    data: Prepared,
    device: torch.device,
    ranks: Ranks,
    say: Callable[[str], None],
    typed: Container[str],
) -> tuple[TrainConfig, EpochBatches]:
    """Return the batches, and the configuration without open choices. Check that the run fits.

    If the run has a time limit, only the number of steps stays open.
    """
    assert config.train.out is not None
    out = Path(config.train.out)
    with agreed(ranks):
        batches = data.train_batches(config.train.batch_size, config.train.seed)
        for line in batches.told_of_rows():
            say(line)
        _tell_repetition(config.train, batches, say)
        steps = given_steps(config.train, batches)
        config, reason = resolve_auto(config, steps, device, ranks)
        if steps is not None:
            config = of_length(config, steps, typed, say)
        train = counted(config.train)
        needed = training_memory(
            config.rows_model,
            train.batch_size,
            config.optim.optimizer,
            precision=precision_of(config.runtime.dtype),
            accumulate=train.accumulate,
            reference=config.data.has_reference,
        )
        check_room(
            needed,
            train,
            out,
            device,
            say,
            memory=memory_of(device),
            shards=ranks.size if _is_sharded(config, ranks) else 1,
            beside=ranks.local_size,
        )
    say(f"compilation is {reason}")
    return config, batches


def _assembled(
    config: TrainConfig,
    data: Prepared,
    batches: EpochBatches,
    weights: str | None,
    device: torch.device,
    ranks: Ranks,
) -> Trainer:
    """Return a trainer at step 0. Its model begins with `weights`, or with random weights."""
    train = config.train
    with agreed(ranks):
        seed_everything(train.seed)
        attend = resolve_attention(config.runtime.attention, device, config.model.d_head)
        model = Transformer(config.model, attend)
        if weights is not None:
            initialize(model, weights, data.new_ids)
        reference = {"reference": weights_hash(model)} if config.data.has_reference else {}
        sample = _sampler(config, data)
    model, objective = _spread(model, config, device, ranks)
    seed_everything(train.seed + ranks.rank)  # ranks must drop different units
    return Trainer(
        model,
        build_optimizer(config.optim, model),
        batches,
        counted(train),
        val_batches=data.eval_batches(train.batch_size, train.eval_batches),
        objective=objective,
        dtype=resolve_dtype(config.runtime.dtype, device),
        ranks=ranks,
        notes=_notes(config, data, batches, sample, reference, device, ranks),
    )


def _notes(
    config: TrainConfig,
    data: Prepared,
    batches: EpochBatches,
    sample: Callable[[nn.Module], str] | None,
    reference: dict[str, Any],
    device: torch.device,
    ranks: Ranks,
) -> Notes:
    """reference: the identity of the reference model, if the run has one."""
    train, tokenizer = config.train, data.tokenizer
    # Only a text has bits per byte: the loss of an answer counts an end marker, which has no bytes.
    vocab = tokenizer if config.data.kind == "text" else None
    return Notes(
        # A hash of the data comes last, because a changed setting tells a user more.
        data_id=_batches_id(train, config.model.context_length) | data.data_id | reference,
        extra={**data.stored, "validation": data.val_id | {"batches": train.eval_batches}},
        compiled=config.runtime.compile == "on",
        recomputed=config.runtime.activation_checkpointing,
        attention=config.runtime.attention,
        bytes_of=None if vocab is None else torch.from_numpy(bytes_of(vocab.parts)),
        sample=sample,
        flops_per_token=training_flops_per_token(config.rows_model, reference=bool(reference)),
        peak=_peak(config.runtime.dtype, device, ranks),
        sources=batches.counts if isinstance(batches, MixedBatches) else None,
    )


def _tell_repetition(
    train: TrainerConfig, batches: EpochBatches, say: Callable[[str], None]
) -> None:
    """Print a warning if one step reads more sequences than the data has."""
    step, epoch = train.batch_size * train.accumulate, batches.windows_per_epoch
    if step > epoch:
        say(
            f"a step reads {step} sequences, but the data has only {epoch} of "
            f"{batches.context_length} tokens, so each step repeats "
            f"sequences; set --batch_size {max(1, epoch // train.accumulate)} or less"
        )


def _told_of_mixture(trainer: Trainer, batches: EpochBatches) -> Iterator[str]:
    """Yield a line for each source of a mixture: how much the run reads of it."""
    if isinstance(batches, MixedBatches):
        yield from batches.told(trainer.config.first_micro_batch(trainer.iterations))
    if isinstance(trainer.val_batches, MixedEvalBatches):
        val = trainer.val_batches
        counts = zip(val.counts(), val.names, strict=True)
        yield "each validation reads " + ", ".join(
            f"{count:,} sequences of {name}" for count, name in counts
        )


def resolve_auto(
    config: TrainConfig, steps: int | None, device: torch.device, ranks: Ranks
) -> tuple[TrainConfig, str]:
    """Replace each "auto" by this machine's choice. Also return why the run compiles or does not.

    A resumed run keeps these choices, because other choices would change its numbers.
    """
    train, runtime, model = config.train, config.runtime, config.rows_model
    if _is_sharded(config, ranks):
        _check_sharded(config)
    check_micro_batches(train, model.context_length, runtime, ranks, steps)
    if runtime.dtype == "auto":
        half = resolve_dtype("auto", device) == torch.bfloat16
        runtime = dataclasses.replace(runtime, dtype="bfloat16" if half else "float32")
    if steps is None:
        flops = CPU_SPEED * 60 * (train.minutes or 0.0)
    else:
        tokens = train.first_micro_batch(steps) * train.batch_size * model.context_length
        reference = config.data.has_reference
        flops = tokens * training_flops_per_token(model, reference=reference)
    compiled, reason = resolve_compile(runtime.compile, device, flops)
    runtime = dataclasses.replace(
        runtime,
        compile="on" if compiled else "off",
        attention="sdpa" if runtime.attention == "auto" else runtime.attention,
        parallel="ddp" if runtime.parallel == "auto" else runtime.parallel,
    )
    return dataclasses.replace(config, runtime=runtime), reason


def _is_sharded(config: TrainConfig, ranks: Ranks) -> bool:
    return ranks.size > 1 and config.runtime.parallel == "fsdp"


def _check_sharded(config: TrainConfig) -> None:
    """Raise a ValueError for a setting that a sharded model does not support."""
    if config.data.has_reference:
        raise ValueError(
            "a sharded model cannot learn pairs of answers (runtime.parallel fsdp, data.kind "
            f"{config.data.kind}); choose --runtime.parallel ddp"
        )
    if config.runtime.dtype == "float16":
        raise ValueError(
            "a sharded model must not use float16 (runtime.parallel fsdp), because each rank would "
            "scale its own loss; choose bfloat16"
        )
    if config.train.save_format == "pt":
        raise ValueError(
            "a sharded model must be saved as a folder (save_format pt, runtime.parallel fsdp); "
            "set --save_format directory, and convert it to one file with scratchlm-convert"
        )
    if config.train.sample_every:
        raise ValueError(
            f"a sharded model cannot write samples (sample_every {config.train.sample_every}); set "
            "--sample_every 0, and sample from the checkpoints with scratchlm-generate"
        )


def _spread(
    model: Transformer, config: TrainConfig, device: torch.device, ranks: Ranks
) -> tuple[Transformer, nn.Module]:
    """Return the model on its devices, and its objective.

    The order matters: first FP8, then activation checkpointing, then compilation, then DDP or FSDP.
    """
    runtime, sharded = config.runtime, _is_sharded(config, ranks)
    if not sharded:
        model = model.to(device)
    objective: nn.Module = Objective(model, config.train.z_loss)
    if config.data.has_reference:
        objective = PreferenceObjective(model, frozen_copy(model), config.train.dpo_beta)
    for each in objective.children():  # the model, and its reference
        assert isinstance(each, Transformer)
        if runtime.dtype == "fp8":
            use_fp8(each.layers)
        if runtime.activation_checkpointing:
            recompute_activations(each.layers)
        if runtime.compile == "on":
            compile_blocks(each.layers)
    if sharded:
        dtype = resolve_dtype(runtime.dtype, device)
        objective = fully_sharded(objective, model.layers, ranks, device, dtype)
    elif ranks.size > 1:
        objective = data_parallel(objective, device)
    return model, objective


def _batches_id(train: TrainerConfig, context_length: int) -> dict[str, Any]:
    """Return the settings that decide which batches the run takes from the data."""
    names = ("batch_size", "accumulate", "ramp_from", "ramp_steps", "seed")
    return {name: getattr(train, name) for name in names} | {"context_length": context_length}


def _peak(dtype: str, device: torch.device, ranks: Ranks) -> float | None:
    """Return the FLOP/s of all devices together, or None if the device is unknown."""
    if device.type != "cuda":
        return None
    peak = peak_flops(torch.cuda.get_device_name(device), dtype)
    return None if peak is None else ranks.size * peak


def _sampler(config: TrainConfig, data: Prepared) -> Callable[[nn.Module], str] | None:
    """Return a function model -> text, or None if the run writes no samples.

    Each sample uses the same random numbers, from a generator that training does not use.
    """
    if config.train.sample_every == 0:
        return None
    tokenizer = data.tokenizer
    if tokenizer is None:
        raise ValueError(
            f"samples need a tokenizer (sample_every {config.train.sample_every}, and the data "
            "has no tokenizer); set --tokenizer_path FILE"
        )
    prompt = data.prompt(config.train.sample_prompt)
    ends = data.stored.get("end_ids", ())
    length = min(config.train.sample_tokens, config.model.context_length - len(prompt))
    if not prompt or length < 1:
        raise ValueError(
            "a sample's prompt must have at least 1 token, and fewer tokens than the context "
            f"({len(prompt)}, context {config.model.context_length}); change --sample_prompt"
        )

    def sample(model: nn.Module) -> str:
        assert isinstance(model, Transformer)
        generator = torch.Generator().manual_seed(config.train.seed)
        model.eval()
        with contextlib.ExitStack() as stack:
            if config.runtime.compile == "on":  # compiled only for training's shape
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            ids = generate(model, prompt, length, temperature=0.8, stop=ends, generator=generator)
        return tokenizer.decode(prompt + ids)

    return sample
