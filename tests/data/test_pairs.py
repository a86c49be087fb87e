"""Pairs of answers: which are kept, how they are shortened, and their places in a batch."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from helpers.chat_templates import SPECIALS, dialogue, tokenizer_with
from scratchlm.data.conversations.batches import DialogueBatches, DialogueEvalBatches, Pairs
from scratchlm.data.conversations.masks import example_of
from scratchlm.data.conversations.pairs import PairCounts, pairs_of
from scratchlm.data.conversations.preferences import Preference
from scratchlm.tokenizer.chat_template import ChatTemplate


@pytest.fixture(scope="module")
def template():
    return ChatTemplate("chatml", tokenizer_with(*SPECIALS))


def preference(messages, answer, line=1):
    other = {"role": "assistant", "content": answer}
    return Preference(messages, [*messages[:-1], other], f"a.jsonl:{line}")


@pytest.fixture(scope="module")
def preferences():
    chance = random.Random(0)
    found = []
    for line in range(1, 41):
        messages = dialogue(chance)
        answer = messages[-1]["content"] + (" or so" if line % 8 else "")
        found.append(preference(messages, answer, line))
    return found


def said(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


SHORT = preference(said("a", "b"), "c")


def made(preferences, template, row_length, too_long="drop"):
    counts = PairCounts()
    return list(pairs_of(preferences, template, row_length, too_long, counts)), counts


def check_sums(pairs, counts):
    assert counts.read == counts.kept + counts.too_long + counts.equal
    assert counts.kept == len(pairs)
    assert counts.predictions == sum(pair.num_predictions for pair in pairs)
    assert counts.targets == sum(each.num_targets for pair in pairs for each in pair)


def test_the_last_answers_are_the_targets(template, preferences):
    pairs, counts = made(preferences, template, 10_000)
    different = [each for each in preferences if each.chosen != each.rejected]
    assert counts.equal == len(preferences) - len(different) == 5
    check_sums(pairs, counts)
    end = template.tokenizer.token_to_id("<|im_end|>")
    for pair, preference in zip(pairs, different, strict=True):
        for example, messages in zip(pair, preference[:2], strict=True):
            ids, is_target = example_of(messages, template, "last")
            assert np.array_equal(example.ids, ids)
            assert np.array_equal(example.is_target, is_target)
            answer = template.tokenizer.decode(ids[is_target].tolist())
            assert answer.endswith(messages[-1]["content"] + "<|im_end|>")  # a newline may merge
            assert example.ids[-1] == end


def test_a_pair_one_token_too_long_is_dropped_cut_or_an_error(template):
    pair = preference(said("a", "b"), "the cat sat", 7)
    (whole,), _ = made([pair], template, 1000)
    longest = whole.num_predictions
    for too_long in ("drop", "truncate", "error"):
        assert made([pair], template, longest, too_long)[1].kept == 1
    pairs, counts = made([SHORT, pair], template, longest - 1)
    assert (len(pairs), counts.too_long) == (1, 1)
    (cut,), counts = made([pair], template, longest - 1, "truncate")
    assert (counts.cut_answers, counts.shortened) == (1, 0)
    assert np.array_equal(cut.chosen.ids, whole.chosen.ids)
    assert np.array_equal(cut.rejected.ids, whole.rejected.ids[:-1])
    wanted = rf"at most {longest - 1} predictions together \(a.jsonl:7: {longest}\); shorten"
    with pytest.raises(ValueError, match=wanted):
        made([pair], template, longest - 1, "error")


def test_whole_old_turns_go_first_and_from_both_prompts(template):
    messages = [{"role": "system", "content": "S"}, *said("old", "x" * 40, "new", "yes")]
    pair = preference(messages, "no, not at all")
    newest = preference([messages[0], *messages[-2:]], "no, not at all")
    (expected,), _ = made([newest], template, 1000)
    (found,), counts = made([pair], template, expected.num_predictions, "truncate")
    assert (counts.shortened, counts.lost_messages, counts.cut_answers) == (1, 2, 0)
    for mine, other in zip(found, expected, strict=True):
        assert np.array_equal(mine.ids, other.ids)
    (found,), counts = made([pair], template, expected.num_predictions - 3, "truncate")
    assert (counts.lost_messages, counts.cut_answers) == (2, 1)
    assert found.num_predictions == expected.num_predictions - 3


@pytest.mark.parametrize("row_length", [40, 80, 200, 400])
@pytest.mark.parametrize("too_long", ["drop", "truncate"])
def test_every_pair_is_counted_once(template, preferences, row_length, too_long):
    preferences = [*preferences, SHORT]
    pairs, counts = made(preferences, template, row_length, too_long)
    assert counts.read == len(preferences)
    check_sums(pairs, counts)
    whole = made(preferences, template, 10_000)[1]
    assert counts.lost_targets == whole.targets - counts.targets
    for pair in pairs:
        assert pair.num_predictions <= row_length
        assert all(each.num_targets for each in pair)
        assert not np.array_equal(pair.chosen.ids, pair.rejected.ids)
    text = "\n".join(counts.lines())
    for name, number in vars(counts).items():
        if number or name not in ("shortened", "lost_messages", "cut_answers", "lost_targets"):
            assert f"{number:,}" in text


def test_a_run_warns_if_it_drops_more_than_half(template):
    length = made([SHORT], template, 1000)[1].predictions
    long = preference(said("a " * 20, "b"), "c")
    for number in (1, 2):
        _, counts = made([SHORT, *[long] * number], template, length)
        told = [line for line in counts.lines() if line.startswith("warning: ")]
        assert len(told) == (number == 2)
    assert "more than half of the pairs are too long (2 of 3); use longer rows (--row" in told[0]


def test_a_set_in_which_nothing_remains_is_refused(template):
    equal = preference(said("a", "b"), "b")
    with pytest.raises(ValueError, match=r"data: 2 pairs, 1 too long, 1 with equal answers\); "):
        made([SHORT, equal], template, 8)
    with pytest.raises(ValueError, match=r"at least one pair \(the data has none\)"):
        made([], template, 8)


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_a_row_has_both_answers_of_each_pair(template, preferences, dtype):
    """An epoch has each pair once. `pairs` has the number of the pair at each place."""
    pairs, _ = made(preferences, template, 200)
    batches = DialogueBatches(Pairs(pairs, dtype), 1, 200, seed=3)
    read = [batches.batch(step) for step in range(batches.windows_per_epoch)]
    found = []
    for batch in [*read, *DialogueEvalBatches(Pairs(pairs, dtype), 1, 200)]:
        numbers = batch.pairs[0]
        start = 0
        for number in range(1, batch.num_terms() + 1):
            both = []
            for sign in (1, -1):
                inside = (numbers == sign * number).nonzero().flatten()
                assert inside.tolist() == list(range(start, start + len(inside)))
                assert (batch.first[0, inside] == start).all()
                both += [batch.inputs[0, inside].tolist(), batch.targets[0, inside].tolist()]
                start += len(inside)
            found.append(both)
        assert (numbers[start:] == 0).all()
        assert (batch.targets[0, start:] == -100).all()
    expected = [
        [part.tolist() for each in pair for part in each.inputs_and_targets()] for pair in pairs
    ]
    assert sorted(found) == sorted(expected * 2)
    (line,) = batches.told_of_rows()
    assert line.startswith(f"an epoch has {len(pairs)} pairs in ")


def test_a_part_of_the_pairs(template, preferences):
    pairs, _ = made(preferences, template, 200)
    numbers = np.array([4, 1, 4])
    part, own = Pairs(pairs).chosen(numbers), Pairs([pairs[number] for number in numbers])
    assert part.lengths.tolist() == own.lengths.tolist()
    rows = [np.array([2]), np.array([1])]
    for name, value in part.batch(rows, 2, 200).given().items():
        assert torch.equal(value, own.batch(rows, 2, 200).given()[name])
    assert part.hash() != Pairs(pairs).chosen(numbers[::-1][1:]).hash()


def test_the_number_of_terms_of_a_batch(template, preferences):
    pairs, _ = made(preferences, template, 200)
    batch = DialogueBatches(Pairs(pairs), 3, 200, seed=3).batch(0)
    assert batch.num_terms() == sum(len(row[row > 0].unique()) for row in batch.pairs)
    assert batch.each(lambda tensor: tensor[:1]).num_terms() == int(batch.pairs[0].max())
    assert batch.given().keys() == {"inputs", "targets", "first", "pairs"}
    assert torch.equal(batch.given()["pairs"], batch.pairs)
