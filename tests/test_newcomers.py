"""The calls that newcomers try: each call works, or its error says what to write."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import scratchlm
from helpers import tiny
from scratchlm import BPETokenizer, ModelConfig, Transformer, generate

IDS = [3, 1, 4, 1, 5]
NAMES = {name: getattr(scratchlm, name) for name in scratchlm.__all__} | {"np": np, "torch": torch}


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny.model()


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.fit(["the cat sat on the mat " * 9], 270)


@pytest.mark.parametrize(
    "ids", [IDS, np.array(IDS), np.array(IDS, np.uint16), (3, 1, 4, 1, 5)], ids=repr
)
def test_a_model_takes_lists_and_arrays_for_ids(model, ids):
    assert torch.equal(model(ids), model(torch.tensor(IDS)))
    assert torch.equal(model([ids, ids]), model(torch.tensor([IDS, IDS])))


def test_generate_takes_one_row_in_any_form(model):
    new = generate(model, IDS, 4, 0.0)
    for ids in (torch.tensor([IDS]), [IDS], np.array(IDS, np.uint16), np.array([IDS])):
        assert generate(model, ids, 4, 0.0) == new


def test_a_tokenizer_knows_its_vocab_size(tokenizer):
    assert tokenizer.vocab_size == len(tokenizer)
    for again in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert again.encode("the cat") == tokenizer.encode("the cat")


MODEL_CALLS = {
    "model(ids, ids)": r"targets must be None.*; write cross_entropy\(model\(ids\), targets",
    "model(ids, targets=ids)": "write cross_entropy",
    "model('the cat')": r"whole numbers, in rows of one length \('the cat'\); encode",
    "model(1.5)": r"whole numbers.*\(1.5\)",
    "model([[1], [2, 3]])": "rows of one length",
    "model([300])": r"ids must be in 0…299, the vocabulary \(300 to 300\)",
    "model(torch.tensor([-1]))": r"the vocabulary \(-1 to -1\)",
    "model.generate(ids, 5)": r"use generate\(model, ids, max_tokens\) instead",
    "Transformer({'vocab_size': 3})": r"config must be a ModelConfig \(\{'vocab_size': 3\}\)",
    "generate(model, 'the cat', 3)": "encode text with the tokenizer",
    "generate(model, [ids, ids], 3)": r"one row of ids \(shape \(2, 5\)\); write \[generate",
    "generate(model, ids, '3')": r"max_tokens must be a whole number \('3'\)",
    "generate(model, ids, 3, stop='the')": r"list of ids \('the'\); write stop=\[tokenizer",
    "generate(model, ids, 3, stop=5)": r"stop must be a list of ids \(5\); write stop=\[5\]",
    "generate(model, ids, 3, generator=5)": r"torch.Generator\(\).manual_seed\(1\)",
    "generate(model, ids, 3, seed=5)": r"has no argument seed; pass generator=torch",
    "AdamW(model)": r"not a model \(Transformer\); pass model.parameters\(\)",
    "Muon(model, lr=0.1)": "pass model.parameters",
    "clip_grad_norm(model, 1.0)": "pass model.parameters",
    "save_checkpoint(model, AdamW(model.parameters()), 5, 'x')":
        r"must be a path and a model.*write save_checkpoint\(path, model, optimizer, step\)",
    "save_checkpoint('x', model.state_dict(), None, 5)": r"a path and a model \(str, Ord",
    "load_checkpoint(model, 'x')": r"write load_checkpoint\(path, model, optimizer\)",
    "get_batch(np.arange(99), 2.0, 8, 'cpu')": r"batch_size must be a whole number.*2.0",
    "cross_entropy(torch.randn(2, 9), torch.zeros(2))": "targets must be ids .*long",
}  # fmt: skip


@pytest.mark.parametrize("call", MODEL_CALLS)
def test_a_call_of_a_newcomer_says_what_to_write(model, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError, AttributeError), match=MODEL_CALLS[call]) as caught:
        eval(call, NAMES | {"model": model, "ids": IDS})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


TOKENIZER_CALLS = {
    "BPETokenizer(vocab_size=300)": r"no argument vocab_size; .* train_bpe\(paths, vocab_size\)",
    "tokenizer.train(['a'], 300)": r"use train_bpe\(paths, vocab_size\) instead",
    "tokenizer.fit(['a'], 300)": r"use tokenizer = BPETokenizer.fit\(texts, vocab_size\)",
    "tokenizer.n_vocab": "use vocab_size instead",
    "tokenizer.eos_token_id": "use token_to_id",
    "tokenizer.nothing": "^a BPETokenizer has no nothing$",
    "tokenizer.encode(['a', 'b'])": r"one string \(list \['a', 'b'\]\); write \[tokenizer.encode",
    "tokenizer.encode(b'a')": r"one string \(bytes b'a'\); write .*text.decode\(\)",
    "tokenizer.decode(5)": r"one row of whole numbers \(5\)",
    "tokenizer.decode(torch.tensor([[1, 2]]))": "one row of whole numbers",
    "tokenizer.decode([1.0])": "one row of whole numbers",
    "train_bpe('the cat sat\\non it', 300)": "pass texts to train_bpe_from_texts",
    "train_bpe(['the cat sat', 'on it'], 300)": "pass texts in memory to train_bpe_from_texts",
    "train_bpe('x' * 300, 300)": "pass texts in memory to train_bpe_from_texts",
    "train_bpe_from_texts(['a'], '300')": r"vocab_size must be a whole number \('300'\)",
}


@pytest.mark.parametrize("call", TOKENIZER_CALLS)
def test_a_tokenizers_call_says_what_to_write(tokenizer, call):
    errors = (ValueError, TypeError, AttributeError, OSError)
    with pytest.raises(errors, match=TOKENIZER_CALLS[call]) as caught:
        eval(call, NAMES | {"tokenizer": tokenizer})
    assert "\n" not in str(caught.value)


class Named(Transformer):
    """Whose parts have names that its parent explains."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.save = torch.nn.Linear(2, 2)
        self.register_buffer("generate", torch.zeros(1))


def test_a_subclass_may_give_its_parts_any_name(model):
    named = Named(model.config)
    assert isinstance(named.save, torch.nn.Linear)
    assert named.generate.shape == (1,)
    with pytest.raises(AttributeError, match="a Transformer has no save_pretrained; use"):
        named.save_pretrained  # noqa: B018
    with pytest.raises(AttributeError, match="object has no attribute 'anything'"):
        named.anything  # noqa: B018
