"""Bad input to conversion, drawing and dry runs, checked as in test_bad_input."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from helpers import tiny
from helpers.refusals import check_refusal
from scratchlm import BPETokenizer, ModelConfig, Transformer, save_checkpoint
from scratchlm.cli.convert import main as convert
from scratchlm.cli.generate import main as generate
from scratchlm.cli.plot import main as plot
from scratchlm.cli.train import main as train
from scratchlm.convert.hf_folder import to_hf

MAIN: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "generate": generate,
    "convert": convert,
    "plot": plot,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad Hugging Face folders and checkpoints."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = BPETokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["<|endoftext|>"])
    shape = {"vocab_size": len(tokenizer), "context_length": 16, "d_model": 16, "num_layers": 1,
             "num_heads": 2}  # fmt: skip
    model = Transformer(ModelConfig(**shape))
    to_hf(model, folder / "hub", tokenizer)
    to_hf(model, folder / "no-tokenizer")
    gated = Transformer(ModelConfig(**shape, gated_attention="headwise"))
    save_checkpoint(folder / "gated", gated, None, 0, tokenizer=tokenizer.to_json())
    save_checkpoint(folder / "plain", model, None, 0, tokenizer=tokenizer.to_json())
    for name, values in {
        "mamba": {"model_type": "mamba"},
        "deeper": {"num_hidden_layers": 2},
        "shallower": {"num_hidden_layers": 0},
        "wider": {"hidden_size": 32},
    }.items():
        to_hf(model, folder / name, tokenizer)
        config = json.loads((folder / name / "config.json").read_text())
        (folder / name / "config.json").write_text(json.dumps(config | values))
    to_hf(model, folder / "cut", tokenizer)
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    to_hf(model, folder / "no-weights", tokenizer)
    (folder / "no-weights" / "model.safetensors").unlink()
    to_hf(model, folder / "bad-index", tokenizer)
    (folder / "bad-index" / "model.safetensors.index.json").write_text('{"weight_map": [1]}')
    larger = BPETokenizer(tokenizer.vocab | {257: b"<|user|>"}, [], ["<|endoftext|>", "<|user|>"])
    to_hf(model, folder / "larger")
    larger.save(folder / "larger" / "tokenizer.json")
    to_hf(model, folder / "deep", tokenizer)
    (folder / "deep" / "config.json").write_text("[" * 100_000)
    to_hf(model, folder / "deep-header", tokenizer)
    deep = b"[" * 100_000
    header = len(deep).to_bytes(8, "little") + deep
    (folder / "deep-header" / "model.safetensors").write_bytes(header)
    (folder / "model.toml").write_text("model = 3\n")
    (folder / "wrong.toml").write_text("[model]\nd_model = 30\nnum_heads = 4\n")
    huge = "vocab_size = 1000\ncontext_length = 8\nd_model = 4096\nnum_layers = 9\nnum_heads = 4\n"
    (folder / "huge.toml").write_text("[model]\n" + huge)
    (folder / "empty.bin").write_bytes(b"")
    tiny.corpus(folder, 100)
    return folder


DRY = "--dry_run --vocab_size 300 "
CASES = [
    ("convert", "", 2, "--from"),
    ("convert", "--from hub", 2, "--to"),
    ("convert", "--from missing --to new", 2, "missing"),
    ("convert", "--from hub --to plain", 2, "the target must be a new path (plain)"),
    ("convert", "--from plain --to hub", 2, "the target must be a new path (hub)"),
    ("convert", "--from hub --to hub", 2, "the target must be a new path (hub)"),
    ("convert", "--from plain --to corpus.txt", 2, "the target must be a new path (corpus.txt)"),
    ("convert", "--from gated --to new", 2, "no Hugging Face architecture fits this model"),
    ("convert", "--from mamba --to new", 3, "model_type 'mamba'"),
    ("convert", "--from deeper --to new", 3, "weights are missing (deeper: model.layers.1."),
    ("convert", "--from shallower --to new", 3, "num_layers must be a positive integer (0)"),
    ("convert", "--from wider --to new", 3, "shape does not fit config.json"),
    ("convert", "--from cut --to new", 3, "cut/model.safetensors"),
    ("convert", "--from no-weights --to new", 3, "no-weights/model.safetensors"),
    ("convert", "--from bad-index --to new", 3, "bad-index"),
    ("convert", "--from larger --to new", 3, "258 ids, vocab_size 257"),
    ("convert", "--from deep --to new", 3, "deep/config.json"),
    ("convert", "--from deep-header --to new", 3, "deep-header/model.safetensors"),
    ("generate", "--model_path no-tokenizer --prompt a", 2, "--tokenizer_path"),
    ("convert", "--from hub --to new --tokenizer_path missing.json", 2, "missing.json"),
    ("convert", "--from hub --to new --form x", 2, "--form"),
    ("generate", "--model_path mamba --prompt a", 3, "model_type 'mamba'"),
    ("generate", "--model_path cut --prompt a", 3, "cut/model.safetensors"),
    ("generate", "--model_path missing --dry_run", 2, "missing"),
    ("generate", "--model_path wider --prompt a", 3, "shape does not fit config.json"),
    ("train", "--dry_run", 2, "set --vocab_size N"),
    ("train", DRY + "--resume auto", 2, "--dry_run cannot read a run (auto)"),
    ("train", DRY + "--config missing.toml", 2, "missing.toml"),
    ("train", DRY + "--config model.toml", 2, "model must be a section"),
    ("train", DRY + "--config wrong.toml", 2, "use d_model 32"),
    ("train", DRY + "--d_ff 0", 2, "d_ff"),
    ("train", DRY + "--batch_size 0", 2, "batch_size"),
    ("train", DRY + "--optimizer lion", 2, "adamw, muon, sgd"),
    ("train", DRY + "--model.window 0", 2, "window"),
    ("train", DRY + "--model.moe.num_experts 4", 2, "model.moe.num_active"),
    ("train", DRY + "--model.moe.num_experts 4 --model.moe.num_active 5", 2, "(5) must be at most"),
    ("train", DRY + "--model.gated_attention twice", 2, "elementwise, headwise"),
    ("train", DRY + "--model.rope_scaling.kind ntk", 2, "linear, llama3, yarn"),
    ("train", DRY + "--model.init orthogonal", 2, "truncated, gpt2, xavier, kaiming"),
    ("plot", "", 2, "are required: figure; for example: scratchlm-plot init"),
    ("plot", "scaling", 2, "scaling"),
    ("plot", "init --steps 0", 2, "(0)"),
    ("plot", "init --steps few", 2, "few"),
    ("plot", "init --output init.pdf", 2, "init.pdf"),
    ("plot", "init --config huge.toml", 2, "parameters for four training runs"),
    ("plot", "init --output no/such/init.png", 2, "no/such/init.png"),
    ("plot", "init --config missing.toml", 2, "missing.toml"),
    ("plot", "init --config model.toml", 2, "model must be a section"),
    ("plot", "init --config wrong.toml", 2, "model.vocab_size"),
    ("plot", "init --train_data missing.bin", 2, "missing.bin"),
    ("plot", "init --train_data empty.bin", 3, "empty.bin"),
]


@pytest.mark.parametrize(("command", "arguments", "code", "names"), CASES)
def test_bad_input_gets_one_line(
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    arguments: str,
    code: int,
    names: str,
) -> None:
    monkeypatch.chdir(models)
    words = arguments.split(" ") if arguments else []
    check_refusal(MAIN[command], words, code, names, capsys)
