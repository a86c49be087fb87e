"""Generated tasks: another program finds the same answers, and a seed gives the same bytes."""

from __future__ import annotations

import ast
import hashlib
import json
import operator
import re
from collections import Counter
from itertools import islice

import pytest

from scratchlm.data.generated import TASKS, generate_documents, write_generated

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def documents(task: str, count: int = 5000, seed: int = 0) -> list[str]:
    return list(islice(generate_documents(task, seed), count))


def test_python_finds_the_same_results():
    signs = Counter()
    digits = Counter()
    for text in documents("arithmetic"):
        question, answer = text.split("=")
        tree = ast.parse(question, mode="eval").body
        assert isinstance(tree, ast.BinOp)
        left, right = (ast.literal_eval(side) for side in (tree.left, tree.right))
        assert answer == str(OPERATORS[type(tree.op)](left, right))
        signs[type(tree.op)] += 1
        digits[len(str(left))] += 1
    assert min(signs.values()) > 1500
    assert min(digits[1], digits[2], digits[3]) > 1200


def test_a_copy_is_two_equal_words():
    texts = documents("copy")
    assert all(re.fullmatch(r"([a-z]{1,12})=\1", text) for text in texts)
    assert {len(text) // 2 for text in texts} == set(range(1, 13))
    assert set("".join(texts)) == set("abcdefghijklmnopqrstuvwxyz=")


def test_the_answer_closes_each_bracket():
    kinds = Counter()
    for text in documents("brackets"):
        question, answer = text.split("=")
        assert re.fullmatch(r"[)\]}>]+", answer)
        kinds.update(question)
        word, shorter = question + answer, ""
        while word != shorter:  # remove adjacent pairs until nothing changes
            word, shorter = re.sub(r"\(\)|\[\]|\{\}|<>", "", word), word
        assert word == ""
    assert set(kinds) == set("()[]{}<>")


@pytest.mark.parametrize(
    ("task", "first", "digest"),
    [
        ("arithmetic", "1-7=-6", "8e8c1c776b53b599"),
        ("copy", "dqbn=dqbn", "7ceab79efaf5d604"),
        ("brackets", "({{()[(<=>)]}})", "1a0c3215661414f2"),
    ],
)
def test_a_seed_gives_the_same_bytes_in_every_version(tmp_path, task, first, digest):
    write_generated(task, 1000, 7, tmp_path / "a.jsonl")
    content = (tmp_path / "a.jsonl").read_bytes()
    texts = [json.loads(line)["text"] for line in content.splitlines()]
    assert texts == documents(task, 1000, 7)
    assert texts[:300] == documents(task, 300, 7)
    assert texts[:3] != documents(task, 3, 8)
    assert (texts[0], hashlib.sha256(content).hexdigest()[:16]) == (first, digest)


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no such task \(sort\); choose from arithmetic, copy"):
        write_generated("sort", 1, 0, tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"documents must be at least 1 \(0\); use"):
        write_generated("copy", 0, 0, tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"end in \.jsonl \(.*a\.txt\); use the name a\.jsonl"):
        write_generated("copy", 1, 0, tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []
    assert set(TASKS) == {"arithmetic", "copy", "brackets"}
