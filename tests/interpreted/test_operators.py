"""torch sees flash attention as two operators: compiled graphs, gradients, FLOP counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from scratchlm import ModelConfig, Transformer
from scratchlm.kernels.flash_attention import flash_attention

QUICK = ("test_schema", "test_autograd_registration", "test_faketensor")


def qkv() -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [(1, 20, 4, 16), (1, 24, 2, 16), (1, 24, 2, 8)]
    return [torch.randn(*shape).transpose(1, 2).requires_grad_() for shape in shapes]


def operands(first: bool = False, window: int | None = None) -> tuple[Any, ...]:
    starts = torch.tensor([[0] * 11 + [15] * 9], dtype=torch.int32) if first else None
    return (*qkv(), starts, True, window)


def test_the_operators_keep_torchs_rules() -> None:
    operator = torch.ops.scratchlm.flash_attention.default
    for arguments in (operands(), operands(first=True, window=5)):
        torch.library.opcheck(operator, arguments, test_utils=QUICK)
    q, k, v, *rest = (x.detach() if isinstance(x, Tensor) else x for x in operands(first=True))
    output, log_sums = operator(q, k, v, *rest)
    backward = torch.ops.scratchlm.flash_attention_backward.default
    arguments = (torch.randn_like(output), q, k, v, output, log_sums, *rest)
    torch.library.opcheck(backward, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.slow
def test_the_operator_keeps_torchs_rules_with_changing_shapes() -> None:
    operator = torch.ops.scratchlm.flash_attention.default
    torch.library.opcheck(operator, operands(first=True))


def losses_and_gradients(attend: Any) -> list[Tensor]:
    inputs = qkv()
    first = torch.tensor([[0] * 11 + [15] * 9])
    loss = attend(*inputs, causal=True, first=first).sin().sum()
    return [loss, *torch.autograd.grad(loss, inputs)]


def test_a_compiled_graph_has_no_break() -> None:
    graphs = list[torch.fx.GraphModule]()

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(flash_attention, fullgraph=True, backend=keep)
    for ours, theirs in zip(
        losses_and_gradients(compiled), losses_and_gradients(flash_attention), strict=True
    ):
        assert torch.equal(ours, theirs)
    (graph,) = graphs
    targets = [str(node.target) for node in graph.graph.nodes]
    assert sum("scratchlm.flash_attention" in target for target in targets) == 1


@pytest.mark.slow
def test_inductor_gives_equal_results() -> None:
    compiled = torch.compile(flash_attention, fullgraph=True)
    for ours, theirs in zip(
        losses_and_gradients(compiled), losses_and_gradients(flash_attention), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_checkpointed_step_has_equal_gradients() -> None:
    def checkpointed(*inputs: Tensor, **how: Any) -> Tensor:
        return checkpoint(flash_attention, *inputs, use_reentrant=False, **how)

    for ours, theirs in zip(
        losses_and_gradients(checkpointed), losses_and_gradients(flash_attention), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_a_second_derivative_is_refused() -> None:
    inputs = qkv()
    output = flash_attention(*inputs, causal=True)
    grads = torch.autograd.grad(output.square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="flash_attention_backward"):
        grads[0].sum().backward()


def test_flops_are_counted_as_for_torchs_attention() -> None:
    q, k, v = qkv()
    grad = torch.ones(1, 4, 20, 8)
    with FlopCounterMode(display=False) as forward:
        output = flash_attention(q, k, v, causal=True)
    with FlopCounterMode(display=False) as backward:
        output.backward(grad)
    many = (1, 4, 24, 16), (1, 4, 24, 8)  # torch's formulas take one head of keys per query head
    assert forward.get_total_flops() == sdpa_flop_count(q.shape, *many)
    assert backward.get_total_flops() == sdpa_backward_flop_count(grad.shape, q.shape, *many)


def test_a_model_computes_equal_logits_and_gradients() -> None:
    torch.manual_seed(0)
    config = ModelConfig(31, 20, 32, 2, 4, num_kv_heads=2, window=6)
    ids = torch.randint(0, 31, (2, 20))
    first = torch.tensor([[0] * 8 + [8] * 12, [0] * 20])
    found = []
    for how in ({}, {"attend": flash_attention}):
        torch.manual_seed(1)
        model = Transformer(config, **how)
        logits = model(ids, first=first)
        logits.square().sum().backward()
        found.append([logits, *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*found, strict=True):
        largest = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("variant", [{}, {"qk_norm": True}, {"position": "learned", "bias": True}])
def test_a_model_under_autocast_hands_over_one_dtype(variant: dict[str, Any]) -> None:
    """torch's attention casts its inputs. An operator of our own gets them as they are."""
    config = ModelConfig(31, 20, 32, 1, 2, **variant)
    ids, found = torch.randint(0, 31, (2, 20)), []
    for how in ({}, {"attend": flash_attention}):
        torch.manual_seed(1)
        model = Transformer(config, **how)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(model(ids))
    assert found[0].dtype == found[1].dtype == torch.bfloat16
    difference = (found[0].float() - found[1].float()).norm() / found[0].float().norm()
    assert difference < 0.02
