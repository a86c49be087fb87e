"""The public names, the names of other projects, and the tables that docs/names.md shows."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest
import torch

import scratchlm
from helpers import tiny
from helpers.pages import quoted, rows
from scratchlm import config
from scratchlm.cli import train_flags
from scratchlm.convert import hf_config
from scratchlm.model import transformer
from scratchlm.tokenizer import bpe

CONTRACT = set(
    """
    BPETokenizer train_bpe train_bpe_from_texts Linear Embedding RMSNorm LayerNorm SwiGLU
    RotaryEmbedding MultiHeadAttention TransformerBlock ModelConfig Transformer KVCache
    softmax silu cross_entropy scaled_dot_product_attention SGD SGDDecay AdamW Muon
    cosine_schedule linear_schedule wsd_schedule clip_grad_norm get_batch save_checkpoint
    load_checkpoint load_model Trainer generate stream TextGenerator Strategy Beams
    Decoder decode from_hf to_hf adamw_groups muon_groups
    """.split()  # noqa: SIM905
)


def test_every_public_name_is_there():
    assert set(scratchlm.__all__) == CONTRACT
    assert set(dir(scratchlm)) == {*CONTRACT, "__version__"}
    for name in CONTRACT:
        assert getattr(scratchlm, name).__name__ == name
    everything: dict[str, object] = {}
    exec("from scratchlm import *", everything)
    assert everything.keys() >= CONTRACT
    with pytest.raises(AttributeError, match=r"no attribute 'Nothing'$"):
        scratchlm.Nothing  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        exec("from scratchlm import Nothing")


@pytest.mark.parametrize("name", scratchlm.FOREIGN)
def test_a_foreign_name_is_told_what_it_is_called_here(name):
    told = f"no attribute '{name}'; use {scratchlm.FOREIGN[name]} instead"
    with pytest.raises(AttributeError, match=told):
        getattr(scratchlm, name)
    with pytest.raises(ImportError, match=told):
        exec(f"from scratchlm import {name}")
    assert not hasattr(scratchlm, name)
    assert all(hasattr(scratchlm, ours) for ours in scratchlm.FOREIGN[name].split(" or "))


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("Classes and functions", scratchlm.FOREIGN),
        ("Attributes of a tokenizer", bpe.FOREIGN),
        ("Attributes of a model", transformer.FOREIGN),
    ],
)
def test_the_page_shows_the_tables(heading, table):
    shown = {name: quoted(here)[0] for theirs, _, here in rows(heading) for name in quoted(theirs)}
    assert shown == table


def test_the_page_shows_the_settings():
    shown: dict[str, set[str]] = {}
    for theirs, _, here, _ in rows("Model and training settings"):
        for name in re.findall(r"`(\w+)", theirs):
            shown.setdefault(name, set()).update(re.findall(r"(\w+)`", here))
    for ours, *theirs in config.SETTINGS:
        for name in theirs:
            assert ours in shown[name], name
    assert set(config.INSTEAD) <= shown.keys()


def test_keywords_take_the_flags_synonyms():
    for _, *flags in train_flags.FLAGS.values():
        for flag in flags[1:]:
            assert config.meant(flag, [flags[0]]), flag


def test_a_config_takes_the_names_of_other_projects():
    ours = {"vocab_size": 9, "context_length": 8, "d_model": 4, "num_layers": 1, "num_heads": 2}
    theirs = {"vocab_size": 9, "block_size": 8, "n_embd": 4, "num_hidden_layers": 1, "n_head": 2}
    assert scratchlm.ModelConfig(**theirs) == scratchlm.ModelConfig(**ours)
    config = scratchlm.ModelConfig(**ours)
    assert dataclasses.replace(config, num_layers=3).num_layers == 3
    with pytest.raises(TypeError, match=r"of ModelConfig\(\) \(d_model=4, n_embd=5\); pass only"):
        scratchlm.ModelConfig(**ours, n_embd=5)
    assert scratchlm.ModelConfig(**ours, n_embd=4) == config
    with pytest.raises(TypeError, match=r"ModelConfig\(\) has no argument d_modl; .* d_model\?"):
        scratchlm.ModelConfig(**ours, d_modl=4)


def test_a_function_takes_the_names_of_other_projects():
    model = tiny.model()
    ids = [1, 2, 3]
    greedy = scratchlm.generate(model, ids, 4, 0.0)
    for name in ("max_tokens", "max_new_tokens", "max_length"):
        assert scratchlm.generate(model, ids, temperature=0, **{name: 4}) == greedy
    with pytest.raises(TypeError, match=r"of generate\(\) \(max_tokens=4, max_length=5\)"):
        scratchlm.generate(model, ids, max_tokens=4, max_length=5)
    with pytest.raises(TypeError, match=r"generate\(\) has no argument temp; .* temperature\?"):
        scratchlm.generate(model, ids, 4, temp=0)
    with pytest.raises(TypeError, match="do_sample; pass temperature=0 for greedy sampling"):
        scratchlm.generate(model, ids, 4, do_sample=False)
    rate = {"max_lr": 1.0, "min_lr": 0.0, "warmup_steps": 2, "total_steps": 9}
    course = {
        "max_learning_rate": 1.0,
        "min_learning_rate": 0.0,
        "warmup_iters": 2,
        "cosine_cycle_iters": 9,
    }
    assert scratchlm.cosine_schedule(5, **course) == scratchlm.cosine_schedule(5, **rate)
    [group] = scratchlm.AdamW(model.parameters(), learning_rate=0.5).param_groups
    assert group["lr"] == 0.5
    assert scratchlm.SwiGLU(dim=4, intermediate_size=8).gate_proj.weight.shape == (8, 4)


def test_two_names_of_one_argument_agree_as_one_object_or_as_equal_plain_values():
    """Tensors do not answer == with yes or no."""
    param = [torch.nn.Parameter(torch.zeros(1))]
    rate = torch.tensor(0.1)
    assert scratchlm.SGD(param, lr=rate, learning_rate=rate).param_groups[0]["lr"] is rate
    assert scratchlm.SGD(param, lr=1, learning_rate=1.0).param_groups[0]["lr"] == 1
    for one in (torch.tensor([0.1, 0.2]), 0.1, torch.tensor(0.1)):
        with pytest.raises(TypeError, match=r"two values for one argument of SGD\(\) \(lr="):
            scratchlm.SGD(param, lr=one, learning_rate=rate)


def test_a_text_generator_takes_the_names_of_other_projects():
    tokenizer = scratchlm.BPETokenizer({i: bytes([i]) for i in range(256)}, [])
    model = tiny.model(vocab_size=256)
    writer = scratchlm.TextGenerator(model, tokenizer)
    text = writer.generate("a", 4, temperature=0)
    assert writer.generate("a", max_new_tokens=4, temperature=0) == text
    assert "".join(writer.stream("a", max_length=4, temperature=0)) == text
    assert "".join(scratchlm.stream(model, tokenizer, "a", max_new_tokens=4, temperature=0)) == text
    two = writer.complete("a", max_new_tokens=4, num_return_sequences=2, temperature=0)
    assert [each.text for each in two] == [text, text]
    with pytest.raises(TypeError, match=r"has no argument num_sample; did you mean num_samples\?"):
        writer.generate("a", 4, num_sample=2)


HUB_NAMES = [pair for table in hf_config.NAMES.values() for pair in table.items()]


@pytest.mark.parametrize(("ours", "theirs"), sorted(set(HUB_NAMES)))
def test_a_config_takes_every_name_of_the_hub(ours, theirs):
    assert ours == theirs or config.meant(theirs, {ours, "vocab_size"}) == ours


ADVICE = {
    "ModelConfig(n_embed=4)": r"did you mean d_model\?",
    "ModelConfig(hidden_dim=4)": r"did you mean d_model or d_ff\?",
    "ModelConfig(n_blocks=4)": r"did you mean num_layers\?",
    "ModelConfig(seq_len=4)": r"did you mean context_length\?",
    "ModelConfig(embd_pdrop=4)": r"did you mean dropout\?",
    "ModelConfig(pos_emb=4)": "the arguments are: attention_sinks, bias, context_length, d_ff",
    "AdamW(None, lr=1e-3, seed=1)": "the arguments are: betas, eps",
    "AdamW(None, wd=1)": r"did you mean weight_decay\?",
    "train_bpe(['x'], 300, seed=1)": "the arguments are: max_token_length",
    "MultiHeadAttention(32, 2, vocab_size=4)": "the arguments are: attend",
    "Beams(temperature=1, do_sample=True)": "the arguments are: early_stopping",
    "get_batch([1], 1, 1, 'cpu', seed=1)": "pass generator=torch.Generator",
    "generate(None, [1], temp=1)": r"did you mean temperature\?",
    "Trainer(foo=1)": "the arguments are: batches",
}


@pytest.mark.parametrize("call", ADVICE)
def test_an_unknown_keyword_gets_a_remedy_that_fits(call):
    names = {name: getattr(scratchlm, name) for name in scratchlm.__all__}
    with pytest.raises(TypeError, match=rf"\(\) has no argument \w+; {ADVICE[call]}"):
        eval(call, names)


# Functions in a model's inner loops, and two that hand on any keyword: one saves it, the other's
# error comes from `TextGenerator.steps`.
NAME_NO_NEAREST = {"softmax", "silu", "cross_entropy", "save_checkpoint", "stream"}


@pytest.mark.parametrize("name", sorted(CONTRACT - NAME_NO_NEAREST))
def test_an_unknown_keyword_names_the_nearest(name):
    thing = getattr(scratchlm, name)
    longest = max(inspect.signature(thing).parameters, key=len)
    typo = longest[:-2] + longest[-1]
    with pytest.raises(TypeError, match=rf"no argument {typo}; did you mean {longest}\?"):
        thing(**{typo: 1})


def test_layers_take_the_names_of_other_projects():
    assert scratchlm.RMSNorm(8, norm_eps=0.5).eps == 0.5
    assert scratchlm.Linear(d_in=2, d_out=3).weight.shape == (3, 2)
    ours = scratchlm.RotaryEmbedding(8, 4, theta=9.0)
    theirs = scratchlm.RotaryEmbedding(8, 4, rope_theta=9.0)
    assert all(a.equal(b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))
    model = tiny.model()
    new = scratchlm.generate(model, input_ids=[1, 2], max_new_tokens=3, temperature=0)
    assert new == scratchlm.generate(model, [1, 2], 3, temperature=0)


def test_what_is_typed_is_what_help_shows():
    assert str(inspect.signature(scratchlm.ModelConfig)).startswith("(vocab_size: 'int', context")
    assert list(inspect.signature(scratchlm.get_batch).parameters) == [
        "tokens", "batch_size", "context_length", "device", "generator",
    ]  # fmt: skip
    assert scratchlm.generate.__doc__.startswith("Return the ids that follow")
