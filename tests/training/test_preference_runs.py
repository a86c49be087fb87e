"""Runs on pairs of answers: the whole command, resuming, ranks, and settings without effect."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers import forked
from helpers.chat_templates import CHATML, tokenizer_with
from helpers.dialogue_runs import begun, dialogue, flags, save_base
from helpers.exact_runs import difference, final, log_of, quiet, run
from helpers.refusals import check_refusal
from scratchlm import AdamW, load_model
from scratchlm.checkpoint.pointers import find_checkpoint
from scratchlm.checkpoint.save_and_load import read_checkpoint, save_checkpoint
from scratchlm.cli.train import main as train
from scratchlm.training import recipe, run_config

COUNT = 40


def pair(number: int) -> dict[str, Any]:
    *prompt, answer = dialogue(number)
    return {
        "prompt": prompt,
        "chosen": answer["content"],
        "rejected": dialogue(number + COUNT)[-1]["content"] + " too",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose tokenizer has markers, weights without markers, pairs, and dialogues."""
    folder = tmp_path_factory.mktemp("runs")
    save_base(folder, "base", tokenizer_with("<|endoftext|>", *CHATML), context_length=256)
    save_base(folder, "unmarked", tokenizer_with("<|endoftext|>"))
    tokenizer_with("<|endoftext|>", *CHATML).save(folder / "t.json")
    pairs = [pair(number) for number in range(COUNT)]
    equal = {"prompt": "a", "chosen": "b", "rejected": "b"}
    (folder / "pairs.json").write_text(json.dumps([*pairs, equal]), encoding="utf-8")
    line = json.dumps({"instruction": "a", "output": "b"})
    (folder / "dialogues.jsonl").write_text(f"{line}\n{line}\n", encoding="utf-8")
    return folder


def given(folder: Path, out: Any, **changes: Any) -> dict[str, Any]:
    pairs = {"data.kind": "dpo", "data.train": str(folder / "pairs.json"), "optim.lr": 3e-3}
    return flags(folder, str(out)) | pairs | changes


def test_bad_pairs_are_kept_aside(folder: Path, tmp_path: Path) -> None:
    pairs = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    (tmp_path / "a.json").write_text(json.dumps([*pairs, {"prompt": "a"}]), encoding="utf-8")
    path, said = tmp_path / "run" / "data" / "rejects.jsonl", []
    more = {"data.train": str(tmp_path / "a.json"), "data.max_bad": 1}
    begun(given(folder, tmp_path / "run", **more), said)
    assert f"1 bad record of {len(pairs) + 1}: {path}" in said
    (reject,) = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert f"a.json, item {len(pairs)} has 'prompt'" in reject["reason"]


LORA = {"model.lora.r": 4, "model.lora.targets": "all-linear", "model.lora.dropout": 0.1}


def test_the_command_trains_on_preferences(folder: Path, tmp_path: Path, capsys) -> None:
    words = ["--config", "dpo", "--init_from", str(folder / "base"), "--train_data",
             str(folder / "pairs.json"), "--out", str(tmp_path / "run"), "--lr", "3e-3",
             "--batch_size", "2", "--epochs", "8", "--eval_every", "20", "--dtype", "float32",
             "--device", "cpu"]  # fmt: skip
    assert train(words) == 0
    told = capsys.readouterr().out
    assert "41 pairs: 40 kept, 0 dropped because they are too long, 1 dropped" in told
    assert "4 of 40 pairs are held out" in told
    assert "an epoch has 36 pairs in " in told
    log = log_of(tmp_path / "run")
    assert log[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert log[0]["reward_accuracy"] == log[0]["reward_margin"] == 0
    assert log[-1]["loss"] < 0.3
    assert log[-1]["reward_accuracy"] == 1
    assert log[-1]["reward_margin"] > 1
    assert log[-1]["val_reward_margin"] > log[19]["val_reward_margin"] > 0
    assert "val_bits_per_byte" not in log[-1]
    assert f"val_reward_accuracy {log[-1]['val_reward_accuracy']:.1%}" in told
    assert "talk to it: scratchlm-chat" in told
    payload = read_checkpoint(find_checkpoint(tmp_path / "run", "last"))
    assert payload["template"] == "chatml"
    base = load_model(folder / "base", "cpu")
    assert payload["model"].keys() == base.state_dict().keys()
    assert len(payload["optimizer"]["state"]) == len(list(base.parameters()))


@pytest.mark.parametrize("changes", [{}, LORA | {"data.packing": False}])
def test_a_resumed_run_equals_an_uninterrupted_run(folder, tmp_path, changes) -> None:
    """The run stops in the middle of an epoch."""
    run(given(folder, tmp_path / "whole", **changes))
    assert log_of(tmp_path / "whole")[0]["loss"] == pytest.approx(math.log(2), rel=1e-3)
    checkpoint = str(tmp_path / "whole" / "checkpoints" / "step-00000004")
    out = {"train.out": str(tmp_path / "again")}
    config, found = run_config.resolve(None, out, checkpoint, say=quiet)
    trainer = recipe.build(config, resume=found, say=quiet)
    trainer.fit()
    assert 16 % trainer.micro_batches.batches.windows_per_epoch
    assert difference(final(tmp_path / "whole"), final(tmp_path / "again")) is None


def test_the_reference_of_a_resumed_run_must_be_the_same(folder, tmp_path, capsys) -> None:
    shutil.copytree(folder / "base", tmp_path / "base")
    weights = {"train.init_from": str(tmp_path / "base"), "train.iterations": 4}
    run(given(folder, tmp_path / "run", **weights))
    words = ["--resume", str(tmp_path / "run"), "--iterations", "5"]
    shutil.move(tmp_path / "base", tmp_path / "moved")
    assert train(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"({tmp_path / 'base'}) must still exist, because it is the reference model; " in line
    model = load_model(tmp_path / "moved", "cpu")
    model.norm.weight.data[0] += 1e-6
    tokenizer = tokenizer_with("<|endoftext|>", *CHATML).to_json()
    save_checkpoint(tmp_path / "base", model, AdamW(model.parameters()), 0, tokenizer=tokenizer)
    assert train(words) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "must have the same reference model" in line
    assert "; resume with the weights that the run began from" in line
    shutil.rmtree(tmp_path / "base")
    shutil.move(tmp_path / "moved", tmp_path / "base")
    assert train(words) == 0


def test_pairs_that_are_read_as_text_get_the_remedy(folder: Path, tmp_path, capsys) -> None:
    words = ["--train_data", str(folder / "pairs.json"), "--init_from", str(folder / "base")]
    assert train([*words, "--out", str(tmp_path / "run")]) == 2
    assert "pairs of answers with scratchlm-train --config dpo" in capsys.readouterr().err


def test_micro_batches_with_uneven_pairs_equal_one_batch(folder: Path, tmp_path: Path) -> None:
    changes = {"optim.optimizer": "sgd", "optim.lr": 0.5}
    one = begun(given(folder, "x", **changes, **{"train.batch_size": 8}))
    eight = begun(given(folder, "x", **changes,
                        **{"train.batch_size": 1, "train.accumulate": 8}))  # fmt: skip
    counts = {eight.micro_batches.batches.batch(step).num_terms() for step in range(8)}
    assert len(counts) > 1
    for _ in range(3):
        first, second = one.train_step(), eight.train_step()
        for key in ("loss", "reward_accuracy", "reward_margin", "grad_norm"):
            assert float(first[key]) == pytest.approx(float(second[key]), rel=1e-6, abs=1e-6), key


def test_beta_scales_the_first_gradient(folder: Path) -> None:
    """The gradient of an unchanged model is proportional to beta."""
    steps = [
        begun(given(folder, "x", **{"train.dpo_beta": beta})).train_step() for beta in (0.1, 0.5)
    ]
    norms = [float(step["grad_norm"]) for step in steps]
    assert norms[1] == pytest.approx(5 * norms[0], rel=1e-4)


def _on_ranks(ranks: Any, flags: dict[str, Any]) -> None:
    run(flags, ranks)


def test_two_ranks_are_one(folder: Path, tmp_path: Path) -> None:
    changes = {"train.iterations": 4, "optim.lr": 1e-3}
    run(given(folder, tmp_path / "one", **changes))
    forked.run_ranks(tmp_path, 2, _on_ranks, given(folder, tmp_path / "two", **changes))
    one, two = (log_of(tmp_path / name) for name in ("one", "two"))
    for mine, other in zip(one, two, strict=True):
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            if key != "mfu":
                assert value == pytest.approx(other[key], rel=1e-5, abs=1e-6), key


def test_a_sharded_model_is_refused(folder: Path, tmp_path: Path) -> None:
    flags = given(folder, tmp_path / "run", **{"runtime.parallel": "fsdp"})
    for process in forked.start_ranks(tmp_path, 2, _on_ranks, flags):
        assert forked.wait(process) == 1
    told = forked.traceback_in(tmp_path / "rank-0.pickle")
    assert "a sharded model cannot learn pairs of answers (runtime.parallel fsdp" in told


def test_a_dry_run_counts_the_reference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", "dpo", "--init_from", str(folder / "base"), "--dry_run"]
    assert train(words) == 0
    told = capsys.readouterr().out
    sizes = dict(line.split(maxsplit=1) for line in told.splitlines() if line.startswith("  "))
    assert sizes["reference"] == sizes["gradients"]
    assert train([*words, "--lora_r", "2"]) == 0
    told = capsys.readouterr().out
    sizes = dict(line.split(maxsplit=1) for line in told.splitlines() if line.startswith("  "))
    assert sizes["reference"] == sizes["gradients"] != sizes["weights"]


BAD: list[tuple[dict[str, str | None], int, str]] = [
    ({"--train_data": "dialogues.jsonl"}, 2, "dialogues.jsonl:1 has 'instruction', 'output'"),
    ({"--kind": "sft"}, 2, "json, item 0 has a pair of answers); train on pairs with --kind dpo"),
    ({"--kind": "sft", "--dpo_beta": "0.5"}, 2, "train.dpo_beta (0.5) has no effect"),
    ({"--dpo_beta": "0"}, 2, "train.dpo_beta must be above 0 and finite (0.0)"),
    ({"--dpo_beta": "-1"}, 2, "train.dpo_beta must be above 0"),
    ({"--dpo_beta": "inf"}, 2, "train.dpo_beta must be above 0 and finite (inf)"),
    ({"--dpo_beta": "nan"}, 2, "train.dpo_beta must be a number (nan)"),
    ({"--z_loss": "0.1"}, 2, "train.z_loss (0.1) has no effect"),
    ({"--format": "alpaca"}, 2, "data.format ('alpaca') has no effect"),
    ({"--train_on": "last"}, 2, "data.train_on ('last') has no effect"),
    ({"--min_target_tokens": "2"}, 2, "data.min_target_tokens (2) has no effect"),
    ({"--documents": "separate"}, 2, "data.documents ('separate') has no effect"),
    ({"--init_from": None}, 2, "dialogues need a tokenizer"),
    ({"--init_from": None, "--tokenizer_path": "t.json"}, 2, "train.init_from is unset); "),
    ({"--init_from": "unmarked"}, 2, "its tokenizer has no <|im_start|>, which chatml needs"),
    ({"--init_from": "nowhere"}, 2, "nowhere"),
    ({"--context_length": "8"}, 2, "at least one pair of different answers must fit into a row"),
    ({"--context_length": "8", "--too_long": "error"}, 2, "pairs.json, item 0: "),
    ({"--train_data": "one.json"}, 2, "has only 1); add pairs"),
    ({"--train_data": "pairs.json:0.5"}, 2, "a whole number up to 1000"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "names"), BAD)
def test_the_command_refuses(
    words: dict[str, str | None], code: int, names: str, folder: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    (folder / "one.json").write_text(json.dumps([pair(0)]))
    given = {"--kind": "dpo", "--train_data": "pairs.json", "--init_from": "base", "--out": "bad"}
    flat = [word for name, value in (given | words).items() if value for word in (name, value)]
    check_refusal(train, flat, code, names, capsys)
