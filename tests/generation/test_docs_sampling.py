"""docs/sampling.md: compute every number on the page, and check every name."""

from __future__ import annotations

import dataclasses
import doctest
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from scratchlm.cli.generate import main
from scratchlm.generation.beam import Beams, beam_search
from scratchlm.generation.sampling import decode
from scratchlm.generation.strategies import Strategy

PAGE = (Path(__file__).parents[2] / "docs" / "sampling.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^( *)```python\n(.*?)\n *```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def names() -> dict[str, object]:
    """Run the page's examples, check their results, and return the names that they define."""
    torch.manual_seed(0)
    text = "\n".join(block for _, block in BLOCKS)
    test = doctest.DocTestParser().get_doctest(text, {}, "sampling.md", "docs/sampling.md", 0)
    assert len(test.examples) >= 30
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    failures, _ = runner.run(test, out=said.append, clear_globs=False)
    assert failures == 0, "".join(said)
    return test.globs


def test_every_example_gives_what_the_page_says(names):
    assert "following" in names


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table whose first line begins with `heading`."""
    table = re.search(rf"^\| {heading} .*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def test_the_table_has_each_strategy_in_its_order_with_its_default():
    defaults = {
        field.name: getattr(Strategy(), field.name) for field in dataclasses.fields(Strategy)
    }
    told = Strategy.__doc__.split("penalties): ")[1]
    order = list(dict.fromkeys(word for word in re.findall(r"\w+", told) if word in defaults))
    table = {row[0].split(" ")[0].strip("`-"): row[-1] for row in rows("flag")}
    assert list(table) == order
    assert set(table) == set(defaults)
    assert table.pop("temperature") == "1"
    assert defaults["temperature"] == 1
    off = {"repetition_penalty": 1.0, "logit_bias": {}}
    for name, default in table.items():
        assert default == "off"
        assert defaults[name] in (None, 0) or defaults[name] == off[name]


def test_every_flag_of_the_page_is_one_of_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    flags = set(re.findall(r"--[a-z_]+", capsys.readouterr().out))
    assert set(re.findall(r"--[a-z_]+", PAGE)) <= flags | {"--show"}  # of scratchlm-tokenize


class LastWord:
    """A decoder whose model is a table: the last word determines the next word. It records its
    beams."""

    max_tokens, context_length, overflow, compiled = 3, 100, "stop", None

    def __init__(self, following: dict[str, dict[str, float]]) -> None:
        self.following = following
        self.words = sorted({"", *(word for after in following.values() for word in after)})
        self.running: list[list[str]] = []

    def ids(self, words: list[str]) -> list[int]:
        return [self.words.index(word) for word in words]

    def prefill(self, prompts):
        self.texts = [list(prompt) for prompt in prompts]
        return self.logits()

    def select(self, rows):
        self.texts = [list(self.texts[row]) for row in rows]

    def step(self, ids):
        for text, id in zip(self.texts, ids, strict=True):
            text.append(id)
        self.running.append([self.text(text[1:]) for text in self.texts])
        return self.logits()

    def text(self, ids) -> str:
        return " ".join(self.words[id] for id in ids)

    def logits(self) -> torch.Tensor:
        logits = torch.full((len(self.texts), len(self.words)), -math.inf)
        for row, text in enumerate(self.texts):
            for word, p in self.following[self.words[text[-1]]].items():
                logits[row, self.words.index(word)] = math.log(p)
        return logits


def probability(following, text: str) -> float:
    return math.prod(following[last][word] for last, word in pairwise(["", *text.split()]))


def with_numbers(cell: str) -> list[tuple[str, float]]:
    return [(text, float(number)) for text, _, number in (x.rpartition(" ") for x in split(cell))]


def split(cell: str) -> list[str]:
    return cell.split(", ") if cell else []


def test_the_beams_run_as_the_page_says(names):
    following = names["following"]
    decoder = LastWord(following)
    stop = decoder.ids(["."])
    [best] = beam_search(
        decoder, decoder.ids([""]), Beams(num_beams=2), Strategy(), num_return=2, stop=stop
    )
    steps = rows("step")
    assert [split(row[2]) for row in steps[:2]] == decoder.running
    finished = [(decoder.text(text.ids), round(text.score, 3)) for text in best]
    assert with_numbers(steps[2][3]) == finished
    assert not any(row[3] for row in steps[:2])
    running = [""]
    for _, candidates, run_on, _ in steps:  # every continuation, sorted: no search
        texts = [f"{text} {word}".strip() for text in running
                 for word in following[text.split(" ")[-1]]]  # fmt: skip
        texts = sorted(texts, key=lambda text: -probability(following, text))[:4]
        rounded = [(text, round(probability(following, text), 3)) for text in texts]
        assert with_numbers(candidates) == rounded
        running = split(run_on)


def test_greedy_decoding_misses_what_the_beams_find(names):
    decoder = LastWord(names["following"])
    *_, [text] = decode(
        decoder, [decoder.ids([""])], Strategy(temperature=0), stop=decoder.ids(["."])
    )
    assert decoder.text(text.ids) == "the cat sat"
    assert f'"the cat sat", {probability(names["following"], "the cat sat"):.3f}' in PAGE
    assert f'"a bird sang", {probability(names["following"], "a bird sang"):.3f}' in PAGE
