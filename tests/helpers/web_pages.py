"""Generate documents near the thresholds of the rules for web pages."""

from __future__ import annotations

import random
import re

STOP = ["the", "be", "to", "of", "and", "that", "have", "with"]
PLAIN = re.findall(
    r"\w+",
    "in is it for on as was by at from this are or not all can when which more use they one had "
    "new time work other people some water than first long little very after words called just "
    "where most know number sentence because through international understanding responsibilities",
)
ENDS = [".", ".", ".", "!", "?", ",", "", " …", "...", "#"]


def page(seed: int) -> str:
    """Return a page. About half of the pages have lists, numbers, repetitions or odd lines."""
    rng = random.Random(seed)
    stop, size = rng.choice([0, 0.002, 0.02, 0.3, 0.3]), rng.choice([2, 4, 5, 8, 20, 60])
    lines = [_sentence(rng, stop) for _ in range(size)]
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2])):
        lines = _changed(rng, lines, stop)
    text = rng.choice(["\n", "\n", "\n\n", " "]).join(lines)
    return rng.choice(["\n", "  \n\n"]) + text + "\n" if rng.random() < 0.1 else text


def _words(rng: random.Random, count: int, stop: float) -> list[str]:
    return [rng.choice(STOP if rng.random() < stop else PLAIN) for _ in range(count)]


def _sentence(rng: random.Random, stop: float) -> str:
    words = _words(rng, rng.randint(4, 18), stop)
    if rng.random() < 0.3:
        words[rng.randrange(len(words))] += ","
    if rng.random() < 0.03:  # texts that spaCy splits in its own way
        words.insert(rng.randrange(len(words)), rng.choice(["a. m.", "well-known", "e.g.", "3%"]))
    if rng.random() < 0.1:
        words.insert(rng.randrange(len(words)), str(rng.randint(1, 2000)))
    return " ".join(words) + rng.choice(ENDS[: rng.choice([4, 6, 7, 10])])


def _changed(rng: random.Random, lines: list[str], stop: float) -> list[str]:
    def some(share: float) -> bool:
        return rng.random() < share

    match rng.randrange(9):
        case 0:
            share = rng.choice([0.5, 0.9, 1])
            return [rng.choice(["- ", "• ", "* "]) + x if some(share) else x for x in lines]
        case 1:
            return lines + [rng.choice(lines) for _ in range(rng.randint(1, len(lines)))]
        case 2:
            return [" ".join(_words(rng, rng.randint(1, 5), stop)) if some(0.7) else x
                    for x in lines]  # fmt: skip
        case 3:
            signs = rng.choice(["#", "...", " …"])
            return [f"{x} {signs * rng.randint(1, 3)}" if some(0.6) else x for x in lines]
        case 4:
            return [" ".join(str(rng.randint(0, 999)) for _ in range(8)) if some(0.5) else x
                    for x in lines]  # fmt: skip
        case 5:
            phrase = " ".join(_words(rng, rng.randint(2, 9), stop))
            return [f"{phrase} {x}" if some(0.8) else x for x in lines]
        case 6:
            return ["x y z a b" if some(0.6) else x for x in lines]
        case 7:
            return [x.replace(" ", "") if some(0.6) else x for x in lines]
        case _:
            return [w for x in lines for w in x.split()] if some(0.5) else [" ".join(lines)]
