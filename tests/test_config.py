from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import Literal

import pytest

from scratchlm import config


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    betas: tuple[float, float] = (0.9, 0.95)
    kind: Literal["a", "b"] = "a"
    flag: bool = False


@dataclass(frozen=True)
class Outer:
    size: int
    name: str = "x"
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)


def test_flags_win_over_the_file_which_wins_over_defaults():
    file = {"size": 4, "inner": {"rate": 0.1, "kind": "b"}}
    flags = config.nest({"inner.rate": "3e-4", "inner.betas": "0.8,0.9", "limit": "7"})
    built = config.build(Outer, config.merge(file, flags))
    assert built == Outer(4, limit=7, inner=Inner(3e-4, (0.8, 0.9), "b"))


def test_merge_leaves_its_layers_alone():
    first = {"inner": {"rate": 1.0}}
    config.merge(first, {"inner": {"rate": 2.0}})
    assert first == {"inner": {"rate": 1.0}}


def test_toml_round_trip():
    built = Outer(3, name='quote " back \\ 中 \x7f\n', inner=Inner(1e-05, (0.0, 1.0), flag=True))
    text = config.to_toml(built)
    assert config.build(Outer, tomllib.loads(text)) == built
    assert "limit" not in text, "None is a key left out"
    text = config.to_toml(built, {"inner.rate"})
    assert "\n# rate = 1e-05, from the other settings\n" in text
    assert "rate" not in tomllib.loads(text)["inner"]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"size": 1, "sise": 2},
            r"unknown config key \(sise\); did you mean size\? valid keys: size",
        ),
        ({"size": 1, "inner": {"rat": 2}}, r"unknown config key \(inner.rat\); .*inner.rate"),
        ({}, r"a config value is missing \(size\)"),
        ({"size": "four"}, r"size must be a whole number \(four\)"),
        ({"size": 1.5}, r"size must be a whole number \(1.5\)"),
        ({"size": True}, r"size must be a whole number"),
        ({"size": "inf"}, r"size must be a whole number"),
        ({"size": float("inf")}, r"size must be a whole number"),
        ({"size": 1, "name": 3}, r"name must be a string \(3\)"),
        ({"size": 1, "inner": {"rate": "nan"}}, r"inner.rate must be a number \(nan\)"),
        ({"size": 1, "inner": {"kind": "c"}}, r"inner.kind must be a valid choice \(c\); .* a, b"),
        ({"size": 1, "inner": {"flag": "maybe"}}, r"inner.flag must be true or false \(maybe\)"),
        ({"size": 1, "inner": {"betas": "0.9"}}, r"inner.betas must have 2 values"),
        (
            {"size": 1, "inner": 3},
            r"inner must be a section \(3\); set .*, such as inner.rate",
        ),
    ],
)
def test_errors_name_the_key_and_the_value(tree, message):
    with pytest.raises(ValueError, match=message):
        config.build(Outer, tree)


def test_a_flag_below_a_plain_value_is_an_error():
    with pytest.raises(ValueError, match="size must be a whole number"):
        config.build(Outer, config.nest({"size.x": "1"}))


def test_whole_floats_are_integers():
    assert config.build(Outer, {"size": 4.0}).size == 4


def test_read_toml_names_the_line(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("a = 1\nb = = 2\n")
    with pytest.raises(ValueError, match=r"bad.toml.*line 2"):
        config.read_toml(path)
