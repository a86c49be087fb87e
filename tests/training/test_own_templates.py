"""Fine-tuning of weights that record a chat template: "auto" is their template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers import tiny
from helpers.chat_templates import SPECIALS, tokenizer_with
from helpers.exact_runs import quiet
from scratchlm import save_checkpoint, to_hf
from scratchlm.checkpoint.models import load_with_tokenizer
from scratchlm.errors import FileFormatError
from scratchlm.training import recipe, run_config

TOKENIZER = tokenizer_with(*SPECIALS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in all formats. The markers of all templates are special tokens."""
    folder = tmp_path_factory.mktemp("own")
    model, text = tiny.model(vocab_size=len(TOKENIZER), context_length=192), TOKENIZER.to_json()
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


def begun(folder: Path, weights: str, out: Path, **changes: str) -> recipe.Trainer:
    given = {
        "data.kind": "sft", "data.train": str(folder / "dialogues.jsonl"),
        "train.init_from": str(folder / weights), "train.out": str(out), "train.iterations": 1,
        "train.batch_size": 2, "runtime.device": "cpu", "runtime.dtype": "float32",
        "optim.optimizer": "adamw",
        **{f"data.{key}": value for key, value in changes.items()},
    }  # fmt: skip
    config, _ = run_config.resolve(None, given, say=quiet)
    return recipe.build(config, say=quiet)


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
