"""Reading preferences: every form by hand, and bad pairs with their file and line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers.refusals import check_bad_second_record
from scratchlm.data.conversations.dialogues import read_dialogues
from scratchlm.data.conversations.preferences import read_preferences
from scratchlm.data.reading.rejects import Rejects


def said(*contents: str, system: str | None = None) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def answer(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


HUMAN = "\n\nHuman: 2+2?\n\nAssistant: 4\n\nHuman: Sure?\n\nAssistant:"
PROMPT = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
ALPACA = {"instruction": "Add.", "input": "2 2", "output": "?", "chosen": "4", "rejected": "5"}
WHOLE = {"chosen": said("2+2?", "4"), "rejected": said("2+2?", "5")}
GOOD = [  # (a record, the chosen dialogue)
    (PROMPT, said("2+2?", "4")),
    (PROMPT | {"system": "Be brief."}, said("2+2?", "4", system="Be brief.")),
    (PROMPT | {"prompt": said("Hi", "Hello", "2+2?")}, said("Hi", "Hello", "2+2?", "4")),
    (
        {"prompt": said("2+2?", system="Be brief."), "chosen": [answer("4")],
         "rejected": [answer("5")]},
        said("2+2?", "4", system="Be brief."),
    ),
    ({"prompt": "2+2?", "chosen": [answer("4")], "rejected": [answer("5")]}, said("2+2?", "4")),
    (ALPACA, said("Add.\n\n2 2", "4")),
    (ALPACA | {"input": "", "history": [["a", "b"]]}, said("a", "b", "Add.", "4")),
    (WHOLE, said("2+2?", "4")),
    (WHOLE | {"prompt": "2+2?", "score_chosen": 9.5}, said("2+2?", "4")),
    (WHOLE | {"prompt": None}, said("2+2?", "4")),
    (
        {"chosen": f"{HUMAN} Yes.", "rejected": f"{HUMAN} No. \n"},
        said("2+2?", "4", "Sure?", "Yes."),
    ),
    ({"prompt": HUMAN, "chosen": " Yes.", "rejected": " No."}, said("2+2?", "4", "Sure?", "Yes.")),
]  # fmt: skip

BAD = [  # (the second line of a file, a part of the message)
    ('"a text"', "a record must be an object (F: str)"),
    ("{", "must be JSON (F:"),
    ({}, "a pair must have the key 'chosen' (F has none)"),
    ({"messages": said("a", "b")}, "(F has 'messages'); write"),
    ({"instruction": "a", "output": "b"}, "or train on dialogues with --kind sft"),
    ({"prompt": "a", "chosen": "b"}, "a pair must have the key 'rejected'"),
    (PROMPT | {"chosen": None}, "a pair must have the key 'chosen'"),
    (PROMPT | {"chosen": 4}, "chosen must be a string (F: chosen: int)"),
    (PROMPT | {"rejected": {"text": "a"}}, "rejected must be a string (F: rejected: dict)"),
    (PROMPT | {"chosen": ""}, "must have text (F: chosen: message 1 from the assistant: '')"),
    (PROMPT | {"rejected": " \n"}, "must have text (F: rejected: message 1 from the assistant"),
    (PROMPT | {"prompt": ""}, "must have text (F: chosen: message 0 from the user: '')"),
    (PROMPT | {"prompt": 5}, "prompt must be a string (F: int)"),
    (PROMPT | {"prompt": said("a", "b")}, "must alternate"),
    (PROMPT | {"prompt": []}, "the user must begin"),
    (PROMPT | {"chosen": []}, "the last message must be from the assistant"),
    (PROMPT | {"prompt": said("a"), "chosen": said("a", "b")}, "must alternate"),
    (PROMPT | {"tools": [1]}, "must not have tools"),
    (PROMPT | {"instruction": "a"}, "a pair must have one prompt (F has 'instruction' and"),
    ({"chosen": "4", "rejected": "5"}, "a pair must have a prompt (F has 'chosen', 'rejected')"),
    ({"chosen": [answer("4")], "rejected": [answer("5")]}, "a pair must have a prompt"),
    (WHOLE | {"rejected": said("3+3?", "5")}, "the same prompt (F: message 0 differs)"),
    (WHOLE | {"rejected": said("2+2?", "a", "b", "c")}, "the same prompt (F: 2 and 4 messages)"),
    (WHOLE | {"rejected": said("2+2?")}, "(F: rejected: user)"),
    (WHOLE | {"chosen": [*said("2+2?"), answer("4", weight=0)]}, "must not have the weight 0"),
    (WHOLE | {"chosen": [{"role": "tool", "content": "a"}]}, "(F: chosen: message 0: 'tool')"),
    ({"chosen": f"{HUMAN} Yes.", "rejected": "\n\nHuman: 3?\n\nAssistant: 5"}, "same prompt"),
    ({"chosen": f"{HUMAN}", "rejected": f"{HUMAN} No."}, "must have text (F: chosen: message 3"),
    ({"chosen": "\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "rejected": "d"}, "must alternate"),
    ({"chosen": f"{HUMAN} Yes.", "rejected": "No."}, "a pair must have a prompt"),
    (ALPACA | {"input": 4}, "input must be a string (F: int)"),
    (PROMPT | {"chosen": "\ud800"}, "lone surrogate (F: chosen"),
]


@pytest.mark.parametrize(("record", "chosen"), GOOD)
def test_each_form_becomes_two_dialogues(tmp_path, record, chosen):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([record]), encoding="utf-8")
    (pair,) = read_preferences(path)
    assert pair.chosen == chosen
    assert pair.rejected[:-1] == chosen[:-1]
    assert pair.rejected[-1]["content"] in ("5", "No.")
    assert pair.place == f"{path}, item 0"


@pytest.mark.parametrize(("second", "part"), BAD)
def test_a_bad_pair_is_one_line_with_its_file_and_line(tmp_path, second, part):
    check_bad_second_record(read_preferences, tmp_path, PROMPT, second, part)


def test_a_file_of_pairs_is_not_read_as_dialogues(tmp_path):
    """Its `output` may be one of the two answers, and a file of dialogues would be its loss."""
    path = tmp_path / "a.json"
    for record, rest in (
        (ALPACA, ", or specify the form with --format alpaca"),
        (PROMPT, ""),
        (WHOLE, ""),
    ):
        path.write_text(json.dumps([record]), encoding="utf-8")
        with pytest.raises(ValueError, match=r"a\.json, item 0 has a pair of answers") as caught:
            list(read_dialogues(path))
        assert str(caught.value).endswith(f"train on pairs with --kind dpo{rest}")
    path.write_text(json.dumps([ALPACA]), encoding="utf-8")
    assert len(list(read_dialogues(path, "alpaca"))) == 1


def test_a_system_text_comes_before_prompts_without_one(tmp_path):
    path = tmp_path / "a.json"
    own = PROMPT | {"system": "Be brief."}
    path.write_text(json.dumps([PROMPT, own]), encoding="utf-8")
    read = list(read_preferences(path, system="Be kind."))
    for pair, text in zip(read, ["Be kind.", "Be brief."], strict=True):
        assert pair.chosen[0] == pair.rejected[0] == {"role": "system", "content": text}


def test_bad_pairs_are_kept_aside(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(PROMPT), "{", json.dumps({"prompt": "a"}), json.dumps(WHOLE)]
    path.write_text("\n".join(lines), encoding="utf-8")
    with Rejects(tmp_path / "bad.jsonl", 2) as rejects:
        assert len(list(read_preferences(path, rejects=rejects))) == 2
    assert (rejects.records, rejects.count) == (4, 2)
