"""Hugging Face folders: compare logits, text and gradients with `transformers`, and the bytes after
conversion there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.hub_models import MODELS, kinds, theirs_of
from scratchlm import BPETokenizer, ModelConfig, Transformer, generate, load_model
from scratchlm.checkpoint.models import load_with_tokenizer
from scratchlm.cli.convert import main as convert
from scratchlm.convert.hf_folder import from_hf, read_hf_config, to_hf
from scratchlm.convert.hf_tokenizer import read_tokenizer
from scratchlm.errors import FileFormatError
from scratchlm.model.config import MoEConfig


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def loss(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def test_logits_text_and_gradients_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = theirs_of(name)
    theirs.save_pretrained(tmp_path)
    ours = from_hf(tmp_path)
    ids = torch.randint(61, (2, 70))
    mine, other = ours(ids), theirs(ids).logits
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)

    loss(mine, ids).backward()
    loss(other, ids).backward()
    torch.testing.assert_close(
        ours.embedding.weight.grad, theirs.get_input_embeddings().weight.grad, rtol=1e-4, atol=1e-5
    )

    prompt = ids[:1, :5]
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip
    assert generate(ours, prompt[0].tolist(), 64, temperature=0) == expected[0, 5:].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_there_and_back_gives_the_same_bytes(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    theirs_of(name).to(dtype).save_pretrained(tmp_path / "hub", max_shard_size="20KB")
    assert len(list((tmp_path / "hub").glob("*.safetensors"))) > 1
    ours = from_hf(tmp_path / "hub")
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}
    to_hf(ours, tmp_path / "back")
    before: dict[str, Tensor] = {}
    for file in (tmp_path / "hub").glob("*.safetensors"):
        before |= load_file(file)
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(after[key].dtype == dtype and torch.equal(before[key], after[key]) for key in before)

    hub, back = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("hub", "back")
    )
    for key in back.keys() & hub.keys():
        assert back[key] == hub[key] or key in ("attn_pdrop", "n_inner", "head_dim"), key
    one, other = (
        AutoModelForCausalLM.from_pretrained(tmp_path / folder, dtype=dtype).eval()
        for folder in ("hub", "back")
    )
    ids = torch.randint(61, (2, 40))
    assert torch.equal(one(ids).logits, other(ids).logits)


@pytest.mark.slow
def test_gpt2_at_its_real_size(tmp_path: Path) -> None:
    import transformers

    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    theirs.save_pretrained(tmp_path / "hub", max_shard_size="200MB")
    ours = from_hf(tmp_path / "hub")
    assert ours.num_parameters() == 124_439_808
    ids = torch.randint(50_257, (1, 1024))
    mine, other = ours(ids), theirs(ids).logits
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    loss(mine, ids).backward()
    loss(other, ids).backward()
    torch.testing.assert_close(
        ours.embedding.weight.grad, theirs.transformer.wte.weight.grad, rtol=1e-4, atol=1e-5
    )
    expected = theirs.generate(
        ids[:, :20], attention_mask=torch.ones(1, 20), max_new_tokens=64, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert generate(ours, ids[0, :20].tolist(), 64, temperature=0) == expected[0, 20:].tolist()
    to_hf(ours, tmp_path / "back")
    before: dict[str, Tensor] = {}
    for file in (tmp_path / "hub").glob("*.safetensors"):
        before |= load_file(file)
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


# Names and layouts of real files


def test_openais_own_gpt2_file(tmp_path: Path) -> None:
    """Such a file has no `transformer.` before the names, and contains the causal masks."""
    theirs = theirs_of("gpt2")
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(61, (1, 30))
    weights = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    bare |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 96, 96) for layer in range(2)}
    save_file(bare, tmp_path / "model.safetensors", {"format": "pt"})
    torch.testing.assert_close(from_hf(tmp_path)(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)


def test_configs_before_transformers_5(tmp_path: Path) -> None:
    theirs = theirs_of("llama3")
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    path.write_text(json.dumps(config))
    ids = torch.randint(61, (1, 90))
    torch.testing.assert_close(from_hf(tmp_path)(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "mamba"}, r"not supported .*model_type 'mamba'.*use one of gpt2, llama"),
        ({"hidden_act": "gelu"}, r"this kind of llama is not supported .*hidden_act 'gelu'"),
        ({"attention_bias": True}, r"attention_bias True\); use a model with attention_bias False"),
        (
            {"rope_parameters": {"rope_type": "longrope"}},
            r"^these rotary positions .*rope_type 'longrope'\); use a model .* llama3 or yarn$",
        ),
        ({"num_attention_heads": 5}, r"does not describe a valid model .*multiple of num_kv_heads"),
        (
            {"intermediate_size": 40},
            r"shape does not fit config.json .*gate_proj\.weight makes \(48, 32\)",
        ),
        ({"num_hidden_layers": 1}, r"no place in the model .*model\.layers\.1\."),
        ({"num_hidden_layers": 3}, r"weights are missing .*model\.layers\.2\."),
        ({"quantization_config": {"bits": 4}}, r"unknown key .*quantization_config"),
        ({"final_logit_softcapping": 30.0}, r"unknown key .*final_logit_softcapping"),
        ({"is_causal": False}, r"is_causal False\); use a model with is_causal True"),
        ({"intermediate_size": None}, r"intermediate_size is null"),
        ({"layer_types": ["sliding_attention"] * 2}, r"layer_types must all be full_attention"),
        (
            {"model_type": "smollm3", "no_rope_layers": [0, 1]},
            r"no_rope_layers \[0, 1\]\); use a model with a 0 at every nth layer",
        ),
        (
            {"model_type": "smollm3", "use_sliding_window": True},
            r"use_sliding_window True\); use a",
        ),
        (
            {"model_type": "mellum"},
            r"a mellum with experts is not supported .*mlp_layer_types None",
        ),
        ({"model_type": "gemma2"}, r"parts that are not supported .*soft-cap in attention.*; use"),
        ({"model_type": "gpt_oss"}, r"parts that are not supported .*: experts with biases"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, r"rope_scaling .* differ"),
        ({"num_hidden_layers": 10**30}, r"config.json does not describe a valid model"),
        ({"vocab_size": 10**30}, r"config.json does not describe a valid model"),
        ({"model_type": ["llama"]}, r"model_type \['llama'\]"),
        ({"hidden_size": "wide"}, r"config.json does not describe a valid model"),
        ({"num_attention_heads": 0}, r"config.json does not describe a valid model"),
        ({"num_attention_heads": None}, r"config.json does not describe a valid model"),
        ({"rope_parameters": 3}, r"config.json does not describe a valid model"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, r"has no 'low_freq_factor'"),
        ({"rope_parameters": {"rope_theta": [1]}}, r"config.json does not describe a valid model"),
    ],
)
def test_what_cannot_be_read_whole_is_refused(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    theirs_of("llama2" if "attention" not in str(values) else "llama-grouped").save_pretrained(
        tmp_path
    )
    change(tmp_path, **values)
    with pytest.raises(FileFormatError, match=message) as error:
        from_hf(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "values", "windows", "rotary"),
    [
        ("Qwen2", {"use_sliding_window": True, "max_window_layers": 1}, "LSSS", "RRRR"),
        ("Qwen2", {"use_sliding_window": True, "max_window_layers": 9}, "LLLL", "RRRR"),
        ("Qwen3", {"use_sliding_window": True, "max_window_layers": 0}, "SSSS", "RRRR"),
        ("Qwen3", {"sliding_window": 8}, "LLLL", "RRRR"),
        ("Mistral", {"sliding_window": None}, "LLLL", "RRRR"),
        ("SmolLM3", {}, "LLLL", "RRRN"),
        ("SmolLM3", {"no_rope_layer_interval": 3}, "LLLL", "RRNR"),
        ("SmolLM3", {"no_rope_layers": [1, 0, 1, 0]}, "LLLL", "RNRN"),
        ("SmolLM3", {"no_rope_layers": [1] * 6}, "LLLL", "RRRR"),
    ],
)
def test_each_layer_has_the_kind_that_transformers_gives_it(
    kind: str, values: dict[str, Any], windows: str, rotary: str, tmp_path: Path
) -> None:
    import transformers

    hub = getattr(transformers, f"{kind}Config")(num_hidden_layers=4, **values)
    hub.save_pretrained(tmp_path)
    config = read_hf_config(tmp_path)
    assert "".join("L" if window is None else "S" for window in config.windows) == windows
    assert "".join("R" if each else "N" for each in config.rotary) == rotary
    assert getattr(hub, "layer_types", None) in (None, kinds(windows))
    assert set(config.windows) <= {None, getattr(hub, "sliding_window", None)}


def test_a_head_that_is_not_the_embedding_is_refused(tmp_path: Path) -> None:
    theirs_of("llama2").save_pretrained(tmp_path)
    change(tmp_path, tie_word_embeddings=True)
    with pytest.raises(
        FileFormatError, match=r"config\.json ties lm_head\.weight to the embedding"
    ):
        from_hf(tmp_path)


def test_files_of_several_dtypes_become_one(tmp_path: Path) -> None:
    theirs_of("llama2").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        weights | {"lm_head.weight": weights["lm_head.weight"].bfloat16()},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    assert {p.dtype for p in from_hf(tmp_path).parameters()} == {torch.float32}
    whole = weights | {"model.norm.weight": torch.ones(32, dtype=torch.int32)}
    save_file(whole, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        FileFormatError, match=r"floating-point numbers .*model\.norm\.weight has torch\.int32"
    ):
        from_hf(tmp_path)


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    theirs_of("llama2").save_pretrained(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "kept")
    with pytest.raises(FileFormatError, match=r"no Hugging Face model .*config\.json is missing"):
        from_hf(tmp_path)
    for text, reason in [
        ("{", "Expecting"),
        ('{"hidden_size": 64, "hidden_size": 128}', "an object has a key twice: 'hidden_size'"),
        ('{"rope_theta": NaN}', "NaN is not a JSON number"),
    ]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(FileFormatError, match=rf"not valid JSON \(.*config\.json: {reason}"):
            from_hf(tmp_path)
    (tmp_path / "kept").rename(tmp_path / "config.json")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(FileFormatError, match="must fit the file"):
        from_hf(tmp_path)
    weights.unlink()
    with pytest.raises(FileFormatError, match=r"a file of weights is missing .*download the"):
        from_hf(tmp_path)


@pytest.mark.parametrize(
    ("variant", "names"),
    [
        ({"gated_attention": "headwise"}, "llama, without gated_attention headwise"),
        ({"ffn": "relu2"}, "llama, without ffn relu2"),
        ({"attention_sinks": True}, "llama, without attention_sinks True"),
        ({"logit_softcap": 30.0}, "llama, without logit_softcap 30.0"),
        ({"qk_norm": True, "qk_norm_gain": False}, "qwen3, without qk_norm_gain False"),
        ({"window": 8, "bias": True}, "mistral, without bias True"),
        (
            {"window": 8, "window_pattern": "SSL", "nope_every": 4},
            "ministral, without nope_every 4",
        ),
        (
            {"window": 8, "window_pattern": "SL", "local_rope_theta": 1e3},
            "ministral, without local_rope_theta 1000.0",
        ),
        ({"nope_every": 2, "qk_norm": True}, "qwen3, without nope_every 2"),
        ({"moe": MoEConfig(4, 2, num_shared=1)}, "mixtral, without moe.num_shared 1"),
        ({"moe": MoEConfig(4, 2), "qk_norm": True}, "mixtral, without qk_norm True"),
        (
            {
                "norm": "layernorm",
                "position": "learned",
                "ffn": "gelu",
                "bias": True,
                "num_kv_heads": 2,
            },
            "gpt2, without num_kv_heads 2",
        ),
    ],
)
def test_what_the_hub_has_not_is_refused(
    variant: dict[str, Any], names: str, tmp_path: Path
) -> None:
    model = Transformer(ModelConfig(61, 24, 32, 1, 4, **variant))
    with pytest.raises(ValueError, match=rf"no Hugging Face architecture .*nearest is {names}\)"):
        to_hf(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="the path already exists"):
        to_hf(Transformer(ModelConfig(61, 24, 32, 1, 4)), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_commands_keep_every_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    tokenizer = BPETokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["<|endoftext|>"])
    to_hf(Transformer(ModelConfig(257, 32, 32, 2, 4)).to(dtype), tmp_path / "hub", tokenizer)
    assert convert(["--from", str(tmp_path / "hub"), "--to", str(tmp_path / "ours")]) == 0
    assert {p.dtype for p in load_model(tmp_path / "ours", "cpu").parameters()} == {dtype}
    assert convert(["--from", str(tmp_path / "ours"), "--to", str(tmp_path / "back")]) == 0
    for path in (tmp_path / "hub").iterdir():
        assert path.read_bytes() == (tmp_path / "back" / path.name).read_bytes(), path.name


def test_the_ids_that_end_a_text_go_there_and_back(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    special = ["<|begin|>", "<|end|>", "<|eot|>"]
    vocab = {byte: bytes([byte]) for byte in range(256)}
    vocab |= {256 + n: token.encode() for n, token in enumerate(special)}
    tokenizer = BPETokenizer(vocab, [], special)
    model = Transformer(ModelConfig(len(tokenizer), 32, 32, 1, 4))
    to_hf(model, tmp_path / "none", tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "none")
    assert theirs.generation_config.eos_token_id is None  # not 2, as LlamaConfig has it
    to_hf(model, tmp_path / "hub", tokenizer, [257, 258], [256])
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hub")
    assert (theirs.bos_token, theirs.eos_token) == ("<|begin|>", "<|end|>")
    assert theirs("hello").input_ids == [256, *b"hello"]
    assert convert(["--from", str(tmp_path / "hub"), "--to", str(tmp_path / "ours")]) == 0
    assert load_with_tokenizer(tmp_path / "ours")[2:] == ([257, 258], [256], None)
    assert convert(["--from", str(tmp_path / "ours"), "--to", str(tmp_path / "back")]) == 0
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        there, here = ((tmp_path / folder / name).read_bytes() for folder in ("hub", "back"))
        assert there == here, name
    change(tmp_path / "back", eos_token_id="<|end|>")
    with pytest.raises(
        FileFormatError, match=r"eos_token_id must be an id or a list .*'<\|end\|>'"
    ):
        load_with_tokenizer(tmp_path / "back")


def test_mapped_weights_change_in_memory_only(tmp_path: Path) -> None:
    theirs_of("llama2").save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    model = from_hf(tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (tmp_path / "model.safetensors").read_bytes() == before


# The commands


def test_a_trained_model_writes_the_same_text_in_transformers(tmp_path: Path) -> None:
    """Tokenize, train and convert with the commands. Both models continue a prompt greedily."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from scratchlm.cli.train import main as train

    text = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 40
    (tmp_path / "text.txt").write_text(text)
    run, hub, back = (str(tmp_path / name) for name in ("run", "hub", "back"))
    assert train(["--train_data", str(tmp_path / "text.txt"), "--vocab_size", "300", "--d_model",
                  "32", "--num_heads", "4", "--num_kv_heads", "2", "--num_layers", "2", "--d_ff",
                  "64", "--max_seq_len", "64", "--batch_size", "8", "--iterations", "60",
                  "--lr", "1e-2", "--device", "cpu", "--model.vocab_multiple", "64",
                  "--out", run]) == 0  # fmt: skip
    assert convert(["--from", run, "--to", hub]) == 0
    ours, tokenizer = load_model(run, "cpu"), read_tokenizer(hub)
    theirs, their_tokenizer = (
        kind.from_pretrained(hub) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    assert isinstance(tokenizer, BPETokenizer)
    prompt = their_tokenizer("It was the", return_tensors="pt")
    assert prompt.input_ids[0].tolist() == tokenizer.encode("It was the")
    expected = theirs.generate(**prompt, max_new_tokens=40, do_sample=False)[0].tolist()
    stop = [tokenizer.token_to_id("<|endoftext|>")]
    mine = generate(ours, tokenizer.encode("It was the"), 40, temperature=0, stop=stop)
    assert tokenizer.encode("It was the") + mine == expected
    assert "best of times" in their_tokenizer.decode(expected)

    assert convert(["--from", hub, "--to", back]) == 0
    again = load_model(back, "cpu").state_dict()
    for name, weight in ours.state_dict().items():  # the padding rows do not go to the hub
        assert torch.equal(weight[: again[name].shape[0]], again[name])


def test_a_text_begins_as_the_folders_tokenizer_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from scratchlm.cli.generate import main as generate_text

    vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b"<|begin|>"}
    tokenizer = BPETokenizer(vocab, [], ["<|begin|>"])
    model = Transformer(ModelConfig(257, 32, 32, 1, 4))
    with torch.no_grad():  # text that can be read: printable bytes only
        model.lm_head.weight[:33], model.lm_head.weight[127:] = 0.0, 0.0
    to_hf(model, tmp_path / "hub", tokenizer, start_ids=[256])
    theirs, words = (
        kind.from_pretrained(tmp_path / "hub") for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    prompt = words("hello", return_tensors="pt")
    prompt.pop("token_type_ids", None)
    expected = theirs.generate(**prompt, max_new_tokens=20, do_sample=False, pad_token_id=0)
    arguments = ["--prompt", "hello", "--max_tokens", "20", "--temperature", "0", "--device", "cpu"]
    assert generate_text(["--model_path", str(tmp_path / "hub"), *arguments]) == 0
    assert capsys.readouterr().out == words.decode(expected[0], skip_special_tokens=True) + "\n"


def test_generating_from_a_folder_of_the_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from scratchlm.cli.generate import main as generate_text

    tokenizer = BPETokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["<|endoftext|>"])
    model = Transformer(ModelConfig(len(tokenizer), 32, 32, 1, 4))
    to_hf(model, tmp_path / "hub", tokenizer)
    arguments = ["--prompt", "hello", "--max_tokens", "5", "--seed", "1", "--device", "cpu"]
    assert generate_text(["--model_path", str(tmp_path / "hub"), *arguments]) == 0
    assert capsys.readouterr().out.startswith("hello")
    assert convert(["--from", str(tmp_path / "absent"), "--to", str(tmp_path / "x")]) == 2
    assert "the checkpoint does not exist" in capsys.readouterr().err
