"""A real SmolLM2-135M-Instruct, as scripts/fetch_real_files.py makes it: what users will load."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scratchlm import BPETokenizer, TextGenerator, generate, load_model
from scratchlm.chat.conversation import Conversation
from scratchlm.chat.running_text import find_template
from scratchlm.cli.chat import main as chat
from scratchlm.cli.convert import main as convert
from scratchlm.cli.generate import main as generate_text

pytestmark = pytest.mark.real

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "In 1969, 3 people flew 384,400 km to the moon; ",
    "Als die Sonne über 北京 aufging, 🙂 ",
    "<|im_start|>user\nWhat is 17 + 25?<|im_end|>\n<|im_start|>assistant\n",
)
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QUESTION = "How many days are in a week?"  # no other id comes within half a logit of its answer's


@pytest.fixture(scope="module")
def smollm2(real_files: Path) -> Path:
    folder = real_files / "models" / "SmolLM2-135M-Instruct"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}; run scripts/fetch_real_files.py")
    return folder


@pytest.fixture(scope="module")
def theirs(smollm2: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def words(smollm2: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_64_greedy_ids_are_those_of_transformers(
    smollm2: Path, theirs: Any, words: Any, prompt: str
) -> None:
    model = load_model(smollm2, "cpu").float()
    writer = TextGenerator(model, BPETokenizer.load(smollm2 / "tokenizer.json"), end_ids=[])
    read = words(prompt, return_tensors="pt")
    expected = theirs.generate(
        **read, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0].tolist()
    ids = writer.encode(prompt)
    assert ids == expected[: len(ids)]
    [done] = writer.complete(prompt, 64, temperature=0)
    assert done.ids == expected[len(ids) :]
    assert generate(model, ids, 64, temperature=0) == expected[len(ids) :]


@pytest.mark.parametrize("weights", ["stored", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_command_writes_what_it_knows(
    smollm2: Path, dtype: str, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dtype", dtype, "--weights", weights, "--device", "cpu", "--temperature", "0"]
    how = [*flags, "--max_tokens", "5", "--prompt", PROMPTS[0]]
    assert generate_text(["--model_path", str(smollm2), *how]) == 0
    assert "Paris" in capsys.readouterr().out


@pytest.mark.parametrize("weights", ["stored", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_conversation_is_chatml_and_a_reply_ends(
    smollm2: Path, dtype: torch.dtype, weights: Any
) -> None:
    writer = TextGenerator.load(smollm2, device="cpu", dtype=dtype, weights=weights)
    assert writer.tokenizer.decode(writer.end_ids) == "<|im_end|>"
    conversation = Conversation(writer, find_template("auto", writer), SYSTEM)
    assert conversation.template.name == "chatml"
    said = "".join(conversation.reply(QUESTION, 60, temperature=0))
    assert "7 days" in said
    assert "<|" not in said
    assert conversation.finish_reason == "stop"


def test_the_chat_command_takes_chatml_and_ends_a_reply(
    smollm2: Path, words: Any, theirs: Any, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reply equals the reply of transformers with the system text of SmolLM2's own template."""
    turns = [{"role": "user", "content": QUESTION}]
    read = words.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = theirs.generate(**read, max_new_tokens=60, do_sample=False)[0]
    said = said[read["input_ids"].shape[1] :]
    assert words.decode(said).endswith("<|im_end|>")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n"))
    flags = ["--temperature", "0", "--max_tokens", "60", "--device", "cpu", "--system", SYSTEM]
    assert chat(["--model_path", str(smollm2), *flags]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == words.decode(said, skip_special_tokens=True)
    assert "chatml" in captured.err


def test_there_and_back_gives_the_same_bytes(smollm2: Path, words: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint, back = str(tmp_path / "checkpoint"), str(tmp_path / "back")
    assert convert(["--from", str(smollm2), "--to", checkpoint]) == 0
    assert convert(["--from", checkpoint, "--to", back]) == 0
    before, after = (load_file(Path(f) / "model.safetensors") for f in (smollm2, back))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    text = "".join(PROMPTS)
    assert AutoTokenizer.from_pretrained(back)(text).input_ids == words(text).input_ids
    one, other = (json.loads((Path(f) / "config.json").read_text()) for f in (smollm2, back))
    assert all(one[key] == other[key] for key in ("eos_token_id", "rope_theta", "vocab_size"))
    assert AutoModelForCausalLM.from_pretrained(back).config.tie_word_embeddings
