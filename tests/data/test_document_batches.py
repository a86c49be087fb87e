"""Batches that know their documents. The oracle cuts a list of tokens into lists, one by one."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import tiny
from helpers.pairs import same
from scratchlm.cli.tokenize import main as tokenize
from scratchlm.data.aligned import AlignedRows, document_ends
from scratchlm.data.batches import EvalBatches, TrainBatches, batch_of
from scratchlm.data.config import DataConfig
from scratchlm.data.joined import joined
from scratchlm.data.mixture import MixedBatches, Mixture, eval_batches, train_batches
from scratchlm.data.prepare import prepare
from scratchlm.data.rows import PADDING, Documents
from scratchlm.devices.batch import Batch

END = 7  # the separator's id
SEPARATE, ALIGNED = Documents(END, separate=True), Documents(END, separate=True, aligned=True)


def tokens_of(lengths: list[int], ended: bool = True, start: int = 100) -> np.ndarray:
    """Documents of so many tokens. All tokens but the separators differ."""
    ids, number = [], start
    for length in lengths:
        ids += [*range(number, number + length - 1), END]
        number += length - 1
    return np.array(ids if ended else [*ids[:-1], number], dtype=np.uint32)


def documents_of(tokens: np.ndarray) -> list[list[int]]:
    found: list[list[int]] = [[]]
    for token in tokens.tolist():
        found[-1].append(token)
        if token == END:
            found.append([])
    return [document for document in found if document]


def segments(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Return (inputs, targets) of each document in a batch, from `first` alone."""
    assert batch.first is not None
    assert batch.first.dtype == torch.int32
    found: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    rows = zip(batch.inputs.tolist(), batch.targets.tolist(), batch.first.tolist(), strict=True)
    for row, lists in enumerate(rows):
        for place, (x, y, first) in enumerate(zip(*lists, strict=True)):
            inputs, targets = found.setdefault((row, first), ([], []))
            assert place == first + len(inputs), "a document is in one piece"
            inputs.append(x)
            targets.append(y)
    return list(found.values())


def test_first_and_targets_of_a_row() -> None:
    windows = np.array(
        [[1, 2, END, 3, END, END, 4, 5], [END, 1, 2, 3, END, PADDING, PADDING, PADDING]]
    )
    batch = batch_of(windows, SEPARATE)
    assert batch.first is not None
    assert batch.first.tolist() == [[0, 0, 0, 3, 3, 5, 6], [0, 1, 1, 1, 1, 5, 5]]
    assert batch.inputs.tolist() == [[1, 2, END, 3, END, END, 4], [END, 1, 2, 3, 0, 0, 0]]
    assert batch.targets.tolist() == [
        [2, END, -100, END, -100, -100, 5], [-100, 2, 3, END, -100, -100, -100]
    ]  # fmt: skip
    ignored = batch_of(windows[:1], None)
    assert ignored.first is None
    assert ignored.targets.tolist() == [[2, END, 3, END, END, 4, 5]]


LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=30).filter(lambda x: sum(x) > 17)


@given(LENGTHS, st.booleans(), st.integers(0, 5))
@settings(max_examples=60, deadline=None, database=None)
def test_a_stream_ignores_or_separates_the_same_rows(lengths, ended, seed) -> None:
    tokens = tokens_of(lengths, ended)
    plain, separate = (TrainBatches(tokens, 3, 16, seed, documents=d) for d in (None, SEPARATE))
    for step in range(plain.windows_per_epoch // 3 + 2):
        one, other = plain.batch(step), separate.batch(step)
        assert torch.equal(one.inputs, other.inputs)
        ends = one.inputs == END
        assert torch.equal(one.targets.masked_fill(ends, -100), other.targets)
        for inputs, _ in segments(other):
            assert END not in inputs[:-1]


@given(LENGTHS, st.booleans(), st.integers(0, 5))
@settings(max_examples=100, deadline=None, database=None)
def test_an_aligned_epoch_has_each_target_of_each_document_once(lengths, ended, seed) -> None:
    tokens = tokens_of(lengths, ended)
    if max(lengths) == 1:
        return
    batches = TrainBatches(tokens, 1, 16, seed, documents=ALIGNED)
    documents = documents_of(tokens)
    expected = Counter(pair for each in documents for pair in pairwise(each))
    starts = {document[0] for document in documents if len(document) > 1}
    for epoch in range(2):
        found: Counter[tuple[int, int]] = Counter()
        for step in range(batches.windows_per_epoch):
            batch = batches.batch(epoch * batches.windows_per_epoch + step)
            for inputs, targets in segments(batch):
                found.update((x, y) for x, y in zip(inputs, targets, strict=True) if y != -100)
            first = int(batch.inputs[0, 0])
            if first not in starts:  # a long document goes on, and no document could be first
                begun = {inputs[0] for inputs, y in segments(batch) if set(y) != {-100}}
                assert not begun & (starts if ended else starts - {documents[-1][0]})
        assert found == expected


def test_aligned_rows_waste_little_and_say_it() -> None:
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(4, 1, 3000).astype(int) + 2, 2000).tolist()
    batches = TrainBatches(tokens_of(lengths), 8, 256, 0, documents=ALIGNED)
    (line,) = batches.told_of_rows()
    steps = batches.windows_per_epoch // 8
    counted = sum(int((batches.batch(step).targets != -100).sum()) for step in range(steps))
    assert counted > 0.97 * steps * 8 * 256  # separators have no target
    assert line.startswith("3,000 documents, with ")
    padding = batches.rows.padding
    assert f"padding is {padding:,} of {batches.windows_per_epoch * 257:,} places" in line
    assert padding < 0.01 * batches.windows_per_epoch * 257


def test_aligned_rows_ignore_documents_too() -> None:
    """Only the rows change: no `first`, and each separator predicts the next document."""
    tokens = tokens_of([5, 9, 3, 30, 2, 8])
    one = TrainBatches(tokens, 2, 16, 0, documents=ALIGNED)
    other = TrainBatches(tokens, 2, 16, 0, documents=Documents(END, aligned=True))
    for step in range(5):
        a, b = one.batch(step), other.batch(step)
        assert b.first is None
        assert torch.equal(a.inputs, b.inputs)
        kept = (a.targets != -100) | (a.inputs != END)
        assert torch.equal(a.targets[kept], b.targets[kept])
        inside = (b.inputs[:, :-1] == END) & (b.targets[:, :-1] != -100)
        assert torch.equal(b.targets[:, :-1][inside], b.inputs[:, 1:][inside])


@pytest.mark.parametrize("documents", [SEPARATE, ALIGNED, Documents(END, aligned=True)])
def test_a_batch_is_a_function_of_seed_and_step(documents: Documents) -> None:
    rng = random.Random(0)
    tokens = tokens_of([rng.randrange(1, 50) for _ in range(100)])
    mixture = Mixture(("a", "b"), (tokens, tokens_of([9] * 40, start=10**6)), (3, 1))
    for data in (tokens, mixture):
        used = train_batches(data, 6, 16, 1, documents)
        for step in [rng.randrange(10**4) for _ in range(20)]:
            assert same(used.batch(step), train_batches(data, 6, 16, 1, documents).batch(step))
        other = train_batches(data, 6, 16, 2, documents).batch(0)
        assert not torch.equal(used.batch(0).inputs, other.inputs)


def test_epochs_of_aligned_rows_differ() -> None:
    tokens = tokens_of([9, 8, 4, 3, 2] * 30)
    batches = TrainBatches(tokens, 1, 16, 0, documents=ALIGNED)
    n = batches.windows_per_epoch
    epochs = [[tuple(batches.batch(e * n + i).inputs[0].tolist()) for i in range(n)]
              for e in range(3)]  # fmt: skip
    assert all(len(set(epoch)) == n for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({frozenset(epoch) for epoch in epochs}) == 3, "the rows have other documents"


@pytest.mark.parametrize("documents", [SEPARATE, ALIGNED])
def test_the_same_batches_from_many_files(documents: Documents) -> None:
    tokens = tokens_of([5, 40, 9, 3, 17, 30, 2, 8] * 5)
    pieces = joined(np.split(tokens, [3, 50, 51, 400]))
    one, other = (TrainBatches(t, 4, 16, 0, documents=documents) for t in (tokens, pieces))
    for step in range(30):
        assert same(one.batch(step), other.batch(step))
    assert document_ends(pieces, END).tolist() == document_ends(tokens, END).tolist()


def test_each_source_of_a_mixture_has_its_own_rows() -> None:
    a, b = tokens_of([9, 5, 30] * 9), tokens_of([3] * 60, start=10**6)
    mixed = MixedBatches(Mixture(("a", "b"), (a, b), (1, 1)), 8, 16, 0, ALIGNED)
    lines = list(mixed.told_of_rows())
    assert lines[0].startswith("a: 27 documents")
    assert lines[1].startswith("b: 60 documents")
    for step in range(20):
        for row in mixed.batch(step).inputs.tolist():
            assert len({token > 10**5 for token in row if token not in (0, END)}) == 1


@pytest.mark.parametrize("max_batches", [0, 2])
def test_validation_reads_the_stream_and_separates(max_batches: int) -> None:
    tokens = tokens_of([5, 40, 9, 3, 17, 30, 2, 8])
    mixture = Mixture(("a", "b"), (tokens, tokens), (1, 1))
    for data in (tokens, mixture):
        plain, separate, aligned = (
            list(eval_batches(data, 3, 16, max_batches, documents))
            for documents in (None, SEPARATE, ALIGNED)
        )
        assert len(plain) == len(separate) == len(aligned)
        for a, b, c in zip(plain, separate, aligned, strict=True):
            assert same(b, c)
            assert torch.equal(a.inputs, b.inputs)
            assert torch.equal(a.targets.masked_fill(a.inputs == END, -100), b.targets)
            assert all(END not in inputs[:-1] for inputs, _ in segments(b))
    assert isinstance(eval_batches(tokens, 3, 16, 0, SEPARATE), EvalBatches)


def test_what_has_no_documents() -> None:
    with pytest.raises(
        ValueError, match=r"a document of 2 tokens or more \(20 shorter documents\)"
    ):
        TrainBatches(np.full(20, END), 1, 16, 0, documents=ALIGNED)
    (line,) = TrainBatches(np.arange(100, 200), 1, 16, 0, documents=SEPARATE).told_of_rows()
    assert line.startswith(
        "the first 100 ids contain no separator (id 7), so they are one document"
    )
    assert not list(TrainBatches(tokens_of([20]), 1, 16, 0, documents=SEPARATE).told_of_rows())
    whole = TrainBatches(np.arange(100, 133), 1, 16, 0, documents=ALIGNED)
    assert whole.windows_per_epoch == 2  # one long document


def test_many_short_documents_fill_the_rows() -> None:
    lengths = np.random.default_rng(0).integers(2, 40, 20_000)
    ids = np.full(int(lengths.sum()), 9, dtype=np.uint16)
    ids[lengths.cumsum() - 1] = END
    rows = AlignedRows(ids, 64, END)
    assert rows.documents == 20_000
    assert rows.padding < 0.01 * rows.count * 65


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents as JSON lines, and as token files of one tokenizer."""
    folder = tmp_path_factory.mktemp("documents")
    texts = [tiny.text(20 + 7 * i, seed=i).replace('"', "") for i in range(40)]
    lines = [f'{{"text": "{text}"}}'.replace("\n", " ") for text in texts]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    tiny.tokenizer(folder).save(folder / "t.json")
    tokenize(["--tokenizer_path", str(folder / "t.json"), "--encode", str(folder / "a.jsonl"),
              "--output", str(folder / "ids")])  # fmt: skip
    return folder


def prepared(folder: Path, tmp_path: Path, train: str, **more: str):
    config = DataConfig(str(folder / train), **more)
    return prepare(config, 300, 32, tmp_path / "data", lambda line: None)


@pytest.mark.parametrize("train", ["ids", "a.jsonl", "ids/train-00000.bin"])
def test_the_tokenizer_says_what_ends_a_document(files, tmp_path, train) -> None:
    more = {"tokenizer": str(files / "t.json")} if train == "a.jsonl" else {}
    data = prepared(files, tmp_path, train, documents="separate", rows="aligned", **more)
    end = data.tokenizer.token_to_id("<|endoftext|>")
    assert data.documents == Documents(end, separate=True, aligned=True)
    assert data.data_id["documents"] == "separate"
    assert data.data_id["separator"] == end
    plain = prepared(files, tmp_path, train, **more)
    assert plain.documents is None
    assert not {"documents", "rows", "separator"} & plain.data_id.keys()


def test_an_unknown_separator_is_refused(files, tmp_path) -> None:
    np.save(tmp_path / "bare.npy", np.arange(200))
    with pytest.raises(ValueError, match=r"the id of the separator must be known .* set --tok"):
        prepared(tmp_path, tmp_path, "bare.npy", documents="separate")
    with pytest.raises(ValueError, match=r"the separator must be a special token"):
        prepared(files, tmp_path, "ids", rows="aligned", separator="<s>")
    with pytest.raises(ValueError, match=r"data.separator \(<s>\) is only for many documents"):
        prepared(files, tmp_path, "ids", separator="<s>")
