"""A batch as text: each token of the batch, in its document, as a target or not."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from helpers import tiny
from scratchlm import BPETokenizer
from scratchlm.data.batch_text import batch_text
from scratchlm.data.batches import Documents, EvalBatches, TrainBatches
from scratchlm.devices.batch import Batch
from scratchlm.functional import IGNORED

END = "<|endoftext|>"
COLOUR = re.compile("\x1b\\[(30|38;5;244);48;5;([0-9]+)m([^\x1b]*)\x1b\\[0m")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> BPETokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def ids(tokenizer) -> np.ndarray:
    texts = [tiny.text(3 + 7 * number % 23, seed=number).replace("\n", "") for number in range(60)]
    end = tokenizer.token_to_id(END)
    return np.array([id for text in texts for id in [*tokenizer.encode(text, "none"), end]])


def documents_of(tokenizer, **options) -> Documents:
    return Documents(tokenizer.token_to_id(END), **options)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_the_text_is_the_batch(tokenizer, ids, separate, aligned):
    """Read the lines back: the tokens, the documents, and the tokens that are no target."""
    end = tokenizer.token_to_id(END)
    documents = documents_of(tokenizer, separate=separate, aligned=aligned)
    batch = TrainBatches(ids, 6, 48, 0, documents=documents).batch(2)
    rows = list(batch_text(batch, tokenizer.vocab, end))
    assert len(rows) == 6
    padded = 0
    for inputs, targets, lines in zip(batch.inputs, batch.targets, rows, strict=True):
        counts = [int(number) for number in re.findall(r"\d+", lines[0])]
        texts = [line[6:] for line in lines[1:]]
        assert [int(line[:4]) for line in lines[1:]] == list(range(1, counts[0] + 1))
        size = counts[1]
        assert inputs[size:].tolist() == [0] * (48 - size)
        assert targets[size:].tolist() == [IGNORED] * (48 - size)
        padded += size < 48
        assert sum(counts[3:]) == 48 - size
        assert counts[2] == int((targets != IGNORED).sum())
        last = [id for id in targets[size - 1 : size].tolist() if id != IGNORED]
        whole = [*inputs[:size].tolist(), *last]
        plain = [text.replace("⟨", "").replace("⟩", "") for text in texts]
        assert "".join(plain) == tokenizer.decode(whole)
        assert all(text.endswith(END) for text in plain[:-1])
        assert all(END not in text[:-1] for text in plain[:-1])
        ignored = "".join(re.findall("⟨(.*?)⟩", "".join(texts)))
        no_targets = [id for place, id in enumerate(whole)
                      if place == 0 or targets[place - 1] == IGNORED]  # fmt: skip
        assert ignored == tokenizer.decode(no_targets)
        if separate:
            assert all(text.startswith("⟨") for text in texts)
    assert (padded > 0) == aligned


def test_colours_show_the_same(tokenizer, ids):
    end = tokenizer.token_to_id(END)
    batch = TrainBatches(ids, 4, 48, 0, documents=documents_of(tokenizer, separate=True)).batch(0)
    for plain, coloured in zip(
        batch_text(batch, tokenizer.vocab, end),
        batch_text(batch, tokenizer.vocab, end, colour=True),
        strict=True,
    ):
        backgrounds = []
        assert plain[0] == coloured[0]
        for text, painted in zip(plain[1:], coloured[1:], strict=True):
            parts = COLOUR.findall(painted)
            assert (
                "".join(f"⟨{part}⟩" if grey != "30" else part for grey, _, part in parts)
                == (text[6:])
            )
            backgrounds += {background for _, background, _ in parts}
        assert len(backgrounds) == len(plain) - 1
        assert all(a != b for a, b in pairwise(backgrounds))


def test_a_batch_by_hand(tokenizer):
    """Without a vocabulary, the text is the ids. Token 9 ends a document."""
    inputs = torch.tensor([[5, 6, 9, 7], [9, 1, 2, 9], [3, 4, 0, 0], [0, 0, 0, 0]])
    targets = torch.tensor([[6, 9, 7, 8], [1, 2, 9, 4], [4, 5, -100, -100], [-100] * 4])
    rows = list(batch_text(Batch(inputs, targets), None, 9))
    assert rows == [
        ["2 documents, 4 inputs, 4 targets", "   1  ⟨ 5⟩ 6 9", "   2   7 8"],
        ["3 documents, 4 inputs, 4 targets", "   1  ⟨ 9⟩", "   2   1 2 9", "   3   4"],
        ["1 document, 2 inputs, 2 targets, 2 places of padding", "   1  ⟨ 3⟩ 4 5"],
        ["0 documents, 0 inputs, 0 targets, 4 places of padding"],
    ]
    first = torch.tensor([[0, 0, 2, 2]] * 4, dtype=torch.int32)
    (row, *_) = batch_text(Batch(inputs, targets, first), None, None)
    assert row[1:] == ["   1  ⟨ 5⟩ 6 9", "   2  ⟨ 9⟩ 7 8"]
    for begin in (5, 9):  # 9 and 8 end a dialogue, and are no inputs; 9 may begin the next one
        dialogues = torch.tensor([[-100, 9, -100, 8]] * 4)
        packed = Batch(torch.tensor([[5, 6, begin, 7]] * 4), dialogues, first)
        (row, *_) = batch_text(packed, None, None)
        assert row == ["2 documents, 4 inputs, 2 targets",
                       "   1  ⟨ 5 6⟩ 9", f"   2  ⟨ {begin} 7⟩ 8"]  # fmt: skip
    ends = Batch(torch.tensor([[5, 6, 9]]), torch.tensor([[6, 9, -100]]))  # 9 has no target
    assert list(batch_text(ends, None, 9)) == [
        ["1 document, 3 inputs, 2 targets", "   1  ⟨ 5⟩ 6 9"]
    ]


def test_control_characters_move_no_cursor(tokenizer):
    ids = np.array(tokenizer.encode("a\n\x1b[2Jbж"))
    (batch,) = EvalBatches(ids, 1, len(ids) - 1)
    ((_, line),) = batch_text(batch, tokenizer.vocab, None)
    assert line == "   1  ⟨a⟩\\n\\x1b[2Jbж"
    (batch,) = EvalBatches(ids[:-1], 1, len(ids) - 2)  # a part of the last character
    ((_, line),) = batch_text(batch, tokenizer.vocab | {ids[0]: b"first"}, None)
    assert line.startswith("   1  ⟨first⟩\\n")
    assert line.endswith("b<D0>")
