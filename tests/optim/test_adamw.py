"""AdamW against `torch.optim.AdamW`, and its fast forms against the readable one."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from torch import Tensor, nn

from scratchlm.optim.adamw import (
    AdamW,
    adamw_update,
    adamw_update_foreach,
    adamw_update_fused,
)
from scratchlm.optim.optimizer import by_device_and_dtype

SHAPES = [(7, 5), (5,), (3, 2, 2), (1,), ()]
EACH, FOREACH, FUSED = {"foreach": False}, {"foreach": True}, {"fused": True}
FORMS = pytest.mark.parametrize("form", [{}, EACH, FOREACH, FUSED, {"fused": False}])


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SHAPES]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    """Gradients that depend on the step and the parameter, so that two runs can diverge."""
    generator = torch.Generator().manual_seed(step)
    for param in params:
        noise = torch.randn(param.shape, generator=generator, dtype=param.dtype)
        param.grad = noise + 0.1 * param.detach()


def run(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        set_gradients(params, step)
        optimizer.step()


def two_groups(params: list[nn.Parameter]) -> list[dict[str, object]]:
    return [
        {"params": params[:2], "weight_decay": 0.3, "lr": 3e-2},
        {"params": params[2:], "betas": (0.8, 0.95), "eps": 1e-4},
    ]


@FORMS
def test_matches_torch_for_100_steps(form: dict[str, bool]) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = AdamW(two_groups(ours), lr=1e-2, **form)
    run(optimizer, ours, range(100))
    run(torch.optim.AdamW(two_groups(theirs), lr=1e-2), theirs, range(100))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_defaults_are_torchs() -> None:
    ours, theirs = AdamW(parameters()).param_groups[0], torch.optim.AdamW(parameters()).defaults
    for name in ("lr", "betas", "eps", "weight_decay"):
        assert ours[name] == theirs[name]


def test_first_step_by_hand() -> None:
    """At t = 1 the corrected moments are g and g²: θ − lr·λ·θ − lr·g/(|g| + ε)."""
    param = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    param.grad = torch.tensor([0.5, 4.0], dtype=torch.float64)
    AdamW([param], lr=0.1, weight_decay=0.5, eps=0.5).step()
    expected = torch.tensor(
        [2 - 0.1 * 0.5 * 2 - 0.1 * 0.5 / 1.0, -1 + 0.1 * 0.5 * 1 - 0.1 * 4 / 4.5],
        dtype=torch.float64,
    )
    torch.testing.assert_close(param.detach(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_lists_agree_with_the_readable_update(fused: bool) -> None:
    def tensors(seed: int) -> list[Tensor]:
        return [param.detach() for param in parameters(seed, torch.float64)]

    steps = [1, 2, 5, 100, 1000]  # a parameter without a gradient at times counts its own steps
    settings = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    grads = tensors(1)
    one = (tensors(0), [t.clone() for t in tensors(2)], [t.square() for t in tensors(3)])
    many = copy.deepcopy(one)
    for param, grad, exp_avg, exp_avg_sq, step in zip(one[0], grads, *one[1:], steps, strict=True):
        adamw_update(param, grad, exp_avg, exp_avg_sq, step, **settings)
    if fused:
        counts = [torch.tensor(float(step)) for step in steps]
        adamw_update_fused(many[0], grads, *many[1:], counts, **settings)
    else:
        adamw_update_foreach(many[0], grads, *many[1:], steps, **settings)
    torch.testing.assert_close(many, one, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("form", "called"),
    [({}, "fused"), (FUSED, "fused"), (FOREACH, "foreach"), (EACH, "each"),
     ({"fused": False}, "each"), ({"fused": True, "foreach": False}, "fused")],
)  # fmt: skip
def test_the_form_asked_for_is_the_form_taken(
    form: dict[str, bool], called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    for name, function in [("each", "adamw_update"), ("foreach", "adamw_update_foreach"),
                           ("fused", "adamw_update_fused")]:  # fmt: skip
        monkeypatch.setattr(f"scratchlm.optim.adamw.{function}",
                            lambda *tensors, name=name, **settings: taken.append(name))  # fmt: skip
    params = parameters()
    run(AdamW(params, **form), params, range(1))
    assert set(taken) == {called}


@FORMS
def test_a_graph_from_before_the_step_is_refused(form: dict[str, bool]) -> None:
    """torch's fused kernel alone would let the backward pass read the new parameter."""
    param = nn.Parameter(torch.tensor([1.0, -2.0]))
    old = param.square().sum()
    param.grad = torch.ones(2)
    AdamW([param], **form).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        old.backward()


def transposed() -> list[nn.Parameter]:
    """Parameters, and one a column slice, whose gradients lie in memory otherwise than they do."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(3, 5)[:, :4])]
    for param in params:
        param.grad = torch.randn(param.shape[::-1]).T
    return params


def test_gradients_that_lie_otherwise_in_memory() -> None:
    """torch's own fused kernel mixes their elements up."""
    ours, theirs = transposed(), transposed()
    AdamW(ours).step()
    torch.optim.AdamW(theirs).step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    for param in transposed():
        before = param.detach().clone()
        with pytest.raises(ValueError, match=r"strides differ\); pass fused=None"):
            AdamW([param], fused=True).step()
        assert torch.equal(param.detach(), before)


def test_a_state_from_before_there_was_fused() -> None:
    """And its step may be a plain number."""
    params, twins = parameters(), parameters()
    optimizer = AdamW(params)
    run(optimizer, params, range(2))
    old = copy.deepcopy(optimizer.state_dict())
    for group in old["param_groups"]:
        del group["fused"]
    old["state"][0]["step"] = 2
    run(AdamW(twins), twins, range(2))
    resumed = AdamW(twins)
    resumed.load_state_dict(old)
    run(resumed, twins, range(2, 4))
    run(optimizer, params, range(2, 4))
    for a, b in zip(params, twins, strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
def test_a_step_on_a_gpu_waits_for_nothing() -> None:
    params = [nn.Parameter(p.detach().cuda()) for p in parameters()]
    optimizer = AdamW(params)
    for step in range(3):
        for param in params:
            param.grad = torch.full_like(param, float(step + 1))
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first makes the state
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert optimizer.state[params[0]]["step"].is_cuda


@pytest.mark.gpu
@FORMS
def test_a_gpu_agrees_with_the_cpu(form: dict[str, bool]) -> None:
    twins = parameters()
    params = [nn.Parameter(p.detach().cuda()) for p in twins[:3]]
    params += copy.deepcopy(twins[3:])  # one optimizer over two devices
    optimizer, reference = AdamW(params, **form), AdamW(twins, **EACH)
    for step in range(10):
        set_gradients(twins, step)
        for param, twin in zip(params, twins, strict=True):
            assert twin.grad is not None
            param.grad = twin.grad.to(param.device)
        optimizer.step()
        reference.step()
    for param, twin in zip(params, twins, strict=True):
        torch.testing.assert_close(param.cpu(), twin, rtol=1e-6, atol=1e-7)


def test_lists_are_of_one_device_and_dtype() -> None:
    single, double = torch.ones(1), torch.ones(1, dtype=torch.float64)
    assert by_device_and_dtype([single, double, single.to("meta"), single]) == [[0, 3], [1], [2]]


@FORMS
def test_mixed_dtypes_in_one_group(form: dict[str, bool]) -> None:
    params = parameters() + parameters(1, torch.float64)
    twins = copy.deepcopy(params)
    run(AdamW(params, **form), params, range(5))
    run(torch.optim.AdamW(twins), twins, range(5))
    for a, b in zip(params, twins, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_lr_may_be_a_tensor() -> None:
    ours, floats = parameters(), parameters()
    lr = torch.tensor(0.25)  # exact, so that both read the same number
    run(AdamW(ours, lr=lr), ours, range(5))
    run(AdamW(floats, lr=0.25), floats, range(5))
    for a, b in zip(ours, floats, strict=True):
        assert torch.equal(a, b)


def test_parameters_without_a_gradient_are_skipped() -> None:
    with_grad, without = parameters(0)[:2]
    before = without.detach().clone()
    with_grad.grad = torch.ones_like(with_grad)
    optimizer = AdamW([with_grad, without], weight_decay=0.5)
    optimizer.step()
    assert torch.equal(without, before)  # not even decayed
    assert without not in optimizer.state
    assert optimizer.state[with_grad]["step"] == 1


@FORMS
def test_late_first_gradient_counts_its_own_steps(form: dict[str, bool]) -> None:
    ours, theirs = parameters(), parameters()
    for cls, params, more in ((AdamW, ours, form), (torch.optim.AdamW, theirs, {})):
        optimizer = cls(params, lr=0.1, **more)
        for step in range(6):
            set_gradients(params, step)
            if step < 3:
                params[0].grad = None
            optimizer.step()
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-7)


def test_resumed_is_bit_exact() -> None:
    whole, halves = parameters(), parameters()
    run(AdamW(two_groups(whole)), whole, range(10))
    first = AdamW(two_groups(halves))
    run(first, halves, range(5))
    second = AdamW(two_groups(halves), lr=99.0)  # the saved settings win
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, halves, range(5, 10))
    for a, b in zip(whole, halves, strict=True):
        assert torch.equal(a, b)


@FORMS
def test_state_is_interchangeable_with_torchs(form: dict[str, bool]) -> None:
    whole = parameters()
    run(torch.optim.AdamW(whole), whole, range(9))
    params = parameters()
    classes = (AdamW, torch.optim.AdamW, AdamW)
    state = None
    for i, cls in enumerate(classes):
        optimizer = cls(params, **form)
        if state is not None:
            optimizer.load_state_dict(copy.deepcopy(state))
        run(optimizer, params, range(3 * i, 3 * i + 3))
        state = optimizer.state_dict()
    for a, b in zip(params, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_copies_and_pickles() -> None:
    params = parameters()
    optimizer = AdamW(params, foreach=True)
    run(optimizer, params, range(2))
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        run(twin, twin.param_groups[0]["params"], range(2, 3))
    run(optimizer, params, range(2, 3))
    for a, b in zip(params, twin.param_groups[0]["params"], strict=True):
        assert torch.equal(a, b)


def test_closure_runs_with_gradients_and_its_loss_is_returned() -> None:
    param = nn.Parameter(torch.tensor(3.0))
    optimizer = AdamW([param], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = param.square()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 9.0
    assert param.item() < 3.0
    assert optimizer.step() is None


def test_learns_a_quadratic() -> None:
    target = torch.arange(4.0)
    param = nn.Parameter(torch.zeros(4))
    optimizer = AdamW([param], lr=0.1, weight_decay=0.0)
    for _ in range(300):
        optimizer.zero_grad()
        (param - target).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(param.detach(), target, rtol=0, atol=1e-2)


def test_sparse_gradients_are_refused_before_anything_changes() -> None:
    dense = nn.Parameter(torch.ones(2))
    dense.grad = torch.ones(2)
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    optimizer = AdamW([dense, embedding.weight])
    with pytest.raises(ValueError, match=r"dense .*\(4, 2\).*sparse=False"):
        optimizer.step()
    assert torch.equal(dense.detach(), torch.ones(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must be at least 0 and below inf (-1.0)"),
        ({"lr": float("nan")}, "lr must be at least 0 and below inf (nan)"),
        ({"lr": torch.ones(2)}, "lr must be one number (a tensor of 2 numbers)"),
        ({"betas": (0.9, 1.0)}, "betas[1] must be at least 0 and below 1 (1.0)"),
        ({"eps": -1e-8}, "eps must be at least 0 and below inf (-1e-08)"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0 and below inf (-0.1)"),
        ({"foreach": True, "fused": True}, "foreach and fused must not both be True"),
    ],
)
def test_refuses_settings_of_the_constructor_and_of_a_group(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        AdamW(parameters(), **settings)
    assert "\n" not in str(error.value)
    assert "; pass " in str(error.value)
    optimizer = AdamW(parameters())
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.add_param_group({"params": parameters(), **settings})
    assert len(optimizer.param_groups) == 1  # as it was
