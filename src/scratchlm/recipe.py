"""Where the parts meet: `TrainConfig`, and `build(config) -> Trainer`."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scratchlm import config as configuration
from scratchlm.atomic import replacing_file
from scratchlm.checkpoint import find_checkpoint, read_checkpoint
from scratchlm.costs import training_report
from scratchlm.data.batches import EvalBatches, TrainBatches
from scratchlm.data.prepare import DataConfig, default_vocab_size, prepare
from scratchlm.data.shards import bytes_of
from scratchlm.model.transformer import ModelConfig, Transformer
from scratchlm.optim.recipe import OptimConfig, build_optimizer, build_schedule
from scratchlm.runtime import RuntimeConfig, resolve_device, resolve_dtype
from scratchlm.trainer import Trainer, TrainerConfig


@dataclass(frozen=True)
class TrainConfig:
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    runtime: RuntimeConfig = dataclasses.field(default_factory=RuntimeConfig)


# A model that a laptop trains in minutes; `vocab_size` comes from the tokenizer.
DEFAULT_MODEL = {"context_length": 256, "d_model": 256, "num_layers": 4, "num_heads": 8}
DEFAULT_ITERATIONS = 1000


def resolve(
    file: str | Path | None,
    flags: Mapping[str, Any],
    resume: str | None = None,
    *,
    say: Callable[[str], None] = print,
) -> tuple[TrainConfig, Path | None]:
    """The configuration, and the checkpoint to go on from.

    Defaults < `file` (TOML) < the config of a resumed run < `flags` ({dotted key: value}).
    resume: "auto" goes on with the run in `train.out` (by default the newest under runs/) where
    there is one; a path names a run's folder or a checkpoint. What the file says otherwise than
    the resumed run is said, a line each.
    """
    from_file = {} if file is None else configuration.read_toml(file)
    layers: list[Mapping[str, Any]] = [{"model": DEFAULT_MODEL}, from_file]
    out = flags.get("train.out")
    if out == "":
        raise ValueError("a run needs a folder (train.out is ''); give --out DIR, or leave it out")
    checkpoint = _checkpoint_to_resume(resume, out)
    if checkpoint is not None:
        run = checkpoint.parent.parent
        if (run / "config.toml").is_file():
            layers.append(configuration.read_toml(run / "config.toml"))
            out = out or str(run)
        else:  # a checkpoint that was taken out of its run
            layers.append(read_checkpoint(checkpoint).get("recipe", {}))
            out = out or _new_run()
    layers.append(configuration.nest(flags))

    tree = configuration.merge({"train": {}, "data": {}}, *layers)
    train, data = tree["train"], tree["data"]
    _keep_the_last_length(train, layers)
    train["out"] = out or train.get("out") or _new_run()
    own = checkpoint is not None and checkpoint.parent.parent == Path(train["out"])
    if not own and (Path(train["out"]) / "checkpoints" / "last").exists():
        raise ValueError(
            f"there is a run in this folder already ({train['out']}); go on with it by "
            "--resume auto, or choose another --out"
        )
    if not data.get("train"):
        raise ValueError("no training data is given (data.train); give --train_data FILE")
    if "vocab_size" not in tree["model"]:
        size = default_vocab_size(configuration.build(DataConfig, data, "data."))
        tree["model"]["vocab_size"] = size
    if checkpoint is not None:
        for key, value, kept in _overruled(from_file, tree):
            say(f"{key} stays {kept}, the run's own ({value} in {file}); a --{key} flag changes it")
    return configuration.build(TrainConfig, tree), checkpoint


def costs(file: str | Path | None, flags: Mapping[str, Any]) -> str:
    """What a step of this configuration takes, in lines; it needs no data."""
    from_file = {} if file is None else configuration.read_toml(file)
    tree = configuration.merge({"model": DEFAULT_MODEL}, from_file, configuration.nest(flags))
    if "vocab_size" not in tree["model"]:
        raise ValueError("the size of the vocabulary is not given; give --vocab_size N")
    train = configuration.build(
        TrainerConfig, {**tree.get("train", {}), "iterations": 1, "epochs": None}, "train."
    )
    optim = configuration.build(OptimConfig, tree.get("optim", {}), "optim.")
    runtime = configuration.build(RuntimeConfig, tree.get("runtime", {}), "runtime.")
    # The dtype of the GPU that one would buy, where it is left to be chosen.
    half = runtime.dtype == "bfloat16" or (runtime.dtype == "auto" and runtime.device != "cpu")
    return training_report(
        configuration.build(ModelConfig, tree["model"], "model."),
        train.batch_size,
        optim.optimizer,
        half=half,
        accumulate=train.accumulate,
        momentum=optim.momentum or 0.0,
    )


def _overruled(
    layer: Mapping[str, Any], tree: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(key, value, the value that won) of each key of a layer that a later one changed."""
    for key, value in layer.items():
        won = tree.get(key)
        if isinstance(value, dict) and isinstance(won, dict):
            yield from _overruled(value, won, f"{prefix}{key}.")
        elif won is not None and won != value:
            yield f"{prefix}{key}", value, won


def _checkpoint_to_resume(resume: str | None, out: str | None) -> Path | None:
    if resume is None:
        return None
    if resume != "auto":
        return find_checkpoint(resume, "last")
    runs = [Path(out)] if out else Path("runs").glob("*")
    lasts = [run / "checkpoints" / "last" for run in runs]
    found = [last for last in lasts if last.is_file()]
    newest = max(found, key=lambda last: last.stat().st_mtime, default=None)
    return None if newest is None else find_checkpoint(newest)


def _keep_the_last_length(train: dict[str, Any], layers: list[Mapping[str, Any]]) -> None:
    """`iterations` and `epochs` say the same: what the last layer gives stays, of both layers'."""
    for layer in reversed(layers):
        names = {"iterations", "epochs"} & layer.get("train", {}).keys()
        if names:
            for name in {"iterations", "epochs"} - names:
                train.pop(name, None)
            return
    train["iterations"] = DEFAULT_ITERATIONS


def _new_run() -> str:
    return f"runs/{time.strftime('%Y-%m-%d-%H%M%S')}"


def build(
    config: TrainConfig, *, resume: Path | None = None, say: Callable[[str], None] = print
) -> Trainer:
    """The trainer of a configuration, in its run's folder, with config.toml and tokenizer.json;
    at the step of the checkpoint `resume`, where one is given."""
    assert config.train.out is not None
    out = Path(config.train.out)
    device = resolve_device(config.runtime.device)
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    model_config, length = config.model, config.model.context_length
    data = prepare(config.data, model_config.vocab_size, length, out / "data", say)
    batches = TrainBatches(data.train, config.train.batch_size, length, config.train.seed)
    steps = config.train.iterations
    if steps is None:
        if config.train.epochs is None:
            raise ValueError("the run has no length (iterations is none); give --iterations N")
        micro = config.train.epochs * batches.windows_per_epoch / config.train.batch_size
        steps = max(1, math.ceil(micro / config.train.accumulate))
    config = _with_steps(config, steps)
    resolved = configuration.to_toml(config)
    say(resolved)

    torch.manual_seed(config.train.seed)
    model = Transformer(model_config).to(device)
    extra: dict[str, Any] = {"recipe": configuration.to_tree(config)}
    if data.tokenizer is not None:
        extra["tokenizer"] = data.tokenizer.to_json()
    trainer = Trainer(
        model,
        build_optimizer(config.optim, model),
        batches,
        config.train,
        schedule=build_schedule(config.optim, steps),
        val_batches=EvalBatches(
            data.val, config.train.batch_size, length, config.train.eval_batches
        ),
        bytes_of=None if data.tokenizer is None else torch.from_numpy(bytes_of(data.tokenizer)),
        dtype=resolve_dtype(config.runtime.dtype, device),
        extra=extra,
        data_id=data.data_id
        | {
            "batch_size": config.train.batch_size,
            "accumulate": config.train.accumulate,
            "context_length": length,
            "seed": config.train.seed,
        },
    )
    if resume is not None:
        trainer.resume(resume)
        say(f"resumed at step {trainer.step}: {resume}")
    # The run's folder changes only once all of the above has been found to fit.
    out.mkdir(parents=True, exist_ok=True)
    if "tokenizer" in extra:
        with replacing_file(out / "tokenizer.json") as file:
            file.write(extra["tokenizer"].encode())
    with replacing_file(out / "config.toml") as file:
        file.write(resolved.encode())
    return trainer


def _with_steps(config: TrainConfig, steps: int) -> TrainConfig:
    """The configuration with what depends on the length of the run filled in."""
    optim = config.optim
    if optim.warmup_steps is None:
        optim = dataclasses.replace(optim, warmup_steps=min(100, steps // 10))
    train = dataclasses.replace(config.train, iterations=steps, epochs=None)
    return dataclasses.replace(config, optim=optim, train=train)
