"""Make a run's `TrainConfig` from a file, a resumed run and flags."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scratchlm import config as configuration
from scratchlm.checkpoint.models import is_hf_folder, read_config
from scratchlm.checkpoint.pointers import find_checkpoint, naming_an_earlier, whole_checkpoints
from scratchlm.checkpoint.save_and_load import read_settings
from scratchlm.costs.model_costs import precision_of, training_report
from scratchlm.data.config import DataConfig
from scratchlm.data.prepare import default_vocab_size
from scratchlm.data.proportions import parts_of, with_paths
from scratchlm.data.sources import is_there
from scratchlm.devices.runtime_config import RuntimeConfig
from scratchlm.errors import FileFormatError
from scratchlm.files.file_kinds import check_folder_name
from scratchlm.files.paths import StrPath
from scratchlm.model.config import ModelConfig
from scratchlm.optim.config import OptimConfig
from scratchlm.training.early_checks import check_device, check_settings
from scratchlm.training.train_config import (
    DEFAULT_ITERATIONS,
    DEFAULT_MODEL,
    TrainConfig,
    with_rows,
)
from scratchlm.training.trainer_config import TrainerConfig

# A run uses these keys only at its start, or turns them into other keys.
_NOT_KEPT = {"train.epochs", "train.minutes", "train.init_from", "data.tokenizer"}
_EXCLUDES = {"train.epochs": ["train.iterations"], "train.minutes": ["train.iterations"],
             "optim.decay_steps": ["optim.decay_fraction"],
             "optim.decay_fraction": ["optim.decay_steps"]}  # fmt: skip

Layer = Mapping[str, Any]
Tree = dict[str, Any]


def resolve(
    file: StrPath | None,
    flags: Mapping[str, Any],
    resume: str | None = None,
    *,
    say: Callable[[str], None] = print,
) -> tuple[TrainConfig, Path | None]:
    """Return the configuration, and the checkpoint to resume from (None for a new run).

    Defaults < `file` (TOML) < the recipe in the checkpoint < `flags` ({dotted key: value}).
    resume: "auto" continues the run in `train.out` (by default the newest run under runs/) if this
    run exists; a path is a run's folder or a checkpoint. `say` prints a line if `last` is missing.
    It also prints a line for each setting of the file, or of the run's config.toml, that the recipe
    overrides.
    """
    from_file = {} if file is None else _with_absolute_paths(configuration.read_toml(file))
    _check_kind(from_file, file, flags)
    in_file = from_file.get("train", {})
    out, weights = flags.get("train.out"), flags.get("train.init_from")
    if out == "":
        raise ValueError("a run needs a folder (train.out is ''); set --out DIR, or remove --out")
    if resume == "auto" and isinstance(in_file.get("out"), str):
        out = out or in_file["out"]
    run, checkpoint = None, _checkpoint_to_resume(resume, out, say)
    if checkpoint is not None:  # continue this run
        run, recipe = _run_of(checkpoint), _recipe_in(checkpoint)
        if weights is not None:
            _leave_out(weights, resume, checkpoint, say)
        weights = recipe.get("train", {}).get("init_from")
        out = out or (_new_run() if run is None else str(run))
        # The checkpoint holds the tokenizer, so its old path does not matter.
        kept = {"data": {"tokenizer": None}, "train": {"out": out, "init_from": weights}}
        recipe, whose = configuration.merge(recipe, kept), "the run's"
    else:  # begin a run, perhaps from weights
        weights, recipe = _weights_to_begin_from(weights or in_file.get("init_from"))
        out, whose = out or in_file.get("out") or _new_run(), "the weights'"

    given = _with_absolute_paths(configuration.nest(flags))
    layers: list[Layer] = [{"model": DEFAULT_MODEL}, from_file, recipe, given]
    tree = configuration.merge({"train": {}, "data": {}}, *layers)
    tree["train"] |= {"out": out, "init_from": weights}
    if not _keep_the_last("train", {"iterations", "epochs", "minutes"}, tree, layers):
        tree["train"]["iterations"] = DEFAULT_ITERATIONS
    _keep_the_last("optim", {"decay_fraction", "decay_steps"}, tree, layers)
    own = _is_its_own(out, run)
    if checkpoint is not None:
        _check_exists(tree["data"], flags, "the run's data must still exist")
    elif file is not None:
        none = ", or hold out the last tenth of the training data with --val_data none"
        _check_exists(from_file.get("data", {}), flags, f"the data of {file} must exist", none)
    _fit_to_data(tree, layers[1:], say)
    _say_kept(from_file, file, recipe, whose, flags, say)
    saved = Path(out) / "config.toml"
    if own and saved.is_file():  # a failed start, or the user, may have changed this file
        last_start = configuration.read_toml(saved)
        last_start.get("train", {}).pop("out", None)  # this path is relative to another directory
        _say_kept(last_start, saved, recipe, whose, flags, say)
    return configuration.build(TrainConfig, tree), checkpoint


def _check_kind(from_file: Layer, file: StrPath | None, flags: Mapping[str, Any]) -> None:
    """Raise ValueError if a flag changes the kind of data that the settings of a file are for."""
    kind = from_file.get("data", {}).get("kind")
    if kind is not None and flags.get("data.kind", kind) != kind:
        raise ValueError(
            f"the flag --kind must agree with the recipe ({flags['data.kind']}, {file} has "
            f"data.kind {kind}); remove --kind, or choose another recipe with --config"
        )


def _leave_out(
    weights: str, resume: str | None, checkpoint: Path, say: Callable[[str], None]
) -> None:
    """Print that a resumed run ignores --init_from, because the run has its own weights.

    Raise ValueError unless `resume` is "auto": then the user wants two sets of weights.
    """
    if resume != "auto":
        raise ValueError(
            f"a resumed run has its own weights (--resume {resume}, --init_from {weights}); "
            "remove one of the two flags"
        )
    say(f"the run continues from {checkpoint} and ignores --init_from {weights}")


def _weights_to_begin_from(path: str | None) -> tuple[str | None, Tree]:
    """Return the absolute path of the weights, and their model config as a layer."""
    if not path:
        return path, {}
    # find_checkpoint fixes the step: `best` may move.
    path = os.path.abspath(path if is_hf_folder(path) else find_checkpoint(path))
    model = dataclasses.asdict(read_config(path))
    return path, {"model": {key: value for key, value in model.items() if value is not None}}


def _is_its_own(out: str, run: Path | None) -> bool:
    """Return whether a resumed run keeps its folder. Raise ValueError if `out` has another run."""
    check_folder_name(out, "a run must be a folder")
    own = run is not None and run.resolve() == Path(out).resolve()
    if not own and _last_of(Path(out) / "checkpoints") is not None:
        raise ValueError(
            f"the folder already contains a run ({out}); continue that run with --resume auto, or "
            "choose another folder with --out"
        )
    return own


def _fit_to_data(tree: Tree, layers: Sequence[Layer], say: Callable[[str], None]) -> None:
    """Let the data decide the vocabulary and the context length, unless a layer sets them."""
    if not tree["data"].get("train"):
        raise ValueError("training data is missing (data.train); set --train_data FILE")
    _set_vocab_size(tree, say)
    is_text = tree["data"].get("kind", "text") == "text"
    if is_text and not any("context_length" in layer.get("model", {}) for layer in layers):
        tree["data"].setdefault("fit_context", True)


def _set_vocab_size(tree: Tree, say: Callable[[str], None]) -> None:
    """Let the data decide the vocabulary's size, unless the tree contains one."""
    if "vocab_size" not in tree["model"]:
        size = default_vocab_size(configuration.build(DataConfig, tree["data"], "data."), say)
        tree["model"]["vocab_size"] = size


def _with_absolute_paths(layer: Tree) -> Tree:
    """Make the paths of the data absolute, so that a run resumes from any directory. `none` unsets
    the validation data."""
    data: Tree = {
        key: with_paths(path, os.path.abspath) if key != "tokenizer" else os.path.abspath(path)
        for key, path in layer.get("data", {}).items()
        if key in ("train", "val", "tokenizer") and path and isinstance(path, str)
    }
    if layer.get("data", {}).get("val") == "none":
        data["val"] = None
    return configuration.merge(layer, {"data": data})


def _check_exists(data: Layer, flags: Layer, rule: str, none: str = "") -> None:
    """Check that the data exists, unless a flag sets its path. `rule` and `none` are parts of the
    message."""
    for name in ("train", "val"):
        text = data.get(name)
        if not isinstance(text, str) or f"data.{name}" in flags:
            continue
        for path, _ in parts_of(text):
            if not is_there(path):
                raise FileNotFoundError(
                    f"{rule} ({path}); set another path with --{name}_data FILE"
                    f"{none if name == 'val' else ''}"
                )


def costs(
    file: StrPath | None, flags: Mapping[str, Any], *, say: Callable[[str], None] = print
) -> str:
    """Return the report of a training step's costs. Without weights to begin from, it needs data
    only to choose a vocabulary."""
    from_file = {} if file is None else configuration.read_toml(file)
    path = flags.get("train.init_from") or from_file.get("train", {}).get("init_from")
    _, weights = _weights_to_begin_from(path)
    given = configuration.nest(flags)
    tree = configuration.merge({"model": DEFAULT_MODEL}, from_file, weights, given)
    if tree.get("data", {}).get("train"):
        _set_vocab_size(tree, say)
    if "vocab_size" not in tree["model"]:
        raise ValueError(
            "the size of the vocabulary is missing (model.vocab_size); set --vocab_size N, or add "
            "the text with --train_data FILE"
        )
    train = configuration.build(
        TrainerConfig,
        {**tree.get("train", {}), "iterations": 1, "epochs": None, "minutes": None},
        "train.",
    )
    optim = configuration.build(OptimConfig, tree.get("optim", {}), "optim.")
    runtime = configuration.build(RuntimeConfig, tree.get("runtime", {}), "runtime.")
    data = configuration.build(DataConfig, {"train": "", **tree.get("data", {})}, "data.")
    model = configuration.build(ModelConfig, tree["model"], "model.")
    model = with_rows(model, data.row_length)
    check_settings(model, train, data, runtime)
    if runtime.device in ("cpu", "mps"):  # a run on another machine may have any GPU
        check_device(model, runtime, torch.device(runtime.device))
    # "auto" assumes a GPU that computes in bfloat16, even if this machine has no GPU.
    half = runtime.dtype == "auto" and runtime.device != "cpu"
    return training_report(
        model,
        train.batch_size,
        optim.optimizer,
        precision="half" if half else precision_of(runtime.dtype),
        accumulate=train.accumulate,
        momentum=optim.momentum or 0.0,
        reference=data.has_reference,
    )


def _say_kept(
    layer: Layer,
    file: StrPath | None,
    kept: Layer,
    whose: str,
    flags: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    """Print a line for each key of `layer` (read from `file`) whose value differs in `kept`."""
    given = {*flags, *(other for key in flags for other in _EXCLUDES.get(key, ()))}
    for key, value, own in _overruled(layer, kept):
        if key not in given and key not in _NOT_KEPT:
            say(f"{key} keeps {whose} value {own} ({file} has {value}); to change it, set --{key}")


def _overruled(layer: Layer, tree: Layer, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, value in `layer`, value in `tree`) for each key whose values differ."""
    for key, value in layer.items():
        won = tree.get(key)
        if key not in tree:
            continue
        if isinstance(value, dict) and isinstance(won, dict | None):
            yield from _overruled(value, won or dict.fromkeys(value), f"{prefix}{key}.")
        elif value != (list(won) if isinstance(won, tuple) else won):
            yield f"{prefix}{key}", value, won


def _run_of(checkpoint: Path) -> Path | None:
    """Return the run's folder that holds a checkpoint, or None if no run holds it."""
    folder = checkpoint.parent if checkpoint.parent.name else checkpoint.absolute().parent
    return folder.parent if folder.name == "checkpoints" else None


def _recipe_in(checkpoint: Path) -> dict[str, Any]:
    """Return the settings that the run had when it wrote the checkpoint.

    config.toml may differ: each start writes it, even a start that fails before it saves.
    """
    with naming_an_earlier(checkpoint):
        recipe = read_settings(checkpoint).get("recipe") or {}
        if not isinstance(recipe, dict) or not all(
            isinstance(each, dict) for each in recipe.values()
        ):
            raise FileFormatError(
                f"the checkpoint's recipe is not valid ({checkpoint}); resume from an earlier "
                "checkpoint"
            )
    return recipe


def _checkpoint_to_resume(
    resume: str | None, out: str | None, say: Callable[[str], None]
) -> Path | None:
    """Return the checkpoint to resume from, or None for a new run.

    A run is new without `resume`, or if "auto" finds no checkpoint.
    """
    if resume is None:
        return None
    if resume == "auto":
        runs = [Path(out)] if out else Path("runs").glob("*")
        folders = [run / "checkpoints" for run in runs]
    else:
        folders = [Path(resume), Path(resume) / "checkpoints"]
    lasts = [last for folder in folders if (last := _last_of(folder)) is not None]
    if lasts:
        last = max(lasts, key=lambda path: path.lstat().st_mtime)
        if last.name != "last":  # a kill came before it, or `last` was lost
            say(f"{last.parent / 'last'} is missing: {last.name} is the newest checkpoint there")
        with naming_an_earlier(last):
            checkpoint = find_checkpoint(last)
    elif resume == "auto":
        return None
    else:
        checkpoint = find_checkpoint(resume, "last")
    if checkpoint.name in ("", ".."):  # "." and ".." are not names
        return Path(os.path.abspath(checkpoint))
    return checkpoint


def _last_of(folder: Path) -> Path | None:
    """Return the path `last` in a run's folder `checkpoints`, or the newest checkpoint there."""
    if os.path.lexists(folder / "last"):
        return folder / "last"
    return next(reversed(whole_checkpoints(folder)), None)


def _keep_the_last(section: str, names: set[str], tree: Tree, layers: list[Layer]) -> bool:
    """Keep only the keys of `names` that the last layer with such a key sets.

    The keys exclude each other. Return whether any layer sets one of them.
    """
    for layer in reversed(layers):
        given = names & layer.get(section, {}).keys()
        if given:
            for name in names - given:
                tree[section].pop(name, None)
            return True
    return False


def _new_run() -> str:
    return f"runs/{time.strftime('%Y-%m-%d-%H%M%S')}"
