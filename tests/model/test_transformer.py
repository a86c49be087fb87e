"""The whole model: compare with the Llama and Qwen3 of transformers, check invariants, and
train."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import asdict, fields, replace
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.variants import SMALL, VARIANTS, small
from scratchlm import ModelConfig, Transformer, TransformerBlock, functional
from scratchlm.model.config import FeedForward, LoRAConfig, Norm, Position, ResidualInit
from scratchlm.model.layers import LayerNorm
from scratchlm.model.rope import RotaryEmbedding


def random_ids(batch: int = 2, seq: int = 20) -> Tensor:
    return torch.randint(SMALL["vocab_size"], (batch, seq))


def loss_of(model: Transformer, ids: Tensor) -> Tensor:
    return functional.cross_entropy(model(ids[:, :-1]), ids[:, 1:])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# Oracles


def hub_config(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 24,
        "rms_norm_eps": 1e-4,
        "initializer_range": 0.3,  # far from zero, so that no branch hides behind the residual
        **changes,
    }


def ours_from(theirs: Any, **changes: Any) -> Transformer:
    """Return our model with the weights of their model. This table maps the names."""
    config = SMALL | {"num_kv_heads": 2, "d_ff": 48, "norm_eps": 1e-4} | changes
    ours = Transformer(ModelConfig(**config))
    names = [
        ("model.embed_tokens", "embedding"),
        ("model.norm", "norm"),
        ("model.layers", "layers"),
        ("self_attn", "attn"),
        ("mlp", "ffn"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ]
    weights = {}
    for name, weight in theirs.state_dict().items():
        for their_part, our_part in names:
            name = name.replace(their_part, our_part)
        weights[name] = weight
    ours.load_state_dict(weights)
    return ours


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("theta", [10_000.0, 300.0])
def test_matches_the_hubs_llama(tied: bool, theta: float) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "default", "rope_theta": theta}
    config = hub_config(tie_word_embeddings=tied, rope_theta=theta, rope_parameters=rope)
    theirs = LlamaForCausalLM(LlamaConfig(**config)).eval()
    ours = ours_from(theirs, tie_embeddings=tied, rope_theta=theta)
    ids = random_ids()
    logits, expected = ours(ids), theirs(ids).logits
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)

    for output in (logits, expected):
        F.cross_entropy(output.flatten(0, 1), ids.flatten()).backward()
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        mine = getattr(ours.layers[0].attn, name).weight.grad
        other = getattr(theirs.model.layers[0].self_attn, name).weight.grad
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        ours.embedding.weight.grad, theirs.model.embed_tokens.weight.grad, rtol=1e-4, atol=1e-5
    )


def test_matches_the_hubs_qwen3() -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    theirs = Qwen3ForCausalLM(Qwen3Config(**hub_config())).eval()
    for layer in theirs.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_norm.weight)
        torch.nn.init.normal_(layer.self_attn.k_norm.weight)
    ids = random_ids()
    ours = ours_from(theirs, qk_norm=True)
    torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)


def test_block_is_its_two_equations() -> None:
    block = TransformerBlock(
        ModelConfig(**SMALL | {"norm": "layernorm", "ffn": "relu2", "bias": True})
    )
    x = torch.randn(2, 5, 32)
    middle = x + block.attn(block.attn_norm(x))
    torch.testing.assert_close(block(x), middle + block.ffn(block.ffn_norm(middle)))
    assert isinstance(block.ffn_norm, LayerNorm)


# Invariants


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("parts", [[20], [7, 6, 7], [5, 1, 1, 13], [1] * 20])
@torch.no_grad()
def test_cached_equals_uncached(variant: dict[str, Any], parts: list[int]) -> None:
    model, ids = small(**variant), random_ids()
    cache = model.new_cache(2)
    cached = torch.cat([model(part, cache=cache) for part in ids.split(parts, 1)], 1)
    assert cache.length == 20
    torch.testing.assert_close(cached, model(ids), rtol=1e-5, atol=1e-5)
    cache.reset()
    torch.testing.assert_close(model(ids, cache=cache), model(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_future_tokens_change_nothing_before_them(variant: dict[str, Any]) -> None:
    model, ids = small(**variant), random_ids()
    changed = ids.clone()
    changed[:, 12:] = (ids[:, 12:] + 1) % 61
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert (before[:, 12:] != after[:, 12:]).any(-1).all()


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_readable_attention_gives_the_same_logits(variant: dict[str, Any]) -> None:
    fast = small(**variant)
    readable = Transformer(fast.config, attend=functional.scaled_dot_product_attention)
    readable.load_state_dict(fast.state_dict())
    ids = random_ids()
    torch.testing.assert_close(readable(ids), fast(ids), rtol=1e-5, atol=1e-5)
    cache = readable.new_cache(2)
    parts = [readable(part, cache=cache) for part in ids.split([9, 11], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), fast(ids), rtol=1e-5, atol=1e-5)


def test_every_layer_attends_with_the_function_handed_in() -> None:
    calls = []

    def attend(
        q: Tensor, k: Tensor, v: Tensor, mask: Any = None, *, causal: bool = False
    ) -> Tensor:
        calls.append((mask, causal))
        return v

    Transformer(ModelConfig(**SMALL), attend=attend)(random_ids())
    assert calls == [(None, True)] * 2


@torch.no_grad()
def test_left_padded_batch_equals_its_sequences_alone() -> None:
    model = small(num_kv_heads=2)
    long, short = random_ids(1, 8), random_ids(1, 5)
    ids = torch.cat([long, F.pad(short, (3, 0))])
    starts = torch.tensor([[0], [3]])
    positions = (torch.arange(8) - starts).clamp(min=0)
    mask = (torch.arange(8) >= starts)[:, None, None, :]
    logits = model(ids, positions=positions, mask=mask)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:1], model(long), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits[1:, 3:], model(short), rtol=1e-5, atol=1e-5)

    cache = model.new_cache(2)  # the same in two chunks, whose masks count the cache's keys
    chunks = [
        model(ids[:, a:b], cache=cache, positions=positions[:, a:b], mask=mask[..., :b])
        for a, b in ((0, 6), (6, 8))
    ]
    torch.testing.assert_close(torch.cat(chunks, 1), logits, rtol=1e-5, atol=1e-5)


def test_hidden_stops_before_the_head() -> None:
    model, ids = small(), random_ids()
    hidden = model.hidden(ids)
    assert hidden.shape == (2, 20, 32)
    torch.testing.assert_close(model.lm_head(hidden), model(ids))


def test_dropout_acts_in_training_only() -> None:
    model, ids = small(dropout=0.5), random_ids()
    assert (model(ids) != model(ids)).any()
    only_on_the_embedding = small(dropout=0.5, residual_init="zero")
    assert (only_on_the_embedding(ids) != only_on_the_embedding(ids)).any()
    x, block = torch.randn(2, 5, 32), TransformerBlock(ModelConfig(**SMALL, dropout=0.5))
    assert (block(x) != block.eval()(x)).any()
    model.eval()
    plain = small()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(ids), plain(ids))


@torch.no_grad()
def test_bf16_is_close() -> None:
    model, ids = small(num_kv_heads=2, qk_norm=True), random_ids()
    wide = model(ids)
    half = model.bfloat16()
    assert half(ids).dtype == half.new_cache(2).keys.dtype == torch.bfloat16
    cache = half.new_cache(2)
    parts = [half(part, cache=cache) for part in ids.split([13, 7], 1)]
    for logits in (half(ids), torch.cat(parts, 1)):
        # 8 bits a number, and a few roundings on the way from the embedding to the logits
        assert (logits.float() - wide).norm() < 0.02 * wide.norm()


@pytest.mark.filterwarnings("error")
def test_autocast_takes_the_fused_kernels() -> None:
    model, ids = small(qk_norm=True), random_ids()
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, ids)
    loss.backward()
    assert abs(loss.item() - loss_of(model, ids).item()) < 0.02


# The contract: names, numbers, refusals


def test_weight_names_are_the_contract() -> None:
    names = {"embedding.weight", "norm.weight", "lm_head.weight"}
    for n in range(2):
        names |= {f"layers.{n}.attn.{p}_proj.weight" for p in "qkvo"}
        names |= {f"layers.{n}.ffn.{p}_proj.weight" for p in ("gate", "up", "down")}
        names |= {f"layers.{n}.{p}_norm.weight" for p in ("attn", "ffn")}
    assert set(small().state_dict()) == names
    assert set(small(tie_embeddings=True).state_dict()) == names
    normed = {f"layers.{n}.attn.{p}_norm.weight" for n in range(2) for p in "qk"}
    assert set(small(qk_norm=True).state_dict()) == names | normed
    biases = {name for name in small(bias=True, norm="layernorm").state_dict() if "bias" in name}
    assert biases == {
        name.replace("weight", "bias") for name in names - {"embedding.weight", "lm_head.weight"}
    }


def test_shapes_of_grouped_heads() -> None:
    attention = small(num_kv_heads=2).layers[0].attn
    assert attention.q_proj.weight.shape == (32, 32)
    assert attention.k_proj.weight.shape == attention.v_proj.weight.shape == (16, 32)


def test_tied_weight_is_one_parameter() -> None:
    model = small(tie_embeddings=True)
    assert model.lm_head.weight is model.embedding.weight
    untied = small()
    assert untied.num_parameters() - model.num_parameters() == 61 * 32
    assert untied.num_parameters(embeddings=False) == model.num_parameters(embeddings=False)


def test_num_parameters_by_hand() -> None:
    layer = 4 * 32 * 32 + 3 * 32 * 128 + 2 * 32  # default d_ff: 85.3 up to 128
    assert small().num_parameters(embeddings=False) == 2 * layer + 32
    assert small().num_parameters() == 2 * layer + 32 + 2 * 61 * 32


def test_rope_table_is_one_for_all_layers() -> None:
    tables = [m for m in small().modules() if isinstance(m, RotaryEmbedding)]
    assert len(tables) == 1
    assert not any(isinstance(m, RotaryEmbedding) for m in small(position="none").modules())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(variant: dict[str, Any]) -> None:
    model = small(**variant)
    loss_of(model, random_ids()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # Adding one number to every score of a query moves no softmax.
    assert without == [name for name in without if name.endswith("k_proj.bias")]


def test_zero_init_starts_as_the_identity_and_learns_everywhere_after_a_step() -> None:
    model, ids = small(residual_init="zero"), random_ids()
    x = model.embedding(ids)
    assert torch.equal(model.layers[0](x), x)
    for _ in range(2):
        model.zero_grad()
        loss_of(model, ids).backward()
        for parameter in model.parameters():
            parameter.data -= 0.1 * parameter.grad
    assert all(p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_initial_values_are_those_of_the_table(tied: bool) -> None:
    config = ModelConfig(512, 16, 256, 3, 4, num_kv_heads=2, tie_embeddings=tied, bias=True)
    model = Transformer(config)
    expected = {
        "q_proj": 1 / 16,
        "k_proj": 1 / 16,
        "v_proj": 1 / 16,
        "gate_proj": 1 / 16,
        "up_proj": 1 / 16,
        "o_proj": 1 / math.sqrt(256 * 6),
        "down_proj": 1 / math.sqrt(704 * 6),
        "embedding": 1 / 32,
        "lm_head": 1 / 32,
    }
    for name, parameter in model.named_parameters():
        kind = name.split(".")[-2]
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif kind.endswith("norm"):
            assert torch.equal(parameter, torch.ones(256)), name
        else:  # a normal cut at 3 σ has 0.9866 of its standard deviation
            assert parameter.std().item() == pytest.approx(0.9866 * expected[kind], rel=0.02), name
            assert parameter.abs().max().item() <= 3.0001 * expected[kind], name


def test_first_loss_is_near_that_of_guessing() -> None:
    model = Transformer(ModelConfig(512, 64, 128, 4, 4))
    ids = torch.randint(512, (4, 65))
    assert loss_of(model, ids).item() == pytest.approx(math.log(512) + 1 / 8, abs=0.1)


def test_wrong_inputs_are_refused() -> None:
    model = small()
    with pytest.raises(ValueError, match=r"at most context_length tokens \(25 > 24\); remove"):
        model(random_ids(1, 25))
    with pytest.raises(ValueError, match=r"ids must be int64 or int32 \(torch.float32\); convert"):
        model(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"mask must be \(seq, key\) or .* \(\(2, 5, 5\)\)"):
        model(random_ids(2, 5), mask=torch.ones(2, 5, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"positions must be in 0…23"):
        model(random_ids(1, 3), positions=torch.tensor([0, 1, 24]))
    assert torch.equal(model(random_ids(2, 3).int()[:, :0]), torch.empty(2, 0, 61))


@torch.no_grad()
def test_full_cache_is_refused_and_left_as_it_was() -> None:
    model = small()
    cache = model.new_cache(2, 10)
    model(random_ids(2, 8), cache=cache)
    with pytest.raises(ValueError, match=r"3 more tokens \(8 of 10 positions are filled\)"):
        model(random_ids(2, 3), cache=cache)
    assert cache.length == 8
    model(random_ids(2, 2), cache=cache)
    full = model.new_cache(2)
    full.length = 24
    with pytest.raises(ValueError, match=r"at most context_length tokens \(25 > 24\)"):
        model(random_ids(2, 1), cache=full)
    with pytest.raises(ValueError, match="make a cache for this shape"):
        model(random_ids(3, 1), cache=model.new_cache(2))


def test_device_and_dtype_arguments() -> None:
    with torch.device("meta"):
        model = Transformer(ModelConfig(**SMALL)).to(torch.bfloat16)
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in model.parameters())
    weights = small().state_dict()
    model.to_empty(device="cpu").load_state_dict(weights)
    assert model.float()(random_ids()).isfinite().all()


# Learning


@pytest.mark.parametrize("variant", [*VARIANTS, {"ffn": "relu2", "residual_init": "zero"}])
def test_overfits_one_batch(variant: dict[str, Any]) -> None:
    model, ids = small(**variant), random_ids(4, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(80):
        optimizer.zero_grad()
        loss = loss_of(model, ids)
        loss.backward()
        optimizer.step()
    # Nothing tells the first tokens' followers apart but themselves: all 4 x 15 pairs are learnt.
    assert loss.item() < 0.05


@pytest.mark.parametrize(
    "variant", [*(v for v in VARIANTS if "moe" not in v), {"lora": LoRAConfig()}]
)
def test_dense_variants_compile_whole(variant: dict[str, Any]) -> None:
    torch._dynamo.reset()  # each variant recompiles the same code, and dynamo limits recompilations
    model, ids = small(**variant), random_ids()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(ids), model(ids), rtol=1e-5, atol=1e-5)


def test_padding_rows_are_no_tokens() -> None:
    model, ids = small(vocab_multiple=16), random_ids()
    assert model.embedding.weight.shape == model.lm_head.weight.shape == (64, 32)
    assert model(ids).shape == (2, 20, 61)
    loss_of(model, ids).backward()
    assert not model.lm_head.weight.grad[61:].any()


# The config


def test_config_is_resolved_and_rebuilds_itself() -> None:
    config = ModelConfig(**SMALL)
    assert (config.num_kv_heads, config.d_ff, config.d_head) == (4, 128, 8)
    assert ModelConfig(**asdict(config)) == config
    assert replace(config, ffn="relu2", d_ff=None).d_ff == 128
    for variant in VARIANTS:
        config = ModelConfig(**SMALL | variant)
        assert ModelConfig(**asdict(config)) == config
    assert replace(config, d_model=64, d_ff=None).d_ff == 192


def one_of(choices: Any) -> str:
    """The names of a Literal as an error lists them."""
    return " or ".join(map(repr, get_args(choices)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, r"vocab_size must be a positive integer \(0\)"),
        ({"num_layers": 2.0}, r"num_layers must be a positive integer \(2.0\)"),
        ({"context_length": True}, r"context_length must be a positive integer \(True\)"),
        ({"d_ff": 0}, r"d_ff must be a positive integer \(0\)"),
        ({"num_kv_heads": 0}, r"num_kv_heads must be a positive integer \(0\)"),
        ({"d_model": 30}, r"d_model \(30\) must be a multiple of num_heads \(4\); use d_model 32"),
        (
            {"num_kv_heads": 3},
            r"num_heads \(4\) must be a multiple of num_kv_heads \(3\); .* divisor of 4",
        ),
        ({"d_model": 36}, r"must be even with rope \(9\)"),
        ({"dropout": 1.0}, r"dropout must be at least 0 and below 1 \(1.0\)"),
        ({"dropout": math.nan}, r"dropout must be at least 0"),
        (
            {"rope_theta": -1.0},
            r"rope_theta must be positive and finite \(-1.0\); use e\.g\. 10000",
        ),
        ({"norm_eps": math.inf}, r"norm_eps must be positive and finite \(inf\); use e\.g\. 1e-05"),
        ({"norm_eps": "1e-5"}, r"norm_eps must be positive and finite \('1e-5'\)"),
        ({"bias": 1}, r"bias must be a bool \(1\)"),
        (
            {"norm": "batchnorm"},
            rf"norm must be {one_of(Norm)} \('batchnorm'\); use e\.g\. 'rmsnorm'",
        ),
        ({"position": "alibi"}, rf"position must be {one_of(Position)} \('alibi'\)"),
        ({"ffn": "mlp"}, rf"ffn must be {one_of(FeedForward)} \('mlp'\)"),
        ({"residual_init": 0}, rf"residual_init must be {one_of(ResidualInit)} \(0\)"),
        ({"position": "none", "rope_interleaved": True}, "have no effect with position none"),
        (
            {"moe": {"experts": 4}},
            r"moe has wrong keys .* did you mean num_experts",
        ),
        ({"position": "none", "rope_theta": 5e5}, r"rope_theta \(500000.0\).* have no effect with"),
    ],
)
def test_config_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ModelConfig(**SMALL | changes)
    assert "\n" not in str(error.value)


def test_config_has_the_contracts_fields_and_needs_no_torch() -> None:
    contract = (
        "vocab_size context_length d_model num_layers num_heads num_kv_heads d_ff rope_theta "
        "rope_interleaved norm_eps tie_embeddings bias qk_norm dropout"
    )
    assert " ".join(field.name for field in fields(ModelConfig)).startswith(contract)
    code = "import sys, scratchlm.model.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
