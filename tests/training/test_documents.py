"""Training on rows that contain several documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import exact_runs as exactness
from helpers import forked, tiny
from helpers.refusals import check_refusal
from helpers.small_runs import trainer
from scratchlm.cli.tokenize import main as tokenize
from scratchlm.cli.train import main as train
from scratchlm.data.batches import EvalBatches, TrainBatches
from scratchlm.data.rows import Documents
from scratchlm.devices.batch import Batch
from scratchlm.model.config import MoEConfig
from scratchlm.training import recipe, run_config
from scratchlm.training.objective import Objective

END = 299
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 299, 3000).astype(np.uint16)
TOKENS[RNG.integers(5, 40, 120).cumsum()] = END  # documents of 5 to 39 tokens
KINDS = [Documents(END, separate=True), Documents(END, separate=True, aligned=True)]


def alone(batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return inputs and targets (1, n) of each document in a batch."""
    assert batch.first is not None
    found = []
    for inputs, targets, first in zip(batch.inputs, batch.targets, batch.first, strict=True):
        sizes = torch.unique_consecutive(first, return_counts=True)[1].tolist()
        found += zip(inputs[None].split(sizes, 1), targets[None].split(sizes, 1), strict=True)
    return found


@pytest.mark.parametrize("documents", KINDS)
@pytest.mark.parametrize(
    "variant", [{}, {"position": "learned"}, {"window": 6}, {"gated_attention": "headwise"},
                {"moe": MoEConfig(4, 2, balance_weight=0.0, z_weight=0.0)}],
)  # fmt: skip
def test_a_step_is_the_step_of_each_document_alone(documents, variant: dict[str, Any]) -> None:
    """In float64: loss and gradients to 1e-9. The routers' losses are means over all tokens."""
    batches = TrainBatches(TOKENS, 4, 32, 0, documents=documents)
    model = tiny.model(**variant).double()
    run = trainer(model=model, batches=batches, accumulate=2, max_grad_norm=1e9)
    micro = run.micro_batches.of(0)
    pieces = [piece for batch in micro.micro for piece in alone(batch)]
    nats = [F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")
            for x, y in pieces if (y != -100).any()]  # fmt: skip
    total = torch.stack(nats).sum() / micro.num_terms
    params = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(total, params, allow_unused=True)
    given: dict[int, torch.Tensor] = {}
    run.optimizer.step = lambda: given.update({i: p.grad for i, p in enumerate(params)})
    assert run.train_step()["loss"] == pytest.approx(total.item(), rel=1e-6)  # summed in float32
    for number, gradient in enumerate(expected):
        if gradient is not None:
            torch.testing.assert_close(given[number], gradient, rtol=0, atol=1e-9)


def test_experts_count_the_same_tokens_in_both_forms() -> None:
    """The routers see each token once, so documents in rows change no load of the same tokens."""
    model = tiny.model(moe=MoEConfig(4, 2)).double()
    (batch,) = [TrainBatches(TOKENS, 4, 32, 0, documents=KINDS[0]).batch(0)]
    model(batch.inputs, first=batch.first)
    packed = model.layers[0].ffn.load, model.auxiliary_loss()
    masked = tiny.model(moe=MoEConfig(4, 2)).double()
    masked.load_state_dict(model.state_dict())
    places = torch.arange(32)
    own = (places >= batch.first[..., None])[:, None]
    masked(batch.inputs, mask=own, positions=places - batch.first)
    torch.testing.assert_close(masked.layers[0].ffn.load, packed[0], rtol=0, atol=0)
    torch.testing.assert_close(masked.auxiliary_loss(), packed[1], rtol=1e-12, atol=0)


def test_accumulated_rows_equal_one_batch() -> None:
    for documents in KINDS:
        wide = trainer(dropout=0.0, batch_size=8,
                       batches=TrainBatches(TOKENS, 8, 32, 0, documents=documents))  # fmt: skip
        parts = trainer(dropout=0.0, batch_size=2, accumulate=4,
                        batches=TrainBatches(TOKENS, 2, 32, 0, documents=documents))  # fmt: skip
        one, other = wide.train_step(), parts.train_step()
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)


def test_validation_is_the_mean_over_documents_alone() -> None:
    run = trainer(dropout=0.0)
    run.val_batches = EvalBatches(TOKENS[:500], 4, 32, 0, KINDS[0])
    run.model.eval()
    pieces = [piece for batch in run.val_batches for piece in alone(batch)]
    nats = sum(F.cross_entropy(run.model(x).flatten(0, 1), y.flatten(), reduction="sum").item()
               for x, y in pieces if (y != -100).any())  # fmt: skip
    count = sum(int((y != -100).sum()) for _, y in pieces)
    assert count == 499 - int((TOKENS[:499] == END).sum())
    assert run.validate()["val_loss"] == pytest.approx(nats / count, rel=1e-6)


def test_another_model_cannot_separate_documents() -> None:
    batch = TrainBatches(TOKENS, 2, 32, 0, documents=KINDS[0]).batch(0)
    other = nn.Sequential(nn.Embedding(300, 8), nn.Linear(8, 300))
    with pytest.raises(ValueError, match=r"only a Transformer can separate documents \(Sequential"):
        Objective(other)(batch.inputs, batch.targets, batch.first)
    Objective(other)(batch.inputs, batch.targets)


# --- whole runs ----------------------------------------------------------------------------------

BOTH = {"data.documents": "separate", "data.rows": "aligned"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token files of two sources."""
    folder = tmp_path_factory.mktemp("documents")
    tiny.tokenizer(folder).save(folder / "t.json")
    for name, count in (("a", 150), ("b", 60)):
        lines = [json.dumps({"text": tiny.text(3 + i % 25, seed=i)}) for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        words = ["--tokenizer_path", folder / "t.json", "--encode", folder / f"{name}.jsonl"]
        assert tokenize([str(word) for word in [*words, "--output", folder / name]]) == 0
    return folder


def given(folder: Path, out: str, **changes: Any) -> dict[str, object]:
    mixture = f"{folder / 'a'}:2,{folder / 'b'}:1"
    flags = exactness.flags(folder, out, **{
        "data.train": mixture, "model.vocab_size": 300,
        "train.iterations": 12, "train.eval_every": 6, "train.save_every": 3,
        "train.keep_last": 0, "model.moe.num_experts": 2, "model.moe.num_active": 1,
    } | BOTH | changes)  # fmt: skip
    return {key: value for key, value in flags.items() if key not in ("train.epochs", "data.val")}


def test_a_stopped_run_resumes_to_the_bit(files: Path) -> None:
    exactness.run(given(files, "straight"))
    exactness.run(given(files, "stopped", **{"train.iterations": 5, "train.eval_every": 6}))
    exactness.run(given(files, "stopped"))
    logs = [exactness.log_of(files / out) for out in ("straight", "stopped")]
    stops = logs[1][4]
    stops.pop("val_loss", None)  # the last step of a run validates
    stops.pop("val_bits_per_byte", None)
    assert logs[0] == logs[1]
    one, other = (exactness.final(files / out) for out in ("straight", "stopped"))
    assert exactness.difference(one["model"], other["model"]) is None
    assert exactness.difference(one["optimizer"], other["optimizer"]) is None


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_bit(files: Path) -> None:
    more = {"train.iterations": 60, "train.eval_every": 15}
    process = forked.start(exactness.run, given(files, "whole", **more))
    assert forked.wait(process) == 0
    kills = 0
    for seed in range(6):
        out = f"killed-{seed}"
        for wait in (0.8, 1.6, None):
            process = forked.start(exactness.run, given(files, out, **more))
            if wait is None:
                assert forked.wait(process) == 0
            else:
                kills += forked.kill_after(process, wait)
        exactness.assert_equal_runs(files, "whole", out)
    assert kills > 3


def test_two_ranks_equal_one(files: Path) -> None:
    short = {"train.iterations": 4, "train.eval_every": 2, "optim.warmup_steps": 1,
             "model.dropout": 0.0, "optim.lr": 1e-3, "optim.adamw_lr": 1e-3,
             "runtime.dtype": "float32"}  # fmt: skip
    for size in (1, 2):
        forked.run_ranks(files, size, lambda ranks, flags: exactness.run(flags, ranks),
                         given(files, f"ranks-{size}", **short))  # fmt: skip
    one, two = (exactness.log_of(files / f"ranks-{size}") for size in (1, 2))
    for mine, other in zip(one, two, strict=True):
        for key in ("loss", "grad_norm", "val_loss"):
            assert mine.get(key, 0.0) == pytest.approx(other.get(key, 0.0), rel=1e-5)


def test_training_and_validation_of_a_run_separate(files: Path) -> None:
    config, _ = run_config.resolve(None, given(files, "built"), say=exactness.quiet)
    run = recipe.build(config, say=exactness.quiet)
    assert all(batch.first is not None for batch in [*run.val_batches, *run.micro_batches.of(0)[0]])


def test_a_run_resumes_only_with_its_own_rows(files: Path) -> None:
    flags = given(files, "rows", **{"train.iterations": 3, "optim.warmup_steps": 1})
    exactness.run(flags)
    for key, value, remedy in (
        ("data.documents", "ignore", "--data.documents separate"),
        ("data.rows", "stream", "--data.rows aligned"),
    ):
        config, checkpoint = run_config.resolve(
            None, flags | {key: value, "train.iterations": 6}, "auto", say=exactness.quiet
        )
        with pytest.raises(ValueError, match=f"resume with {remedy}"):
            recipe.build(config, resume=checkpoint, say=exactness.quiet)


def test_the_command_says_what_it_does(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--train_data", str(files / "a"), "--config", "tiny", "--iterations", "2",
             "--device", "cpu", "--eval_batches", "1", "--context_length", "32",
             "--out", str(files / "command")]  # fmt: skip
    assert train([*words, "--documents", "separate", "--rows", "aligned"]) == 0
    out = capsys.readouterr().out
    assert " documents, with " in out
    assert 'documents = "separate"' in out
    assert 'rows = "aligned"' in (files / "command" / "config.toml").read_text()
    wrong = [*words[:-1], str(files / "bad"), "--documents", "apart"]
    check_refusal(train, wrong, 2, "data.documents must be a valid choice (apart)", capsys)
