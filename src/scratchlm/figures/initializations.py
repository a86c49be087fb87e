"""`plot_init` compares the initializations of a model; drawing needs the extra `viz`.

plot_init(SMALL, None, "init.png")
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from scratchlm.config import build
from scratchlm.costs.model_costs import count_parameters
from scratchlm.data.batches import get_batch
from scratchlm.data.shards import open_shard
from scratchlm.figures.style import require_matplotlib
from scratchlm.files.atomic import replacing_file
from scratchlm.files.paths import StrPath
from scratchlm.model.config import Init, ModelConfig
from scratchlm.model.transformer import Transformer
from scratchlm.optim.adamw import AdamW
from scratchlm.optim.groups import adamw_groups

BATCH_SIZE, LR = 8, 1e-3
# The keys of the default model.
SMALL = {"vocab_size": 512, "context_length": 64, "d_model": 128, "num_layers": 8, "num_heads": 4}
LARGEST = 100_000_000  # parameters; four runs of this size take hours on a CPU


@dataclasses.dataclass(frozen=True)
class InitRun:
    """The measurements of one initialization.

    activations: the root mean square of the residual stream after the embedding and after each
    layer, at the first step. gradients: for each layer, the norm of its gradients divided by the
    norm of its weights, at the first step. losses: the loss of each step.
    """

    activations: list[float]
    gradients: list[float]
    losses: list[float]


def plot_init(
    model: Mapping[str, Any],
    train_data: StrPath | None,
    path: StrPath,
    *,
    steps: int = 100,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Train a model with every initialization, and write the figure to `path` as a PNG.

    model: the keys of a config's section `model`. train_data: a token file, whose vocabulary
    replaces the model's; None means a made-up language. Raise ValueError if the model is too large.
    """
    if train_data is None:
        config = build(ModelConfig, model, "model.")
        tokens: Any = made_up_language(config.vocab_size)
        source = "a made-up language"
    else:
        shard, source = open_shard(train_data), os.fspath(train_data)
        known = shard.max_id + 1 if shard.info is None else shard.info.vocab_size
        config = build(ModelConfig, {**model, "vocab_size": known}, "model.")
        tokens = shard.tokens
    _check_size(config)
    runs = init_runs(config, tokens, steps=steps, progress=progress)
    draw_init(runs, path, _title(config, source))


def _title(config: ModelConfig, source: str) -> str:
    zero = ", residual branches start at zero" if config.residual_init == "zero" else ""
    shape = f"{config.num_layers} layers of {config.d_model}"
    how = f"AdamW, lr {LR}, batches of {BATCH_SIZE}"
    return f"{shape}, on {source}; {how}{zero}\n"


def made_up_language(vocab_size: int, count: int = 100_000, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return ids that a model can learn.

    Each id has four fixed followers. With a probability of 90 %, the next id is one of them.
    """
    rng = np.random.default_rng(seed)
    followers = rng.integers(vocab_size, size=(vocab_size, 4))
    choices, noise = rng.integers(4, size=count), rng.random(count) < 0.1
    others = rng.integers(vocab_size, size=count)
    ids = np.zeros(count, np.int64)
    for i in range(1, count):
        ids[i] = others[i] if noise[i] else followers[ids[i - 1], choices[i]]
    return ids


def _check_size(config: ModelConfig) -> None:
    """Raise ValueError if the model is too large to train it four times for a figure."""
    size = count_parameters(config).total
    if size > LARGEST:
        raise ValueError(
            f"the model must have at most {LARGEST:,} parameters for four training runs "
            f"({size:,}); choose a smaller model, such as --config shakespeare"
        )


def init_runs(
    config: ModelConfig,
    tokens: Any,
    *,
    steps: int = 100,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[Init, InitRun]:
    """Train with every initialization on the same batches, with AdamW at a constant learning rate.

    tokens: a 1-D array of ids. progress: called with one line after each run. Only with `progress`,
    a terminal shows a bar.
    """
    hidden = None if progress else True  # tqdm shows a bar in a terminal for None
    runs: dict[Init, InitRun] = {}
    for init in get_args(Init):
        torch.manual_seed(seed)
        model = Transformer(dataclasses.replace(config, init=init))
        optimizer = AdamW(adamw_groups(model.named_parameters(), 0.1), lr=LR)
        generator = torch.Generator().manual_seed(seed)
        activations: list[float] = []
        gradients: list[float] = []
        losses: list[float] = []
        for step in tqdm(range(steps), desc=init, unit="step", leave=False, disable=hidden):
            batch = get_batch(tokens, BATCH_SIZE, config.context_length, "cpu", generator)
            handles = _watch(model, activations) if step == 0 else []
            loss = F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())
            for handle in handles:
                handle.remove()
            auxiliary = model.auxiliary_loss()
            (loss if auxiliary is None else loss + auxiliary).backward()
            if step == 0:
                gradients = [_relative_gradient(layer) for layer in model.layers]
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        if progress:
            progress(f"{init:<10} loss {losses[0]:.3f} -> {losses[-1]:.3f} in {steps} steps")
        runs[init] = InitRun(activations, gradients, losses)
    return runs


def _watch(model: Transformer, activations: list[float]) -> list[Any]:
    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        activations.append(output.detach().float().square().mean().sqrt().item())

    return [module.register_forward_hook(note) for module in (model.embedding, *model.layers)]


def _relative_gradient(layer: nn.Module) -> float:
    pairs = [(p.grad, p) for p in layer.parameters() if p.grad is not None and p.ndim >= 2]
    gradient = sum(float(g.square().sum()) for g, _ in pairs)
    weight = sum(float(p.detach().square().sum()) for _, p in pairs)
    return float((gradient / weight) ** 0.5)


def draw_init(runs: dict[Init, InitRun], path: StrPath, title: str) -> None:
    """Write one PNG: activations and gradients by layer, and the first losses.

    An interrupted write leaves no partial file.
    """
    figure, axes = _figure(3, title)
    for name, run in runs.items():
        axes[0].plot(range(len(run.activations)), run.activations, marker="o", label=name)
        axes[1].plot(range(1, len(run.gradients) + 1), run.gradients, marker="o", label=name)
        axes[2].plot(range(1, len(run.losses) + 1), run.losses, label=name)
    for axis, heading, below in (
        (axes[0], "residual stream: root mean square", "layer (0: the embedding)"),
        (axes[1], "gradients / weights: ratio of norms", "layer"),
        (axes[2], "loss, nats a token", "step"),
    ):
        axis.set_title(heading)
        axis.set_xlabel(below)
        axis.grid(alpha=0.3)
        axis.legend()
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_yscale("log")
    axes[1].set_yscale("log")
    with replacing_file(Path(path)) as file:
        figure.savefig(file, format="png", dpi=120)


def _figure(columns: int, title: str) -> tuple[Any, Any]:
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * columns, 4), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(1, columns)
