"""Flags of other projects: they work, or the error says what to write instead (docs/names.md)."""

from __future__ import annotations

import re

import pytest

from helpers.pages import quoted, rows
from scratchlm.cli.chat import main as chat
from scratchlm.cli.foreign_flags import BY_COMMAND
from scratchlm.cli.generate import main as generate
from scratchlm.cli.inspect import main as inspect
from scratchlm.cli.plot import main as plot
from scratchlm.cli.tokenize import main as tokenize
from scratchlm.cli.train import main as train

MAIN = {
    "scratchlm-train": train, "scratchlm-generate": generate, "scratchlm-chat": chat,
    "scratchlm-tokenize": tokenize, "scratchlm-plot": plot, "scratchlm-inspect": inspect,
}  # fmt: skip
NEEDED = {
    "scratchlm-generate": ["--model_path", "none"],
    "scratchlm-chat": ["--model_path", "none"],
    "scratchlm-inspect": ["none"],
}


@pytest.fixture
def error_of(tmp_path, monkeypatch, capsys):
    """Return error_of(command, words) -> the error line of the command."""
    monkeypatch.chdir(tmp_path)

    def call(command: str, *words: str) -> str:
        assert MAIN[command]([*NEEDED.get(command, []), *words]) == 2
        return capsys.readouterr().err

    return call


def is_flag(error_of, command: str, flag: str) -> bool:
    return "no such flag" not in error_of(command, f"{flag}=1")


@pytest.mark.parametrize("command", BY_COMMAND)
def test_every_entry_is_told_and_names_flags_that_there_are(command, error_of):
    named = {("scratchlm-train", "--nproc_per_node")}  # of torchrun
    for name, here in BY_COMMAND[command].items():
        flag = f"--{name}" if len(name) > 1 else f"-{name}"
        assert f"no such flag ({flag}); use {here}" in error_of(command, flag, "1")
        for other, ours in re.findall(r"(scratchlm-\w+)? ?(--[\w.]+)", here):
            where = (other or command, ours)
            assert where in named or is_flag(error_of, *where), (name, here)
            named.add(where)


@pytest.mark.parametrize(
    ("command", "flag", "names"),
    [
        ("scratchlm-train", "--n_blocks", "--num_layers"),
        ("scratchlm-train", "--n-embed", "--d_model"),
        ("scratchlm-train", "--eps", "use --optim.eps"),
        ("scratchlm-generate", "--beam", "--num_beams"),
        ("scratchlm-generate", "-p", "--prompt"),
        ("scratchlm-train", "--model.n_embd", "write --model.d_model"),
        ("scratchlm-train", "--trainer.max_iters", "write --train.iterations"),
        ("scratchlm-train", "--norm", "write --model.norm"),
        ("scratchlm-train", "--sliding_window", "write --model.window"),
        ("scratchlm-train", "--moe.num_experts", "write --model.moe.num_experts"),
        ("scratchlm-train", "--optim.schedul", "did you mean --optim.schedule?"),
        ("scratchlm-train", "--config_file", "did you mean --config?"),
        ("scratchlm-train", "--tran-data", "did you mean --train_data?"),
        ("scratchlm-generate", "--promt", "did you mean --prompt?"),
        ("scratchlm-generate", "--time", "scratchlm-generate --help lists the flags"),
        ("scratchlm-plot", "--time", "scratchlm-plot --help lists the flags"),
    ],
)
def test_a_hint_is_right(command, flag, names, error_of):
    error = error_of(command, flag, "3")
    assert error.count("\n") == 1
    assert error.rstrip().endswith(names)


def test_the_page_shows_the_table():
    shown: dict[str, dict[str, str]] = {command: {} for command in BY_COMMAND}
    for theirs, command, here in rows("Flags that are written otherwise"):
        for name in quoted(theirs):
            shown[quoted(command)[0]][name] = here.strip()
    assert shown == BY_COMMAND


def test_the_page_marks_what_a_command_takes_as_it_is(error_of):
    marked: dict[str, bool] = {}
    for theirs, _, _, mark in rows("Model and training settings"):
        for name in re.findall(r"`(\w+)", theirs):
            marked[name] = marked.get(name, False) or mark.strip() == "flag"
    for name, is_marked in marked.items():
        commands = ("scratchlm-train", "scratchlm-generate")
        taken = any(is_flag(error_of, command, f"--{name}") for command in commands)
        # These are flags of ours, and stand there for their other form in Python.
        assert taken == is_marked or name in ("num_beams", "seed", "init_from"), name


def test_two_names_of_one_setting_have_one_value(error_of):
    error = error_of("scratchlm-train", "--n_embd", "3", "--hidden_size", "4")
    assert "two values for one option (--n_embd 3, --hidden_size 4); keep one" in error
