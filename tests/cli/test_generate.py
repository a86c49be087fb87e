"""`scratchlm-generate`: one seed gives the same texts in every form of output."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import tiny
from scratchlm import BPETokenizer, TextGenerator, save_checkpoint
from scratchlm.cli.generate import main as generate
from scratchlm.convert.hf_folder import to_hf


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tiny.tokenizer(folder)
    save_checkpoint(folder / "model.pt", tiny.model(), None, 1, tokenizer=tokenizer.to_json())
    save_checkpoint(
        folder / "draft.pt", tiny.model(1, num_layers=1), None, 1, tokenizer=tokenizer.to_json()
    )
    to_hf(tiny.model(), folder / "hub", tokenizer)
    tuned = {"tokenizer": tokenizer.to_json(), "end_ids": [tokenizer.token_to_id("a")]}
    save_checkpoint(folder / "tuned.pt", tiny.model(), None, 1, **tuned)
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def call(words: str, model: str = "model.pt") -> str:
        assert generate(["--model_path", model, "--device", "cpu", *words.split()]) == 0
        return capsys.readouterr().out

    return call


def records(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def texts(output: str) -> list[str]:
    """Return the text below each header."""
    parts = ("\n" + output.removesuffix("\n")).split("\n--- ")[1:]
    return [part.partition("\n")[2] for part in parts]


MANY = "--prompt the --prompt cat --num_samples 2 --max_tokens 8 --seed 3"


def test_streamed_together_and_as_json_the_texts_are_the_same(run):
    each = [record["prompt"] + record["text"] for record in records(run(f"{MANY} --json"))]
    assert len(each) == 4
    assert texts(run(MANY)) == each
    assert texts(run(f"{MANY} --stream")) == each
    assert len(set(each)) == 4


def test_a_text_ends_at_the_end_ids_of_the_checkpoint(run, folder):
    a = TextGenerator.load(folder / "model.pt", device="cpu").tokenizer.token_to_id("a")
    words = f"--prompt the --max_tokens 3 --json --logit_bias {a}=1000"
    [longer], [ended] = records(run(words)), records(run(words, "tuned.pt"))
    assert (longer["text"], longer["finish_reason"]) == ("aaa", "length")
    assert (ended["text"], ended["finish_reason"]) == ("", "stop")


def test_one_text_alone_is_the_first_of_many(run):
    alone = run("--prompt the --max_tokens 8 --seed 3")
    first = records(run(f"{MANY} --json"))[0]
    assert alone == f"{first['prompt']}{first['text']}\n"


def test_json_tells_what_was_chosen_and_how_likely_it_was(run, folder):
    [record] = records(run("--prompt the --max_tokens 8 --seed 3 --temperature 0.5 --json"))
    assert record["seed"] == 3
    assert record["finish_reason"] == "length"
    assert record["seconds"] >= record["seconds_to_first_token"] > 0
    writer = TextGenerator.load(folder / "model.pt", device="cpu")
    assert writer.tokenizer.decode(record["ids"]) == record["text"]
    prompt = writer.encode("the")
    with torch.inference_mode():
        logits = tiny.model().eval()(torch.tensor([prompt + record["ids"]]))[0]
    expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(
        -1, torch.tensor(record["ids"])[:, None]
    )
    assert torch.allclose(torch.tensor(record["logprobs"]), expected[:, 0], atol=1e-5)


def test_a_text_without_a_seed_names_the_one_that_gives_it_again(run):
    [record] = records(run("--prompt the --max_tokens 8 --json"))
    [again] = records(run(f"--prompt the --max_tokens 8 --json --seed {record['seed']}"))
    assert again["ids"] == record["ids"]


def test_tokens_stand_with_their_probabilities_where_there_are_no_colours(run):
    [record] = records(run("--prompt the --max_tokens 4 --seed 3 --json"))
    line = run("--prompt the --max_tokens 4 --seed 3 --show_tokens")
    for logprob in record["logprobs"]:
        assert f"({math.exp(logprob):.2f})" in line
    assert "\x1b" not in line


def test_tokens_are_coloured_by_probability(run, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    line = run("--prompt the --max_tokens 4 --seed 3 --show_tokens")
    assert line.count("\x1b[30;48;5;") == line.count("\x1b[0m") == 6 + 4  # the scale, the tokens


def test_beams_show_their_scores(run):
    done = records(run("--prompt the --max_tokens 8 --num_beams 3 --num_samples 2 --json"))
    assert done[0]["score"] >= done[1]["score"]
    assert done[0]["score"] == pytest.approx(sum(done[0]["logprobs"]) / 8, abs=1e-4)


def test_the_aliases_of_the_field(run):
    ours = run("--prompt the --max_tokens 5 --seed 1")
    for words in ("--input_text the --max_new_tokens 5", "--input-text the --max-length 5"):
        assert run(f"{words} --seed 1") == ours


def test_prompts_from_files_and_a_pipe(run, folder, monkeypatch):
    (folder / "prompt.txt").write_bytes(b"the\r\ncat")
    [record] = records(run("--prompt_file prompt.txt --max_tokens 2 --json"))
    assert record["prompt"] == "the\r\ncat"
    stdin = io.TextIOWrapper(io.BytesIO("über".encode()), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    both = records(run("--prompt the --prompt_file - --max_tokens 2 --json"))
    assert [record["prompt"] for record in both] == ["the", "über"]


@pytest.mark.parametrize(
    ("stdin", "prompt"), [(subprocess.PIPE, "a cat"), (subprocess.DEVNULL, "")]
)
def test_a_pipe_is_the_prompt_where_no_other_is_given(folder, stdin, prompt):
    words = [sys.executable, "-m", "scratchlm.cli.generate", "--model_path", folder / "model.pt"]
    process = subprocess.Popen([*words, "--max_tokens", "2", "--json"], stdin=stdin,
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    output, _ = process.communicate(prompt or None)
    assert [record["prompt"] for record in records(output)] == [prompt]


def test_greedy_with_a_draft_from_the_hub_and_in_other_weights(run):
    """A draft model changes no text; int8 and bf16 run; the same model runs from a Hugging Face
    folder."""
    plain = run("--prompt the --max_tokens 12 --temperature 0")
    assert run("--prompt the --max_tokens 12 --temperature 0 --draft_model draft.pt") == plain
    assert run("--prompt the --max_tokens 12 --temperature 0", "hub") == plain
    assert run("--prompt the --max_tokens 12 --temperature 0 --dtype float32") == plain
    assert run("--prompt the --max_tokens 4 --weights int8").startswith("the")
    assert run("--prompt the --max_tokens 4 --dtype bfloat16").startswith("the")


def test_top_p_zero_and_temperature_zero_are_the_likeliest(run):
    greedy = run("--prompt the --max_tokens 12 --temperature 0")
    assert run("--prompt the --max_tokens 12 --top_p 0") == greedy
    assert run("--prompt the --max_tokens 12 --top_k 1") == greedy


def test_the_context_ends_with_a_notice_or_slides(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = ["--model_path", "model.pt", "--prompt", "the", "--max_tokens", "50", "--json",
             "--logit_bias", "299=-inf"]  # or the end token may end it  # fmt: skip
    assert generate(words) == 0
    said = capsys.readouterr()
    [record] = records(said.out)
    assert record["finish_reason"] == "context"
    assert said.err.startswith(f"the context was full after {len(record['ids'])} of 50 tokens")
    assert generate([*words, "--overflow", "slide"]) == 0
    said = capsys.readouterr()
    assert len(records(said.out)[0]["ids"]) == 50
    assert said.err == ""


def test_a_stop_string_and_a_stop_id_end_a_text_before_themselves(run):
    [free] = records(run("--prompt the --max_tokens 12 --seed 5 --json"))
    letter = free["text"][4]
    [cut] = records(run(f"--prompt the --max_tokens 12 --seed 5 --json --stop {letter}"))
    assert cut["text"] == free["text"][: free["text"].index(letter)]
    assert cut["finish_reason"] == "stop"
    id = free["ids"][3]
    [cut] = records(run(f"--prompt the --max_tokens 12 --seed 5 --json --stop_id {id}"))
    assert cut["ids"] == free["ids"][: free["ids"].index(id)]


def test_a_terminal_gets_no_control_characters(run, monkeypatch):
    words = "--prompt a\x1b[2Jb --max_tokens 0"
    assert run(words) == "a\x1b[2Jb\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run(words) == "a\\x1b[2Jb\n"


def test_a_byte_without_a_token_is_told_once_in_one_line(tmp_path, capsys):
    tokenizer = BPETokenizer({0: b"a", 1: b"b", 2: b"ab"}, [(b"a", b"b")])
    save_checkpoint(
        tmp_path / "model.pt", tiny.model(vocab_size=3), None, 1, tokenizer=tokenizer.to_json()
    )
    words = ["--model_path", str(tmp_path / "model.pt"), "--device", "cpu", "--max_tokens", "2"]
    for more in ([], ["--json"], ["--show_tokens"], ["--prompt", "zab"]):
        assert generate([*words, "--prompt", "abz", *more]) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "no token" in line]
        assert len(said) == 1
        assert said[0].startswith("scratchlm: the vocabulary has no token for a byte of the text")
