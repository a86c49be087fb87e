"""The loss of packed pairs equals the definition of DPO on each pair alone."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.chat_templates import SPECIALS, dialogue, tokenizer_with
from helpers.small_runs import trainer
from helpers.trl_pairs import BETA, PAIRS, trl_trainer
from helpers.twins import loud
from helpers.variants import VARIANTS, small
from scratchlm import Transformer
from scratchlm.data.conversations.batches import DialogueBatches, DialogueEvalBatches, Pairs
from scratchlm.data.conversations.masks import Example
from scratchlm.data.conversations.pairs import Pair, PairCounts, pairs_of
from scratchlm.data.conversations.preferences import Preference
from scratchlm.devices.batch import Batch
from scratchlm.functional import dpo_loss, sequence_log_probs
from scratchlm.model.config import LoRAConfig
from scratchlm.model.lora import adapted_layers
from scratchlm.tokenizer.chat_template import ChatTemplate
from scratchlm.training.preference_objective import PreferenceObjective, frozen_copy

LENGTH, VOCAB = 128, 343


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    template, chance = ChatTemplate("chatml", tokenizer_with(*SPECIALS)), random.Random(3)
    read = []
    for number in range(40):
        chosen = dialogue(chance)[-2:]
        other = {"role": "assistant", "content": dialogue(chance)[-1]["content"] + "!"}
        read.append(Preference(chosen, [*chosen[:-1], other], f"a.jsonl:{number}"))
    return list(pairs_of(read, template, LENGTH, "drop", PairCounts()))


def model(**changes: Any) -> Transformer:
    return small(vocab_size=VOCAB, context_length=LENGTH, **changes)


def pairs_in(batch: Batch) -> list[tuple[tuple[Tensor, Tensor], ...]]:
    """Return the inputs and the targets of both dialogues of each pair of a packed batch."""
    found = []
    for inputs, targets, numbers in zip(batch.inputs, batch.targets, batch.pairs, strict=True):
        for number in range(1, int(numbers.max()) + 1):
            both = (numbers == number, numbers == -number)
            found.append(tuple((inputs[each], targets[each]) for each in both))
    return found


def losses_alone(batch: Batch, model: Transformer, reference: Transformer, beta: float) -> Tensor:
    """Return the definition's loss of each pair, with each dialogue alone: (pair,)."""
    numbers = [
        [sequence_log_probs(each(inputs[None]), targets[None])[0]
         for each in (model, reference) for inputs, targets in pair]
        for pair in pairs_in(batch)
    ]  # fmt: skip
    return dpo_loss(*map(torch.stack, zip(*numbers, strict=True)), beta=beta)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_packed_pairs_are_each_pair_alone(pairs, variant):
    """Losses and gradients to 1e-6, in fp64: the sums of fp32 differ by more than that."""
    torch.manual_seed(0)
    policy, reference = (loud(model(**variant)).double() for _ in range(2))
    batch = DialogueBatches(Pairs(pairs), 2, LENGTH, seed=0).batch(0)
    loss, figures, routers = PreferenceObjective(policy, reference, 0.02)(**batch.given())
    alone = losses_alone(batch, policy, reference, 0.02)
    assert len(alone) == batch.num_terms() > 2
    assert alone.std() > 0.02
    torch.testing.assert_close(loss, alone.sum(), rtol=1e-6, atol=1e-6)
    assert figures["loss"] == loss
    margins = -(alone.exp() - 1).log()  # of −log σ(margin)
    torch.testing.assert_close(figures["reward_margin"], margins.sum(), rtol=1e-6, atol=1e-6)
    assert figures["reward_accuracy"] == (margins > 0).sum()
    assert all(not figure.requires_grad for figure in figures.values())
    learning = list(policy.parameters())
    ours = torch.autograd.grad(loss, learning, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad(alone.sum(), learning, allow_unused=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
    assert (routers != 0) == ("moe" in variant)


def test_one_pair_does_not_change_another(pairs):
    """Other tokens in the second pair of a row leave the loss of the first the same, to the bit."""
    policy, reference = loud(model()), loud(model())
    batches = DialogueBatches(Pairs(pairs), 1, LENGTH, seed=0)
    batch = next(each for each in map(batches.batch, range(9)) if each.num_terms() > 1)
    second = batch.pairs.abs() == 2
    only = replace(batch, targets=batch.targets.masked_fill(second, -100))
    changed = replace(only, inputs=torch.where(second, batch.inputs ^ 1, batch.inputs))
    objective = PreferenceObjective(policy, reference)
    one, other, both = (objective(**each.given())[0] for each in (only, changed, batch))
    assert one == other
    assert one != both


def test_the_loss_of_an_unchanged_model_is_log_2(pairs):
    """Padding and rows without a pair add nothing."""
    policy = loud(model())
    objective = PreferenceObjective(policy, frozen_copy(policy))
    for batch in DialogueEvalBatches(Pairs(pairs), 5, LENGTH):
        loss, figures, _ = objective(**batch.given())
        assert loss.item() == pytest.approx(batch.num_terms() * math.log(2), rel=1e-6)
        assert figures["reward_accuracy"] == figures["reward_margin"] == 0
        empty = replace(batch, targets=torch.full_like(batch.targets, -100))
        assert empty.num_terms() == 0
        assert objective(**empty.given())[0] == 0


def test_the_reference_stays_as_it_is(pairs):
    policy = model(dropout=0.5)
    objective = PreferenceObjective(policy, frozen_copy(policy)).train()
    assert policy.training
    assert not any(each.training for each in objective.reference.modules())
    batch = DialogueBatches(Pairs(pairs), 2, LENGTH, seed=0).batch(0)
    before = [each.clone() for each in objective.reference.parameters()]
    objective(**batch.given())[0].backward()
    with torch.no_grad():
        for each in policy.parameters():
            each -= each.grad
    for was, each in zip(before, objective.reference.parameters(), strict=True):
        assert torch.equal(was, each)
        assert each.grad is None


@pytest.mark.parametrize("tied", [False, True])
def test_a_reference_shares_frozen_weights_alone(tied):
    policy = model(lora=LoRAConfig(), tie_embeddings=tied)
    for _, layer in adapted_layers(policy):
        torch.nn.init.normal_(layer.lora_B)  # adapters that learnt before
    reference = frozen_copy(policy)
    assert (reference.lm_head.weight is reference.embedding.weight) == tied
    for mine, other in zip(policy.parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine, other)
        assert (mine is other) == (not mine.requires_grad)
        assert not other.requires_grad
    whole = frozen_copy(model(tie_embeddings=tied))
    assert (whole.lm_head.weight is whole.embedding.weight) == tied


def test_accumulated_pairs_equal_one_batch(pairs):
    """The micro-batches have unequal numbers of pairs."""

    def step(size: int, accumulate: int) -> dict[str, Any]:
        torch.manual_seed(0)
        policy = model()
        reference = loud(model())
        batches = DialogueBatches(Pairs(pairs), size, LENGTH, seed=0)
        counts = [batches.batch(number).num_terms() for number in range(accumulate)]
        assert accumulate == 1 or len(set(counts)) > 1
        run = trainer(model=policy, batches=batches, batch_size=size, accumulate=accumulate,
                      objective=PreferenceObjective(policy, reference))  # fmt: skip
        record = run.train_step()
        return record | {f"w{i}": each for i, each in enumerate(policy.parameters())}

    one, parts = step(8, 1), step(1, 8)
    for name, value in one.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, parts[name], rtol=1e-6, atol=1e-6)
        else:
            assert value == pytest.approx(parts[name], rel=1e-6), name


def test_a_batch_is_learned(pairs):
    """The loss falls from log 2, the margin grows, and the model prefers each chosen answer."""
    torch.manual_seed(0)
    policy = model()
    batches = DialogueBatches(Pairs(pairs[:8]), 2, LENGTH, seed=0)
    run = trainer(model=policy, batches=batches, batch_size=2, iterations=40, eval_every=0,
                  objective=PreferenceObjective(policy, frozen_copy(policy)))  # fmt: skip
    run.val_batches = DialogueEvalBatches(Pairs(pairs[:8]), 2, LENGTH)
    before = run.validate()
    assert before["val_loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert before["val_reward_accuracy"] == 0
    records = [run.train_step() for _ in range(40)]
    assert records[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    after = run.validate()
    assert after["val_loss"] < 0.1
    assert after["val_reward_accuracy"] == 1
    assert after["val_reward_margin"] > 2


@pytest.mark.bench
def test_packed_pairs_have_the_loss_of_trl(tmp_path):
    """trl reads the texts, and pads each dialogue. We pack the same dialogues into one row."""
    (policy, reference), theirs = trl_trainer(tmp_path)
    read = next(iter(theirs.get_train_dataloader()))
    expected = theirs.compute_loss(theirs.model, read)
    examples = [
        Example(ids[kept.bool()].numpy(), answer[kept.bool()].bool().numpy())
        for ids, kept, answer in zip(
            read["input_ids"], read["attention_mask"], read["completion_mask"], strict=True
        )
    ]
    pairs = map(Pair, examples[: len(PAIRS)], examples[len(PAIRS) :])
    (batch,) = DialogueEvalBatches(Pairs(pairs), 2, 64)
    assert batch.num_terms() == len(PAIRS)
    loss, figures, _ = PreferenceObjective(policy, reference, BETA)(**batch.given())
    torch.testing.assert_close(loss / len(PAIRS), expected, rtol=1e-6, atol=1e-6)
    (logged,) = (each for each in theirs._metrics.values() if each)
    for ours, name in (("accuracy", "accuracies"), ("margin", "margins")):
        (value,) = logged[f"rewards/{name}"]
        mean = figures[f"reward_{ours}"].item() / len(PAIRS)
        assert mean == pytest.approx(value, rel=1e-5, abs=1e-5)
    (loss / len(PAIRS)).backward()
    expected.backward()
    theirs_ = theirs.model.get_input_embeddings().weight.grad
    torch.testing.assert_close(policy.embedding.weight.grad, theirs_, rtol=1e-4, atol=1e-5)
