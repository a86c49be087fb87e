"""The public names, the names of other projects, and the tables that docs/names.md shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import scratchlm
from scratchlm import names

DOCS = Path(__file__).parent.parent / "docs" / "names.md"
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


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of docs/names.md."""
    section = DOCS.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines]


def quoted(cell: str) -> list[str]:
    return [word.replace("\\|", "|") for word in re.findall(r"`([^`]+)`", cell)]


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


@pytest.mark.parametrize("name", names.PUBLIC)
def test_a_foreign_name_is_told_what_it_is_called_here(name):
    told = f"no attribute '{name}'; it is called {names.PUBLIC[name]} here"
    with pytest.raises(AttributeError, match=told):
        getattr(scratchlm, name)
    with pytest.raises(ImportError, match=told):
        exec(f"from scratchlm import {name}")
    assert not hasattr(scratchlm, name)
    assert all(hasattr(scratchlm, ours) for ours in names.PUBLIC[name].split(" or "))


def test_the_page_shows_the_table():
    table = rows("Classes and functions")
    shown = {name: quoted(here)[0] for theirs, _, here in table for name in quoted(theirs)}
    assert shown == names.PUBLIC
