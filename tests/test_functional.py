"""The definitions, against torch's own and against hand arithmetic."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.trl_pairs import BETA, trl_trainer
from scratchlm import functional
from scratchlm.functional import (
    cross_entropy,
    dpo_loss,
    flash_attention,
    log_softmax,
    scaled_dot_product_attention,
    sequence_log_probs,
    softmax,
)

HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def assert_same_gradients(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    """Check that both functions of the same leaves have the same gradients, for a random
    direction."""
    direction = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, direction),
        torch.autograd.grad(theirs, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_softmax_and_log_softmax_match_torch(dim: int) -> None:
    x = torch.randn(3, 4, 5, requires_grad=True)
    torch.testing.assert_close(softmax(x, dim), F.softmax(x, dim), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(log_softmax(x, dim), F.log_softmax(x, dim), rtol=1e-6, atol=1e-6)
    assert_same_gradients(softmax(x, dim), F.softmax(x, dim), x)
    assert_same_gradients(log_softmax(x, dim), F.log_softmax(x, dim), x)


def test_softmax_by_hand() -> None:
    x = torch.tensor([0.0, math.log(3.0)])
    torch.testing.assert_close(softmax(x), torch.tensor([0.25, 0.75]), rtol=1e-6, atol=0)


def test_softmax_survives_large_and_infinite_values() -> None:
    x = torch.tensor([[1e4, 1e4 + 1, -1e4], [-math.inf, 0.0, -math.inf]])
    torch.testing.assert_close(softmax(x), F.softmax(x, -1), rtol=1e-6, atol=0)
    torch.testing.assert_close(log_softmax(x), F.log_softmax(x, -1), rtol=1e-6, atol=0)
    assert softmax(torch.full((2,), -math.inf)).isnan().all()  # no distribution, as in torch


@pytest.mark.parametrize("dtype", HALVES)
def test_halves_are_summed_in_fp32_and_rounded_once(dtype: torch.dtype) -> None:
    x = torch.randn(8, 4096).to(dtype)
    for ours, theirs in [(softmax, F.softmax), (log_softmax, F.log_softmax)]:
        expected = theirs(x.float(), -1).to(dtype)
        torch.testing.assert_close(ours(x), expected, rtol=torch.finfo(dtype).eps, atol=1e-7)
    assert torch.equal(functional.silu(x), F.silu(x.float()).to(dtype))
    for tanh in (False, True):
        assert torch.equal(functional.gelu(x, tanh), functional.gelu(x.float(), tanh).to(dtype))


def test_softmax_of_nothing_is_nothing() -> None:
    assert softmax(torch.randn(0, 3)).shape == (0, 3)


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"floating point \(torch.int64\); convert"):
        softmax(torch.arange(3))


def test_silu_matches_torch() -> None:
    x = torch.linspace(-200, 200, 401, requires_grad=True)
    torch.testing.assert_close(functional.silu(x), F.silu(x), rtol=1e-6, atol=1e-7)
    assert_same_gradients(functional.silu(x), F.silu(x), x)


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu_matches_torch(form: str) -> None:
    # In fp32, 1 + erf(−3) loses digits, which both lose differently.
    for dtype, tolerance in [(torch.float32, 1e-6), (torch.float64, 1e-14)]:
        x = torch.linspace(-200, 200, 401, dtype=dtype, requires_grad=True)
        ours, theirs = functional.gelu(x, form == "tanh"), F.gelu(x, approximate=form)
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
        assert_same_gradients(ours, theirs, x)


def test_gelu_by_hand() -> None:
    # 0.6827 of the standard normal distribution is within ±1, so Φ(1) = 0.5 + 0.6827 / 2.
    x = torch.tensor([-1.0, 0.0, 1.0])
    expected = torch.tensor([-0.158655, 0.0, 0.841345])
    torch.testing.assert_close(functional.gelu(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (2, 1, 3)])
def test_cross_entropy_matches_torch(shape: tuple[int, ...]) -> None:
    logits = torch.randn(*shape, 11, requires_grad=True)
    targets = torch.randint(11, shape)
    theirs = F.cross_entropy(logits.reshape(-1, 11), targets.reshape(-1))
    torch.testing.assert_close(cross_entropy(logits, targets), theirs, rtol=1e-6, atol=1e-6)
    assert_same_gradients(cross_entropy(logits, targets), theirs, logits)


def test_cross_entropy_leaves_out_ignored_targets() -> None:
    logits = torch.randn(4, 11)
    logits[1] = math.inf  # would make the mean NaN, were it only multiplied by zero
    logits.requires_grad_()
    targets = torch.tensor([3, -100, 10, -100])
    loss = cross_entropy(logits, targets)
    torch.testing.assert_close(loss, F.cross_entropy(logits[::2], targets[::2]), rtol=1e-6, atol=0)
    assert cross_entropy(torch.randn(2, 5), torch.full((2,), -100)).isnan()  # as in torch


def test_cross_entropy_is_stable_and_stays_wide() -> None:
    logits = torch.tensor([[1e5, 0.0], [0.0, 1e5]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(5e4, rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    half = torch.randn(64, 100, dtype=torch.bfloat16)
    targets = torch.randint(100, (64,))
    loss = cross_entropy(half, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(half.float(), targets), rtol=1e-6, atol=0)


def test_cross_entropy_refuses_wrong_shapes_and_targets() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 5\)\) must have .*\(\(2, 2\)\), .*; reshape"):
        cross_entropy(torch.randn(2, 3, 5), torch.zeros(2, 2, dtype=torch.long))
    for target in (-1, 5):
        with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
            cross_entropy(torch.randn(1, 5), torch.tensor([target]))


def test_linear_and_embedding_match_torch() -> None:
    x, weight, bias = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5)
    for b in (None, bias):
        torch.testing.assert_close(
            functional.linear(x, weight, b), F.linear(x, weight, b), rtol=1e-6, atol=1e-6
        )
    ids = torch.randint(5, (2, 3))
    assert torch.equal(functional.embedding(ids, weight), F.embedding(ids, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
def test_norms_match_torch(dtype: torch.dtype) -> None:
    x = (torch.randn(2, 3, 64) * 5 + 1).to(dtype).requires_grad_()
    weight, bias = torch.randn(64).to(dtype), torch.randn(64).to(dtype)
    tolerance = {"rtol": max(torch.finfo(dtype).eps, 1e-6), "atol": 1e-6}
    ours, theirs = functional.rms_norm(x, weight, 1e-5), F.rms_norm(x, (64,), weight, 1e-5)
    torch.testing.assert_close(ours, theirs, **tolerance)
    for b in (None, bias):
        ours = functional.layer_norm(x, weight, b, 1e-5)
        exact = F.layer_norm(x.double(), (64,), weight.double(), b if b is None else b.double())
        torch.testing.assert_close(ours, exact.to(dtype), **tolerance)


def test_rms_norm_by_hand_and_at_zero() -> None:
    x = torch.tensor([3.0, 4.0])  # mean square 12.5
    weight = torch.tensor([1.0, 2.0])
    expected = torch.tensor([3.0, 8.0]) / math.sqrt(12.5)
    torch.testing.assert_close(functional.rms_norm(x, weight, 0.0), expected, rtol=1e-6, atol=0)
    assert torch.equal(functional.rms_norm(torch.zeros(2), weight, 1e-5), torch.zeros(2))


def test_rms_norm_of_large_halves_does_not_overflow() -> None:
    x = torch.full((8,), 3e4, dtype=torch.float16)  # whose square fp16 cannot hold
    ones = torch.ones(8, dtype=torch.float16)
    assert torch.equal(functional.rms_norm(x, ones), ones)


def test_rotate_turns_a_pair_by_its_angle() -> None:
    x = torch.tensor([[1.0, 0.0]])
    for position in (0, 1, 7):
        turned = functional.rotate(x, torch.tensor([position]))
        expected = torch.tensor([[math.cos(position), math.sin(position)]])
        torch.testing.assert_close(turned, expected, rtol=1e-6, atol=1e-7)


def test_attention_by_hand() -> None:
    q = torch.tensor([[0.0, 0.0], [math.log(3.0) * math.sqrt(2.0), 0.0]])
    k = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    v = torch.tensor([[0.0], [4.0]])
    expected = torch.tensor([[2.0], [3.0]])  # weights 1/2, 1/2, then 1/4, 3/4
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v), expected)
    expected = torch.tensor([[0.0], [3.0]])  # the first query sees the first key alone
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v, causal=True), expected)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 2, 3)])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_and_its_gradients_match_torch(leading: tuple[int, ...], causal: bool) -> None:
    q, k, v = (torch.randn(*leading, 5, 8, requires_grad=True) for _ in range(3))
    mask = torch.rand(*leading, 5, 5) < 0.7
    mask[..., 0] = True
    if causal:
        mask &= torch.ones(5, 5, dtype=torch.bool).tril()
    ours = scaled_dot_product_attention(q, k, v, mask, causal=causal)
    theirs = F.scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert_same_gradients(ours, theirs, q, k, v)


def test_attention_shares_a_key_head_among_neighbouring_query_heads() -> None:
    q, k, v = torch.randn(2, 6, 4, 8), torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4, 5)
    expected = scaled_dot_product_attention(
        q, k.repeat_interleave(2, -3), v.repeat_interleave(2, -3)
    )
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v), expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"must divide head.*\(2, 6, 4, 8\), \(2, 4,"):
        scaled_dot_product_attention(q, torch.randn(2, 4, 4, 8), torch.randn(2, 4, 4, 8))


def test_query_that_may_attend_nothing_gets_zeros_and_finite_gradients() -> None:
    q, k, v = (torch.randn(3, 4, 8, requires_grad=True) for _ in range(3))
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[1] = False
    out = scaled_dot_product_attention(q, k, v, mask)
    assert torch.equal(out[:, 1], torch.zeros(3, 8))
    for gradient in torch.autograd.grad(out.sum(), (q, k, v)):
        assert gradient.isfinite().all()


def test_attention_refuses_a_mask_of_numbers() -> None:
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match=r"mask must be boolean \(torch.float32\)"):
        scaled_dot_product_attention(x, x, x, torch.zeros(3, 3))


@pytest.mark.parametrize("dtype", HALVES)
def test_attention_in_halves_is_computed_in_fp32(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(2, 64, 16).to(dtype) * 8 for _ in range(3))
    wide = scaled_dot_product_attention(q.float(), k.float(), v.float(), causal=True)
    assert torch.equal(scaled_dot_product_attention(q, k, v, causal=True), wide.to(dtype))


INTERVALS: dict[str, dict[str, object]] = {
    "all keys": {},
    "causal": {"causal": True},
    "a window of one block": {"window": 4},
    "a window across blocks": {"causal": True, "window": 6},
    "documents": {"causal": True, "first": torch.tensor([[0, 0, 0, 3, 3, 5, 5, 5, 8, 8, 8]] * 2)},
    "two limits, and queries without a key": {
        "window": 7, "first": torch.tensor([[9] * 11, [2, 9, 1, 0, 40, 3, 3, 3, 8, -1, 10]])
    },
}  # fmt: skip


def heads(query: int, key: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return q, k and v for 2 rows, 4 query heads and 2 key heads."""
    shapes = [(2, 4, query, 6), (2, 2, key, 6), (2, 2, key, 5)]
    return [torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("key", [1, 11, 19])
@pytest.mark.parametrize("interval", INTERVALS)
def test_flash_attention_and_its_gradients_equal_the_definition(interval: str, key: int) -> None:
    q, k, v = heads(11, key)
    ours = flash_attention(q, k, v, block=4, **INTERVALS[interval])
    theirs = scaled_dot_product_attention(q, k, v, **INTERVALS[interval])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad(ours, (q, k, v), direction),
        torch.autograd.grad(theirs, (q, k, v), direction),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("interval", INTERVALS)
def test_the_gradients_of_flash_attention_equal_differences(interval: str) -> None:
    def attend(*qkv: Tensor) -> Tensor:
        return flash_attention(*qkv, block=4, **INTERVALS[interval])

    assert torch.autograd.gradcheck(attend, heads(11, 9), fast_mode=True)


def test_flash_attention_gives_zeros_to_a_query_without_a_key() -> None:
    q, k, v = heads(9, 5)
    ours = flash_attention(q, k, v, causal=True, block=4)
    assert torch.equal(ours[:, :, :4], torch.zeros(2, 4, 4, 5, dtype=torch.float64))
    (grad_q,) = torch.autograd.grad(ours.sum(), q)
    assert grad_q[:, :, :4].count_nonzero() == 0


def test_flash_attention_skips_blocks_without_an_allowed_key() -> None:
    """NaN in a skipped block stays there. In a block that is computed, 0 · NaN would spread it."""
    q, k, v = heads(16, 16)
    with torch.no_grad():
        v[:, :, :4], v[:, :, 12:] = torch.nan, torch.nan
    ours = flash_attention(q, k, v, window=4, block=4)
    assert ours[:, :, 8:12].isfinite().all()
    assert ours[:, :, 3].isnan().all()
    assert ours[:, :, 12:].isnan().all()


@pytest.mark.parametrize("leading", [(), (3,), (2, 2, 3)])
def test_flash_attention_with_other_leading_axes(leading: tuple[int, ...]) -> None:
    q, k, v = (torch.randn(*leading, 5, 8) for _ in range(3))
    ours = flash_attention(q, k, v, causal=True, block=2)
    torch.testing.assert_close(ours, scaled_dot_product_attention(q, k, v, causal=True))


def test_flash_attention_in_halves_is_computed_in_fp32() -> None:
    q, k, v = (torch.randn(2, 64, 16).bfloat16() * 8 for _ in range(3))
    wide = flash_attention(q.float(), k.float(), v.float(), causal=True)
    assert torch.equal(flash_attention(q, k, v, causal=True), wide.bfloat16())


def test_autocast_does_not_change_flash_attention() -> None:
    q, k, v = heads(11, 11, torch.float32)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = flash_attention(q, k, v, causal=True, block=4)
            found.append([output, *torch.autograd.grad(output.square().sum(), (q, k, v))])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("q", "k", "how", "message"),
    [
        ((0, 5, 8), (0, 5, 8), {}, r"heads and widths must not be 0 \(\[\(0, 5, 8\)"),
        ((2, 5, 8), (0, 5, 8), {}, "heads and widths must not be 0"),
        ((5, 0), (5, 0), {}, "heads and widths must not be 0"),
        ((3, 5, 8), (2, 5, 8), {}, "kv_head must divide head"),
        ((5, 8), (5, 9), {}, "must fit"),
        ((5, 8), (5, 8), {"window": 0}, r"window must be a whole number of at least 1 \(0\)"),
        ((5, 8), (5, 8), {"window": 2.5}, r"window must be a whole number of at least 1 \(2.5\)"),
        ((5, 8), (5, 8), {"first": torch.zeros(5) > 0}, r"a whole number for each query .*bool"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("attend", [flash_attention, scaled_dot_product_attention])
def test_attention_refuses_what_does_not_fit(
    attend: Any, q: tuple[int, ...], k: tuple[int, ...], how: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        attend(torch.randn(q), torch.randn(k), torch.randn(k), **how)


def test_flash_attention_refuses_empty_blocks() -> None:
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match=r"block must be at least 1 \(0\); pass"):
        flash_attention(x, x, x, block=0)


def test_flash_attention_refuses_a_mask() -> None:
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match=r"must get no mask \(shape \(3, 3\)\); describe"):
        flash_attention(x, x, x, torch.ones(3, 3, dtype=torch.bool))


def test_training_and_generating_do_not_wait_for_einx() -> None:
    code = """
import sys, torch
from scratchlm import ModelConfig, Transformer, cross_entropy, softmax
ids = torch.zeros(1, 4, dtype=torch.long)
logits = Transformer(ModelConfig(8, 4, 8, 1, 2))(ids)
cross_entropy(logits, ids).backward()
softmax(logits)
assert "einx" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_log_probability_of_a_sequence() -> None:
    logits = torch.randn(2, 3, 5, 7, requires_grad=True)
    targets = torch.randint(7, (2, 3, 5))
    targets[:, :, :2] = -100
    targets[1, 2] = -100
    chosen = logits.log_softmax(-1).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    expected = (chosen * (targets != -100)).sum(-1)
    ours = sequence_log_probs(logits, targets)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    assert ours[1, 2] == 0
    assert_same_gradients(ours, expected, logits)
    assert sequence_log_probs(logits.bfloat16(), targets).dtype == torch.float32


def test_dpo_loss_by_hand() -> None:
    """The rewards are 0.5 · (−3 + 4) and 0.5 · (−5 + 2), so the margin is 2."""
    numbers = [torch.tensor([x]) for x in (-3.0, -5.0, -4.0, -2.0)]
    losses = dpo_loss(*numbers, beta=0.5)
    torch.testing.assert_close(
        losses, torch.tensor([math.log(1 + math.exp(-2))]), rtol=1e-6, atol=0
    )
    same = torch.tensor([-7.0, 2.0])
    unchanged = dpo_loss(same, same + 1, same, same + 1)
    torch.testing.assert_close(unchanged, torch.full((2,), math.log(2)), rtol=1e-6, atol=0)


def test_dpo_loss_and_gradients_equal_the_papers_formulas() -> None:
    """Equation 7, and the gradient: −beta σ(r_l − r_w) (∇ log π(y_w) − ∇ log π(y_l))."""
    model, reference = 40 * torch.randn(2, 500, dtype=torch.float64), torch.randn(2, 500)
    chosen, rejected = (each.clone().requires_grad_() for each in model)
    losses = dpo_loss(chosen, rejected, *reference, beta=0.3)
    rewards = 0.3 * (model - reference)
    margin = rewards[0] - rewards[1]
    torch.testing.assert_close(losses, -torch.sigmoid(margin).log(), rtol=1e-9, atol=1e-9)
    losses.sum().backward()
    torch.testing.assert_close(chosen.grad, -0.3 * torch.sigmoid(-margin), rtol=1e-9, atol=1e-12)
    assert torch.equal(rejected.grad, -chosen.grad)


def test_dpo_loss_of_extreme_answers_is_finite() -> None:
    chosen = torch.tensor([-1e4, 0.0], requires_grad=True)
    losses = dpo_loss(chosen, chosen.detach().flip(0), torch.zeros(2), torch.zeros(2), beta=1.0)
    assert losses.tolist() == [1e4, 0.0]
    losses.sum().backward()
    assert chosen.grad.tolist() == [-1.0, 0.0]


def test_dpo_loss_refuses_other_shapes_and_betas() -> None:
    two, one = torch.zeros(2), torch.zeros(1)
    with pytest.raises(ValueError, match=r"must have one shape .*\(2,\), \(1,\)"):
        dpo_loss(two, two, two, one)
    with pytest.raises(ValueError, match=r"beta must be above 0 \(0\); use e\.g\. 0\.1"):
        dpo_loss(two, two, two, two, beta=0)


@pytest.mark.bench
def test_dpo_loss_equals_that_of_trl(tmp_path: Path) -> None:
    """The trainer of trl tokenizes and batches pairs. We compute its loss from our own models."""
    ours, trainer = trl_trainer(tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(trainer.model, batch)

    ids, answer = batch["input_ids"], batch["completion_mask"].bool()
    targets = ids[:, 1:].masked_fill(~answer[:, 1:], -100)
    policy, reference = (sequence_log_probs(m(ids[:, :-1]), targets).chunk(2) for m in ours)
    losses = dpo_loss(*policy, *reference, beta=BETA)
    assert losses.std() > 0.1
    torch.testing.assert_close(losses.mean(), expected, rtol=1e-6, atol=1e-6)
    losses.mean().backward()
    expected.backward()
    theirs = trainer.model.get_input_embeddings().weight.grad
    torch.testing.assert_close(ours[0].embedding.weight.grad, theirs, rtol=1e-4, atol=1e-5)
