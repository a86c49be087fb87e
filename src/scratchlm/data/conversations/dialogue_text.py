"""Show a dialogue as tokens and ids, and which of the tokens the model learns.

    dialogues.jsonl:1: 2 messages, 13 tokens, 2 targets
    ⟨<|im_start|>│user│\\n│2│+│2│?│<|im_end|>│\\n│<|im_start|>│assistant│\\n⟩
        ids ⟨50257 7220 198 17 10 17 30 50258 198 50257 562 10167 198⟩
    4│<|im_end|>
        ids 19 50258

The model learns the tokens outside ⟨⟩. With colours, it learns the tokens on a green background.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from scratchlm.data.conversations.dialogues import Dialogue
from scratchlm.data.conversations.masks import TrainOn, marked
from scratchlm.tokenizer.chat_template import ChatTemplate
from scratchlm.tokenizer.playground.page import painted, visible

GREEN = 157  # of a terminal's 256 colours
LEGEND = {
    False: "the model learns the tokens outside ⟨⟩",
    True: "the model learns the tokens on a green background",
}  # {whether there are colours: an explanation}


def dialogue_text(
    dialogue: Dialogue,
    template: ChatTemplate,
    train_on: TrainOn = "assistant",
    *,
    colour: bool = False,
) -> Iterator[str]:
    """Yield a line of counts, then the tokens and the ids: two lines for each part that the model
    learns, or does not learn.

    A marker is one token, but a marker that a user typed is text of several tokens.
    """
    messages, place = dialogue
    example = marked(messages, template, train_on)
    yield (
        f"{place}: {len(messages)} messages, {len(example.ids):,} tokens, "
        f"{example.num_targets:,} targets"
    )
    pairs = zip(example.ids.tolist(), example.is_target.tolist(), strict=True)
    for is_target, group in itertools.groupby(pairs, lambda pair: pair[1]):
        ids = [id for id, _ in group]
        tokens = "│".join(visible(template.tokenizer.vocab[id]) for id in ids)
        yield _shown(tokens, is_target, colour)
        yield f"    ids {_shown(' '.join(map(str, ids)), is_target, colour)}"


def _shown(text: str, is_target: bool, colour: bool) -> str:
    if colour:
        return painted(text, GREEN) if is_target else text
    return text if is_target else f"⟨{text}⟩"
