"""No six lines of the package stand in two places, except pairs with a reason.

Lessons may repeat lines, because each lesson runs alone and shows its whole code.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import scratchlm
from scratchlm.lessons.lesson import FAQ

PACKAGE = Path(scratchlm.__file__).parent
LESSONS = {FAQ, *FAQ.parent.glob("[0-9]*_*.py")}
RUN = 6  # lines
TWINS = "the readable function and its fast twin take the same parameters"
ATTEND = (
    "functional scaled_dot_product_attention", "functional flash_attention",
    "kernels/flash_attention flash_attention", "model/attention sdpa", "model/attention __call__",
)  # fmt: skip
# A repeat is named by the two places where it stands: module and innermost definition.
REASONS = {
    frozenset(places): reason
    for reason, *places in [
        (TWINS, ATTEND[0], "model/attention sdpa"),
        (TWINS, "functional flash_attention", "kernels/flash_attention flash_attention"),
        ("the protocol and all its functions take the same parameters", *ATTEND),
        ("these take a window too", *(place for place in ATTEND if "__call__" not in place)),
        (
            TWINS,
            *(
                f"{room} linear_cross_entropy"
                for room in ("functional", "kernels/linear_cross_entropy")
            ),
        ),
        (TWINS, *(f"optim/adamw adamw_update{twin}" for twin in ("", "_foreach", "_fused"))),
        (TWINS, "optim/muon muon_update", "optim/muon muon_update_stacked"),
        (
            "two strategies take the same settings",
            "generation/sampling decode",
            "generation/speculative speculate",
        ),
        (
            "the model passes its arguments to each attention layer",
            "model/attention forward",
            "model/transformer forward",
        ),
        *(
            ("training and validation take the same arguments", f"{one}Batches", f"{other}Batches")
            for one, other in (
                ("data/batches Train", "data/batches Eval"),
                ("data/mixture Mixed", "data/mixture MixedEval"),
            )
        ),
        (
            "one computes the logits of what the other computes",
            "model/transformer forward",
            "model/transformer hidden",
        ),
        (
            "one returns the numbers that the other prints",
            "costs/model_costs training_memory",
            "costs/model_costs training_report",
        ),
        (
            "the corpus is in files, or in memory",
            "tokenizer/train train_bpe",
            "tokenizer/train train_bpe_from_texts",
        ),
    ]
}


def definitions(source: str) -> list[str]:
    """Return the name of the innermost function or class for each line of `source`."""
    names = [""] * (source.count("\n") + 2)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for line in range(node.lineno, (node.end_lineno or 0) + 1):
                names[line] = node.name
    return names


def repeats() -> set[frozenset[str]]:
    """Return the places of each run of RUN equal lines, without indentation and empty lines."""
    places = defaultdict(list)
    for path in sorted(set(PACKAGE.rglob("*.py")) - LESSONS):
        source = path.read_text(encoding="utf-8")
        module, names = path.relative_to(PACKAGE).with_suffix("").as_posix(), definitions(source)
        lines = [(i, line.strip()) for i, line in enumerate(source.split("\n"), 1) if line.strip()]
        for start in range(len(lines) - RUN + 1):
            run = lines[start : start + RUN]
            if not all(text.startswith(("import ", "from ")) for _, text in run):
                places[tuple(text for _, text in run)].append(f"{module} {names[run[0][0]]}")
    return {frozenset(found) for found in places.values() if len(found) > 1}


def test_no_six_lines_stand_twice_without_a_reason() -> None:
    assert repeats() == REASONS.keys()
