"""`scratchlm-data show FILE`: the tokens of dialogues, and what a model learns of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.chat_templates import CHATML, LLAMA3, tokenizer_with
from helpers.refusals import check_refusal
from scratchlm.cli.data import main as data
from scratchlm.data.conversations.dialogue_text import LEGEND, dialogue_text
from scratchlm.data.conversations.dialogues import read_dialogues
from scratchlm.tokenizer.chat_template import ChatTemplate, with_markers

USER, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}


@pytest.fixture
def files(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer_with("<|endoftext|>").save("t.json")
    tokenizer_with("<|endoftext|>", *LLAMA3).save("llama3.json")
    lines = [json.dumps({"messages": [USER, ANSWER] * count}) for count in range(1, 7)]
    Path("a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    bad = [lines[0], json.dumps({"messages": [USER, ANSWER, ANSWER]})]
    Path("bad.jsonl").write_text("\n".join(bad), encoding="utf-8")


def shown(capsys, *words: str) -> tuple[list[str], str]:
    assert data(["show", *words]) == 0
    printed = capsys.readouterr()
    return printed.out.splitlines(), printed.err


def expected(template: ChatTemplate, count: int, train_on: str = "assistant", **how) -> list[str]:
    first = list(read_dialogues("a.jsonl", **how))[:count]
    return [
        LEGEND[False],
        *(line for each in first for line in dialogue_text(each, template, train_on)),
    ]


def test_the_first_dialogues_with_the_markers_of_the_tokenizer(files, capsys):
    own = ChatTemplate("llama3", tokenizer_with("<|endoftext|>", *LLAMA3))
    lines, note = shown(capsys, "a.jsonl", "--tokenizer_path", "llama3.json")
    assert (lines, note) == (expected(own, 4), "")
    words = [
        "--train_on",
        "last",
        "--print_rows",
        "2",
        "--system",
        "Be brief.",
        "--template=llama3",
    ]
    lines, _ = shown(capsys, "a.jsonl", "--tokenizer_path", "llama3.json", *words)
    assert lines == expected(own, 2, "last", system="Be brief.")


def test_a_tokenizer_without_markers_gets_them(files, capsys):
    before = tokenizer_with("<|endoftext|>")
    lines, note = shown(capsys, "a.jsonl", "--tokenizer_path", "t.json", "--format", "messages")
    assert lines == expected(ChatTemplate("chatml", with_markers(before, "chatml")), 4)
    for number, marker in enumerate(CHATML):
        assert f"{marker} (id {len(before) + number})" in note


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["a.jsonl"], "no --tokenizer_path"),
        (["none.jsonl", "--tokenizer_path", "t.json"], "none.jsonl"),
        (["bad.jsonl", "--tokenizer_path", "t.json"], "bad.jsonl:2: message 2 is from"),
        (["a.jsonl", "--tokenizer_path", "t.json", "--format", "alpaca"], "a.jsonl:1"),
        (["a.jsonl", "--tokenizer_path", "t.json", "--format", "chat"], "chat"),
        (["a.jsonl", "--tokenizer_path", "t.json", "--template", "plain"], "plain"),
        (["a.jsonl", "--tokenizer_path", "t.json", "--step", "2"], "--step has no effect on"),
        (["a.jsonl", "--tokenizer_path", "t.json", "--seed", "2"], "--seed has no effect on"),
        (["a.jsonl", "--tokenizer_path", "t.json", "--print_rows", "0"], "at least 1 (0)"),
        (["a.jsonl", "--tokenizer_path", "t.json", "--system", "\udc80"], "--system"),
        (["--train_data", "a.txt", "--train_on", "last"], "--train_on has no effect without"),
        (["--template", "chatml"], "add a file of dialogues"),
    ],
)  # fmt: skip
def test_what_is_refused(files, capsys, words, names):
    check_refusal(data, ["show", *words], 2, names, capsys)
