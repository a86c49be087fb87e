"""What a model learns of a dialogue: compare with transformers, with ids by hand, and with all
shorter dialogues."""

from __future__ import annotations

import random

import numpy as np
import pytest

from helpers.chat_templates import SPECIALS, dialogue, in_transformers, tokenizer_with
from scratchlm.data.conversations.masks import example_of, learned, truncated
from scratchlm.tokenizer.chat_template import FORMS, ChatTemplate


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_with(*SPECIALS)


def user(content: str) -> dict[str, object]:
    return {"role": "user", "content": content}


def assistant(content: str, **weight: int) -> dict[str, object]:
    return {"role": "assistant", "content": content, **weight}


TWO = [user("a"), assistant("b"), user("c"), assistant("d")]


@pytest.mark.parametrize("name", FORMS)
def test_the_targets_are_those_of_transformers(tokenizer, tmp_path, name):
    """An example ends with its last target."""
    theirs = in_transformers(tokenizer, name, tmp_path)
    template, chance = ChatTemplate(name, tokenizer), random.Random(5)
    for _ in range(20):
        messages = dialogue(chance)
        expected = theirs.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        mask = np.array(expected["assistant_masks"], dtype=bool)
        end = int(np.flatnonzero(mask)[-1]) + 1
        example = example_of(messages, template)
        assert example.ids.tolist() == expected["input_ids"][:end]
        assert np.array_equal(example.is_target, mask[:end])
        assert example.num_targets == mask.sum()


def test_inputs_and_targets_by_hand(tokenizer):
    """The target of each place is the next id of an answer, or -100."""
    one = tokenizer.token_to_id
    start, end, line = one("<|im_start|>"), one("<|im_end|>"), tokenizer.encode("\n")
    head, reply = tokenizer.encode("user\n"), tokenizer.encode("assistant\n")
    example = example_of([user("a"), assistant("4")], ChatTemplate("chatml", tokenizer))
    asked = [start, *head, one("a"), end, *line, start, *reply]
    inputs, targets = example.inputs_and_targets()
    assert inputs.tolist() == [*asked, one("4")]
    assert targets.tolist() == [-100] * (len(asked) - 1) + [one("4"), end]
    assert example.num_predictions == len(inputs)


@pytest.mark.parametrize(
    ("train_on", "weights", "expected"),
    [
        ("assistant", (1, 1), [True, True]),
        ("assistant", (0, 1), [False, True]),
        ("assistant", (1, 0), [True, False]),
        ("last", (1, 1), [False, True]),
        ("last", (1, 0), [False, False]),
        ("all", (0, 1), [False, True]),
    ],
)
def test_weights_and_train_on_choose_the_answers(tokenizer, train_on, weights, expected):
    messages = [
        user("a"), assistant("b", weight=weights[0]), user("c"), assistant("d", weight=weights[1]),
    ]  # fmt: skip
    assert learned(messages, train_on) == expected
    template = ChatTemplate("chatml", tokenizer)
    ids, answers = template.encode_dialogue(messages)
    wanted = np.full(len(ids), train_on == "all")
    wanted[0] = False
    for (start, end), is_learned in zip(answers, expected, strict=True):
        wanted[start:end] = is_learned
    example = example_of(messages, template, train_on)
    assert np.array_equal(example.is_target, wanted[: len(example.ids)])
    assert not wanted[len(example.ids) :].any()
    assert example.is_target[-1] or not wanted.any()


def test_an_answer_of_one_token_has_two_targets(tokenizer):
    for name in FORMS:
        messages = [user("a"), assistant("b")]
        example = example_of(messages, ChatTemplate(name, tokenizer))
        assert example.is_target.tolist()[-3:] == [False, True, True]


@pytest.mark.parametrize("name", FORMS)
def test_old_pairs_go_before_an_answer_is_cut(tokenizer, name):
    """Compare with all parts of the dialogue in the order of preference, for every length."""
    template, chance = ChatTemplate(name, tokenizer), random.Random(3)
    for _ in range(2):
        messages = dialogue(chance)
        head, said = [m for m in messages if m["role"] == "system"], messages[-8:]
        said = [message for message in said if message["role"] != "system"]
        every = [  # (the messages, their example, how many of the last messages are missing)
            (part, example_of(part, template), len(said) - end)
            for end in range(len(said), 0, -2)
            for start in range(0, end, 2)
            for part in [[*head, *said[start:end]]]
        ]
        for most in range(1, every[0][1].num_predictions + 2):
            fitted = truncated([*head, *said], template, most)
            part, whole, missing = next(
                (part, whole, missing)
                for part, whole, missing in every
                if whole.num_predictions <= most
                or (len(part) == len(head) + 2 and whole.is_target[: most + 1].any())
                or missing == len(said) - 2
            )
            assert list(fitted.messages) == part
            assert fitted.is_cut == (whole.num_predictions > most)
            assert fitted.lost_last == missing
            ids, is_target = fitted.example
            assert ids.tolist() == whole.ids[: most + 1].tolist()
            assert np.array_equal(is_target, whole.is_target[: most + 1])
