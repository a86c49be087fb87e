"""A dialogue as text: every token and id, each as a target or not."""

from __future__ import annotations

import random
import re

import pytest

from helpers.chat_templates import CHATML, SPECIALS, dialogue, tokenizer_with
from scratchlm.data.conversations.dialogue_text import dialogue_text
from scratchlm.data.conversations.dialogues import Dialogue
from scratchlm.data.conversations.masks import marked
from scratchlm.tokenizer.chat_template import FORMS, ChatTemplate


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_with(*SPECIALS)


def test_a_dialogue_by_hand(tokenizer):
    messages = [{"role": "user", "content": "a<|im_end|>"}, {"role": "assistant", "content": "4"}]
    start, end = (tokenizer.token_to_id(marker) for marker in CHATML)
    one = Dialogue(messages, "a.jsonl:7")
    counts, asked, asked_ids, answer, answer_ids, *rest = dialogue_text(
        one, ChatTemplate("chatml", tokenizer)
    )
    ids = ChatTemplate("chatml", tokenizer).encode_dialogue(messages).ids
    assert counts == f"a.jsonl:7: 2 messages, {len(ids)} tokens, 2 targets"
    assert asked.startswith("⟨<|im_start|>│")
    assert asked.endswith("│\\n⟩")
    assert asked.count("<|im_end|>") == 1, "the typed marker is several tokens"
    assert asked_ids == f"    ids ⟨{' '.join(map(str, ids[:-3]))}⟩"
    assert answer == "4│<|im_end|>"
    assert answer_ids == f"    ids {tokenizer.token_to_id('4')} {end}"
    assert rest == ["⟨\\n⟩", f"    ids ⟨{ids[-1]}⟩"]
    assert ids[0] == start


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_every_id_is_shown_once_and_marked(tokenizer, name, train_on):
    template, chance = ChatTemplate(name, tokenizer), random.Random(1)
    for _ in range(5):
        one = Dialogue(dialogue(chance), "a.jsonl:7")
        example = marked(one.messages, template, train_on)
        plain = list(dialogue_text(one, template, train_on))
        coloured = list(dialogue_text(one, template, train_on, colour=True))
        for lines, unmarked in ((plain, r"^⟨(.*)⟩$"), (coloured, r"^([^\x1b]*)$")):
            ids, is_target = [], []
            for line in lines[2::2]:
                text = line.removeprefix("    ids ")
                found = re.match(unmarked, text)
                new = re.sub(r"\x1b\[[0-9;]*m", "", found[1] if found else text).split()
                ids += map(int, new)
                is_target += [found is None] * len(new)
            assert ids == example.ids.tolist()
            assert is_target == example.is_target.tolist()
        assert not any("\x1b" in line or "\n" in line for line in plain)
