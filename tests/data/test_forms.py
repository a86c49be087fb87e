"""Forms of dialogues: examples of each form by hand, and any messages through every form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratchlm.data.conversations.dialogues import read_dialogues
from scratchlm.data.conversations.forms import recognised, to_messages


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **weight: int) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **weight}


SYSTEM = {"role": "system", "content": "Be brief."}
EXAMPLES = [
    (
        "messages",
        {"id": 7, "messages": [SYSTEM, user("2+2?"), assistant("4", weight=0), user("3?"),
                               assistant("6", weight=1)]},
        [SYSTEM, user("2+2?"), assistant("4", weight=0), user("3?"), assistant("6", weight=1)],
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "system", "value": "Be brief."},
                           {"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        [SYSTEM, user("2+2?"), assistant("4")],
    ),
    (
        "sharegpt",
        {"system": "Be brief.", "conversations": [{"from": "user", "value": "2+2?"},
                                                  {"from": "chatgpt", "value": "4"}]},
        [SYSTEM, user("2+2?"), assistant("4")],
    ),
    (
        "sharegpt",
        {"system": "", "conversations": [{"role": "user", "content": "你好"},
                                         {"role": "assistant", "content": "你好。"}]},
        [user("你好"), assistant("你好。")],
    ),
    (
        "alpaca",
        {"instruction": "Name a colour.", "input": "", "output": "Red.", "text": "…"},
        [user("Name a colour."), assistant("Red.")],
    ),
    (
        "alpaca",
        {"instruction": "Translate.", "input": "rouge", "output": "red", "system": "Be brief.",
         "history": [["Hi", "Hello"]]},
        [SYSTEM, user("Hi"), assistant("Hello"), user("Translate.\n\nrouge"), assistant("red")],
    ),
    ("prompt_completion", {"prompt": "2+2?", "completion": "4"}, [user("2+2?"), assistant("4")]),
    (
        "prompt_completion",
        {"prompt": [user("a"), assistant("b"), user("c")], "completion": [assistant("d")]},
        [user("a"), assistant("b", weight=0), user("c"), assistant("d")],
    ),
    (
        "ultrachat",
        {"id": "0", "data": ["a", "b", "c", "d"]},
        [user("a"), assistant("b"), user("c"), assistant("d")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("form", "value", "messages"), EXAMPLES)
def test_each_form_becomes_messages(form, value, messages):
    assert recognised(value, "a.jsonl:1") == form
    assert to_messages(value, form, "a.jsonl:1") == messages


def in_form(form: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Write messages in a form. The messages have a system text if the form has a place for it."""
    texts = [each["content"] for each in messages if each["role"] != "system"]
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    match form:
        case "messages":
            return {"messages": messages}
        case "sharegpt":
            turns = [{"from": names[each["role"]], "value": each["content"]} for each in messages]
            return {"conversations": turns}
        case "alpaca":
            *pairs, (asked, answer) = zip(texts[::2], texts[1::2], strict=True)
            return {"instruction": asked, "output": answer, "history": pairs, "system": system}
        case "prompt_completion":
            return {"prompt": messages[:-1], "completion": messages[-1:]}
        case "ultrachat":
            return {"data": texts}
    raise AssertionError(form)


FORMS = ["messages", "sharegpt", "alpaca", "prompt_completion", "ultrachat"]
TEXT = st.text().filter(str.strip)
DIALOGUES = st.tuples(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), st.none() | TEXT)


@given(case=DIALOGUES, form=st.sampled_from(FORMS), ending=st.sampled_from(["json", "jsonl"]))
@settings(max_examples=120, deadline=None, database=None)
def test_any_dialogue_is_the_same_in_every_form_and_file(tmp_path_factory, case, form, ending):
    pairs, system = case
    messages = [message for asked, answer in pairs for message in (user(asked), assistant(answer))]
    if system is not None and form != "ultrachat":
        messages.insert(0, {"role": "system", "content": system})
    text = json.dumps(in_form(form, messages))
    path = tmp_path_factory.getbasetemp() / f"dialogue.{ending}"
    path.write_text(f"[{text}]" if ending == "json" else f"\n{text}\n", encoding="utf-8")
    for name in ("auto", form):
        (dialogue,) = read_dialogues(path, name)
        found = [{key: each[key] for key in ("role", "content")} for each in dialogue.messages]
        assert found == messages


@pytest.mark.parametrize("form", FORMS)
def test_a_parquet_file_has_the_same_dialogues(tmp_path, form):
    """A row of Parquet has a null for each key that another row uses."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [value for name, value, _ in EXAMPLES if name == form]
    if form == "prompt_completion":
        rows = rows[1:]  # a column has one type
    columns = {key: [row.get(key) for row in rows] for row in rows for key in row}
    parquet.write_table(arrow.table(columns), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    ours, lines = (
        [each.messages for each in read_dialogues(tmp_path / f"rows.{ending}")]
        for ending in ("parquet", "jsonl")
    )
    assert ours == lines
    assert len(ours) == len(rows)
