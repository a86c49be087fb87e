"""Logits with a soft-cap: compare with the head of Gemma 2, and the loss with the logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from helpers.variants import small
from scratchlm import ModelConfig, Transformer, functional
from scratchlm.training.objective import Objective


def test_logits_and_gradients_are_those_of_gemma_2() -> None:
    """The other parts of Gemma 2 do not fit, so both heads read the same vectors."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, final_logit_softcapping=3.0,
        initializer_range=0.5, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    theirs = transformers.Gemma2ForCausalLM._from_config(config, attn_implementation="eager").eval()
    ours = small(logit_softcap=3.0)
    ours.lm_head.weight.data = theirs.lm_head.weight.data.clone()
    ids = torch.randint(61, (2, 20))
    hidden = theirs.model(ids).last_hidden_state.detach().requires_grad_()
    captured: list[torch.Tensor] = []
    theirs.model.register_forward_hook(
        lambda module, given, output: captured.append(output.last_hidden_state)
    )
    expected = theirs(ids).logits
    assert expected.abs().max() > 2.5  # the cap acts
    torch.testing.assert_close(ours.logits(hidden), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(functional.soft_cap(hidden @ ours.lm_head.weight.T, 3.0), expected,
                               rtol=1e-5, atol=1e-5)  # fmt: skip
    F.cross_entropy(ours.logits(hidden).flatten(0, 1), ids.flatten()).backward()
    (theirs_grad,) = torch.autograd.grad(
        F.cross_entropy(expected.flatten(0, 1), ids.flatten()), captured
    )
    torch.testing.assert_close(hidden.grad, theirs_grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_the_fused_loss_is_the_loss_of_the_logits(z_loss: float) -> None:
    torch.manual_seed(0)
    model = small(logit_softcap=1.5, vocab_multiple=16).double()
    ids = torch.randint(61, (2, 2, 20))
    loss, figures, _ = Objective(model, z_loss)(*ids)
    logits = model(ids[0])
    nats = F.cross_entropy(logits.flatten(0, 1), ids[1].flatten(), reduction="sum")
    expected = nats + z_loss * logits.logsumexp(-1).square().sum()
    torch.testing.assert_close(figures["loss"], nats, rtol=0, atol=1e-9)
    for mine, other in zip(
        torch.autograd.grad(loss, list(model.parameters())),
        torch.autograd.grad(expected, list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-9)


def test_bf16_logits_keep_their_slope() -> None:
    """tanh in bf16 would lose the slope near the cap, because 1 − tanh² subtracts close numbers."""
    x = torch.linspace(-8, 8, 60).bfloat16().requires_grad_()
    model = Transformer(ModelConfig(61, 8, 32, 1, 4, logit_softcap=2.0))
    model.softcap(x).sum().backward()
    exact = 1 - (x.detach().double() / 2).tanh().square()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.double(), exact, rtol=0.01, atol=0)


@pytest.mark.parametrize("cap", [0, -1.0, True])
def test_a_wrong_cap_is_refused(cap: float) -> None:
    with pytest.raises(ValueError, match="logit_softcap must be positive and finite"):
        ModelConfig(61, 8, 32, 1, 4, logit_softcap=cap)
