"""Where the parts meet: `TrainConfig`, and `build(config) -> Trainer`."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from scratchlm import config as configuration
from scratchlm.atomic import replacing_file
from scratchlm.checkpoint import find_checkpoint, read_checkpoint
from scratchlm.costs import training_report
from scratchlm.data.batches import EvalBatches, TrainBatches
from scratchlm.data.prepare import DataConfig, default_vocab_size, prepare
from scratchlm.data.shards import bytes_of
from scratchlm.model.transformer import ModelConfig, Transformer
from scratchlm.optim.adamw import AdamW
from scratchlm.optim.groups import adamw_groups, muon_groups
from scratchlm.optim.muon import Muon
from scratchlm.optim.schedule import cosine_schedule, linear_schedule, wsd_schedule
from scratchlm.optim.sgd import SGD
from scratchlm.runtime import RuntimeConfig, resolve_device, resolve_dtype
from scratchlm.trainer import Trainer, TrainerConfig


@dataclass(frozen=True)
class OptimConfig:
    """`lr` is the peak; with muon it is that of the blocks' matrices, and `adamw_lr` that of the
    rest. None is the optimizer's own default. `warmup_steps` (None: a tenth of the run, 100 at
    most), then `schedule` down to `min_lr` (in proportion for every group); `decay_fraction` is
    the share of the steps in which wsd decays."""

    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    lr: float = 1e-3
    adamw_lr: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: float = 0.1
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_steps: int | None = None
    min_lr: float = 0.0
    decay_fraction: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"optim.lr is finite and above 0 ({self.lr}); 1e-3 is a good start")
        if not 0 <= self.min_lr <= self.lr:
            raise ValueError(
                f"optim.min_lr is from 0 to lr ({self.min_lr}, lr {self.lr}); lower it"
            )
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ValueError(f"optim.warmup_steps is at least 0 ({self.warmup_steps}); raise it")
        if self.decay_fraction is not None and not 0 <= self.decay_fraction <= 1:
            share = self.decay_fraction
            raise ValueError(f"optim.decay_fraction is from 0 to 1 ({share}); give a share of 1")
        users = {
            "adamw_lr": ("muon",),
            "betas": ("adamw", "muon"),
            "eps": ("adamw", "muon"),
            "momentum": ("muon", "sgd"),
            "nesterov": ("muon", "sgd"),
        }
        for name, optimizers in users.items():
            if getattr(self, name) is not None and self.optimizer not in optimizers:
                raise ValueError(
                    f"optim.{name} has no effect on {self.optimizer} ({getattr(self, name)}); "
                    f"remove it, or choose optim.optimizer {' or '.join(optimizers)}"
                )
        if self.decay_fraction is not None and self.schedule != "wsd":
            raise ValueError(
                f"optim.decay_fraction has no effect on {self.schedule} ({self.decay_fraction}); "
                "remove it, or choose optim.schedule wsd"
            )


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


def build_optimizer(config: OptimConfig, model: Transformer) -> torch.optim.Optimizer:
    """Decay on matrices only; with muon, AdamW for all but the blocks' matrices."""
    names = ("betas", "eps", "momentum", "nesterov")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    match config.optimizer:
        case "adamw":
            groups = adamw_groups(model.named_parameters(), config.weight_decay)
            return AdamW(groups, lr=config.lr, **given)
        case "sgd":
            groups = adamw_groups(model.named_parameters(), config.weight_decay)
            return SGD(groups, lr=config.lr, **given)
        case "muon":
            adamw = {name: given.pop(name) for name in ("betas", "eps") if name in given}
            groups = muon_groups(
                model.named_parameters(),
                lr=config.lr,
                adamw_lr=config.adamw_lr if config.adamw_lr is not None else config.lr / 10,
                weight_decay=config.weight_decay,
                **adamw,
            )
            return Muon(groups, lr=config.lr, **given)


def build_schedule(config: OptimConfig, steps: int) -> Callable[[int], float]:
    """step -> factor on every group's peak learning rate."""
    warmup = config.warmup_steps or 0
    if warmup > steps:
        raise ValueError(
            f"the warm-up is longer than the run ({warmup} > {steps} steps); "
            "lower optim.warmup_steps"
        )
    shape: dict[str, Any] = {
        "max_lr": 1.0,
        "min_lr": config.min_lr / config.lr,
        "warmup_steps": warmup,
        "total_steps": steps + 1,  # where the rate is min_lr: the last step still learns
    }
    match config.schedule:
        case "cosine":
            return lambda step: cosine_schedule(step, **shape)
        case "linear":
            return lambda step: linear_schedule(step, **shape)
        case "wsd":
            fraction = 0.2 if config.decay_fraction is None else config.decay_fraction
            decay = min(round(fraction * steps), steps - warmup) + 1
            return lambda step: wsd_schedule(step, decay_steps=decay, **shape)
        case "constant":
            return lambda step: wsd_schedule(step, decay_steps=0, **shape)
