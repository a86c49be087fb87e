"""Bad input to `scratchlm-generate`, checked as in test_bad_input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import tiny
from helpers.refusals import check_refusal
from scratchlm import save_checkpoint
from scratchlm.cli.generate import main as generate


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    tokenizer = tiny.tokenizer(folder).to_json()
    other = tiny.tokenizer(folder, 290).to_json()
    models = {
        "model.pt": (tiny.model(), tokenizer),
        "short.pt": (tiny.model(context_length=1), tokenizer),
        "window.pt": (tiny.model(window=5), tokenizer),
        "other.pt": (tiny.model(vocab_size=290), other),
    }
    for name, (model, text) in models.items():
        save_checkpoint(folder / name, model, None, 1, tokenizer=text)
    nan = tiny.model()
    nan.lm_head.weight.data.fill_(float("nan"))
    save_checkpoint(folder / "nan.pt", nan, None, 1, tokenizer=tokenizer)
    (folder / "latin1.txt").write_bytes("café".encode("latin-1"))
    (folder / "long.txt").write_text(tiny.text(100))
    (folder / "folder").mkdir()
    return folder


BIAS = " ".join(f"--logit_bias {id}=-inf" for id in range(300))
MORE = "--num_beams 2 --num_samples"
CASES = [  # behind `--model_path model.pt --prompt the`: the code, and what the line names
    ("--temperature -0.5", 2, "temperature must be finite and at least 0 (-0.5)"),
    ("--temperature inf", 2, "(inf)"),
    ("--temperature nan", 2, "(nan)"),
    ("--top_k -1", 2, "top_k must be at least 0, where 0 means off (-1)"),
    ("--top_k 301", 2, "top_k must be at most vocab_size (301, vocab_size 300)"),
    ("--top_k 2.5", 2, "2.5"),
    ("--top_p -0.1", 2, "top_p must be from 0 to 1 (-0.1)"),
    ("--top_p 1.01", 2, "(1.01)"),
    ("--top_p nan", 2, "(nan)"),
    ("--min_p 2", 2, "min_p must be from 0 to 1 (2.0)"),
    ("--min_p nan", 2, "(nan)"),
    ("--typical_p 0", 2, "typical_p must be above 0 and at most 1 (0.0)"),
    ("--typical_p 1.5", 2, "(1.5)"),
    ("--repetition_penalty 0", 2, "from 0.01 to 100, where 1 means off (0.0)"),
    ("--repetition_penalty -1", 2, "(-1.0)"),
    ("--repetition_penalty nan", 2, "(nan)"),
    ("--presence_penalty 1e9", 2, "presence_penalty must be from -100 to 100"),
    ("--frequency_penalty nan", 2, "from -100 to 100, where 0 means off (nan)"),
    ("--no_repeat_ngram_size -1", 2, "must be at least 0, where 0 means off (-1)"),
    ("--min_new_tokens -2", 2, "min_new_tokens must be at least 0, where 0 means off (-2)"),
    ("--min_new_tokens 20 --max_tokens 10", 2, "at most max_tokens (20, max_tokens 10)"),
    ("--logit_bias 5", 2, "must be ID=VALUE ('5')"),
    ("--logit_bias a=1", 2, "must be ID=VALUE ('a=1')"),
    ("--logit_bias 300=1", 2, "not in the vocabulary (300, vocab_size 300)"),
    ("--logit_bias -1=1", 2, "--flag=VALUE"),
    ("--logit_bias=-1=1", 2, "(-1, vocab_size 300)"),
    ("--logit_bias 5=nan", 2, "logit_bias of id 5 must be a number or -inf (nan)"),
    ("--logit_bias 5=inf", 2, "(inf)"),
    ("--logit_bias 5=1 --logit_bias 5=2", 2, "two values for one id (logit_bias 5=1.0, 5=2.0)"),
    (BIAS, 4, "every token is banned"),
    ("--max_tokens -1", 2, "max_tokens must be at least 0 (-1)"),
    ("--max_tokens 1e3", 2, "1e3"),
    ("--max_tokens 5 --max_new_tokens 6", 2, "two values for one option (--max_tokens 5"),
    ("--model other.pt", 2, "two values for one option (--model_path model.pt, --model other.pt)"),
    ("--num_samples 0", 2, "num_samples must be from 1 to 10,000 (0)"),
    ("--num_samples 100000000", 2, "(100000000)"),
    ("--stop=", 2, "a stop string must not be empty ('')"),
    ("--stop_id 300", 2, "a stop id is not in the vocabulary (300, vocab_size 300)"),
    ("--stop_id -1", 2, "(-1, vocab_size 300)"),
    ("--overflow roll", 2, "roll"),
    ("--seed -1", 2, "seed must be from 0"),
    ("--seed 9223372036854775808", 2, "(9223372036854775808)"),
    ("--prompt_file missing.txt", 2, "missing.txt"),
    ("--prompt_file folder", 2, "folder"),
    ("--prompt_file latin1.txt", 2, "a prompt must be UTF-8 (latin1.txt, byte 3)"),
    ("--prompt_file long.txt", 2, "longer than the context"),
    ("--input_text a\udcffb", 2, "the text must be UTF-8"),
    ("--num_beams 0", 2, "num_beams must be from 1 to 1000 (0)"),
    ("--num_beams 2000", 2, "(2000)"),
    ("--num_beams 4 --temperature 0.7", 2, "beam search does not sample (temperature 0.7)"),
    ("--num_beams 4 --top_k 5", 2, "(top_k 5)"),
    (f"{MORE} 3", 2, "from 1 to num_beams texts (3, num_beams 2)"),
    ("--num_beams 2 --stop x", 2, "beam search does not accept stop strings (stop 'x')"),
    ("--num_beams 2 --length_penalty nan", 2, "length_penalty must be from -20 to 20 (nan)"),
    ("--num_beams 2 --early_stopping maybe", 2, "must be true, false or never ('maybe')"),
    ("--length_penalty 2", 2, "--length_penalty (2.0) needs --num_beams"),
    ("--early_stopping true", 2, "--early_stopping (True) needs --num_beams"),
    ("--num_draft 4", 2, "--num_draft (4) needs --draft_model"),
    ("--draft_model missing.pt", 2, "missing.pt"),
    ("--draft_model other.pt", 2, "must have the model's tokenizer (other.pt)"),
    ("--draft_model model.pt --num_draft 0", 2, "num_draft must be from 1 to 100 (0)"),
    ("--draft_model model.pt --overflow slide", 2, "(overflow slide)"),
    ("--draft_model model.pt --num_beams 2", 2, "not accept a draft model (draft_model)"),
    ("--json --show_tokens", 2, "must have one format (--json, --show_tokens)"),
    ("--json --stream", 2, "only plain text can be streamed (--stream, --json)"),
    ("--dtype float16", 2, "float16"),
    ("--weights int4", 2, "int4"),
    ("--compile maybe", 2, "maybe"),
    ("--top-q 5", 2, "no such flag (--top-q); did you mean --"),
]  # fmt: skip
MODELS = [  # whole command lines
    ("--model_path nan.pt --prompt the", 4, "the model diverged"),
    ("--model_path nan.pt --prompt the --num_beams 2", 4, "the model diverged"),
    ("--model_path short.pt --prompt the --overflow slide", 2, "a context of 1 token cannot slide"),
    ("--model_path window.pt --prompt the --compile on", 2, "sliding window cannot be compiled"),
]


def check(words, code, names, capsys):
    check_refusal(generate, [*words.split(" "), "--device", "cpu"], code, names, capsys)


@pytest.mark.parametrize(
    ("arguments", "code", "names"), CASES, ids=[case[0][:40] for case in CASES]
)
def test_bad_input_gets_one_line(prepared, monkeypatch, capsys, arguments, code, names):
    monkeypatch.chdir(prepared)
    check(f"--model_path model.pt --prompt the {arguments}", code, names, capsys)


@pytest.mark.parametrize(("arguments", "code", "names"), MODELS)
def test_a_bad_model_gets_one_line(prepared, monkeypatch, capsys, arguments, code, names):
    monkeypatch.chdir(prepared)
    check(arguments, code, names, capsys)


def test_a_closed_pipe_is_a_normal_end(prepared):
    words = f"{sys.executable} -m scratchlm.cli.generate --model_path model.pt --prompt the"
    done = subprocess.run(
        f"set -o pipefail; {words} --num_samples 500 --stream | head -c 20",
        shell=True, executable="/bin/bash", cwd=prepared, capture_output=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
