"""scratchlm-learn: what it prints, remembers and refuses, and its exit codes."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scratchlm.cli.learn import main
from scratchlm.lessons.exercise import same, verdict
from scratchlm.lessons.lesson import lessons

ANSWER = """
def attend(q, k, v):
    scores = q @ k.T / math.sqrt(q.shape[1])
    return scores.masked_fill(~torch.ones_like(scores).bool().tril(), -math.inf).softmax(1) @ v
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.chdir(tmp_path)


def learn(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process, so that a fault can be planted."""
    command = [sys.executable, "-m", "scratchlm.cli.learn", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_list_has_a_line_a_lesson(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [int(line[1:4]) for line in lines] == list(lessons())
    assert all(line.startswith(" ") for line in lines)


@pytest.mark.parametrize(
    ("value", "word"), [("zh_CN.UTF-8", "注意力"), ("fr_FR.UTF-8", "Attention")]
)
def test_the_language_is_that_of_the_system(monkeypatch, capsys, value, word):
    monkeypatch.setenv("LC_ALL", value)
    assert main([]) == 0
    assert word in capsys.readouterr().out


def test_the_language_of_windows_has_a_long_name(monkeypatch, capsys):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("locale.getlocale", lambda: ("Chinese (Simplified)_China", "936"))
    assert main([]) == 0
    assert "注意力" in capsys.readouterr().out


@pytest.mark.parametrize("imports", ["import math, torch\n", "import math\n"])
def test_a_right_answer_is_right_and_remembered(capsys, imports):
    Path("mine.py").write_text(imports + ANSWER, encoding="utf-8")
    assert main(["14", "--check", "mine.py"]) == 0
    assert main([]) == 0
    assert "✓ 14  Attention" in capsys.readouterr().out


def test_an_answer_is_right_even_if_the_tick_cannot_be_saved(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    Path("mine.py").write_text("import math\n" + ANSWER, encoding="utf-8")
    assert main(["14", "--check", "mine.py"]) == 0
    said = capsys.readouterr()
    assert said.out == "right\n"
    assert said.err.startswith("scratchlm: the tick of lesson 14 is not saved (")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(("lang", "said"), [("en", "Nothing is masked."), ("zh", "没有掩码。")])
def test_a_usual_mistake_is_named(capsys, lang, said):
    Path("mine.py").write_text(
        "def attend(q, k, v):\n    return (q @ k.T / q.shape[1] ** 0.5).softmax(1) @ v\n",
        encoding="utf-8",
    )
    assert main(["14", "--check", "mine.py", "--lang", lang]) == 1
    assert capsys.readouterr().err == f"scratchlm: {said}\n"
    assert main([]) == 0
    assert "✓" not in capsys.readouterr().out


def test_an_answer_may_change_its_arguments(capsys):
    """The library and the mistakes still see the arguments as they were."""
    change = ANSWER.replace("    scores", "    q /= q.shape[1] ** 0.5\n    scores", 1)
    right = change.replace(" / math.sqrt(q.shape[1])", "")
    Path("right.py").write_text("import math\n" + right, encoding="utf-8")
    Path("zero.py").write_text("def attend(q, k, v):\n    return v.zero_()\n", encoding="utf-8")
    Path("half.py").write_text("import math\n" + change, encoding="utf-8")
    assert main(["14", "--check", "right.py"]) == 0
    assert main(["14", "--check", "zero.py"]) == 1
    assert "your answer gives 0 at [0, 0], but" in capsys.readouterr().err
    assert main(["14", "--check", "half.py"]) == 1
    assert "divided by d" in capsys.readouterr().err


def test_an_answer_prints_its_lines_once_for_each_case(capsys):
    Path("mine.py").write_text("def attend(*_):\n    print('here')\n", encoding="utf-8")
    assert main(["14", "--check", "mine.py"]) == 1
    assert capsys.readouterr().out == "here\n"


def test_a_mistake_is_also_known_by_its_error():
    def halves(n):
        """It divides by zero. | 除以零。"""
        return 1 / (n - n)

    scope = {"check": lambda answer, same: same(answer(2), 1.0), "WRONG": [halves]}
    assert verdict(scope, lambda n: 1 / (n - 2), "zh") == "除以零。"
    assert verdict(scope, lambda n: int("one"), "en").startswith("ValueError")


def test_a_mistake_is_also_known_by_nan():
    def empty_mean(n):
        """It divides 0 by 0. | 它用 0 除以 0。"""
        return math.nan

    scope = {"check": lambda answer, same: same(answer(2), 1.0), "WRONG": [empty_mean]}
    assert verdict(scope, lambda n: torch.zeros(0).mean(), "en") == "It divides 0 by 0."


@pytest.mark.parametrize(
    ("result", "en", "zh"),
    [
        (
            "0 * v + 1",
            "your answer gives 1 at [0, 0], but -1.02761 is right",
            "在 [0, 0] 处给出 1，应为",
        ),
        ("v[:1]", "the shape of your answer is (1, 4), but must be (3, 4)", "形状是 (1, 4)，应为"),
        ("None", "your answer must be numbers, not None", "你的答案应是数字，而不是 None"),
    ],
)
def test_the_first_difference_is_told_in_words(capsys, result, en, zh):
    Path("mine.py").write_text(f"def attend(q, k, v):\n    return {result}\n", encoding="utf-8")
    assert main(["14", "--check", "mine.py"]) == 1
    remedy = "; change your function, or print an answer with --answer\n"
    assert capsys.readouterr().err == f"scratchlm: {en}{remedy}"
    assert main(["14", "--check", "mine.py", "--lang", "zh"]) == 1
    error = capsys.readouterr().err
    assert zh in error
    assert error.endswith("；请修改你的函数，或用 --answer 看一个答案\n")


@pytest.mark.parametrize(
    ("got", "want", "message"),
    [
        ([1, [2, 3]], [1, [2, 4]], r"your answer gives 3 at \[1, 1\], but 4 is right"),
        ([1], [1, 2], "number of values in your answer is 1, but must be 2"),
        (5, [1], r"your answer gives 5, but \[1\] is right"),
        ("a", "b", "your answer gives 'a', but 'b' is right"),
        (torch.ones(2), 1, r"your answer gives tensor\(\[1., 1.\]\), but 1 is right"),
        ([torch.tensor([1, 2])], [torch.tensor([1, 9])], r"gives 2 at \[0, 1\], but 9 is"),
        (float("nan"), 0.5, "gives nan, but 0.5 is right"),
        (0.50002, 0.5, "gives 0.50002, but 0.5 is right"),
    ],
)
def test_a_difference_has_its_place_and_both_values(got, want, message):
    with pytest.raises(AssertionError, match=message):
        same(got, want)
    same(want, want)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import math\n1 / 0\n", "mine.py, line 2: ZeroDivisionError: division by zero"),
        ("raise SystemExit\n", "mine.py, line 1: SystemExit"),
        ("def attend(q, k, v):\n    raise SystemExit\n", "mine.py, line 2: SystemExit"),
        (
            "def attend(q, k, v):\n    return middle(q)\ndef middle(q):\n    return q[99]\n",
            "mine.py, line 4: IndexError: index 99 is out of bounds for dimension 0 with size 1",
        ),
    ],
)
def test_an_error_of_an_answer_has_its_file_and_line(capsys, text, message):
    Path("mine.py").write_text(text, encoding="utf-8")
    assert main(["14", "--check", "mine.py"]) == 1
    assert capsys.readouterr() == ("", f"scratchlm: {message}\n")


@pytest.mark.parametrize("data", [b"a = 'caf\xe9'\n", b"a = '\0'\n"])
def test_an_answer_that_is_not_text_is_named(capsys, data):
    Path("mine.py").write_bytes(data)
    assert main(["14", "--check", "mine.py"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("scratchlm: error: mine.py is not Python (")
    assert error.count("\n") == 1


@pytest.mark.parametrize("data", [b"14\nxx\n", b"14\n\xff\n"])
def test_a_damaged_list_of_finished_lessons_is_named(capsys, data):
    path = Path("state/scratchlm/lessons")
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    assert main([]) == 3
    error = capsys.readouterr().err
    assert f"{path} must contain only numbers of lessons" in error
    assert error.endswith("; correct the file, or delete it\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["99"], "there is no such number (99)"),
        (["--faq", "99"], "there is no such number (99)"),
        (["14", "--break", "9"], "the lesson has no such fault (9)"),
        (["14", "--break", "0"], "the lesson has no such fault (0)"),
        (["--check", "mine.py"], "--check needs the number of a lesson"),
        (["--step"], "--step needs the number of a lesson"),
        (["5", "--demo"], "--demo is lesson 2 (5)"),
        (["3", "--faq", "5"], "--faq is not for one lesson (3)"),
        (["3", "--faq"], "--faq is not for one lesson (3)"),
        (["14", "--glossary"], "--glossary is not for one lesson (14)"),
        (["14", "--pages", "d"], "--pages is not for one lesson (14)"),
        (["--demo", "--glossary"], "--glossary is not for one lesson (2)"),
        (["14", "--step", "--break", "1"], "not allowed with argument"),
        (["--faq", "0"], "there is no such number (0)"),
        (["--break", "0"], "--break needs the number of a lesson"),
        (["14", "--ipynb", "."], "is a directory (.); choose a file, not a directory"),
        (["14", "--check", "none.py"], "no such file or directory (none.py)"),
        (["14", "--check", "empty.py"], "empty.py must define the exercise's function (attend)"),
        (["14", "--check", "broken.py"], "broken.py is not Python"),
        (["14", "--lang", "fr"], "invalid choice: 'fr'"),
        (["14", "--answer", "--break", "1"], "not allowed with argument"),
    ],
)
def test_bad_usage_is_told_in_one_line(capsys, words, message):
    Path("empty.py").write_text("", encoding="utf-8")
    Path("broken.py").write_text("def f(:\n", encoding="utf-8")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("scratchlm: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_planted_fault_is_found_at_a_number():
    done = learn("14", "--break", "2")
    assert done.returncode == 1
    assert done.stdout.startswith("scratchlm.functional\n- ")
    assert done.stdout.splitlines()[-2:] == [
        " " * 29 + "   0.2689     1.0000",
        " " * 29 + "   1.0000     1.0000",
    ]
    assert done.stderr.startswith("scratchlm: 14_attention.py, line ")
    assert done.stderr.count("\n") == 1


def test_a_notebook_is_written(capsys):
    assert main(["14", "--ipynb", "a.ipynb", "--lang", "zh"]) == 0
    assert json.loads(Path("a.ipynb").read_text(encoding="utf-8"))["nbformat"] == 4
    assert capsys.readouterr().out == "saved: a.ipynb\n"


def test_the_demo_is_the_whole_story():
    assert main(["--demo", "--ipynb", "demo.ipynb"]) == 0
    cells = json.loads(Path("demo.ipynb").read_text(encoding="utf-8"))["cells"]
    assert cells[0]["source"][0] == "# 2 · The whole story\n"


def test_step_waits_after_each_cell(monkeypatch, capsys):
    waits = []
    monkeypatch.setattr("builtins.input", lambda: waits.append(1))
    assert main(["14", "--step"]) == 0
    assert len(waits) > 10
    said = capsys.readouterr().out
    assert "✓" not in said
    assert "\nsaved: figures/14-weights.svg\n" in said
    assert "\033" not in said  # not a terminal


@pytest.mark.parametrize("stdin", ["", None])
def test_step_stops_when_standard_input_ends(monkeypatch, capsys, stdin):
    monkeypatch.setattr("sys.stdin", None if stdin is None else io.StringIO(stdin))
    assert main(["14", "--step"]) == 0
    assert capsys.readouterr().out.startswith("# 14 · ")
    assert main([]) == 0
    assert "✓" not in capsys.readouterr().out


def test_the_glossary_and_the_questions_are_lists(capsys):
    assert main(["--glossary"]) == 0
    assert "| causal mask | 因果掩码 | 14 |" in capsys.readouterr().out
    assert main(["--faq"]) == 0
    assert "5  Why divide by √d?" in capsys.readouterr().out
    assert main(["--faq", "5"]) == 0
    assert "largest weight" in capsys.readouterr().out
