"""LoRA against plain torch, merging, freezing, and which layers get adapters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.variants import SMALL, VARIANTS, small
from scratchlm import (
    AdamW,
    ModelConfig,
    Transformer,
    adamw_groups,
    cross_entropy,
    generate,
    load_checkpoint,
    load_model,
    muon_groups,
    save_checkpoint,
)
from scratchlm.generation.low_precision import packed
from scratchlm.model.config import LoRAConfig, MoEConfig
from scratchlm.model.layers import Linear
from scratchlm.model.lora import LoRALinear, adapted_layers, is_adapter, merged_state

IDS = torch.arange(2 * 20).view(2, 20) * 7 % 61
LORA = LoRAConfig(r=4, alpha=6, targets=("all-linear",))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def trained(model: Transformer) -> Transformer:
    """Give the adapters values other than 0, as after training."""
    for _, layer in adapted_layers(model):
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    return model


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("r", [1, 4])
def test_a_layer_equals_plain_torch(bias: bool, r: int) -> None:
    linear = Linear(6, 10, bias)
    layer = LoRALinear(linear, LoRAConfig(r, 3.0))
    torch.nn.init.normal_(layer.lora_B)
    x = torch.randn(2, 5, 6, requires_grad=True)
    a, b = (each.detach().clone().requires_grad_() for each in (layer.lora_A, layer.lora_B))
    y = x @ (linear.weight + 3.0 / r * b @ a).T
    theirs = y if linear.bias is None else y + linear.bias
    torch.testing.assert_close(layer(x), theirs, rtol=1e-6, atol=1e-6)
    direction = torch.randn_like(theirs)
    for mine, other in zip(
        torch.autograd.grad(layer(x), (x, layer.lora_A, layer.lora_B), direction),
        torch.autograd.grad(theirs, (x, a, b), direction),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.merged()(x), layer(x), rtol=1e-6, atol=1e-6)
    if not bias:
        z, weight = layer.as_one(x)
        torch.testing.assert_close(z @ weight.T, layer(x), rtol=1e-6, atol=1e-6)


def test_new_adapters_start_like_those_of_peft() -> None:
    """A is uniform in ±1/√in, and B is 0, so nothing changes yet."""
    layer = LoRALinear(Linear(400, 300), LoRAConfig(r=100))
    assert layer.lora_B.count_nonzero() == 0
    assert 0.049 < layer.lora_A.abs().max() <= 0.05  # 1/√400
    assert layer.lora_A.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.02)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant(variant: dict[str, Any]) -> None:
    """The same base weights, frozen; merged = with adapters; one step changes only adapters."""
    plain = small(**variant)
    torch.manual_seed(0)
    model = small(**variant, lora=LORA)
    assert torch.equal(plain(IDS), model(IDS))
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {name for name in model.state_dict() if is_adapter(name)}
    assert len(names) >= 2 * 2 * 4  # in both layers, A and B for the four projections
    trained(model).eval()
    logits = model(IDS)
    assert (logits - plain.eval()(IDS)).abs().max() > 0.1

    optimizer = AdamW(adamw_groups(model.named_parameters(), 0.0), lr=1e-2)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    cross_entropy(model(IDS[:, :-1]), IDS[:, 1:]).backward()
    optimizer.step()
    changed = {name for name, w in model.state_dict().items() if not torch.equal(w, before[name])}
    assert changed == names
    learning = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in optimizer.state} == learning
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == learning

    logits = model(IDS)
    merged = Transformer(ModelConfig(**SMALL | variant)).eval()
    merged.load_state_dict(merged_state(model.state_dict(), LORA))
    torch.testing.assert_close(merged(IDS), logits, rtol=1e-5, atol=1e-5)
    expected = generate(merged, [1, 2, 3], 8, temperature=0)
    assert generate(model, [1, 2, 3], 8, temperature=0) == expected
    model.merge_lora()
    assert torch.equal(model(IDS), merged(IDS))
    assert model.config == merged.config
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("suffix", ["", ".pt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_keeps_every_bit(suffix: str, dtype: torch.dtype, tmp_path: Any) -> None:
    model = small(num_kv_heads=2).to(dtype)
    model.add_lora(LORA)
    trained(model).eval()
    path = tmp_path / f"saved{suffix}"
    save_checkpoint(path, model, None, 3)
    loaded = load_model(path, "cpu")
    assert loaded.config == model.config
    saved = model.state_dict()
    assert saved.keys() == loaded.state_dict().keys()
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, saved[name]), name
        assert weight.dtype == (torch.float32 if is_adapter(name) else dtype)
    assert torch.equal(loaded(IDS), model(IDS))
    assert [p.requires_grad for p in loaded.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


def test_training_continues_exactly_from_a_checkpoint(tmp_path: Any) -> None:
    def take(model: Transformer, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            cross_entropy(model(IDS[:, :-1]), IDS[:, 1:]).backward()
            optimizer.step()

    models = [small(lora=LORA) for _ in range(2)]
    optimizers = [AdamW(adamw_groups(m.named_parameters(), 0.1), lr=1e-2) for m in models]
    take(models[0], optimizers[0], 3)
    save_checkpoint(tmp_path / "saved", models[0], optimizers[0], 3)
    assert load_checkpoint(tmp_path / "saved", models[1], optimizers[1]) == 3
    for model, optimizer in zip(models, optimizers, strict=True):
        take(model, optimizer, 3)
    assert torch.equal(models[0](IDS), models[1](IDS))


def test_sixteen_bits_are_rounded_once() -> None:
    """The base weights are bf16, and the adapters stay fp32."""
    linear = Linear(32, 16).bfloat16()
    layer = LoRALinear(linear, LoRAConfig(8))
    torch.nn.init.normal_(layer.lora_B, std=0.01)
    assert layer.lora_A.dtype == layer.lora_B.dtype == torch.float32
    exact = linear.weight.float() + 2 * layer.lora_B @ layer.lora_A
    assert torch.equal(layer.merged().weight, exact.bfloat16())
    x = torch.randn(5, 32).bfloat16()
    assert layer(x).dtype == torch.bfloat16
    torch.testing.assert_close(layer(x).float(), x.float() @ exact.T, rtol=1e-2, atol=2e-2)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_dropout_zeroes_the_input_of_the_adapter_only_in_training() -> None:
    layer = LoRALinear(Linear(1000, 3), LoRAConfig(2, 4.0, dropout=0.25))
    torch.nn.init.normal_(layer.lora_B)
    x = torch.randn(1, 1000)
    torch.manual_seed(3)
    mine = layer(x)
    torch.manual_seed(3)
    kept = torch.nn.functional.dropout(torch.ones(1, 1000), 0.25)
    theirs = x @ layer.weight.T + 2.0 * (x * kept) @ layer.lora_A.T @ layer.lora_B.T
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    layer.eval()
    torch.testing.assert_close(layer(x), layer.merged()(x), rtol=1e-5, atol=1e-5)


def names_of(targets: tuple[str, ...], **variant: Any) -> set[str]:
    """Return the ends of the adapted layers' names in a small model."""
    model = small(**variant, lora=LoRAConfig(targets=targets))
    return {name.removeprefix("layers.0.") for name, _ in adapted_layers(model) if "1." not in name}


PROJECTIONS = {f"attn.{name}_proj" for name in "qkvo"}
SWIGLU = {f"{name}_proj" for name in ("gate", "up", "down")}


@pytest.mark.parametrize(
    ("targets", "variant", "expected"),
    [
        (("q_proj", "v_proj"), {}, {"attn.q_proj", "attn.v_proj"}),
        (("ffn.up_proj", "lm_head"), {}, {"ffn.up_proj", "lm_head"}),
        (("all-linear",), {}, PROJECTIONS | {f"ffn.{name}" for name in SWIGLU}),
        (
            ("all-linear",),
            {"gated_attention": "headwise", "ffn": "relu2"},
            PROJECTIONS | {"attn.gate.proj", "ffn.up_proj", "ffn.down_proj"},
        ),
        (
            ("all-linear",),
            {"moe": MoEConfig(4, 2, num_shared=1), "d_ff": 32},
            PROJECTIONS | {f"ffn.shared.{name}" for name in SWIGLU},
        ),
        (("all-linear",), {"moe": MoEConfig(4, 2), "d_ff": 32}, PROJECTIONS),
        (("router",), {"moe": MoEConfig(4, 2), "d_ff": 32}, {"ffn.router"}),
    ],
)
def test_targets(targets: tuple[str, ...], variant: dict[str, Any], expected: set[str]) -> None:
    assert names_of(targets, **variant) == expected


@pytest.mark.parametrize(
    ("targets", "variant", "message"),
    [
        (
            "lm_head",
            {"tie_embeddings": True},
            r"a layer with a tied weight must not have an adapter \(lora\.targets: lm_head has the "
            r"weight of embedding\).*; remove lm_head from the targets",
        ),
        (
            "query",
            {},
            r"the end of a linear layer's name \(lora\.targets: query\); use all-linear, or some "
            r"of down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj",
        ),
        ("proj", {}, r"lora\.targets: proj\)"),
        ("embedding", {}, r"lora\.targets: embedding\)"),
        (
            "q_proj,up_proj",
            {"moe": MoEConfig(4, 2, num_shared=1), "d_ff": 32},
            r"the stacked matrices of experts cannot have adapters \(lora\.targets: up_proj\); use "
            r"layers of the attention, or shared\.up_proj",
        ),
        ("", {}, r"lora\.targets must be names"),
    ],
)
def test_targets_that_are_refused(targets: Any, variant: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        small(**variant, lora=LoRAConfig(targets=targets))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"r": 0}, r"lora\.r must be a positive integer \(0\)"),
        ({"r": 2.0}, r"lora\.r must be a positive integer \(2\.0\)"),
        ({"alpha": 0}, r"lora\.alpha must be positive and finite \(0\); use e\.g\. 16"),
        ({"dropout": 1.0}, r"lora\.dropout must be at least 0 and below 1 \(1\.0\)"),
        ({"targets": ()}, r"lora\.targets must not be empty \(\(\)\); use e\.g\. q_proj,v_proj"),
        ({"full": (3,)}, r"lora\.full must be names .*3"),
        ({"targets": (3,)}, r"lora\.targets must be names .*3"),
    ],
)
def test_values_that_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRAConfig(**values)


@pytest.mark.parametrize("tied", [False, True])
def test_some_weights_learn_fully(tied: bool, tmp_path: Any) -> None:
    """The rows of new special tokens learn, in a tied and in an untied model."""
    lora = LoRAConfig(full=("embedding", "lm_head"))
    model = trained(small(tie_embeddings=tied, lora=lora))
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    vocabulary = {"embedding.weight"} if tied else {"embedding.weight", "lm_head.weight"}
    assert {name for name in learning if not is_adapter(name)} == vocabulary
    cross_entropy(model(IDS[:, :-1]), IDS[:, 1:]).backward()
    assert all(dict(model.named_parameters())[name].grad is not None for name in learning)
    save_checkpoint(tmp_path / "saved", model, None, 0)
    loaded = load_model(tmp_path / "saved", "cpu")
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == learning


@pytest.mark.parametrize(
    ("full", "message"),
    [
        (
            "head",
            r"must be in the model and have weights \(lora\.full: head\); use e\.g\. emb",
        ),
        ("layers.1", r"cannot learn fully too \(lora\.full: layers\.1 contains layers\.1\.attn\.q"),
        ("rope", r"must be in the model and have weights \(lora\.full: rope\)"),
    ],
)
def test_weights_that_cannot_learn_fully(full: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(lora=LoRAConfig(full=(full,)))


def test_a_second_adapter_is_refused() -> None:
    model = small(lora=LORA)
    with pytest.raises(ValueError, match=r"must not have adapters already .* merge the adapters"):
        model.add_lora(LORA)


def test_the_head_learns_in_an_untied_model() -> None:
    model = trained(small(vocab_multiple=16, lora=LoRAConfig(targets=("lm_head",))))
    cross_entropy(model(IDS[:, :-1]), IDS[:, 1:]).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    logits = model(IDS)
    model.merge_lora()
    torch.testing.assert_close(model(IDS), logits, rtol=1e-5, atol=1e-5)


def test_muon_updates_adapters_in_layers() -> None:
    model = small(lora=LoRAConfig(targets=("q_proj", "lm_head")))
    by_muon, by_adamw = muon_groups(model.named_parameters())
    head = model.lm_head
    assert isinstance(head, LoRALinear)
    assert {id(p) for p in by_adamw["params"]} == {id(head.lora_A), id(head.lora_B)}
    assert len(by_muon["params"]) == 4


@pytest.mark.parametrize("weights", ["stored", "int8"])
def test_the_packed_twin_has_the_adapters(weights: Any) -> None:
    model = trained(small(lora=LORA)).eval()
    merged = small()
    merged.load_state_dict(merged_state(model.state_dict(), LORA))
    twin, expected = packed(model, weights), packed(merged, weights)
    torch.testing.assert_close(twin(IDS), expected(IDS), rtol=1e-5, atol=1e-5)


def test_new_layers_keep_the_mode_of_the_model() -> None:
    model = small(dropout=0.5).eval()
    model.add_lora(LoRAConfig(dropout=0.5))
    assert not any(module.training for module in model.modules())
    model.train().merge_lora()
    assert all(module.training for module in model.modules())
