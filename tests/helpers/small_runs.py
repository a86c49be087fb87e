"""A small trainer and its log."""

from __future__ import annotations

import json

import numpy as np

from helpers import tiny
from scratchlm import Muon
from scratchlm.data.batches import EvalBatches, TrainBatches
from scratchlm.optim.groups import muon_groups
from scratchlm.optim.schedule import cosine_schedule
from scratchlm.training.trainer import Notes, Trainer
from scratchlm.training.trainer_config import TrainerConfig

TOKENS = np.random.default_rng(0).integers(0, 300, 3000).astype(np.uint16)


def trainer(
    out=None, *, model=None, batches=None, objective=None, seed=0, dropout=0.1, **changes
) -> Trainer:
    settings = {"iterations": 8, "batch_size": 4, "eval_every": 3, "save_every": 2} | changes
    config = TrainerConfig(out=None if out is None else str(out), **settings)
    model = model or tiny.model(seed, dropout=dropout)
    groups = muon_groups(model.named_parameters(), lr=0.02, adamw_lr=3e-3)
    return Trainer(
        model,
        Muon(groups, lr=0.02),
        batches or TrainBatches(TOKENS[:2700], config.batch_size, 32, seed),
        config,
        schedule=lambda step: cosine_schedule(
            step, max_lr=1.0, min_lr=0.1, warmup_steps=2, total_steps=8
        ),
        val_batches=EvalBatches(TOKENS[2700:], config.batch_size, 32, 2),
        objective=objective,
        notes=Notes(data_id={"train data": "tokens"}),
    )


def log_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
