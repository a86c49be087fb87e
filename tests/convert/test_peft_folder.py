"""Adapter folders: transformers' weights plus the file's matrices by hand, and `peft` itself."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.hub_models import MODELS, theirs_of
from helpers.variants import small
from scratchlm import Transformer, from_hf, to_hf
from scratchlm.convert.peft_folder import from_peft, to_peft
from scratchlm.errors import FileFormatError
from scratchlm.model.config import LoRAConfig, MoEConfig
from scratchlm.model.lora import adapted_layers

IDS = torch.arange(2 * 30).view(2, 30) * 7 % 61


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def with_adapters(model: Transformer, *targets: str, r: int = 4) -> Transformer:
    """Add adapters that are not 0."""
    model.add_lora(LoRAConfig(r, alpha=6, targets=targets))
    for _, layer in adapted_layers(model):
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    return model


def merged_by_hand(theirs: Any, folder: Path) -> Any:
    """Add the matrices in an adapter folder to the weights of a model of transformers."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    merged = copy.deepcopy(theirs)
    for name in [name for name in tensors if name.endswith("lora_A.weight")]:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        a, b = tensors[name], tensors[name.replace("lora_A", "lora_B")]
        end = next((e for e in config["rank_pattern"] if module.endswith(f".{e}")), None)
        r = config["rank_pattern"].get(end, config["r"])
        assert len(a) == r
        delta = b @ a * config["alpha_pattern"].get(end, config["lora_alpha"]) / r
        assert any(module.endswith(f".{target}") for target in config["target_modules"])
        weight = merged.get_submodule(module).weight
        weight.data += delta.T if config["fan_in_fan_out"] else delta
    return merged


@pytest.mark.parametrize("targets", ["q_proj,v_proj", "all-linear"])
def test_the_matrices_of_a_written_folder_fit_transformers(
    name: str, targets: str, tmp_path: Path
) -> None:
    theirs = theirs_of(name)
    theirs.save_pretrained(tmp_path / "hub")
    ours = with_adapters(from_hf(tmp_path / "hub"), *targets.split(","))
    if is_refused(name, ours, tmp_path):
        return
    to_peft(ours, tmp_path / "adapter")
    expected = merged_by_hand(theirs, tmp_path / "adapter")(IDS).logits
    assert (expected - theirs(IDS).logits).abs().max() > 0.1
    torch.testing.assert_close(ours(IDS), expected, rtol=1e-5, atol=1e-5)

    back = from_hf(tmp_path / "hub")
    from_peft(back, tmp_path / "adapter")
    torch.testing.assert_close(back(IDS), ours(IDS), rtol=1e-6, atol=1e-5)
    if "gpt2" not in name:  # c_attn has the adapters of three projections
        mine, other = ours.state_dict(), back.state_dict()
        assert all(torch.equal(mine[key], other[key]) for key in mine)
        assert {name for name, _ in adapted_layers(back)} == {n for n, _ in adapted_layers(ours)}
    to_peft(back, tmp_path / "again")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert "gpt2" in name or same(tmp_path, file)
    ours.merge_lora()
    to_hf(ours, tmp_path / "merged")
    torch.testing.assert_close(from_hf(tmp_path / "merged")(IDS), expected, rtol=1e-5, atol=1e-5)


def same(folder: Path, file: str) -> bool:
    """Return whether both folders have the same file. The order of the targets does not matter."""
    return (folder / "adapter" / file).read_bytes() == (folder / "again" / file).read_bytes()


def test_the_names_of_a_file(tmp_path: Path) -> None:
    to_peft(with_adapters(small(), "q_proj", "down_proj"), tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    start = "base_model.model.model.layers"
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        f"{start}.{n}.{module}.lora_{m}.weight": shape
        for n in range(2)
        for module, width in (("self_attn.q_proj", 32), ("mlp.down_proj", 128))
        for m, shape in (("A", (4, width)), ("B", (32, 4)))
    }
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["self_attn.q_proj", "mlp.down_proj"]
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 6)


def test_export_merges_and_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = with_adapters(small(tie_embeddings=True), "all-linear")
    logits = model(IDS[:, :20])
    to_hf(model, tmp_path / "hub")
    merged = from_hf(tmp_path / "hub")
    assert merged.config.lora is None
    torch.testing.assert_close(merged(IDS[:, :20]), logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(IDS[:, :20]), logits)
    assert model.config.lora is not None


def test_an_adapter_of_a_padded_head(tmp_path: Path) -> None:
    """Our head has rows that pad the vocabulary. The file has none."""
    model = with_adapters(small(vocab_multiple=16), "lm_head")
    to_peft(model, tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert tensors["base_model.model.lm_head.lora_B.weight"].shape == (61, 4)
    back = small(vocab_multiple=16)
    back.load_state_dict({k: v for k, v in model.state_dict().items() if "lora" not in k})
    from_peft(back, tmp_path / "adapter")
    assert torch.equal(back(IDS[:, :20]), model(IDS[:, :20]))


def write(folder: Path, tensors: dict[str, Tensor] | None = None, **values: Any) -> Path:
    """Write the adapters of q_proj and v_proj for `small()`, with changes."""
    to_peft(with_adapters(small(), "q_proj", "v_proj"), folder)
    config = json.loads((folder / "adapter_config.json").read_text()) | values
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if tensors is not None:
        found = load_file(folder / "adapter_model.safetensors") | tensors
        kept = {name: tensor for name, tensor in found.items() if tensor.numel()}
        save_file(kept, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def test_other_ranks_and_scales(tmp_path: Path) -> None:
    start = "base_model.model.model.layers.0.self_attn.v_proj.lora"
    a, b = torch.randn(2, 32), torch.randn(32, 2)
    path = write(
        tmp_path / "adapter",
        {f"{start}_A.weight": a, f"{start}_B.weight": b},
        rank_pattern={r"layers\.0\.self_attn\.v_proj": 2},
        alpha_pattern={r"layers\.0\.self_attn\.v_proj": 10},
    )
    model = small()
    weight = model.layers[0].attn.v_proj.weight.clone()
    from_peft(model, path)
    assert model.config.lora == LoRAConfig(4, 6.0, 0.0, ("attn.q_proj", "attn.v_proj"))
    model.merge_lora()
    merged = model.layers[0].attn.v_proj.weight
    torch.testing.assert_close(merged, weight + 5 * b @ a, rtol=1e-5, atol=1e-5)


Q = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("tensors", "values", "message"),
    [
        ({}, {"peft_type": "IA3"}, r"kind of adapter is not supported .*peft_type 'IA3'"),
        ({}, {"bias": "all"}, r"kind of adapter is not supported .*bias 'all'"),
        ({}, {"init_lora_weights": "pissa"}, r"not supported .*init_lora_weights 'pissa'"),
        ({}, {"use_dora": True}, r"a key that is not supported .*use_dora True"),
        ({}, {"modules_to_save": ["lm_head"]}, r"not supported .*modules_to_save \['lm_head'\]"),
        ({}, {"new_idea": 1}, r"not supported .*new_idea 1"),
        ({}, {"r": 8}, r"must have the rank r .*q_proj has 4, r is 8\)"),
        ({}, {"r": 0}, r"r and lora_alpha must be positive numbers"),
        ({}, {"r": None}, r"r and lora_alpha must be positive numbers"),
        ({}, {"lora_alpha": "high"}, r"r and lora_alpha must be positive numbers"),
        ({}, {"lora_alpha": -1}, r"wrong value .*lora\.alpha must be positive"),
        ({}, {"lora_dropout": 2}, r"wrong value .*lora\.dropout must be at least 0"),
        ({}, {"rank_pattern": {"(": 4}}, r"r and lora_alpha must be positive numbers"),
        ({}, {"rank_pattern": [4]}, r"r and lora_alpha must be positive numbers"),
        ({Q: torch.zeros(0)}, {}, r"must have A \(r, in\) and B \(out, r\) .*1\.self_attn\.q_proj"),
        ({Q: torch.zeros(3, 32)}, {}, r"must have A \(r, in\) and B \(out, r\)"),
        ({Q: torch.zeros(4, 16)}, {}, r"must fit its layer .*\(32, 16\), and .* \(32, 32\)\)"),
        ({Q: torch.zeros(4)}, {}, r"not a matrix of a LoRA adapter .*q_proj\.lora_A"),
        (
            {Q.replace("q_proj", "q_norm"): torch.zeros(4, 32),
             Q.replace("q_proj.lora_A", "q_norm.lora_B"): torch.zeros(32, 4)},
            {},
            r"no place in the model .*layers\.1\.self_attn\.q_norm\); use the model that the",
        ),
        (
            {Q.replace("layers.1", "layers.2"): torch.zeros(4, 32),
             Q.replace("layers.1", "layers.2").replace("_A", "_B"): torch.zeros(32, 4)},
            {},
            r"no place in the model .*layers\.2\.self_attn\.q_proj\)",
        ),
        (
            {Q: torch.zeros(0), Q.replace("_A", "_B"): torch.zeros(0)},
            {},
            r"all layers must have the same adapters .*layers\.1\.attn\.q_proj has none",
        ),
        ({"base_model.model.lm_head.weight": torch.zeros(4, 4)}, {}, r"without modules_to_save"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(
    tensors: dict[str, Tensor], values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "adapter", tensors, **values)
    model = small()
    before = model.state_dict()
    with pytest.raises(FileFormatError, match=message) as error:
        from_peft(model, path)
    assert re.fullmatch(r"[^\n;]+; [^\n]+", str(error.value))
    assert model.config.lora is None
    assert model.state_dict().keys() == before.keys()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_missing_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "adapter")
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(FileFormatError, match=r"weights are missing .*save the adapter with safe"):
        from_peft(small(), path)
    save_file({}, path / "adapter_model.safetensors")
    with pytest.raises(FileFormatError, match=r"the file has no adapters"):
        from_peft(small(), path)
    (path / "adapter_config.json").unlink()
    with pytest.raises(FileFormatError, match=r"adapter_config\.json is missing"):
        from_peft(small(), path)


def test_adapters_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "adapter")
    gpt2 = {"norm": "layernorm", "position": "learned", "ffn": "gelu", "bias": True}
    with pytest.raises(FileFormatError, match=r"no place in the model .*use the model that the"):
        from_peft(small(**gpt2), path)
    with pytest.raises(FileFormatError, match=r"must fit its layer"):
        from_peft(small(d_model=64), path)
    with pytest.raises(ValueError, match=r"must not have adapters already"):
        from_peft(small(lora=LoRAConfig()), path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: small(lora=LoRAConfig(full=("lm_head",))),
            r"no weights that trained fully \(lora\.full: lm_head\); .* \(without --adapter_only\)",
        ),
        (lambda: small(), r"only a model with adapters .*--lora_r 8"),
        (
            lambda: small(gated_attention="headwise", lora=LoRAConfig()),
            r"no Hugging Face architecture fits this model",
        ),
        (
            lambda: small(moe=MoEConfig(4, 2), d_ff=32, lora=LoRAConfig(targets=("router",))),
            r"peft has no adapters for a router \(layers\.0\.ffn\.router\)",
        ),
    ],
)
def test_what_peft_has_not_is_refused(model: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        to_peft(model(), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="the path already exists"):
        to_peft(small(lora=LoRAConfig()), tmp_path)


# `peft` itself


def is_refused(name: str, ours: Transformer, folder: Path) -> bool:
    """Check the error for the layers that peft would take for experts. Return whether there are
    such layers."""
    if name != "gemma3-layers" or not any(".ffn." in layer for layer, _ in adapted_layers(ours)):
        return False
    with pytest.raises(ValueError, match="takes the feed-forward layers of Mellum"):
        to_peft(ours, folder / "adapter")
    return True


def compare(ours: Transformer, theirs: Any, folder: Path) -> None:
    """Compare logits to 1e-5, as without adapters, and then the merged weights to 1e-6."""
    torch.testing.assert_close(ours(IDS), theirs(IDS).logits, rtol=1e-5, atol=1e-5)
    theirs.merge_and_unload().save_pretrained(folder)
    ours.merge_lora()
    merged = from_hf(folder).state_dict()
    for key, weight in ours.state_dict().items():
        torch.testing.assert_close(weight, merged[key], rtol=1e-6, atol=1e-6)


@pytest.mark.bench
@pytest.mark.parametrize("targets", ["q_proj,v_proj", "all-linear", "o_proj,down_proj"])
def test_peft_reads_our_folders(name: str, targets: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    if "mixtral" in name and "down_proj" in targets:
        pytest.skip("the matrices of experts have no adapters")
    base = theirs_of(name)
    base.save_pretrained(tmp_path / "hub")
    ours = with_adapters(from_hf(tmp_path / "hub"), *targets.split(","))
    if is_refused(name, ours, tmp_path):
        return
    to_peft(ours, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True).eval()

    direction = torch.randn(2, 30, 61)
    (ours(IDS) * direction).sum().backward()
    (theirs(IDS).logits * direction).sum().backward()
    grads = {n: p.grad for n, p in theirs.named_parameters() if p.requires_grad}
    compared = 0
    for layer_name, layer in adapted_layers(ours):
        n, _, part = layer_name.removeprefix("layers.").partition(".")
        for module in ("self_attn", "mlp", "attn"):
            key = f"base_model.model.model.layers.{n}.{module}.{part.split('.')[1]}.lora_"
            for letter in "AB":
                if (grad := grads.get(f"{key}{letter}.default.weight")) is not None:
                    mine = getattr(layer, f"lora_{letter}").grad
                    largest = grad.abs().max().item()
                    torch.testing.assert_close(mine, grad, rtol=1e-5, atol=2e-6 * largest)
                    compared += 1
    assert "gpt2" in name or compared == len(grads)
    compare(ours, theirs, tmp_path / "merged")


@pytest.mark.bench
@pytest.mark.parametrize("rslora", [False, True])
def test_we_read_the_folders_of_peft(name: str, rslora: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = theirs_of(name)
    base.save_pretrained(tmp_path / "hub")
    modules = ["c_attn", "c_fc"] if "gpt2" in name else ["q_proj", "v_proj", "o_proj"]
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=modules, init_lora_weights=False, use_rslora=rslora,
        task_type="CAUSAL_LM", rank_pattern={modules[0]: 3}, alpha_pattern={modules[1]: 5},
    )  # fmt: skip
    theirs = peft.get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    ours = from_hf(tmp_path / "hub")
    from_peft(ours, tmp_path / "adapter")
    compare(ours, theirs, tmp_path / "merged")


@pytest.mark.bench
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_equals_that_of_peft(bias: bool) -> None:
    """The forward pass, the merged weight, and the gradients, to 1e-6."""
    peft = pytest.importorskip("peft")
    model = torch.nn.Sequential(torch.nn.Linear(24, 40, bias))
    layer = with_adapters(small(d_model=24, d_ff=40, bias=bias, ffn="gelu"), "up_proj").layers[0]
    ours = layer.ffn.up_proj
    model[0].load_state_dict({k: v for k, v in ours.state_dict().items() if "lora" not in k})
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0"])
    theirs = peft.get_peft_model(model, config)
    inner = theirs.base_model.model[0]
    inner.lora_A.default.weight.data.copy_(ours.lora_A)
    inner.lora_B.default.weight.data.copy_(ours.lora_B)
    x = torch.randn(3, 7, 24, requires_grad=True)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)
    direction = torch.randn(3, 7, 40)
    inputs = (x, inner.lora_A.default.weight, inner.lora_B.default.weight)
    for mine, other in zip(
        torch.autograd.grad(ours(x), (x, ours.lora_A, ours.lora_B), direction),
        torch.autograd.grad(theirs(x), inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6 * other.abs().max().item())
    merged = theirs.merge_and_unload()[0]
    torch.testing.assert_close(ours.merged().weight, merged.weight, rtol=1e-6, atol=1e-6)
