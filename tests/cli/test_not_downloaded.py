"""If a file is really a Git LFS pointer or a web page, the error of each command says so."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest

from helpers import tiny
from helpers.refusals import check_refusal
from scratchlm import BPETokenizer, save_checkpoint
from scratchlm.cli.command import command
from scratchlm.cli.generate import main as generate
from scratchlm.convert.hf_folder import to_hf
from scratchlm.errors import Notice

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
PAGE = b"\n<!DOCTYPE HTML>\n<html class=''><head><title>model.safetensors</title></head></html>\n"
INSTEAD = {
    "pointer": (
        POINTER,
        "this file is a Git LFS pointer, not the real file",
        "fetch the real file with git lfs pull",
    ),
    "page": (PAGE, "this file is an HTML page", "download the real file"),
}
TOKENIZER = BPETokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["<|endoftext|>"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    model = tiny.model()
    to_hf(model, folder / "hub", TOKENIZER)
    save_checkpoint(folder / "ours", model, None, 0, tokenizer=TOKENIZER.to_json())
    save_checkpoint(folder / "ours.pt", model, None, 0, tokenizer=TOKENIZER.to_json())
    TOKENIZER.save(folder / "tokenizer.json")
    shutil.copy(folder / "hub" / "model.safetensors", folder / "weights.safetensors")
    shutil.copytree(folder / "hub", folder / "gpt2")
    (folder / "gpt2" / "tokenizer.json").unlink()
    names = {bytes([b]).decode("latin1"): b for b in range(256)}
    (folder / "gpt2" / "vocab.json").write_text(json.dumps(names))
    (folder / "gpt2" / "merges.txt").write_text("#version: 0.2\n")
    shutil.copytree(folder / "hub", folder / "shards")
    (folder / "shards" / "model.safetensors.index.json").write_text("{}")
    shutil.copytree(folder / "hub", folder / "pickled")
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    return folder


FILES = [
    "hub/model.safetensors", "hub/config.json", "hub/tokenizer.json", "hub/generation_config.json",
    "shards/model.safetensors.index.json", "pickled/pytorch_model.bin", "gpt2/vocab.json",
    "ours/model.safetensors", "ours/config.json", "ours/state.json", "ours/manifest.json",
    "ours.pt", "weights.safetensors",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "pointer") for name in FILES), *((n, "page") for n in FILES[:3])]
)
def test_what_lies_there_instead_is_named(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    kind: str,
) -> None:
    content, what, remedy = INSTEAD[kind]
    top = name.split("/")[0]
    copy = shutil.copytree if (whole / top).is_dir() else shutil.copy
    copy(whole / top, tmp_path / top)
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    words = ["--model_path", top, "--prompt", "a", "--max_tokens", "1", "--device", "cpu"]
    check_refusal(generate, words, 3, f"{what} ({name}); {remedy}", capsys)


@pytest.mark.parametrize("kind", INSTEAD)
def test_a_tokenizer_that_is_given(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    (tmp_path / "other.json").write_bytes(INSTEAD[kind][0])
    words = ["--model_path", str(whole / "ours"), "--tokenizer_path", str(tmp_path / "other.json")]
    assert generate([*words, "--prompt", "a"]) == 3
    assert INSTEAD[kind][1] in capsys.readouterr().err


def test_a_run_of_a_command_prints_an_equal_notice_once_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @command()
    def main(argv: object) -> None:
        for _ in range(2):
            warnings.warn("an id was\ndropped (7)", Notice, stacklevel=2)

    for _ in range(2):
        assert main([]) == 0
        assert capsys.readouterr().err == "scratchlm: an id was dropped (7)\n"
    with pytest.warns(Notice):  # what shows warnings is as it was
        warnings.warn("another", Notice, stacklevel=2)
