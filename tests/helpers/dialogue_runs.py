"""Short runs on dialogues, that begin from the weights of a tiny model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from helpers import tiny
from helpers.exact_runs import quiet
from scratchlm import AdamW, BPETokenizer, Transformer
from scratchlm.checkpoint.save_and_load import save_checkpoint
from scratchlm.training import recipe, run_config
from scratchlm.training.trainer import Trainer

LENGTH, COUNT = 64, 60


def dialogue(number: int) -> list[dict[str, str]]:
    chance = random.Random(number)

    def text() -> str:
        return " ".join(chance.choices(tiny.WORDS, k=chance.randrange(1, 5)))

    return [
        {"role": role, "content": text()}
        for _ in range(chance.randrange(1, 3))
        for role in ("user", "assistant")
    ]


def save_base(folder: Path, name: str, tokenizer: BPETokenizer, **config: Any) -> Transformer:
    config = {"vocab_size": len(tokenizer), "context_length": LENGTH} | config
    model = tiny.model(**config)
    save_checkpoint(folder / name, model, AdamW(model.parameters()), 0,
                    tokenizer=tokenizer.to_json())  # fmt: skip
    return model


def flags(folder: Path, out: str, weights: str = "base", **changes: Any) -> dict[str, Any]:
    return {
        "data.kind": "sft", "data.train": str(folder / "dialogues.jsonl"),
        "train.init_from": str(folder / weights), "train.out": str(folder / out),
        "train.iterations": 8, "train.batch_size": 4, "train.eval_every": 4, "train.save_every": 4,
        "optim.optimizer": "adamw", "optim.lr": 0.01, "optim.schedule": "constant",
        "optim.warmup_steps": 0, "runtime.device": "cpu", "runtime.dtype": "float32",
        **{key.replace("__", "."): value for key, value in changes.items()},
    }  # fmt: skip


def begun(given: dict[str, Any], said: list[str] | None = None) -> Trainer:
    config, _ = run_config.resolve(None, given, say=quiet)
    return recipe.build(config, say=quiet if said is None else said.append)
