"""Real Hugging Face folders: tied weights under either name, prefixes, base models."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor

from scratchlm import (
    BPETokenizer,
    ModelConfig,
    TextGenerator,
    Transformer,
    load_model,
    save_checkpoint,
)
from scratchlm.checkpoint.models import load_with_tokenizer
from scratchlm.cli.convert import main as convert
from scratchlm.cli.generate import main as generate
from scratchlm.cli.inspect import main as inspect
from scratchlm.convert.hf_folder import from_hf, to_hf
from scratchlm.errors import FileFormatError, Notice

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
SIZES = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32,
    "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
GPT2_SIZES = {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32,
              "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "GPT2": GPT2_SIZES,
    "Llama": SIZES,
    "Qwen2": SIZES,
    "Qwen3": SIZES | {"head_dim": 8},
    "Mixtral": SIZES | {"num_local_experts": 2},
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def theirs_of(kind: str, ending: str = "", *, tied: bool = True) -> Any:
    """Return a random model of `transformers`. A name that ends in "Model" means a model without a
    head."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**KINDS[kind], tie_word_embeddings=tied)
    ending = ending or ("LMHeadModel" if kind == "GPT2" else "ForCausalLM")
    return getattr(transformers, f"{kind}{ending}")._from_config(config).eval()


def rewrite(folder: Path, weights: dict[str, Tensor]) -> None:
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def check_logits(folder: Path, theirs: Any) -> None:
    torch.testing.assert_close(from_hf(folder)(IDS), theirs(IDS).logits, rtol=1e-5, atol=1e-5)


# Tied weights


def test_a_tied_matrix_is_read_under_either_name(kind: str, tmp_path: Path) -> None:
    """safetensors' own save_model keeps the first name in the alphabet: lm_head.weight."""
    theirs = theirs_of(kind)
    theirs.save_pretrained(tmp_path / "hub")
    usual = load_file(tmp_path / "hub" / "model.safetensors")
    save_model(theirs, str(tmp_path / "hub" / "model.safetensors"))
    weights = load_file(tmp_path / "hub" / "model.safetensors")
    assert "lm_head.weight" in weights
    assert len(weights) == len(theirs.state_dict()) - 1
    check_logits(tmp_path / "hub", theirs)
    ours = from_hf(tmp_path / "hub")
    assert ours.lm_head.weight is ours.embedding.weight
    to_hf(ours, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == usual.keys()
    assert all(torch.equal(back[name], usual[name]) for name in back)

    embedding = "transformer.wte.weight" if kind == "GPT2" else "model.embed_tokens.weight"
    rewrite(tmp_path / "hub", usual | {"lm_head.weight": usual[embedding].clone()})
    check_logits(tmp_path / "hub", theirs)
    damaged = usual[embedding].clone()
    damaged[3] = torch.nan
    damaged[4] = torch.inf
    for one, other in ((damaged, damaged.clone()), (damaged, damaged.half()),
                       (damaged.bfloat16(), damaged)):  # fmt: skip
        rewrite(tmp_path / "hub", usual | {embedding: one, "lm_head.weight": other})
        assert torch.allclose(from_hf(tmp_path / "hub").lm_head.weight, one.float(), equal_nan=True)
    for other in (damaged[:-1].clone(), damaged.half() * 1.01):
        rewrite(tmp_path / "hub", usual | {embedding: damaged, "lm_head.weight": other})
        with pytest.raises(
            FileFormatError, match=r"config\.json ties lm_head\.weight to the embedding"
        ):
            from_hf(tmp_path / "hub")
    nan = torch.full_like(usual[embedding], torch.nan)  # a diverged model is read as well
    rewrite(tmp_path / "hub", usual | {embedding: nan})
    assert from_hf(tmp_path / "hub").lm_head.weight.isnan().all()
    head = {"lm_head.weight": nan}
    rewrite(tmp_path / "hub", {name: usual[name] for name in usual if name != embedding} | head)
    assert from_hf(tmp_path / "hub").lm_head.weight.isnan().all()
    del usual[embedding]
    rewrite(tmp_path / "hub", usual)
    with pytest.raises(FileFormatError, match=rf"^weights are missing .*: {embedding}\); down"):
        from_hf(tmp_path / "hub")


@pytest.mark.parametrize("kind", ["GPT2", "Mixtral"])
def test_what_is_missing_is_named_before_it_is_looked_up(kind: str, tmp_path: Path) -> None:
    theirs_of(kind, tied=False).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in weights:
        if ".1." in name:  # as layer 0
            continue
        rewrite(tmp_path, {other: weights[other] for other in weights if other != name})
        with pytest.raises(FileFormatError, match=f"weights are missing .*{name}"):
            from_hf(tmp_path)
        rewrite(tmp_path, weights | {name: torch.ones(2)})
        with pytest.raises(FileFormatError, match=rf"does not fit config.json .*{name}"):
            from_hf(tmp_path)
    rewrite(tmp_path, {"x": torch.ones(1)})
    with pytest.raises(
        FileFormatError, match=r"missing .* and \d+ more\); download the folder again"
    ):
        from_hf(tmp_path)


# Prefixes

PREFIXES = ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.", "model.",
            "module.model._orig_mod."]  # fmt: skip


@pytest.mark.parametrize("kind", ["GPT2", "Llama", "Mixtral"])
def test_a_wrapped_models_names_are_read_without_prefixes(kind: str, tmp_path: Path) -> None:
    theirs = theirs_of(kind)
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    expected = theirs(IDS).logits
    for prefix in PREFIXES if kind == "GPT2" else ("module._orig_mod.", "model."):
        rewrite(tmp_path, {prefix + name: tensor for name, tensor in weights.items()})
        with warnings.catch_warnings(record=True) as told:
            ours = from_hf(tmp_path)
        torch.testing.assert_close(ours(IDS), expected, rtol=1e-5, atol=1e-5)
        said = [str(each.message) for each in told if each.category is Notice]
        assert len(said) == (prefix != "model.")
        assert all("without the prefixes of a compiled or par" in s and prefix in s for s in said)

    layer = re.compile(r"(\.(h|layers)\.1\.)")  # one compiled layer
    rewrite(tmp_path, {layer.sub(r"\1_orig_mod.", name): t for name, t in weights.items()})
    with pytest.warns(Notice, match=r"prefixes .*\.1\._orig_mod\."):
        ours = from_hf(tmp_path)
    torch.testing.assert_close(ours(IDS), expected, rtol=1e-5, atol=1e-5)


def test_two_weights_of_one_name_are_refused(tmp_path: Path) -> None:
    theirs_of("Llama").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for prefix in ("module.", "model."):
        rewrite(tmp_path, weights | {f"{prefix}model.norm.weight": torch.ones(16)})
        with pytest.raises(FileFormatError, match=r"two weights have .* name .*model\.norm"):
            from_hf(tmp_path)


# Base models


def test_a_tied_base_model_has_a_head(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    theirs_of(kind, "Model").save_pretrained(tmp_path)
    check_logits(tmp_path, AutoModelForCausalLM.from_pretrained(tmp_path).eval())


@pytest.mark.parametrize("kind", ["GPT2", "Llama"])
def test_an_untied_base_model_gets_a_new_head_and_says_so(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    theirs_of(kind, "Model", tied=False).to(torch.bfloat16).save_pretrained(tmp_path)
    theirs = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with pytest.warns(Notice, match=r"a base model has no head .*lm_head.weight gets random"):
        ours = from_hf(tmp_path)
    expected = theirs(IDS).last_hidden_state
    assert {weight.dtype for weight in ours.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(ours.float().hidden(IDS), expected, rtol=1e-5, atol=1e-5)
    with pytest.warns(Notice):
        assert torch.equal(from_hf(tmp_path).float()(IDS), ours(IDS)), "one folder, one model"
    assert 0.015 < ours.lm_head.weight.std() < 0.025

    change(tmp_path, architectures=[f"{kind}ForCausalLM"])
    with pytest.raises(
        FileFormatError, match=r"missing .*: lm_head\.weight\); .* set tie_word_embeddings to true"
    ):
        from_hf(tmp_path)


# Ids

SPECIAL = {"<|begin|>": 256, "<|endoftext|>": 257}
TOKENIZER = BPETokenizer(
    {byte: bytes([byte]) for byte in range(256)} | {n: s.encode() for s, n in SPECIAL.items()},
    [],
    list(SPECIAL),
)


def test_ids_past_the_vocabulary_are_told_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small GPT-2 keeps the 50256 of the default config; transformers loads it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    hub, ours = tmp_path / "hub", tmp_path / "ours"
    config = GPT2Config(**GPT2_SIZES | {"vocab_size": 269, "eos_token_id": 50256})
    config.bos_token_id = config.pad_token_id = 50256
    GPT2LMHeadModel(config).save_pretrained(hub)
    assert json.loads((hub / "generation_config.json").read_text())["eos_token_id"] == 50256
    TOKENIZER.save(hub / "tokenizer.json")
    with pytest.warns(Notice, match="eos_token_id 50256 is not in the vocabulary") as told:
        assert load_with_tokenizer(hub).end_ids == [257]
    places = ["generation_config.json", "config.json"]
    assert [str(hub / name) in str(told[i].message) for i, name in enumerate(places)] == [True] * 2
    capsys.readouterr()
    assert convert(["--from", str(hub), "--to", str(ours)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"scratchlm: eos_token_id 50256 is not in the vocabulary ({hub / name}: ids are 0 to "
        "257); it is ignored" for name in places
    ]  # fmt: skip
    assert convert(["--from", str(ours), "--to", str(tmp_path / "back")]) == 0
    assert GPT2LMHeadModel.from_pretrained(tmp_path / "back").config.eos_token_id == 257
    words = ["--prompt", "", "--max_tokens", "2", "--device", "cpu"]
    assert generate(["--model_path", str(hub), *words]) == 0


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ([50256, 7], 5, [7]),
        (50256, [9, 300], [9]),
        (-1, None, [257]),
        (None, 5, [5]),
        ([], 5, [5]),
    ],
)
def test_each_file_that_names_ids_is_checked(
    generation: Any, config: Any, expected: list[int], tmp_path: Path
) -> None:
    to_hf(Transformer(ModelConfig(258, 16, 16, 1, 2)), tmp_path / "hub", TOKENIZER)
    (tmp_path / "hub" / "generation_config.json").write_text(
        json.dumps({"eos_token_id": generation})
    )
    change(tmp_path / "hub", eos_token_id=config)
    if any(wrong in str((generation, config)) for wrong in ("50256", "300", "-1")):
        with pytest.warns(Notice, match="not in the vocabulary"):
            assert load_with_tokenizer(tmp_path / "hub").end_ids == expected
    else:
        assert load_with_tokenizer(tmp_path / "hub").end_ids == expected


def test_ids_before_a_text_have_to_be_in_the_vocabulary(tmp_path: Path) -> None:
    model = Transformer(ModelConfig(258, 16, 16, 1, 2))
    to_hf(model, tmp_path / "hub", TOKENIZER, start_ids=[256])
    path = tmp_path / "hub" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"]["special_tokens"]["<|begin|>"]["ids"] = [400]
    path.write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=r"before a text .*tokenizer\.json: \[400\], ids are"):
        load_with_tokenizer(tmp_path / "hub")


def test_ids_of_a_checkpoint_are_checked(tmp_path: Path) -> None:
    model = Transformer(ModelConfig(258, 16, 16, 1, 2))
    more: dict[str, Any] = {"tokenizer": TOKENIZER.to_json(), "end_ids": [50256]}
    save_checkpoint(tmp_path / "x.pt", model, None, 0, **more)
    with pytest.warns(Notice, match=r"end_ids 50256 is not in the vocabulary .*x\.pt"):
        assert load_with_tokenizer(tmp_path / "x.pt").end_ids == [257]
    save_checkpoint(tmp_path / "x.pt", model, None, 0, **more | {"start_ids": [258]})
    with (
        pytest.warns(Notice),
        pytest.raises(FileFormatError, match=r"before a text .*x\.pt: \[258\]"),
    ):
        load_with_tokenizer(tmp_path / "x.pt")


def test_ids_that_do_not_fit_are_not_taken(tmp_path: Path) -> None:
    model = Transformer(ModelConfig(300, 16, 16, 1, 2))
    for how, message in (
        ({"end_ids": [300]}, r"end_ids must be in the vocabulary \(\[300\]\)"),
        ({"start_ids": [-1]}, r"start_ids must be in the vocabulary \(\[-1\]\)"),
        ({"start_ids": [299]}, r"start_ids must be ids of tokens \(\[299\]\)"),
        ({"end_ids": [299]}, r"end_ids must be ids of tokens \(\[299\]\)"),
    ):
        with pytest.raises(ValueError, match=message):
            to_hf(model, tmp_path / "hub", TOKENIZER, **how)
        with pytest.raises(ValueError, match=message):  # which no empty prompt is to blame for
            TextGenerator(model, TOKENIZER, **how)
    with pytest.raises(ValueError, match=r"the tokenizer has more ids than the model \(258 ids"):
        to_hf(Transformer(ModelConfig(61, 16, 16, 1, 2)), tmp_path / "hub", TOKENIZER)
    assert not (tmp_path / "hub").exists()
    to_hf(model, tmp_path / "hub", end_ids=[299])  # which the tokenizer to come may have
    assert isinstance(load_model(tmp_path / "hub", "cpu"), Transformer)


def test_ids_of_a_padded_vocabulary_without_a_token_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of 300 ids, a tokenizer of 258, and an id between the two."""
    hub, ours = tmp_path / "hub", tmp_path / "x.pt"
    model = Transformer(ModelConfig(300, 16, 16, 1, 2))
    to_hf(model, hub, TOKENIZER, start_ids=[256])
    change(hub, eos_token_id=290)
    save_checkpoint(ours, model, None, 0, tokenizer=TOKENIZER.to_json(), end_ids=[290])
    for path, named in ((hub, hub / "config.json"), (ours, ours)):
        words = ["--prompt", "", "--max_tokens", "2", "--device", "cpu"]
        assert generate(["--model_path", str(path), *words]) == 0
        said = capsys.readouterr().err
        assert f"290 is not in the vocabulary ({named}: ids are 0 to 257); it is ignored" in said
    content = (hub / "tokenizer.json").read_text()
    (hub / "tokenizer.json").write_text(re.sub(r'"ids": \[\s*256', '"ids": [290', content))
    with pytest.warns(Notice), pytest.raises(FileFormatError, match=r"before a text .*\[290\]"):
        load_with_tokenizer(hub)


# Configs

# Keys of real configs that do not describe the model: from SmolLM2, unsloth, transformers.js, old
# versions of transformers, and the first GPT-2.
SAYING_NOTHING = {
    "is_llama_config": True, "rope_interleaved": False, "pretraining_tp": 1, "use_cache": True,
    "auto_map": {"AutoModelForCausalLM": "modeling.Model"}, "unsloth_version": "2025.1.1",
    "unsloth_fixed": True, "_attn_implementation_autoset": True, "tokenizer_class": "GPT2Tokenizer",
    "transformers.js_config": {"dtype": "q4"}, "_commit_hash": "607a30d783df",
    "output_past": True, "num_labels": 1, "neftune_noise_alpha": 5.0, "max_sequence_length": 32,
    "do_sample": True, "max_length": 20, "min_length": 0, "temperature": 0.7, "top_k": 50,
    "top_p": 0.9, "num_beams": 1, "repetition_penalty": 1.1, "finetuning_task": None,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["GPT2", "Llama"])
def test_keys_that_say_nothing_of_the_model_are_ignored(kind: str, tmp_path: Path) -> None:
    theirs = theirs_of(kind)
    theirs.save_pretrained(tmp_path)
    change(tmp_path, **SAYING_NOTHING)
    check_logits(tmp_path, theirs)
    for key, value in (("rope_interleaved", True), ("pruned_heads", {"0": [1]}),
                       ("activation", "geglu"), ("quantization", {"bits": 4}),
                       ("is_encoder_decoder", True)):  # fmt: skip
        change(tmp_path, **{key: value})
        with pytest.raises(FileFormatError, match=rf"(unknown key|not supported) .*: {key} "):
            from_hf(tmp_path)
        change(tmp_path, **{key: None} if key != "activation" else {key: "swiglu"})


def test_what_transformers_knows_of_generation_is_ignored(tmp_path: Path) -> None:
    """Old versions of transformers wrote these keys into config.json, not
    generation_config.json."""
    from transformers import GenerationConfig, PretrainedConfig

    theirs = theirs_of("GPT2")
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    old = {"torchscript", "use_bfloat16", "sep_token_id", "tf_legacy_loss", "prefix"}
    keys = old.union(
        *(vars(cls()) | cls().to_dict() for cls in (GenerationConfig, PretrainedConfig))
    )
    assert len(keys) > 80
    (tmp_path / "config.json").write_text(
        json.dumps(dict.fromkeys(keys - {"dtype", "is_encoder_decoder"}, 1) | config)
    )
    check_logits(tmp_path, theirs)


@pytest.mark.parametrize("head_dim", [8, 4])
def test_qwen_2_may_name_its_heads_size(head_dim: int, tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    theirs = Qwen2ForCausalLM(Qwen2Config(**SIZES, head_dim=head_dim)).eval()
    theirs.save_pretrained(tmp_path / "hub")
    check_logits(tmp_path / "hub", theirs)
    to_hf(from_hf(tmp_path / "hub"), tmp_path / "back")
    back = Qwen2ForCausalLM.from_pretrained(tmp_path / "back")
    torch.testing.assert_close(back(IDS).logits, theirs(IDS).logits)


# Without a tokenizer


def test_weights_without_a_tokenizer_are_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Transformer(ModelConfig(258, 16, 16, 1, 2)).eval()
    hub, ours, back = (tmp_path / name for name in ("hub", "ours", "back"))
    to_hf(model, hub, end_ids=[7])
    for source, target in ((hub, ours), (ours, back)):
        assert convert(["--from", str(source), "--to", str(target)]) == 0
        [said] = capsys.readouterr().err.splitlines()
        assert said.startswith(f"scratchlm: the source has no tokenizer.json ({source})")
    for name in ("config.json", "model.safetensors"):
        assert (back / name).read_bytes() == (hub / name).read_bytes()
    assert torch.equal(load_model(ours, "cpu")(IDS), model(IDS))
    for folder in (hub, ours):
        assert generate(["--model_path", str(folder), "--prompt", "a"]) == 2
        assert f"no tokenizer ({folder}); add --tokenizer_path" in capsys.readouterr().err
    TOKENIZER.save(tmp_path / "tokenizer.json")
    more = ["--tokenizer_path", str(tmp_path / "tokenizer.json")]
    assert generate(["--model_path", str(ours), "--prompt", "a", "--max_tokens", "1", *more]) == 0
    assert convert(["--from", str(hub), "--to", str(tmp_path / "whole"), *more]) == 0
    assert capsys.readouterr().err == ""
    assert load_with_tokenizer(tmp_path / "whole").tokenizer.hash == TOKENIZER.hash


@pytest.mark.parametrize("kind", ["GPT2", "Mixtral"])
def test_inspect_shows_a_folder_as_a_checkpoint(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tensors have the names of the files and torch's numbers; the config has our names."""
    theirs_of(kind).save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "onnx").mkdir()
    capsys.readouterr()
    assert inspect([str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    weights: dict[str, Tensor] = {}
    for file in tmp_path.glob("*.safetensors"):
        weights |= load_file(file)
    rows = {row["name"]: row for row in found["parameters"]["tensors"]}
    assert rows.keys() == weights.keys()
    for name, row in rows.items():
        tensor = weights[name]
        assert (row["shape"], row["dtype"]) == (list(tensor.shape), "float32")
        assert row["norm"] == pytest.approx(tensor.double().norm().item(), rel=1e-12)
    model = from_hf(tmp_path)
    assert found["parameters"]["count"] == model.num_parameters()
    assert found["config"] == json.loads(json.dumps(vars(model.config), default=vars))
    names = {file.name: file.stat().st_size for file in tmp_path.iterdir() if file.is_file()}
    assert found["files"] == names
    assert (found["path"], found["step"], found["tokenizer"]) == (str(tmp_path), None, None)

    TOKENIZER.save(tmp_path / "tokenizer.json")
    assert inspect([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Hugging Face    {tmp_path}\n")
    assert f"parameters      {model.num_parameters():,} in {len(weights)} tensors" in text
    assert f"tokenizer       258 ids, hash {TOKENIZER.hash}" in text
    assert "step" not in text


def test_inspect_describes_both_in_the_same_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to_hf(Transformer(ModelConfig(258, 16, 16, 1, 2)), tmp_path / "hub", TOKENIZER)
    assert convert(["--from", str(tmp_path / "hub"), "--to", str(tmp_path / "ours")]) == 0
    found = []
    for name in ("hub", "ours"):
        capsys.readouterr()
        assert inspect([str(tmp_path / name), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0].keys() == found[1].keys()
    for key in ("config", "tokenizer", "optimizer"):
        assert found[0][key] == found[1][key]
    change(tmp_path / "hub", hidden_size=8)
    assert inspect([str(tmp_path / "hub")]) == 3
