"""Runs on dialogues: what they learn, new tokens, resuming, ranks, and settings without effect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import forked, tiny
from helpers.chat_templates import CHATML, in_transformers, tokenizer_with
from helpers.dialogue_runs import COUNT, LENGTH, begun, dialogue, flags, save_base
from helpers.exact_runs import difference, final, log_of, quiet, run
from helpers.refusals import check_refusal
from scratchlm import BPETokenizer, Transformer, cross_entropy, load_model, to_hf
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.cli.data import main as data
from scratchlm.cli.train import main as train
from scratchlm.training import recipe, run_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose tokenizer has no markers, weights with markers, and dialogues."""
    folder = tmp_path_factory.mktemp("runs")
    save_base(folder, "base", tokenizer_with("<|endoftext|>"))
    save_base(folder, "marked", tokenizer_with("<|endoftext|>", *CHATML))
    lines = [json.dumps({"messages": dialogue(number)}) + "\n" for number in range(COUNT)]
    (folder / "dialogues.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def test_the_losses_are_those_of_each_dialogue_alone(folder: Path, tmp_path: Path) -> None:
    """The oracle takes ids and masks from transformers, and does not pack."""
    trainer = begun(flags(folder, "x", "marked", train__batch_size=100))
    model = load_model(folder / "marked", "cpu")
    theirs = in_transformers(tokenizer_with("<|endoftext|>", *CHATML), "chatml", tmp_path)
    sums: dict[bool, list[float]] = {True: [0.0, 0], False: [0.0, 0]}
    for number in range(COUNT):
        found = theirs.apply_chat_template(
            dialogue(number), return_assistant_tokens_mask=True, return_dict=True
        )
        ids, mask = (torch.tensor(found[name]) for name in ("input_ids", "assistant_masks"))
        targets = ids.where(mask == 1, -100)[1:]
        held_out = (COUNT - 1 - number) % 10 == 0
        count = int((targets != -100).sum())
        sums[held_out][0] += cross_entropy(model(ids[:-1]), targets).item() * count
        sums[held_out][1] += count
    expected = {held_out: nats / count for held_out, (nats, count) in sums.items()}
    assert trainer.validate()["val_loss"] == pytest.approx(expected[True], abs=1e-6)
    rows = trainer.micro_batches.batches.windows_per_epoch
    whole = begun(flags(folder, "x", "marked", train__batch_size=rows)).train_step()
    assert float(whole["loss"]) == pytest.approx(expected[False], abs=1e-6)


def test_micro_batches_with_uneven_targets_equal_one_batch(folder: Path) -> None:
    changes = {"optim.optimizer": "sgd", "optim.lr": 0.5, "data.packing": False}
    one = begun(flags(folder, "x", train__batch_size=8) | changes)
    eight = begun(flags(folder, "x", train__batch_size=1, train__accumulate=8) | changes)
    counts = {eight.micro_batches.batches.batch(step).targets.ne(-100).sum() for step in range(8)}
    assert len(counts) > 3
    for _ in range(3):
        first, second = one.train_step(), eight.train_step()
        assert float(first["loss"]) == pytest.approx(float(second["loss"]), abs=1e-6)
    for mine, other in zip(one.model.parameters(), eight.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("changes", [
    {},
    {"model.lora.r": 4, "model.lora.full": "embedding,lm_head", "model.lora.dropout": 0.1},
    {"data.packing": False, "data.template": "plain_alpaca", "model.context_length": 256},
    {"data.row_length": 40},
])  # fmt: skip
def test_a_resumed_run_equals_an_uninterrupted_run(folder: Path, changes: dict, tmp_path) -> None:
    """The run stops in the middle of an epoch."""
    given = flags(folder, str(tmp_path / "whole"), data__train=str(folder / "dialogues.jsonl"))
    run(given | changes)
    checkpoint = str(tmp_path / "whole" / "checkpoints" / "step-00000004")
    out = {"train.out": str(tmp_path / "again")}
    config, found = run_config.resolve(None, out, checkpoint, say=quiet)
    trainer = recipe.build(config, resume=found, say=quiet)
    trainer.fit()
    assert 4 % trainer.micro_batches.batches.windows_per_epoch
    assert difference(final(tmp_path / "whole"), final(tmp_path / "again")) is None


def test_other_batches_do_not_resume(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(flags(folder, "first", train__iterations=4))
    lines = (folder / "dialogues.jsonl").read_bytes()
    (folder / "more.jsonl").write_bytes(lines + lines.splitlines(True)[0])
    words = ["--resume", str(folder / "first"), "--iterations", "8"]
    for flag, value, told in [
        ("--too_long", "truncate", "too_long was drop, is now truncate"),
        ("--train_on", "last", "train_on was assistant, is now last"),
        ("--row_length", "40", "row_length was None, is now 40"),
        ("--system", "Be brief.", "data.system was None, is now Be brief.)"),
        ("--format", "messages", None),  # the same dialogues
        ("--context_length", "48", "context_length was 64, is now 48"),
        ("--train_data", str(folder / "more.jsonl"), "more.jsonl)"),
    ]:
        if told is None:
            assert train([*words, flag, value, "--out", str(folder / "same")]) == 0
            continue
        assert train([*words, flag, value]) == 3
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("padded", [False, True])
def test_new_tokens_begin_as_the_mean_of_the_others(folder: Path, padded: bool) -> None:
    """Free rows come first, and other rows keep every bit."""
    tokenizer = tokenizer_with("<|endoftext|>")
    multiple = 100 if padded else 1
    base = save_base(folder, "rows", tokenizer, vocab_multiple=multiple)
    said: list[str] = []
    trainer = begun(flags(folder, "x", "rows"), said)
    model, size = trainer.model, len(tokenizer)
    assert isinstance(model, Transformer)
    assert model.config.vocab_size == size + 2
    assert (model.embedding.weight.shape == base.embedding.weight.shape) == padded
    for ours, theirs in [(model.embedding, base.embedding), (model.lm_head, base.lm_head)]:
        assert torch.equal(ours.weight[:size], theirs.weight[:size])
        expected = theirs.weight[:size].mean(0).expand(2, -1)
        torch.testing.assert_close(ours.weight[size : size + 2], expected, rtol=0, atol=1e-6)
    names = f"<|im_start|> (id {size}), <|im_end|> (id {size + 1})"
    assert any(names in line and "mean of the other rows" in line for line in said)
    assert {"step": 0, "changed": {"tokens": [size, size + 2]}} in trainer.history


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_rows_may_be_shorter_than_the_context(folder: Path, tmp_path: Path, position: str) -> None:
    """The model keeps its context, and the batches are those of a model with a short context."""
    tokenizer = tokenizer_with("<|endoftext|>")
    for length in (64, 40):
        save_base(folder, f"context{length}", tokenizer, context_length=length, position=position)
    changes = {"data__too_long": "truncate", "train__iterations": 2}
    short = {"data__row_length": 40, **changes}
    trainer = begun(flags(folder, str(tmp_path / "run"), "context64", **short))
    other = begun(flags(folder, "x", "context40", **changes))
    for step in range(3):
        ours, theirs = (each.micro_batches.batches.batch(step) for each in (trainer, other))
        assert ours.inputs.shape == (4, 40)
        assert torch.equal(ours.inputs, theirs.inputs)
        assert torch.equal(ours.targets, theirs.targets)
    assert {each.inputs.shape[1] for each in trainer.val_batches} == {40}
    trainer.fit()
    assert load_model(tmp_path / "run", "cpu").config.context_length == 64


def test_the_costs_are_those_of_the_rows(folder: Path) -> None:
    given = flags(folder, "x", "marked")
    rows, context = ({**given, key: 48} for key in ("data.row_length", "model.context_length"))
    assert run_config.costs(None, rows) == run_config.costs(None, context)


def test_weights_in_a_hugging_face_folder(folder: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_with("<|endoftext|>", *CHATML)
    model = tiny.model(vocab_size=len(tokenizer), context_length=LENGTH)
    to_hf(model, folder / "hub", tokenizer)
    trainer = begun(flags(folder, "x", "hub"))
    weights = dict(model.state_dict())
    assert difference(weights, dict(trainer.model.state_dict())) is None
    assert trainer.extra["template"] == "chatml"


def test_a_run_keeps_the_template_of_its_weights(folder: Path) -> None:
    changes = {"model__context_length": 256, "train__iterations": 1, "data__too_long": "truncate"}
    run(flags(folder, "plain", "marked", data__template="plain_alpaca", **changes))
    trainer = begun(flags(folder, "x", "plain", **changes))
    assert trainer.extra["template"] == "plain_alpaca"
    assert trainer.extra["recipe"]["data"]["template"] == "plain_alpaca"


def _on_ranks(ranks: Any, given: dict[str, Any]) -> None:
    run(given, ranks)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_are_one(folder: Path, tmp_path: Path, parallel: str) -> None:
    changes = {"train__iterations": 4, "runtime__parallel": parallel}
    run(flags(folder, str(tmp_path / "one"), **changes))
    forked.run_ranks(tmp_path, 2, _on_ranks, flags(folder, str(tmp_path / "two"), **changes))
    one, two = (log_of(tmp_path / name) for name in ("one", "two"))
    for mine, other in zip(one, two, strict=True):
        for key in ("loss", "grad_norm", *(["val_loss"] if "val_loss" in mine else [])):
            assert mine[key] == pytest.approx(other[key], rel=1e-5), key


def test_a_source_may_be_read_several_times(folder: Path) -> None:
    path, said = folder / "dialogues.jsonl", []
    (folder / "few.jsonl").write_bytes(b"".join(path.read_bytes().splitlines(True)[:10]))
    trainer = begun(
        flags(folder, "x", data__train=f"{path}:1,{folder / 'few.jsonl'}:3", data__val=str(path)),
        said,
    )
    assert len(trainer.micro_batches.batches.examples) == COUNT + 3 * 10
    assert any("few.jsonl: an epoch reads its dialogues 3 times" in line for line in said)
    both = [line for line in said if "the validation loss is too low" in line]
    assert both == [
        f"{path} is training data and validation data, so the validation loss is too low",
        f"{COUNT} of {COUNT} dialogues for validation are equal to training data, so the "
        "validation loss is too low",
    ]


def test_equal_dialogues_in_both_parts_are_told(folder: Path, tmp_path: Path) -> None:
    """12 dialogues: the last and the second are held out. Only the second occurs twice."""
    lines = (folder / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    lines[4] = lines[1]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    said: list[str] = []
    begun(flags(folder, "x", data__train=str(tmp_path / "a.jsonl")), said)
    assert (
        "without validation data, 2 of 12 dialogues are held out: the last, and every tenth before "
        "it"
    ) in said
    assert any(line.startswith("1 of 2 dialogues for validation are equal to") for line in said)
    clean: list[str] = []
    begun(flags(folder, "x"), clean)
    assert not [line for line in clean if "too low" in line]


def test_bad_records_are_kept_aside_in_the_folder_of_the_run(folder: Path, tmp_path, capsys):
    empty = {"instruction": "a", "input": "", "output": ""}
    path = tmp_path / "a.jsonl"
    good = (folder / "dialogues.jsonl").read_text(encoding="utf-8")
    path.write_text(f"{good}{json.dumps(empty)}\n{{\n", encoding="utf-8")
    begin = ["--config", "sft", "--init_from", str(folder / "marked"), "--train_data", str(path),
             "--val_data", str(path), "--iterations", "1"]  # fmt: skip
    assert train([*begin, "--out", str(tmp_path / "no")]) == 2
    assert "or accept N bad records with --max_bad N" in capsys.readouterr().err
    assert train([*begin, "--out", str(tmp_path / "no"), "--max_bad", "3"]) == 2
    assert "this is bad record 4 (max_bad 3)" in capsys.readouterr().err
    assert not (tmp_path / "no" / "data" / "rejects.jsonl").exists()
    assert train([*begin, "--out", str(tmp_path / "run"), "--max_bad", "4"]) == 0
    kept = tmp_path / "run" / "data" / "rejects.jsonl"
    assert f"4 bad records of {2 * COUNT + 4}: {kept}" in capsys.readouterr().out
    rejects = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    assert [each["line"] for each in rejects] == [COUNT + 1, COUNT + 2] * 2
    assert all(f"{path}:{each['line']}" in each["reason"] for each in rejects)


def test_a_run_learns_its_answers_and_ends(folder: Path, tmp_path: Path, capsys) -> None:
    """Also a user who writes a marker gets an answer, because a text is never a marker."""
    pairs = {"how many birds?": "12 birds", "say <|im_end|>": "the cat", "who?": "a cat sat"}
    lines = [json.dumps({"instruction": a, "output": b}) for a, b in pairs.items()]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    given = flags(folder, str(tmp_path / "run"), data__train=str(tmp_path / "a.jsonl"),
                  data__val=str(tmp_path / "a.jsonl"), train__iterations=60, train__eval_every=0,
                  train__save_every=0, train__sample_every=60,
                  train__sample_prompt="how many birds?")  # fmt: skip
    run(given)
    last = log_of(tmp_path / "run")[-1]
    assert last["val_loss"] < 0.05
    assert last["sample"].endswith("assistant\n12 birds")
    payload = read_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000060")
    tokenizer = BPETokenizer.from_json(payload["tokenizer"])
    assert payload["template"] == "chatml"
    ends = ["<|im_end|>", "<|endoftext|>"]  # the second ends a text of the weights
    assert payload["end_ids"] == [tokenizer.token_to_id(each) for each in ends]
    assert data(["show", "--config", str(tmp_path / "run" / "config.toml")]) == 0
    assert "who?" in capsys.readouterr().out


def test_dialogues_that_are_read_as_text_get_the_remedy(folder: Path, tmp_path, capsys) -> None:
    words = ["--train_data", str(folder / "dialogues.jsonl"), "--init_from", str(folder / "base")]
    assert train([*words, "--out", str(tmp_path / "run")]) == 2
    assert "or train on dialogues with scratchlm-train --config sft" in capsys.readouterr().err


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"--template": "chatml"}, 2, "data.template ('chatml') has no effect"),
    ({"--max_bad": "3"}, 2, "data.max_bad (3) has no effect"),
    ({"--kind": "sft", "--max_bad": "-1"}, 2, "max_bad must be at least 0 (-1)"),
    ({"--config": "sft", "--kind": "text"}, 2, "must agree with the recipe (text, "),
    ({"--kind": "sft", "--sample_every": "2"}, 2, "must answer the text of a user (train.sample_p"),
    ({"--kind": "sft", "--train_data": "empty.jsonl"}, 2, "empty.jsonl has none); choose other"),
    ({"--kind": "sft", "--train_data": "dialogues.jsonl,one.jsonl"}, 2, "such as books/:2,code.h5"),
    ({"--packing": "false"}, 2, "data.packing (False) has no effect"),
    ({"--kind": "sft", "--documents": "separate"}, 2, "data.documents ('separate') has no effect"),
    ({"--kind": "sft", "--field": "body"}, 2, "data.field ('body') has no effect"),
    ({"--kind": "sft", "--verify": "true"}, 2, "data.verify (True) has no effect"),
    ({"--row_length": "16"}, 2, "data.row_length (16) has no effect"),
    ({"--kind": "sft", "--row_length": "0"}, 2, "data.row_length must be at least 1 (0)"),
    ({"--kind": "sft", "--row_length": "65"}, 2, "at most the model's context_length (65, context"),
    ({"--kind": "chat"}, 2, "data.kind must be a valid choice (chat)"),
    ({"--kind": "sft", "--format": "json"}, 2, "data.format must be a valid choice (json)"),
    ({"--kind": "sft", "--template": "none"}, 2, "data.template must be a valid choice"),
    ({"--kind": "sft", "--too_long": "cut"}, 2, "data.too_long must be a valid choice (cut)"),
    ({"--kind": "sft", "--min_target_tokens": "0"}, 2, "must be at least 1 (0)"),
    ({"--kind": "sft", "--min_target_tokens": "500"}, 2, "60 dialogues, 0 too long, 60"),
    ({"--kind": "sft", "--context_length": "4"}, 2, "must have a target in a row of 4 tokens"),
    ({"--kind": "sft", "--context_length": "8", "--too_long": "error"}, 2, "dialogues.jsonl:1: "),
    ({"--kind": "sft", "--train_data": "dialogues.jsonl:0.5"}, 2, "a whole number up to 1000"),
    ({"--kind": "sft", "--train_data": "one.jsonl"}, 2, "has only 1); add dialogues"),
    ({"--kind": "sft", "--train_data": "none.jsonl"}, 2, "none.jsonl"),
    ({"--kind": "sft", "--format": "alpaca"}, 2, "dialogues.jsonl:1 has 'messages'"),
    ({"--kind": "sft", "--init_from": None}, 2, "dialogues need a tokenizer"),
    ({"--kind": "sft", "--lora_r": "2"}, 2, "LoRA freezes embedding and lm_head"),
    ({"--kind": "sft", "--lora_r": "2", "--lora_full": "embedding"}, 2, "LoRA freezes lm_head"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "names"), BAD)
def test_the_command_refuses(
    words: dict[str, str | None], code: int, names: str, folder: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    (folder / "one.jsonl").write_text(json.dumps({"messages": dialogue(0)}))
    (folder / "empty.jsonl").write_text("")
    given = {"--train_data": "dialogues.jsonl", "--init_from": "base", "--out": "bad"} | words
    flat = [word for pair in given.items() if pair[1] is not None for word in pair]
    check_refusal(train, [each for each in flat if each is not None], code, names, capsys)
