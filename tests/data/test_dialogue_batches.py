"""Batches of dialogues: a packed row equals each dialogue alone, and an epoch has each once."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from helpers.chat_templates import SPECIALS, dialogue, tokenizer_with
from helpers.variants import VARIANTS, small
from scratchlm import cross_entropy
from scratchlm.data.conversations.batches import (
    DialogueBatches,
    DialogueEvalBatches,
    Examples,
)
from scratchlm.data.conversations.masks import Example, example_of
from scratchlm.devices.batch import Batch
from scratchlm.tokenizer.chat_template import ChatTemplate

LENGTH = 128


@pytest.fixture(scope="module")
def made() -> list[Example]:
    template, chance = ChatTemplate("chatml", tokenizer_with(*SPECIALS)), random.Random(2)
    every = (example_of(dialogue(chance)[-2:], template) for _ in range(40))
    return [example for example in every if example.num_predictions <= LENGTH]


def dialogues_in(batch: Batch) -> list[tuple[bytes, bytes]]:
    """Return the inputs and the targets of each segment that has a target."""
    found = []
    for inputs, targets, first in zip(batch.inputs, batch.targets, batch.first, strict=True):
        for start in first.unique().tolist():
            inside = first == start
            if (targets[inside] != -100).any():
                found.append((inputs[inside].numpy().tobytes(), targets[inside].numpy().tobytes()))
    return found


def dialogues_of(batches: list[Batch]) -> list[tuple[bytes, bytes]]:
    return sorted(each for batch in batches for each in dialogues_in(batch))


def as_bytes(examples: list[Example]) -> list[tuple[bytes, bytes]]:
    return [tuple(part.tobytes() for part in each.inputs_and_targets()) for each in examples]


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_stored_examples_are_the_same(made, dtype):
    stored = Examples(made, dtype)
    assert len(stored) == len(made)
    assert stored.lengths.tolist() == [each.num_predictions for each in made]
    for ours, theirs in zip(stored, made, strict=True):
        assert np.array_equal(ours.ids, theirs.ids)
        assert np.array_equal(ours.is_target, theirs.is_target)


def test_an_epoch_has_each_dialogue_once(made):
    """Also with batches of rows from two epochs, and after a restart at any step."""
    batches = DialogueBatches(Examples(made), 3, LENGTH, seed=4)
    rows = batches.windows_per_epoch
    assert rows % 3, "a batch has rows of two epochs"
    read = [batches.batch(step) for step in range(rows)]  # three epochs
    assert dialogues_of(read) == sorted(as_bytes(made) * 3)
    assert all(each.shape == (3, LENGTH) for batch in read for each in batch.given().values())
    assert all((batch.targets != -100).any(1).all() for batch in read)
    for step in (rows - 1, 0, 5):
        again = DialogueBatches(Examples(made), 3, LENGTH, seed=4).batch(step)
        for name, value in again.given().items():
            assert torch.equal(value, getattr(read[step], name))


@pytest.mark.parametrize(("seed", "step"), [(5, 0), (4, 1)])
def test_another_seed_or_epoch_has_another_order(made, seed, step):
    whole = len(DialogueEvalBatches(Examples(made), 1, LENGTH))  # a batch is an epoch
    one, other = (
        DialogueBatches(Examples(made), whole, LENGTH, seed=each).batch(number)
        for each, number in ((4, 0), (seed, step))
    )
    assert not torch.equal(one.inputs, other.inputs)
    assert dialogues_of([one]) == dialogues_of([other])


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_validation_reads_each_dialogue_once(made, batch_size):
    batches = DialogueEvalBatches(Examples(made), batch_size, LENGTH)
    read = list(batches)
    assert len(read) == len(batches)
    assert dialogues_of(read) == sorted(as_bytes(made))
    assert len({batch.inputs.shape for batch in read}) == 1
    limited = list(DialogueEvalBatches(Examples(made), batch_size, LENGTH, max_batches=2))
    assert len(limited) == min(2, len(read))
    assert torch.equal(limited[0].inputs, read[0].inputs)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_packed_row_is_each_dialogue_alone(made, variant):
    """Losses and gradients to 1e-6, in fp64: the sums of fp32 differ by more than that."""
    model = small(vocab_size=343, context_length=LENGTH, **variant).double()
    packed = DialogueBatches(Examples(made), 2, LENGTH, seed=0).batch(0)
    count = (packed.targets != -100).sum()
    loss = cross_entropy(model(packed.inputs, first=packed.first), packed.targets)
    loss.backward()
    gradients = [each.grad.clone() for each in model.parameters()]
    model.zero_grad()
    alone = torch.zeros((), dtype=torch.float64)
    for inputs, targets in dialogues_in(packed):
        ids = torch.frombuffer(bytearray(inputs), dtype=torch.int64)
        wanted = torch.frombuffer(bytearray(targets), dtype=torch.int64)
        one = cross_entropy(model(ids[None]), wanted[None])
        alone = alone + one * (wanted != -100).sum() / count
    alone.backward()
    assert len(dialogues_in(packed)) > 2
    torch.testing.assert_close(loss, alone, rtol=0, atol=1e-6)
    for ours, each in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(ours, each.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_no_dialogue_sees_another(made, variant):
    """Other ids in one dialogue leave the logits of the others the same, to the bit."""
    model = small(vocab_size=343, context_length=LENGTH, **variant).eval()
    packed = DialogueBatches(Examples(made), 1, LENGTH, seed=1).batch(0)
    starts = packed.first[0].unique()
    assert len(starts) >= 2
    chosen = packed.first[0] == 0
    changed = torch.where(chosen, (packed.inputs + 1) % 343, packed.inputs)
    with torch.no_grad():
        before, after = (model(ids, first=packed.first)[0] for ids in (packed.inputs, changed))
    assert torch.equal(before[~chosen], after[~chosen])
    assert not torch.equal(before[chosen], after[chosen])


def test_rows_and_padding_are_told(made):
    batches = DialogueBatches(Examples(made), 3, LENGTH, seed=4)
    (line,) = batches.told_of_rows()
    places = batches.windows_per_epoch * LENGTH
    padding = places - sum(each.num_predictions for each in made)
    assert f"padding is {padding:,} of {places:,} places" in line
    with pytest.raises(ValueError, match=r"batch_size must be at least 1 \(0\)"):
        DialogueBatches(Examples(made), 0, LENGTH, seed=4)
    with pytest.raises(ValueError, match=r"step must be at least 0 \(-1\)"):
        batches.batch(-1)
