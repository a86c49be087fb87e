"""Fine-tuning of weights that record how their texts look: template, first and last ids."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers import tiny
from helpers.chat_templates import SPECIALS, tokenizer_with
from helpers.exact_runs import quiet
from scratchlm import save_checkpoint, to_hf
from scratchlm.checkpoint.models import load_with_tokenizer
from scratchlm.cli.data import main as data
from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.chat_template import template_for_training
from scratchlm.training import recipe, run_config

TOKENIZER = tokenizer_with(*SPECIALS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in all formats. The markers of all templates are special tokens."""
    folder = tmp_path_factory.mktemp("own")
    model, text = tiny.model(vocab_size=len(TOKENIZER), context_length=512), TOKENIZER.to_json()
    for name in ("tuned", "tuned.pt"):
        save_checkpoint(folder / name, model, None, 1, tokenizer=text, template="plain_alpaca")
    to_hf(model, folder / "hub", TOKENIZER, template="plain_alpaca")
    save_checkpoint(folder / "base", model, None, 1, tokenizer=text)
    save_checkpoint(folder / "bad", model, None, 1, tokenizer=text, template="zephyr")
    roles = {"user": "hi", "assistant": "a cat"}
    messages = [{"role": role, "content": text} for role, text in roles.items()]
    line = json.dumps({"messages": messages}) + "\n"
    (folder / "dialogues.jsonl").write_text(line * 10, encoding="utf-8")
    return folder


def given_flags(folder: Path, weights: str, out: Path, **changes: str) -> dict[str, Any]:
    return {
        "data.kind": "sft", "data.train": str(folder / "dialogues.jsonl"),
        "train.init_from": str(folder / weights), "train.out": str(out), "train.iterations": 1,
        "train.batch_size": 2, "runtime.device": "cpu", "runtime.dtype": "float32",
        "optim.optimizer": "adamw",
        **{f"data.{key}": value for key, value in changes.items()},
    }  # fmt: skip


def begun(
    folder: Path, weights: str, out: Path, said: list[str] | None = None, **changes: str
) -> recipe.Trainer:
    config, _ = run_config.resolve(None, given_flags(folder, weights, out, **changes), say=quiet)
    return recipe.build(config, say=quiet if said is None else said.append)


@pytest.mark.parametrize(
    ("weights", "changes", "expected"),
    [("tuned", {}, "plain_alpaca"), ("tuned.pt", {}, "plain_alpaca"), ("hub", {}, "plain_alpaca"),
     ("tuned", {"template": "llama3"}, "llama3"), ("base", {}, "chatml")],
)  # fmt: skip
def test_auto_is_the_template_of_the_weights(
    folder: Path, tmp_path: Path, weights: str, changes: dict[str, str], expected: str
) -> None:
    begun(folder, weights, tmp_path / "run", **changes).fit()
    assert f'template = "{expected}"' in (tmp_path / "run" / "config.toml").read_text()
    assert load_with_tokenizer(tmp_path / "run").template == expected


def test_an_unknown_template_of_the_weights(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"template must be one of .*bad: 'zephyr'"):
        begun(folder, "bad", tmp_path / "run")


@pytest.mark.parametrize(("weights", "template"), [
    ("tuned", "plain_alpaca"), ("hub", "plain_alpaca"), ("base", "chatml"),
])  # fmt: skip
@pytest.mark.parametrize("is_run", [False, True])
def test_the_shown_rows_are_those_of_the_run(
    folder: Path, tmp_path: Path, weights: str, template: str, is_run: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each dialogue of a packed row is between ⟨⟩, except its answer. A run needs no weights."""
    out, moved = tmp_path / "run", tmp_path / "moved"
    (shutil.copy if (folder / weights).is_file() else shutil.copytree)(folder / weights, moved)
    if is_run:
        begun(tmp_path, "moved", out, train=str(folder / "dialogues.jsonl")).fit()
        moved.rename(tmp_path / "away")
        file = out / "config.toml"
    else:
        given = given_flags(tmp_path, "moved", out, train=str(folder / "dialogues.jsonl"))
        file = tmp_path / "mine.toml"
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in given.items()]
        file.write_text("".join(lines))
    assert data(["show", "--config", str(file)]) == 0
    shown = re.findall(r"^ +\d+  (.*)$", capsys.readouterr().out, re.MULTILINE)
    dialogue = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a cat"}]
    ids, [(start, end)] = template_for_training(template, TOKENIZER).encode_dialogue(dialogue)
    before, answer = (
        TOKENIZER.decode(part).replace("\n", "\\n") for part in (ids[:start], ids[start:end])
    )
    assert set(shown) == {f"⟨{before}⟩{answer}"}
    assert len(shown) >= 4


@pytest.mark.parametrize("kind", ["folder", "file", "hub"])
@pytest.mark.parametrize("data_kind", ["sft", "text"])
def test_the_first_and_last_ids_of_the_weights_stay(
    folder: Path, tmp_path: Path, kind: str, data_kind: str
) -> None:
    """A text still begins and ends with them. An answer also ends with its own marker."""
    model = tiny.model(vocab_size=len(TOKENIZER), context_length=192)
    starts = [TOKENIZER.token_to_id("<|begin_of_text|>")]
    ends = [TOKENIZER.token_to_id("<|eot_id|>"), 7]
    if kind == "hub":
        to_hf(model, tmp_path / kind, TOKENIZER, end_ids=ends, start_ids=starts)
    else:
        save_checkpoint(tmp_path / f"{kind}{'.pt' * (kind == 'file')}", model, None, 1,
                        tokenizer=TOKENIZER.to_json(), end_ids=ends, start_ids=starts)  # fmt: skip
    weights = str(tmp_path / f"{kind}{'.pt' * (kind == 'file')}")
    path = folder / "dialogues.jsonl"
    if data_kind == "text":
        path = tmp_path / "a.txt"
        path.write_text(tiny.text(2000))
    begun(folder, weights, tmp_path / "run", kind=data_kind, train=str(path)).fit()
    loaded = load_with_tokenizer(tmp_path / "run")
    assert loaded.start_ids == starts
    marker = [TOKENIZER.token_to_id("<|im_end|>")] if data_kind == "sft" else []
    assert loaded.end_ids == [*marker, *ends]
    to_hf(loaded.model, tmp_path / "again", loaded.tokenizer, end_ids=loaded.end_ids,
          start_ids=loaded.start_ids, template=loaded.template)  # fmt: skip
    again = load_with_tokenizer(tmp_path / "again")
    assert (again.start_ids, again.end_ids) == (starts, [*marker, *ends])


def test_a_template_that_is_not_ours_is_told(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    begun(folder, "hub", tmp_path / "run", said)
    assert not any("none of" in line for line in said)
    shutil.copytree(folder / "hub", tmp_path / "hub")
    (tmp_path / "hub" / "chat_template.jinja").write_text("{% for m in messages %}<|role|>…")
    begun(folder, str(tmp_path / "hub"), tmp_path / "run", said)
    (line,) = (line for line in said if "none of chatml, llama3, plain_alpaca" in line)
    assert line.endswith("; the run uses chatml instead")


def test_the_tokenizer_of_the_weights_may_only_grow(folder: Path, tmp_path: Path) -> None:
    tokenizer_with(*SPECIALS, "<|more|>").save(tmp_path / "longer")
    tokenizer_with("<|more|>", *SPECIALS).save(tmp_path / "other")
    said: list[str] = []
    begun(folder, "base", tmp_path / "run", said, tokenizer=str(tmp_path / "longer"))
    assert any("<|more|>" in line for line in said)
    for kind in ("sft", "dpo"):
        with pytest.raises(ValueError, match=r"must be the tokenizer of the weights.*other\)"):
            begun(folder, "base", tmp_path / "run", kind=kind, tokenizer=str(tmp_path / "other"))
