"""The repacked twin computes the same as the model, and does not change the model."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from helpers.decoding import VOCAB, name_of
from helpers.twins import loud
from helpers.variants import VARIANTS, small
from scratchlm import Linear, RMSNorm, Transformer
from scratchlm.generation import low_precision
from scratchlm.generation.low_precision import (
    FEW,
    HalfLinear,
    Int8Linear,
    OneDNNLinear,
    OneKernelRMSNorm,
    WidenedLinear,
    packed,
)


@pytest.fixture(scope="module", params=VARIANTS, ids=name_of)
def model(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(0)
    return loud(small(**request.param))


def ids_of(rows: int) -> torch.Tensor:
    """As one sequence of one token, or several of 5: `rows` rows in every product."""
    shape = (rows, 1) if rows < 5 else (rows // 5, 5)
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("intel", [True, False])
@torch.no_grad()
def test_fp32_logits_are_the_models(
    model: Transformer, rows: int, intel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_precision, "multiplies_by_its_own_mkl", lambda: intel)
    ids = ids_of(rows)
    expected = model(ids)
    tolerance = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(packed(model)(ids), expected, rtol=1e-5, atol=tolerance)


def relative_error(logits: torch.Tensor, expected: torch.Tensor) -> float:
    return float((logits.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("rows", [1, 5, 40])
@torch.no_grad()
def test_bf16_logits_are_the_models(model: Transformer, rows: int) -> None:
    """The same rounded weights in fp32 are the oracle: each product rounds to 2^-9, and a dozen
    one behind another stay within 5 % of the logits' norm; so does the model not repacked."""
    rounded = deepcopy(model).bfloat16()
    ids = ids_of(rows)
    logits = packed(rounded)(ids)
    assert logits.dtype == torch.bfloat16
    expected = deepcopy(rounded).float()(ids)
    assert relative_error(logits, expected) < 0.05
    assert relative_error(rounded(ids), expected) < 0.05


@pytest.mark.parametrize("rows", [1, 5, 40])
@torch.no_grad()
def test_int8_logits_are_near_the_models(rows: int) -> None:
    """Within a tenth of their norm: each weight is off by up to 1/254 of its row's largest."""
    torch.manual_seed(0)
    model = loud(small(num_kv_heads=2, bias=True))
    expected = model(ids_of(rows))
    assert 1e-4 < relative_error(packed(model, "int8")(ids_of(rows)), expected) < 0.1


@torch.no_grad()
def test_the_twin_decodes_with_a_cache(model: Transformer) -> None:
    twin = packed(model)
    ids = ids_of(40)
    cache = twin.new_cache(8)
    parts = [twin(part, cache=cache) for part in ids.split([3, 1, 1], dim=1)]
    expected = model(ids)
    tolerance = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("weights", ["stored", "int8"])
def test_the_model_is_left_as_it_was(model: Transformer, weights: Any) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    twin = packed(model, weights)
    with torch.inference_mode():
        twin(ids_of(5))
    assert [type(module) for module in model.modules()] == kinds
    assert all(module.training for module in model.modules())
    repacked = (OneDNNLinear, Int8Linear)  # which know no mode
    assert not any(m.training for m in twin.modules() if not isinstance(m, repacked))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert twin.embedding.weight is model.embedding.weight
    model(ids_of(5)).sum().backward()  # it trains as before
    assert model.embedding.weight.grad is not None
    model.zero_grad()
    model.eval()


def test_every_matrix_is_repacked_and_a_shared_module_once(model: Transformer) -> None:
    kinds = {"stored": OneDNNLinear, "int8": Int8Linear}
    for weights, kind in kinds.items():
        twin = packed(model, weights)
        modules = list(twin.modules())
        assert not any(isinstance(module, Linear) for module in modules)
        assert sum(isinstance(m, kind) for m in modules) == sum(
            isinstance(m, Linear) for m in model.modules()
        )
        assert len(modules) == len(list(model.modules()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gain", [True, False])
def test_the_norm_of_one_kernel_is_rms_norm(dtype: Any, held: Any, gain: bool) -> None:
    norm = RMSNorm(48, 1e-3, gain).to(held)
    for weight in norm.parameters():
        torch.nn.init.normal_(weight)
    x = (torch.randn(3, 5, 48) * 10.0 ** torch.arange(-3, 2)[:, None]).to(dtype)
    y = OneKernelRMSNorm(norm)(x)
    assert y.dtype == x.dtype
    tolerance = 1e-5 if x.dtype == torch.float32 else 2**-8
    torch.testing.assert_close(y, norm(x), rtol=tolerance, atol=1e-5)


# Each product


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (5, 24), (2, 20, 24)])
def test_onednn_is_linear(shape: tuple[int, ...], bias: bool) -> None:
    x, weight, b = torch.randn(shape), torch.randn(40, 24), torch.randn(40) if bias else None
    torch.testing.assert_close(
        OneDNNLinear(weight, b)(x), F.linear(x, weight, b), rtol=1e-5, atol=1e-5
    )
    mixed = OneDNNLinear(weight, b, but_one_row=True)(x)
    if x.numel() == 24:
        assert torch.equal(mixed, F.linear(x, weight, b))
    else:
        assert torch.equal(mixed, OneDNNLinear(weight, b)(x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (1, 1, 24), (2, 24), (2, 20, 24)])
def test_widened_is_linear_on_either_path(
    shape: tuple[int, ...], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one rounding to bf16 of the product in fp64: one row by bf16, several by fp32."""
    x, weight = torch.randn(shape).bfloat16(), torch.randn(40, 24).bfloat16()
    b = torch.randn(40).bfloat16() if bias else None
    widened = WidenedLinear(weight, b)
    wide: list[torch.Tensor] = []
    forward = widened.wide.forward
    monkeypatch.setattr(widened.wide, "forward", lambda x: wide.append(x) or forward(x))
    y = widened(x)
    assert y.dtype == torch.bfloat16
    assert len(wide) == (x.shape[:-1].numel() > 1)
    expected = F.linear(x.double(), weight.double(), None if b is None else b.double())
    atol = 2**-8 * float(expected.abs().max())  # the sum itself may be rounded before the bias
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=atol)
    without_copy = WidenedLinear(weight, b, copied=False)(x)
    assert without_copy.dtype == torch.bfloat16
    torch.testing.assert_close(without_copy.double(), expected, rtol=2**-8, atol=atol)


@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="no FBGEMM")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (5, 24), (2, 20, 24)])
def test_a_bf16_matrix_loses_nothing_in_fp16(shape: tuple[int, ...], bias: bool) -> None:
    x, weight = torch.randn(shape), torch.randn(41, 24).bfloat16().float()
    b = torch.randn(41) if bias else None
    torch.testing.assert_close(
        HalfLinear(weight, b)(x), F.linear(x, weight, b), rtol=1e-5, atol=1e-5
    )


@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="no FBGEMM")
@pytest.mark.parametrize(
    ("value", "fits"),
    [(0.0, True), (0.02, True), (6e4, True), (7e4, False), (1e-9, False), (1e-5, True)],
)
def test_what_fp16_cannot_hold_is_seen(value: float, fits: bool) -> None:
    weight = torch.full((3, 8), 0.02)
    weight[1] = value  # one row is enough
    wide = WidenedLinear(weight.bfloat16(), None).wide
    assert isinstance(wide, HalfLinear if fits else OneDNNLinear)


@pytest.mark.parametrize(("value", "kind"), [(0.02, HalfLinear), (7e4, OneDNNLinear)])
def test_several_rows_take_fp16_where_it_holds_the_matrix(value: float, kind: type) -> None:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no FBGEMM")
    assert isinstance(WidenedLinear(torch.full((4, 8), value).bfloat16(), None).wide, kind)


def test_each_int8_weight_is_within_half_a_step() -> None:
    weight = torch.randn(50, 64) * torch.logspace(-6, 3, 50)[:, None]
    weight[7] = 0
    weight[8, 3] = 1_000  # an outlier widens the steps of its row alone
    linear = Int8Linear(weight, None)
    scale = linear.scale.float()[:, None]
    assert linear.quantized.dtype == torch.int8
    assert linear.quantized.min() >= -127
    off = (linear.quantized * scale - weight).abs()
    assert (off <= 0.5 * scale * (1 + 1e-5)).all()
    assert (off[9] <= weight[9].abs().max() / 127 * 0.51).all()
    assert torch.equal(linear.quantized[7], torch.zeros(64, dtype=torch.int8))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, FEW, FEW + 1, 40])
@pytest.mark.parametrize("d_in", [64, 40, 33, 7])  # 16 divides the first alone: torch's own step
def test_int8_is_linear_on_the_rounded_weights(
    d_in: int, rows: int, dtype: torch.dtype, bias: bool
) -> None:
    """Within 1 % of the norm, as few rows are rounded to bf16 before the product, and after; many
    stay in fp32."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, rows, d_in).to(dtype), torch.randn(48, d_in).to(dtype)
    b = torch.randn(48).to(dtype) if bias else None
    linear = Int8Linear(weight, b)
    y = linear(x)
    assert (y.dtype, y.shape) == (dtype, (1, rows, 48))
    restored = linear.quantized[:, :d_in] * linear.scale.float()[:, None]
    expected = F.linear(x.float(), restored, None if b is None else b.float())
    exact = dtype == torch.float32 and rows > FEW
    assert relative_error(y, expected) < (1e-5 if exact else 0.01)


@pytest.mark.parametrize("weights", ["stored", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_transposed_view_of_a_matrix_is_packed_as_any(dtype: torch.dtype, weights: Any) -> None:
    model = loud(small().to(dtype))
    expected = packed(model, weights)(ids_of(5))
    for module in model.modules():
        if isinstance(module, Linear):
            module.weight.data = module.weight.data.T.contiguous().T
    assert torch.equal(packed(model, weights)(ids_of(5)), expected)


def test_a_processor_that_multiplies_bf16_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small().bfloat16()
    monkeypatch.setattr(low_precision, "OneDNNLinear", lambda weight, bias: torch.nn.Identity())
    monkeypatch.setattr(
        low_precision, "WidenedLinear", lambda weight, bias, copied: torch.nn.Tanh()
    )
    for known, kind in ((True, torch.nn.Identity), (False, torch.nn.Tanh)):
        monkeypatch.setattr(
            torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda known=known: known
        )
        assert isinstance(packed(model).lm_head, kind)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert packed(model).lm_head is model.lm_head


def test_off_the_cpu_nothing_is_repacked_and_int8_is_refused() -> None:
    with torch.device("meta"):
        model = small()
    assert packed(model).lm_head is model.lm_head
    with pytest.raises(ValueError, match=r"int8 weights need a CPU \(meta\); use weights stored"):
        packed(model, "int8")


def test_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights must be stored or int8 \('int4'\); use stored"):
        packed(small(), "int4")  # type: ignore[arg-type]
