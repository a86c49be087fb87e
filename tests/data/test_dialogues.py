"""Reading dialogues: several files and forms, and bad records with their file and line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers.refusals import check_bad_second_record
from scratchlm.data.conversations.dialogues import read_dialogues
from scratchlm.data.conversations.preferences import read_preferences
from scratchlm.data.reading.rejects import Rejects
from scratchlm.errors import Notice

USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "Be brief."}
GOOD = {"messages": [USER, ANSWER]}
ALPACA = {"instruction": "2+2?", "output": "4"}
SHAREGPT = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}


def messages(*turns: Any) -> dict[str, Any]:
    return {"messages": list(turns)}


def said(role: Any, content: Any = "a", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def sharegpt(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"conversations": list(turns), **more}


BAD = [  # (the second line of a file, a part of the message)
    # not an object of a known form
    ('"just a text"', "must be an object (F: str)"),
    ("null", "must be an object"),
    ("[1, 2]", "must be an object or a string (F: a list); write a JSON object"),
    ("5", "must be an object"),
    ("{", "must be JSON (F:"),
    ("{}", "must have the key 'messages' (F has none)"),
    ({"text": "a story"}, "must have the key 'messages' (F has 'text')"),
    ({"prompt": "a", "response": "b"}, "must have the key 'messages'"),
    ({"messages": None}, "the value of 'messages' must not be null (F); write the value"),
    # mixed forms
    (ALPACA, "form messages must have the key 'messages' (F has 'instruction', 'output')"),
    (SHAREGPT, "put records of another form into another file"),
    # messages that are none
    ({"messages": "hi"}, "messages must be a list (F: str)"),
    ({"messages": {"role": "user"}}, "messages must be a list (F: dict)"),
    ({"messages": ["hi", "hello"]}, "a message must be an object (F: message 0: str)"),
    ({"messages": [USER, None]}, "a message must be an object (F: message 1: null)"),
    ({"messages": [USER, [ANSWER]]}, "a message must be an object (F: message 1: list)"),
    # roles
    (messages(said("tool"), ANSWER), "system, user or assistant (F: message 0: 'tool')"),
    (messages(USER, ANSWER, said("function"), ANSWER), "(F: message 2: 'function')"),
    (messages(said("developer"), USER, ANSWER), "'developer'"),
    (messages(said("User"), ANSWER), "'User'"),
    (messages(said("human"), ANSWER), "'human'"),
    (messages(said(" user"), ANSWER), "' user'"),
    (messages(said(""), ANSWER), "(F: message 0: '')"),
    (messages(said(None), ANSWER), "(F: message 0: None)"),
    (messages({"content": "a"}, ANSWER), "(F: message 0: None)"),
    (messages(said(["user"]), ANSWER), "['user']"),
    (messages(said(0), ANSWER), "(F: message 0: 0)"),
    # contents
    (messages({"role": "user"}, ANSWER), "content must be a string (F: message 0: null)"),
    (messages(USER, said("assistant", None)), "(F: message 1: null)"),
    (messages(USER, said("assistant", 4)), "(F: message 1: int)"),
    (messages(USER, said("assistant", ["4"])), "must have the type text (F: message 1: '4')"),
    (messages(said("user", [{"type": "image_url"}]), ANSWER), "(F: message 0: 'image_url')"),
    (messages(said("user", [{"type": "text"}]), ANSWER), "text must be a string (F: message 0: nu"),
    (messages(USER, said("assistant", [])), "must have text (F: message 1 from the assistant: '')"),
    (messages(USER, said("assistant", {"text": "4"})), "(F: message 1: dict)"),
    (messages(said("user", "\ud800"), ANSWER), "lone surrogate (F: message 0: U+D800"),
    (messages(USER, said("assistant", "")), "must have text (F: message 1 from the assistant: '')"),
    (messages(USER, said("assistant", " \n")), "must have text (F: message 1 from the assistant"),
    (messages(said("user", ""), ANSWER), "must have text (F: message 0 from the user: '')"),
    # order
    (messages(), "an answer of the assistant (F: no messages)"),
    (messages(SYSTEM), "an answer of the assistant (F: only a system text)"),
    (messages(USER), "the last message must be from the assistant (F: user)"),
    (messages(SYSTEM, USER), "the last message must be from the assistant"),
    (messages(USER, ANSWER, USER), "the last message must be from the assistant"),
    (messages(ANSWER), "the user must begin (F: message 0 is from the assistant)"),
    (messages(SYSTEM, ANSWER), "the user must begin (F: message 1 is from the assistant)"),
    (messages(USER, ANSWER, ANSWER), "must alternate"),
    (messages(USER, USER, ANSWER), "must alternate"),
    (messages(SYSTEM, USER, USER, ANSWER), "F: message 2 is from the user"),
    (messages(SYSTEM, SYSTEM, USER, ANSWER), "only the first message may be a system text"),
    (messages(USER, ANSWER, SYSTEM), "only the first message may be a system text"),
    (messages(USER, SYSTEM, ANSWER), "only the first message may be a system text"),
    # weights
    (messages(USER, said("assistant", weight=2)), "a weight must be 0 or 1 (F: message 1: 2)"),
    (messages(USER, said("assistant", weight=0.5)), "a weight must be 0 or 1"),
    (messages(USER, said("assistant", weight=-1)), "a weight must be 0 or 1"),
    (messages(USER, said("assistant", weight=True)), "a weight must be 0 or 1"),
    (messages(USER, said("assistant", weight="1")), "a weight must be 0 or 1"),
    (messages(said("user", weight=1), ANSWER), "only an assistant's message may have a weight"),
    # what a template has no place for
    (GOOD | {"tools": [{"name": "add"}]}, "must not have tools"),
    (messages(USER, said("assistant", None, tool_calls=[{"id": 1}])), "must not have tool_calls"),
    (messages(USER, said("assistant", "4", reasoning_content="2+2")), "reasoning_content"),
    (messages(USER, said("assistant", "4", refusal="no")), "must not have refusal"),
]
BAD_OF_FORMS = [  # (the first line of a file, its second line, a part of the message)
    (ALPACA, {"instruction": "2+2?"}, "form alpaca must have the key 'output'"),
    (ALPACA, {"instruction": "2+2?", "output": ""}, "must have text (F: message 1"),
    (ALPACA, {"instruction": "2+2?", "output": 4}, "output must be a string (F: int)"),
    (ALPACA, ALPACA | {"input": ["a"]}, "input must be a string (F: list)"),
    (ALPACA, ALPACA | {"system": 5}, "system must be a string (F: int)"),
    (ALPACA, ALPACA | {"history": "a"}, "history must be a list (F: str)"),
    (ALPACA, ALPACA | {"history": [["a"]]}, "history must have pairs (F: history 0)"),
    (ALPACA, ALPACA | {"history": [["a", None]]}, "history must be a string (F: history 0: null)"),
    (ALPACA, {"instruction": "", "output": "4"}, "must have text (F: message 0 from the user"),
    (ALPACA, GOOD, "form alpaca must have the key 'instruction'"),
    (SHAREGPT, {"conversations": 5}, "conversations must be a list (F: int)"),
    (SHAREGPT, sharegpt(), "an answer of the assistant (F: no messages)"),
    (SHAREGPT, sharegpt({"from": "bing", "value": "a"}), "(F: message 0: 'bing')"),
    (SHAREGPT, sharegpt({"from": ["gpt"], "value": "a"}), "(F: message 0: ['gpt'])"),
    (SHAREGPT, sharegpt({"from": "gpt", "value": "a"}), "the user must begin"),
    (SHAREGPT, sharegpt({"from": "human", "content": "a"}), "value must be a string"),
    (SHAREGPT, sharegpt({"value": "a"}), "(F: message 0: None)"),
    (SHAREGPT, sharegpt("a"), "a message must be an object (F: message 0: str)"),
    (SHAREGPT, SHAREGPT | {"tools": "[]"}, "must not have tools (F: '[]')"),
    ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": 4}, "completion must be"),
    ({"prompt": "a", "completion": "b"}, {"prompt": 4, "completion": "b"}, "messages must be"),
    ({"prompt": "a", "completion": "b"}, {"prompt": "a"}, "must have the key 'completion'"),
    ({"prompt": "a", "completion": "b"}, {"prompt": [USER], "completion": "b"}, "must be a list"),
    ({"prompt": "a", "completion": "b"}, {"prompt": [USER], "completion": [USER]}, "alternate"),
    ({"prompt": "a", "completion": "b"}, {"prompt": [USER], "completion": []}, "last message"),
    ({"data": ["a", "b"]}, {"data": ["a"]}, "the last message must be from the assistant"),
    ({"data": ["a", "b"]}, {"data": ["a", 4]}, "a message must be a string (F: int)"),
    ({"data": ["a", "b"]}, {"data": ["a", "b", "c", ""]}, "(F: message 3 from the assistant"),
    ({"data": ["a", "b"]}, {"data": "ab"}, "data must be a list (F: str)"),
]


@pytest.mark.parametrize(
    ("first", "second", "part"), [*((GOOD, line, part) for line, part in BAD), *BAD_OF_FORMS]
)
def test_a_bad_dialogue_is_one_line_with_its_file_and_line(tmp_path, first, second, part):
    check_bad_second_record(read_dialogues, tmp_path, first, second, part)


def test_a_first_record_of_no_form_or_of_two_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    for value, part in (
        ({"text": "a"}, "must have the keys of a dialogue"),
        ({"messages": None}, "a.jsonl:1 has 'messages' (null)"),
        (GOOD | ALPACA, "messages and alpaca); specify the form with --format"),
    ):
        path.write_text(json.dumps(value), encoding="utf-8")
        with pytest.raises(ValueError, match=r"a\.jsonl:1 has") as caught:
            list(read_dialogues(path))
        assert part in str(caught.value)
    assert len(list(read_dialogues(path, "alpaca"))) == 1


def test_an_unknown_form_is_refused_before_any_file(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of auto, messages.*\('chat'\)"):
        list(read_dialogues(tmp_path / "missing.jsonl", "chat"))


def test_each_file_has_its_own_form_and_places(tmp_path):
    for name, value in (("a", GOOD), ("b", ALPACA), ("c", SHAREGPT)):
        (tmp_path / f"{name}.jsonl").write_text(f"\n{json.dumps(value)}\n", encoding="utf-8")
    read = list(read_dialogues(tmp_path))
    assert [each.place for each in read] == [f"{tmp_path / name}.jsonl:2" for name in "abc"]
    assert read[0].messages == read[1].messages == GOOD["messages"]


def test_a_system_text_comes_before_dialogues_without_one(tmp_path):
    path = tmp_path / "a.jsonl"
    own = messages(SYSTEM, USER, ANSWER)
    path.write_text(f"{json.dumps(GOOD)}\n{json.dumps(own)}", encoding="utf-8")
    read = [each.messages[0]["content"] for each in read_dialogues(path, system="Be kind.")]
    assert read == ["Be kind.", "Be brief."]


def test_bad_dialogues_are_kept_aside(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(GOOD), "{", json.dumps({"messages": [USER]}), json.dumps(GOOD)]
    path.write_text("\n".join(lines), encoding="utf-8")
    with Rejects(tmp_path / "bad.jsonl", 2) as rejects:
        assert len(list(read_dialogues(path, rejects=rejects))) == 2
    assert (rejects.records, rejects.count) == (4, 2)
    kept = (tmp_path / "bad.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(each)["line"] for each in kept] == [2, 3]
    with Rejects(tmp_path / "bad.jsonl", 1) as rejects, pytest.raises(ValueError, match="last"):
        list(read_dialogues(path, rejects=rejects))


def test_places_in_lists_and_tables_are_no_lines(tmp_path):
    """The third record of each file is bad: records of lists and tables count from 0."""
    arrow, parquet = (pytest.importorskip(f"pyarrow{name}") for name in ("", ".parquet"))
    rows = [GOOD, GOOD, messages(USER), GOOD]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name, good, bad in (
        ("a.parquet", ", row 1", ", row 2"), ("a.json", ", item 1", ", item 2"),
        ("a.jsonl", ":2", ":3"),
    ):  # fmt: skip
        path = tmp_path / name
        read = read_dialogues(path)
        assert [next(read).place for _ in range(2)][1] == f"{path}{good}"
        with pytest.raises(ValueError) as caught:
            next(read)
        assert f"({path}{bad}: user)" in str(caught.value)
        pairs = read_preferences(path)
        with pytest.raises(ValueError) as caught:
            next(pairs)
        assert f"({path}{bad.replace('2', '0').replace('3', '1')} has 'messages')" in str(
            caught.value
        )


def test_parts_of_a_content_are_joined(tmp_path):
    path = tmp_path / "a.jsonl"
    parts = [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]
    path.write_text(json.dumps(messages(said("user", parts), ANSWER)), encoding="utf-8")
    (dialogue,) = read_dialogues(path)
    assert dialogue.messages == GOOD["messages"]
    pair = {"prompt": [said("user", parts)], "chosen": "4", "rejected": "5"}
    path.write_text(json.dumps(pair), encoding="utf-8")
    (preference,) = read_preferences(path)
    assert preference.chosen == GOOD["messages"]


def test_a_folder_has_only_its_files_of_records(tmp_path):
    (tmp_path / "README.md").write_text("# Dialogues", encoding="utf-8")
    (tmp_path / "a.csv").write_text("a,b", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps(GOOD), encoding="utf-8")
    with pytest.warns(Notice, match=r"skipped 2 files .*: a name must end in \.json, \.jsonl or "):
        assert len(list(read_dialogues(tmp_path))) == 1
    (tmp_path / "b.jsonl").unlink()
    with (
        pytest.warns(Notice),
        pytest.raises(ValueError, match=r"no JSON and no Parquet .* \.json, \.json\.gz, "),
    ):
        list(read_dialogues(tmp_path))


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.bin", "a.xlsx"])
def test_other_files_are_refused_by_their_names(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xfe\0a")
    wanted = rf"must be in \.jsonl, .* files \(.*{name}\); use a file of dialogues, or train on t"
    for read in (read_dialogues, read_preferences):
        with pytest.raises(ValueError, match=wanted):
            list(read(tmp_path / name))


def test_an_empty_system_text_is_none(tmp_path):
    path = tmp_path / "a.jsonl"
    empty = messages(said("system", " "), USER, ANSWER)
    path.write_text(f"{json.dumps(empty)}\n{json.dumps(GOOD)}", encoding="utf-8")
    for system in (None, ""):
        for each in read_dialogues(path, system=system):
            assert each.messages == [USER, ANSWER]
    for each in read_dialogues(path, system="Be kind."):
        assert each.messages == [said("system", "Be kind."), USER, ANSWER]
