"""A model's chat template in folders of the hub: transformers as oracle, and all conversions."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import tiny
from helpers.chat_templates import CHATML, LLAMA3, SPECIALS, dialogue, tokenizer_with
from helpers.refusals import check_refusal
from scratchlm import BPETokenizer, TextGenerator, load_model, save_checkpoint, to_hf
from scratchlm.chat.running_text import find_template
from scratchlm.checkpoint.models import load_with_tokenizer
from scratchlm.cli.convert import main as convert
from scratchlm.cli.inspect import main as inspect
from scratchlm.convert.hf_tokenizer import tokenizer_files
from scratchlm.convert.peft_folder import to_peft
from scratchlm.model.config import LoRAConfig
from scratchlm.tokenizer.chat_template import FORMS, ChatTemplate

TOKENIZER = tokenizer_with(*SPECIALS)
ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "plain_alpaca": "<|endoftext|>"}


def end_of(name: str) -> int:
    return TOKENIZER.token_to_id(ENDS[name])


def tuned(path: Path, name: str, **changes: Any) -> Path:
    """Save a model as a run of fine-tuning does."""
    model = tiny.model(vocab_size=len(TOKENIZER))
    more: dict[str, Any] = {"template": name, "end_ids": [TOKENIZER.token_to_id(ENDS[name])]}
    save_checkpoint(path, model, None, 1, **({"tokenizer": TOKENIZER.to_json()} | more | changes))
    return path


def run(*words: object) -> None:
    assert convert([str(word) for word in words]) == 0


@pytest.mark.parametrize("name", FORMS)
def test_a_written_folder_gives_our_ids_in_transformers(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    to_hf(tiny.model(vocab_size=len(TOKENIZER)), tmp_path / "hub", TOKENIZER, template=name)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hub")
    ours, chance = ChatTemplate(name, TOKENIZER), random.Random(7)
    for _ in range(300):
        messages = dialogue(chance)
        for prompt, expected in (
            (messages[:-1], ours.encode(messages[:-1])),
            (messages, ours.encode_dialogue(messages).ids),
        ):
            ids = theirs.apply_chat_template(
                prompt, add_generation_prompt=prompt != messages, return_dict=False
            )
            assert ids == expected, messages


@pytest.mark.parametrize(
    ("name", "begin"),
    [("chatml", "<|endoftext|>"), ("llama3", "<|begin_of_text|>"),
     ("plain_alpaca", "<|endoftext|>")],
)  # fmt: skip
def test_the_end_of_an_answer_ends_a_text_in_transformers(
    name: str, begin: str, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    other = TOKENIZER.token_to_id("the")
    model = tiny.model(vocab_size=len(TOKENIZER))
    for end_ids, expected in (([], end_of(name)), ([other, end_of(name)], [end_of(name), other])):
        folder = tmp_path / str(len(end_ids))
        to_hf(model, folder, TOKENIZER, end_ids, template=name)
        theirs = AutoTokenizer.from_pretrained(folder)
        assert (theirs.eos_token, theirs.bos_token) == (ENDS[name], begin)
        assert theirs("the cat").input_ids == TOKENIZER.encode("the cat")
        assert GenerationConfig.from_pretrained(folder).eos_token_id == expected
        assert json.loads((folder / "config.json").read_text())["eos_token_id"] == expected


@pytest.mark.parametrize(
    ("name", "target"), [("chatml", "back"), ("llama3", "back"), ("plain_alpaca", "back.pt")]
)
def test_a_template_goes_there_and_back(
    name: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--from", tuned(tmp_path / "run.pt", name), "--to", tmp_path / "hub")
    run("--from", tmp_path / "hub", "--to", tmp_path / target)
    for path in ("run.pt", "hub", target):
        loaded = load_with_tokenizer(tmp_path / path)
        assert (loaded.template, loaded.end_ids) == (name, [end_of(name)]), path
        writer = TextGenerator.load(tmp_path / path, device="cpu")
        assert find_template("auto", writer).name == name
        assert find_template("plain", writer).name == "plain"
        capsys.readouterr()
        assert inspect([str(tmp_path / path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["template"] == name
    run("--from", tmp_path / target, "--to", tmp_path / "again")
    for file in (tmp_path / "hub").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_a_folder_that_transformers_saved_keeps_its_template(tmp_path: Path) -> None:
    """Newer versions write the template to a file of its own. Old ones may name several."""
    from transformers import AutoTokenizer

    hub = tmp_path / "hub"
    to_hf(tiny.model(vocab_size=len(TOKENIZER)), hub, TOKENIZER, template="plain_alpaca")
    AutoTokenizer.from_pretrained(hub).save_pretrained(hub)
    assert (hub / "chat_template.jinja").exists()
    assert load_with_tokenizer(hub).template == "plain_alpaca"
    (hub / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert load_with_tokenizer(hub).template is None
    assert find_template("auto", TextGenerator.load(hub, device="cpu")).name == "chatml"
    (hub / "chat_template.jinja").unlink()
    several = [{"name": name, "template": FORMS[name].jinja} for name in ("chatml", "llama3")]
    several[1]["name"] = "default"
    for stored, expected in ((several, "llama3"), (several[:1], None), ([5], None), (5, None)):
        (hub / "tokenizer_config.json").write_text(json.dumps({"chat_template": stored}))
        assert load_with_tokenizer(hub).template == expected


def test_the_markers_of_a_folder_must_fit_its_template(tmp_path: Path) -> None:
    """A folder without a template, or without its markers, has no recorded template."""
    tokenizer = tokenizer_with("<|endoftext|>", *LLAMA3)
    to_hf(tiny.model(vocab_size=len(tokenizer)), tmp_path / "hub", tokenizer)
    assert load_with_tokenizer(tmp_path / "hub").template is None
    assert not (tmp_path / "hub" / "generation_config.json").exists()
    stored = json.dumps({"chat_template": FORMS["chatml"].jinja})
    (tmp_path / "hub" / "tokenizer_config.json").write_text(stored)
    assert load_with_tokenizer(tmp_path / "hub").template is None
    assert find_template("auto", TextGenerator.load(tmp_path / "hub")).name == "llama3"


@pytest.mark.parametrize("name", ["chatml", "plain_alpaca"])
def test_an_adapter_keeps_the_template(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = tiny.model(vocab_size=len(TOKENIZER))
    to_hf(base, tmp_path / "base", TOKENIZER)
    model = load_model(tmp_path / "base", "cpu")
    model.add_lora(LoRAConfig(2, targets=("q_proj",)))
    torch.nn.init.normal_(model.layers[0].attn.q_proj.lora_B)
    more = {"tokenizer": TOKENIZER.to_json(), "template": name, "end_ids": [end_of(name)]}
    save_checkpoint(tmp_path / "lora", model, None, 1, **more)
    run("--from", tmp_path / "lora", "--to", tmp_path / "adapter", "--adapter_only")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    messages = [{"role": "user", "content": "the cat"}]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == ChatTemplate(name, TOKENIZER).encode(messages)
    assert theirs.eos_token == ENDS[name]
    adapter = ("--adapter", tmp_path / "adapter")
    run("--from", tmp_path / "base", *adapter, "--to", tmp_path / "both")
    run("--from", tmp_path / "lora", "--to", tmp_path / "merged")
    for path in ("both", "merged"):
        loaded = load_with_tokenizer(tmp_path / path)
        assert (loaded.template, loaded.end_ids[0]) == (name, end_of(name))
        ids = torch.arange(9)[None]
        torch.testing.assert_close(loaded.model(ids), model(ids), rtol=1e-5, atol=1e-5)


def test_an_adapter_needs_its_markers_in_the_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shapes of the other model fit, but its ids have other meanings."""
    monkeypatch.chdir(tmp_path)
    model = tiny.model(vocab_size=len(TOKENIZER))
    to_hf(model, "other", tokenizer_with("<|endoftext|>"))
    model.add_lora(LoRAConfig(2, targets=("q_proj",)))
    to_peft(model, "adapter", tokenizer_files(TOKENIZER, 32, template="chatml"))
    words = ["--from", "other", "--adapter", "adapter", "--to", "out"]
    names = "(adapter: chatml needs <|im_start|>); use the model that the adapter was trained with"
    check_refusal(convert, words, 3, names, capsys)


BAD = [
    ({"template": 5}, "template must be one of chatml, llama3, plain_alpaca (m.pt: 5)"),
    ({"template": ["chatml"]}, "(m.pt: ['chatml'])"),
    ({"template": "zephyr"}, "(m.pt: 'zephyr')"),
    ({"template": "auto"}, "(m.pt: 'auto')"),
    (
        {"tokenizer": tokenizer_with("<|endoftext|>").to_json()},
        "its tokenizer does not have (m.pt: chatml needs <|im_start|>)",
    ),
]


@pytest.mark.parametrize("command", ["chat", "generate", "convert"])
@pytest.mark.parametrize(("changes", "names"), BAD, ids=lambda case: str(case)[:30])
def test_bad_templates_of_a_checkpoint(
    command: str, changes: dict[str, Any], names: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from scratchlm.cli.chat import main as chat
    from scratchlm.cli.generate import main as generate

    monkeypatch.chdir(tmp_path)
    tuned(Path("m.pt"), "chatml", **{"end_ids": [], **changes})
    main, words = {
        "chat": (chat, ["--model_path", "m.pt"]),
        "generate": (generate, ["--model_path", "m.pt", "--prompt", "a"]),
        "convert": (convert, ["--from", "m.pt", "--to", "out"]),
    }[command]
    check_refusal(main, words, 3, names, capsys)


def test_a_model_without_a_tokenizer_cannot_have_a_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tuned(Path("m.pt"), "chatml", tokenizer=None)
    words = ["--from", "m.pt", "--to", "out"]
    check_refusal(convert, words, 2, "a chat template needs a tokenizer (chatml)", capsys)


@pytest.mark.parametrize(
    ("tokenizer", "name", "names"),
    [(None, "chatml", r"a chat template needs a tokenizer \(chatml\)"),
     (TOKENIZER, "zephyr", r"no template has this name \('zephyr'\); choose one of chatml, llama3"),
     (tokenizer_with(*CHATML), "llama3", r"does not have \(<\|begin_of_text\|>\)")],
)  # fmt: skip
def test_a_template_that_does_not_fit(
    tokenizer: BPETokenizer | None, name: str, names: str, tmp_path: Path
) -> None:
    model = tiny.model(vocab_size=len(TOKENIZER))
    with pytest.raises(ValueError, match=names):
        to_hf(model, tmp_path / "hub", tokenizer, template=name)
    assert not list(tmp_path.iterdir())
    if tokenizer is not None:
        with pytest.raises(ValueError, match=names):
            TextGenerator(model, tokenizer, template=name)
