"""The assistant's script checks its arguments, its split is fair, and its figures are right."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from helpers import tiny
from scratchlm import BPETokenizer, Transformer, save_checkpoint
from scratchlm.cli.train import main as train
from scratchlm.tokenizer.chat_template import ChatTemplate, with_markers

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "assistant.sh"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import measure_assistant
    import split_dialogues

    yield split_dialogues, measure_assistant
    for module in (split_dialogues, measure_assistant):
        sys.modules.pop(module.__name__)


def dialogues(count: int) -> list[list[dict[str, str]]]:
    """Return dialogues of one to three questions. Some dialogues have the same first question."""
    words = tiny.text(4000).split()
    return [
        [
            {"role": role, "content": " ".join(words[(7 * i + j) % 3000 :][: 2 + j + i % 5])}
            for j in range(1 + i % 3)
            for role in ("user", "assistant")
        ]
        for i in range(count)
    ]


def written(path: Path, found: list[list[dict[str, str]]]) -> Path:
    path.write_text(
        "".join(json.dumps({"messages": messages}) + "\n" for messages in found), encoding="utf-8"
    )
    return path


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["corpus.txt"], "a flag must be before a file (corpus.txt); write --text corpus.txt or"),
        (["--corpus", "corpus.txt"], "the flag must be --text or --dialogues (--corpus); --help"),
        (["--text", "no.txt"], "the file must exist (no.txt); write --text FILE"),
        (["--dialogues", "."], "--dialogues needs files, and no folder (.); write the names"),
        (["--text"], "--text needs a file; write --text FILE"),
        (["--text", "--dialogues", "a"], "--text needs a file; write --text FILE"),
        (["--text", str(SCRIPT), "--dialogues"], "--dialogues needs a file; write --dialogues FI"),
    ],
)
def test_bad_arguments_are_errors_of_one_line(tmp_path, words, error) -> None:
    done = subprocess.run(
        ["bash", SCRIPT, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(error)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_explains_the_flags_and_the_results(tmp_path, flag) -> None:
    done = subprocess.run(
        ["bash", SCRIPT, flag], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])
    assert done.stdout.startswith("Make a small assistant")
    for what in ("half an hour", "45 MB", "--text FILE...  ", "Parquet", "runs/assistant-NUMBER"):
        assert what in done.stdout
    assert not {"#", "set"} & {line[:3].strip() for line in done.stdout.splitlines()}


def test_a_tenth_is_held_out_and_no_question_is_in_both_parts(scripts, tmp_path, capsys) -> None:
    found = dialogues(2000)
    path = written(tmp_path / "all.jsonl", found)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"messages": [{"role": "user", "content": "no answer"}]}\n')
    assert scripts[0].main([str(tmp_path / "out"), str(path)]) == 0
    assert "rejected.jsonl: 1 records" in capsys.readouterr().out
    train, held_out = (
        [json.loads(line)["messages"] for line in (tmp_path / "out" / name).open(encoding="utf-8")]
        for name in ("train.jsonl", "held-out.jsonl")
    )
    assert 100 <= len(held_out) <= 320
    assert sorted(map(str, train + held_out)) == sorted(map(str, found))
    firsts = [{messages[0]["content"] for messages in part} for part in (train, held_out)]
    assert not firsts[0] & firsts[1]
    assert len(firsts[0]) < len(train), "some questions must be equal"
    texts = (tmp_path / "out" / "train.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    assert texts == ["\n".join(each["content"] for each in messages) for messages in train]


def test_a_split_without_held_out_dialogues_is_an_error(scripts, tmp_path, capsys) -> None:
    path = written(tmp_path / "all.jsonl", dialogues(1))
    assert scripts[0].main([str(tmp_path / "out"), str(path)]) == 2
    assert scripts[0].main([str(tmp_path / "out")]) == 2
    both, few = capsys.readouterr().err.splitlines()
    assert re.search(r"both parts must have a dialogue \(.*\); use more dialogues", both)
    assert "a folder and a file are necessary (1 paths)" in few


@pytest.fixture
def tokenizer(tmp_path: Path) -> BPETokenizer:
    return with_markers(tiny.tokenizer(tmp_path), "chatml")


def small_model(**changes: object) -> Transformer:
    return tiny.model(**({"vocab_size": 304, "context_length": 256} | changes))


def test_the_loss_is_the_mean_over_the_answers_alone(scripts, tokenizer) -> None:
    """The oracle encodes each dialogue alone, by hand, without masks, packing or our loss."""
    model, template = small_model(), ChatTemplate("chatml", tokenizer)
    start, end = template.end_ids
    losses = []
    for messages in (found := dialogues(12)):
        ids, targets = [], []
        for message in messages:
            header = [start, *tokenizer.encode(message["role"] + "\n")]
            text = tokenizer.encode(message["content"])
            ids += [*header, *text, end, *tokenizer.encode("\n")]
            learned = message["role"] == "assistant"
            targets += [False] * len(header) + [learned] * (len(text) + 1) + [False]
        logits = model(torch.tensor(ids))[:-1]
        each = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        losses.append(each[torch.tensor(targets[1:])])
    with_places = [scripts[1].Dialogue(messages, "") for messages in found]
    ours = scripts[1].loss_of(model, template, with_places)
    assert ours == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


def test_the_loss_is_the_trainers_loss(scripts, tokenizer, tmp_path) -> None:
    save_checkpoint(tmp_path / "base", small_model(), None, 1, tokenizer=tokenizer.to_json())
    words = ["--config", "sft", "--init_from", tmp_path / "base", "--out", tmp_path / "chat"]
    words += ["--train_data", written(tmp_path / "train.jsonl", dialogues(20))]
    held_out = written(tmp_path / "held-out.jsonl", dialogues(30))
    words += ["--val_data", held_out, "--epochs", "1", "--dtype", "float32", "--compile", "off"]
    assert train([*map(str, words), "--lr", "1e-3"]) == 0
    log = (tmp_path / "chat" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    model, template = scripts[1].load(tmp_path / "chat")
    found = scripts[1].loss_of(model, template, list(scripts[1].read_dialogues(held_out)))
    assert found == pytest.approx(json.loads(log[-1])["val_loss"], rel=1e-6)


def test_replies_that_end_are_counted(scripts, tokenizer, tmp_path, capsys) -> None:
    """The logit of the end marker is by far the largest in one model, and the smallest in the
    other model."""
    end = ChatTemplate("chatml", tokenizer).end_of_answer
    for name, sign in (("never", -1), ("always", 1)):
        model = small_model(norm="layernorm", bias=True, context_length=100)
        with torch.no_grad():
            model.norm.weight.zero_()
            model.norm.bias.fill_(1)
            model.lm_head.weight.zero_()
            model.lm_head.weight[end] = sign
        save_checkpoint(tmp_path / name, model, None, 1, tokenizer=tokenizer.to_json())
    held_out = written(tmp_path / "held-out.jsonl", dialogues(5))
    words = [str(tmp_path / name) for name in ("never", "always")] + [str(held_out)]
    assert scripts[1].main(words) == 0
    printed = capsys.readouterr().out
    assert "| replies that end by themselves, of 5 | 0 | 5 |" in printed
    rows = [line.split(" | ") for line in printed.splitlines()[7:]]
    asked, _, reply, answer = rows[0]
    question, own = (each["content"] for each in dialogues(1)[0][:2])
    assert (asked, reply, answer) == (f"| `{question}`", "``", f"`{own}` |")
    assert len(rows) == 5


def test_a_model_without_markers_is_an_error(scripts, tmp_path, capsys) -> None:
    plain = tiny.tokenizer(tmp_path).to_json()
    save_checkpoint(tmp_path / "plain", tiny.model(), None, 1, tokenizer=plain)
    held_out = written(tmp_path / "held-out.jsonl", dialogues(3))
    path = str(tmp_path / "plain")
    assert scripts[1].main([path, path, str(held_out)]) == 2
    assert scripts[1].main([path]) == 2
    printed = capsys.readouterr().err
    assert "the tokenizer must have the markers of a template" in printed
    assert "three paths are necessary (1)" in printed
    assert printed.count("\n") == 2


@pytest.mark.slow
def test_the_whole_way_on_given_files(tmp_path) -> None:
    """The script runs twice in a copy of the checkout, with a tiny model and without pip."""
    for name in ("scripts", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "scripts" / "venv.sh").write_text(
        f'cd "{tmp_path}"\nsay() {{ echo "==> $*"; }}\ninstall() {{ :; }}\n', encoding="utf-8"
    )
    config = tmp_path / "configs" / "assistant.toml"
    text = config.read_text(encoding="utf-8")
    for old, new in (("minutes = 12", "iterations = 3"), ("d_model = 128", "d_model = 32"),
                     ("vocab_size = 4096", "vocab_size = 300")):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    config.write_text(text, encoding="utf-8")
    script = tmp_path / "scripts" / "assistant.sh"
    whole = script.read_text(encoding="utf-8")
    script.write_text(whole.replace("--vocab_size 4096", "--vocab_size 300"), encoding="utf-8")
    given = ["--text", str(tiny.corpus(tmp_path)), "--dialogues"]
    given.append(str(written(tmp_path / "all.jsonl", dialogues(200))))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for times in (1, 2):
        done = subprocess.run(
            ["bash", script, *given], env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("==> scratchlm-tokenize") == (2 if times == 1 else 0)
        assert "| replies that end by themselves, of " in done.stdout
        assert "Chat with the model: .venv/bin/scratchlm-chat --model_path runs/assistant-" in (
            done.stdout
        )
