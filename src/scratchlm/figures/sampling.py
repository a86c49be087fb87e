"""`draw_sampling` shows one distribution before and after each strategy. It needs the extra `viz`.

draw_sampling(made_up(), "sampling.png")    docs/sampling.png
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scratchlm.figures.style import require_matplotlib, visible_text
from scratchlm.files.atomic import replacing_file
from scratchlm.files.paths import StrPath
from scratchlm.generation.decoder import Decoder
from scratchlm.generation.generator import TextGenerator
from scratchlm.generation.sampling import check_prompts, require_finite
from scratchlm.generation.strategies import Strategy, keep_top_p

BARS = 16  # the likeliest tokens; one more bar shows the rest of the vocabulary
WIDEST = 14  # characters of a label
BEFORE, AFTER, CUT = "#c9ced6", "#0072b2", "#d55e00"  # the last two: Okabe and Ito's palette
DIM = "#5c6570"

SAID = "the cat sat on the mat , the dog sat on the mat , and the bird sat on the"
PER_MILLE = {
    "mat": 300, "branch": 140, "roof": 90, "fence": 80, "cat": 60, "dog": 50, "window": 40,
    "wall": 35, "tree": 32, "floor": 28, "grass": 24, "rug": 20, "ground": 17, "wire": 14,
    "chair": 12, "bench": 10, "table": 8, "nest": 7, "edge": 6, "bed": 5, "sofa": 4, "chimney": 4,
    "gate": 3, "bird": 3, "statue": 2, "moon": 1, "the": 1, "sat": 1, "on": 1, "and": 1, ",": 1,
}  # fmt: skip


@dataclass(frozen=True)
class NextToken:
    """The logits (vocab,) of the token that follows `text`.

    ids: the ids of `text`. name: a function that returns the text of an id.
    """

    logits: Tensor
    text: str
    ids: list[int]
    name: Callable[[int], str]


def made_up() -> NextToken:
    """Return a made-up distribution over words.

    It has a long tail, and the likeliest word already occurs in the text.
    """
    words = list(PER_MILLE)
    logits = torch.tensor(list(PER_MILLE.values())).log()
    return NextToken(logits, SAID.replace(" ,", ","), list(map(words.index, SAID.split())),
                     words.__getitem__)  # fmt: skip


def of_model(writer: TextGenerator, prompt: str) -> NextToken:
    """Return the model's logits after a prompt. Raise ValueError if the prompt does not fit."""
    ids = writer.encode(prompt)
    check_prompts([ids], 1, writer.model.config, "stop")
    logits = Decoder(writer.model, 1).prefill([ids])[0, : len(writer.tokenizer)].float()
    require_finite(logits)

    def name(id: int) -> str:
        return writer.tokenizer.decode_bytes([id]).decode("utf-8", "backslashreplace")

    return NextToken(logits.cpu(), prompt, ids, name)


def examples(logits: Tensor) -> dict[str, Strategy]:
    """Return an example of each strategy, by the title of its panel."""
    likeliest = logits.topk(5).indices.tolist()
    bias = {likeliest[0]: -math.inf, likeliest[4]: 2.0}
    return {
        "temperature 0 (greedy)": Strategy(temperature=0),
        "temperature 0.5": Strategy(temperature=0.5),
        "temperature 1.5": Strategy(temperature=1.5),
        "top_k 5": Strategy(top_k=5),
        "top_p 0.7": Strategy(top_p=0.7),
        "min_p 0.1": Strategy(min_p=0.1),
        "typical_p 0.5": Strategy(typical_p=0.5),
        "logit_bias: 1st -inf, 5th +2": Strategy(logit_bias=bias),
        "no_repeat_ngram_size 3": Strategy(no_repeat_ngram_size=3),
        "repetition_penalty 1.3": Strategy(repetition_penalty=1.3),
        "presence_penalty 1": Strategy(presence_penalty=1),
        "frequency_penalty 1": Strategy(frequency_penalty=1),
    }


def distribution_after(strategy: Strategy, next_token: NextToken) -> Tensor:
    """Return the probabilities (vocab,) after the strategy.

    The penalties treat all of the text as generated text, not as a prompt.
    """
    logits = strategy.penalize(next_token.logits, [], next_token.ids)
    # Temperature 0 is argmax, and top_p 0 is the same.
    return (keep_top_p(logits, 0) if strategy.greedy else strategy.filter(logits)).softmax(-1)


def draw_sampling(next_token: NextToken, path: StrPath) -> None:
    """Write the result of `new_figure` as one PNG. An interrupted write leaves no partial file."""
    figure = new_figure(next_token)
    with replacing_file(Path(path)) as file:
        figure.savefig(file, format="png", dpi=120, pil_kwargs={"optimize": True})


def new_figure(next_token: NextToken) -> Any:
    """Return a matplotlib figure: the distribution before (outlines) and after each strategy."""
    require_matplotlib()
    from matplotlib.figure import Figure

    strategies = examples(next_token.logits)
    before = next_token.logits.softmax(-1)
    order = before.argsort(descending=True, stable=True)
    labels = [_label(next_token.name(id)) for id in order[:BARS].tolist()]
    labels.append(f"{len(order) - BARS:,} others")
    edge = min(2 * float(before.max()), 1.0)  # a longer bar shows its value as text

    figure = Figure(figsize=(10, 12.8))
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.06)
    text = visible_text(next_token.text)
    text = text if len(text) <= 90 else "…" + text[-89:]
    figure.suptitle(
        f"What may follow “{text}”\n"
        f"outlined: the model's distribution, {_entropy(before):.2f} nats · "
        "blue: the distribution after the strategy · crossed out: removed tokens",
        fontsize=11, parse_math=False, x=0.012, ha="left", linespacing=1.5,
    )  # fmt: skip
    for axis, (title, strategy) in zip(figure.subplots(4, 3).flat, strategies.items(), strict=True):
        after = distribution_after(strategy, next_token)
        _draw_bars(axis, _bars(before[order]), _bars(after[order]), labels, edge)
        axis.set_title(title, loc="left", fontsize=11, weight="bold", pad=17)
        axis.annotate(
            _summary(before, after), (0, 1), (0, 5), fontsize=8, color=DIM, in_layout=False,
            xycoords="axes fraction", textcoords="offset points",
        )  # fmt: skip
    return figure


def _summary(before: Tensor, after: Tensor) -> str:
    """before, after (vocab,) -> the remaining tokens, their mass before, the entropy after."""
    kept = after > 0
    if kept.all():
        return f"all tokens · {_entropy(after):.2f} nats"
    count = int(kept.sum())
    what = "1 token" if count == 1 else f"{count:,} tokens"
    mass = _percent(float(before[kept].sum()))
    return f"{what}, {mass} of the mass · {_entropy(after):.2f} nats"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{100 * share:.1g}%"


def _bars(probabilities: Tensor) -> list[float]:
    """probabilities (vocab,), likeliest first -> the first `BARS`, and the sum of the others."""
    return [*probabilities[:BARS].tolist(), float(probabilities[BARS:].sum())]


def _entropy(probabilities: Tensor) -> float:
    """probabilities (vocab,) -> the entropy in nats."""
    return float(torch.special.entr(probabilities).sum())


def _draw_bars(
    axis: Any, before: list[float], after: list[float], labels: list[str], edge: float
) -> None:
    """Draw `after` as filled bars and `before` as outlines."""
    from matplotlib.ticker import MaxNLocator

    rows = range(len(labels))
    axis.barh(rows, after, height=0.72, color=AFTER)
    axis.barh(rows, before, height=0.72, fill=False, edgecolor=BEFORE, linewidth=1)
    axis.set_xlim(0, edge)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.set_yticks(rows, labels, fontsize=8, parse_math=False)
    axis.tick_params(length=0, labelsize=8)
    axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    axis.spines["left"].set_color(BEFORE)
    cut = [row for row in rows if after[row] == 0]
    axis.plot([0.02 * edge] * len(cut), cut, "x", markersize=4, color=CUT)
    for row in cut:
        axis.get_yticklabels()[row].set_color(DIM)
    for row, value in enumerate(after):
        if value > edge:
            axis.text(0.98 * edge, row, _percent(value), ha="right", va="center", color="white",
                      fontsize=8)  # fmt: skip


def _label(token: str) -> str:
    """Return a token's text, shortened, with visible spaces."""
    text = visible_text(token).replace(" ", "␣")
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"
