"""Mixtures and many files. The oracle takes the windows one by one from the whole array."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from helpers import exact_runs, forked, tiny
from helpers.pairs import pair, same
from scratchlm.cli.tokenize import main as tokenize
from scratchlm.cli.train import main as train
from scratchlm.data.batches import TrainBatches
from scratchlm.data.config import DataConfig
from scratchlm.data.mixture import MixedBatches, MixedEvalBatches, Mixture, train_batches
from scratchlm.data.prepare import PreparedData, default_vocab_size, prepare
from scratchlm.data.shards import open_shard
from scratchlm.data.turns import Turns
from scratchlm.errors import FileFormatError

RNG = np.random.default_rng(0)
A, B, C = (np.arange(start, start + n) for start, n in ((1000, 907), (3000, 130), (5000, 400)))
MIXTURE = Mixture(("a", "b", "c"), (A, B, C), (5, 3, 2))


def window(tokens: np.ndarray, length: int, seed: int, source: int, number: int) -> list[int]:
    """Return one window of a source, from the documented rule alone."""
    n = max(1, (len(tokens) - length) // length)
    epoch, place = divmod(number, n)
    key = (source,) if source else ()
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch], spawn_key=key)))
    offset = rng.integers(len(tokens) - 1 - n * length, endpoint=True)
    start = offset + length * rng.permutation(n)[place]
    return tokens[start : start + length + 1].tolist()


def test_each_row_is_the_next_window_of_its_source() -> None:
    batches, counts, t = MixedBatches(MIXTURE, 7, 16, seed=3), [0, 0, 0], 0
    for step in range(60):
        inputs, targets = pair(batches.batch(step))
        assert inputs.dtype == targets.dtype == torch.int64
        assert inputs.is_contiguous()
        for row in range(7):
            source = int(Turns(MIXTURE.weights).of(np.array([t]))[0][0])
            expected = window(MIXTURE.sources[source], 16, 3, source, counts[source])
            assert [*inputs[row].tolist(), int(targets[row, -1])] == expected
            assert torch.equal(inputs[row, 1:], targets[row, :-1])
            counts[source], t = counts[source] + 1, t + 1
        assert batches.counts(step + 1) == counts
        assert all(abs(count - weight * t / 10) <= 1
                   for count, weight in zip(counts, MIXTURE.weights, strict=True))  # fmt: skip


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    used, rng = MixedBatches(MIXTURE, 6, 16, seed=1), random.Random(0)
    for step in [rng.randrange(10**5) for _ in range(50)]:
        fresh = MixedBatches(MIXTURE, 6, 16, seed=1).batch(step)
        assert same(used.batch(step), fresh)
    other = MixedBatches(MIXTURE, 6, 16, seed=2).batch(0)
    assert not torch.equal(used.batch(0).inputs, other.inputs)
    with pytest.raises(ValueError, match="step must be at least 0"):
        used.batch(-1)


def test_equal_sources_have_different_orders() -> None:
    batches = MixedBatches(Mixture(("a", "b"), (A, A), (1, 1)), 64, 16, seed=0)
    inputs = batches.batch(0).inputs
    sources = Turns([1, 1]).of(np.arange(64))[0]
    first, second = (inputs[torch.from_numpy(sources == i)][:, 0].tolist() for i in (0, 1))
    assert first != second


def test_one_source_is_no_mixture() -> None:
    for step in range(5):
        one, plain = train_batches(A, 4, 16, 0), TrainBatches(A, 4, 16, 0)
        assert same(one.batch(step), plain.batch(step))


def test_what_a_run_reads_is_told() -> None:
    lines = list(MixedBatches(MIXTURE, 10, 16, seed=0).told(10))
    assert lines[0] == "a: 50 of 100 sequences (50.0%), which is 0.909 epochs of this source"
    assert lines[1] == ("b: 30 of 100 sequences (30.0%), which is 4.29 epochs of this source, so "
                        "its text repeats")  # fmt: skip


@pytest.mark.parametrize("max_batches", [0, 1, 2, 100])
def test_validation_keeps_the_proportions_and_repeats_nothing(max_batches: int) -> None:
    batches = MixedEvalBatches(MIXTURE, 5, 16, max_batches)
    rows = torch.cat([each.inputs[(each.targets != -100).all(1)] for each in batches])
    starts = rows[:, 0].tolist()
    assert len(starts) == len(set(starts)) == batches.num_windows
    counts = [sum(first <= start < last for start in starts)
              for first, last in ((1000, 2000), (3000, 4000), (5000, 6000))]  # fmt: skip
    assert counts == batches.counts()
    assert all(abs(count - weight * len(starts) / 10) <= 1
               for count, weight in zip(counts, MIXTURE.weights, strict=True))  # fmt: skip
    # B has 8 whole windows: the 9th of its turns would repeat one.
    most = next(n for n in range(1, 99) if Turns([5, 3, 2]).counts(n + 1)[1] > 8)
    assert len(starts) == min(most, 5 * max_batches or most)
    assert len(batches) == len(list(batches))
    again = torch.cat([each.inputs for each in batches])
    assert torch.equal(again, torch.cat([each.inputs for each in batches]))


# --- files ---------------------------------------------------------------------------------------

IDS = RNG.integers(1, 300, 4000).astype("<u2")


def cut(ids: np.ndarray, pieces: int) -> list[np.ndarray]:
    return np.split(ids, sorted(random.Random(pieces).sample(range(1, len(ids)), pieces - 1)))


def write(folder: Path, ids: np.ndarray, ending: str, pieces: int) -> str:
    folder.mkdir()
    for number, piece in enumerate(cut(ids, pieces)):
        path = folder / f"part-{number:03}{ending.partition(' ')[0]}"
        match ending:
            case ".bin":
                piece.tofile(path)
            case ".npy":
                np.save(path, piece)
            case _:
                with h5py.File(path, "w") as file:
                    chunks = {"chunks": (min(16, len(piece)),)} if "chunked" in ending else {}
                    kind = "i4" if "chunked" in ending else "<u2"
                    file.create_dataset("tokens", data=piece.astype(kind), **chunks)
    return str(folder)


def prepared(folder: Path, train: str, **more: str) -> tuple[PreparedData, list[str]]:
    said: list[str] = []
    return prepare(DataConfig(train, **more), 300, 16, folder / "data", said.append), said


@pytest.mark.parametrize("pieces", [1, 2, 40])
@pytest.mark.parametrize("ending", [".bin", ".npy", ".h5", ".h5 chunked"])
def test_the_same_batches_from_any_files(tmp_path: Path, ending: str, pieces: int) -> None:
    name = write(tmp_path / "ids", IDS, ending, pieces)
    oracle, held_out = IDS[:3600], IDS[3600:]
    for text in (name, f"{name}/*", f"{name}:1"):
        data, said = prepared(tmp_path, text)
        assert sum("400 of 4,000 tokens are held out" in line for line in said) == 1
        batches, expected = train_batches(data.train, 8, 16, 0), TrainBatches(oracle, 8, 16, 0)
        for step in (0, 1, 27, 28, 1000):
            assert same(batches.batch(step), expected.batch(step))
        assert data.val[:].tolist() == held_out.tolist()
        assert data.data_id["training tokens"] == 3600


def test_the_identity_is_of_all_files_and_weights(tmp_path: Path) -> None:
    names = [write(tmp_path / f"{i}", IDS - (i == 2), ".npy", 3) for i in range(3)]
    identities = [prepared(tmp_path, text)[0].data_id for text in (
        names[0], names[2], f"{names[0]}:1,{names[2]}:1", f"{names[2]}:1,{names[0]}:1",
        f"{names[0]}:1,{names[2]}:2", f"{names[0]}/part-000.npy",
    )]  # fmt: skip
    assert all(identities.count(each) == 1 for each in identities)
    assert prepared(tmp_path, names[1])[0].data_id == identities[0]
    assert prepared(tmp_path, f"{names[0]}:5,{names[2]}:5.0")[0].data_id == identities[2]
    parts = f"{names[0]}/part-00"
    ends = [f"{parts}[01].npy:1,{parts}2.npy:1", f"{parts}0.npy:1,{parts}[12].npy:1"]
    first, second = (prepared(tmp_path, text)[0].data_id for text in ends)
    assert first["train data"] != second["train data"]


def test_a_mixture_holds_out_the_end_of_each_source(tmp_path: Path) -> None:
    write(tmp_path / "a", IDS, ".bin", 3)
    np.save(tmp_path / "b.npy", IDS[:1000])
    data, said = prepared(tmp_path, f"{tmp_path}/a:0.7,{tmp_path}/b.npy:0.3")
    assert isinstance(data.train, Mixture)
    assert data.train.weights == data.val.weights == (7, 3)
    assert [len(each) for each in (*data.train.sources, *data.val.sources)] == [3600, 900, 400, 100]
    assert data.val.sources[0][:].tolist() == IDS[3600:].tolist()
    told = f"without validation data, the last 100 of 1,000 tokens of {tmp_path}/b.npy are held out"
    assert told in said


def test_a_folder_of_scratchlm_tokenize_has_both_splits(tmp_path: Path, capsys) -> None:
    tiny.tokenizer(tmp_path).save(tmp_path / "t.json")
    lines = [json.dumps({"text": tiny.text(40, seed)}) for seed in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    words = ["--tokenizer_path", tmp_path / "t.json", "--encode", tmp_path / "a.jsonl",
             "--shard_tokens", 500, "--val_fraction", 0.2, "--output",
             tmp_path / "shards"]  # fmt: skip
    assert tokenize([str(word) for word in words]) == 0
    ids = {split: np.concatenate([open_shard(path).tokens
                                  for path in sorted((tmp_path / "shards").glob(f"{split}-*.bin"))])
           for split in ("train", "val")}  # fmt: skip
    shards = str(tmp_path / "shards")
    data, said = prepared(tmp_path, shards)
    assert f"the validation data is the held-out documents of {shards}" in said
    assert data.train[:].tolist() == ids["train"].tolist()
    assert data.val[:].tolist() == ids["val"].tolist()
    assert data.tokenizer.hash == tiny.tokenizer(tmp_path).hash
    assert default_vocab_size(DataConfig(shards)) == 300
    with pytest.raises(ValueError, match="both token files and texts"):
        prepared(tmp_path, str(tmp_path))
    with pytest.raises(ValueError, match=rf"both .*corpus\.json\); choose the folder {shards}"):
        prepared(tmp_path, f"{shards}/*")
    first = f"{shards}/val-00000.bin is training data and validation data"
    said = prepared(tmp_path, f"{shards}/*.bin", val=f"{shards}/val-00000.bin")[1]
    assert any(line.startswith(first) for line in said)
    (tmp_path / "above").mkdir()
    (tmp_path / "shards").rename(tmp_path / "above" / "shards")
    np.save(tmp_path / "above" / "z.npy", IDS[:100])
    above = prepared(tmp_path, str(tmp_path / "above"), val=str(tmp_path / "above"))[0]
    assert above.train[:].tolist() == [*ids["train"], *IDS[:100]]
    assert above.val[:].tolist() == ids["val"].tolist()
    (tmp_path / "above" / "shards").rename(tmp_path / "shards")
    np.save(tmp_path / "val.npy", IDS[:100])
    assert len(prepared(tmp_path, shards, val=str(tmp_path / "val.npy"))[0].val) == 100
    (tmp_path / "shards" / "corpus.json").rename(tmp_path / "shards" / "progress.json")
    with pytest.raises(ValueError, match="the corpus must be finished"):
        prepared(tmp_path, shards)


def test_texts_and_token_files_mix_by_one_tokenizer(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer(tmp_path)
    tokenizer.save(tmp_path / "t.json")
    corpus = tiny.corpus(tmp_path)
    words = ["--tokenizer_path", tmp_path / "t.json", "--encode", corpus, "--output"]
    assert tokenize([str(word) for word in [*words, tmp_path / "c.h5"]]) == 0
    other = tiny.corpus(tmp_path, 900, "other.txt")
    mixed = f"{other}:1,{tmp_path}/c.h5:3"
    data, said = prepared(tmp_path, mixed)
    assert default_vocab_size(DataConfig(mixed)) == 300
    assert data.tokenizer.hash == tokenizer.hash
    ids = tokenizer.encode(other.read_text(encoding="utf-8"))
    held_out = len(ids) // 10
    assert data.train.sources[0][:].tolist() == ids[: len(ids) - held_out]
    assert any("tokenized" in line for line in said)
    learned = prepared(tmp_path, f"{other}:1,{corpus}:2")[0]  # two texts, and no tokenizer
    assert learned.tokenizer is not None
    assert len(learned.train.sources) == 2
    tiny.tokenizer(tmp_path, 290).save(tmp_path / "u.json")
    words[1] = tmp_path / "u.json"
    assert tokenize([str(word) for word in [*words, tmp_path / "d.bin"]]) == 0
    for text in (f"{tmp_path}/c.h5:1,{tmp_path}/d.bin:1", f"{tmp_path}/[cd].[hb]*"):
        with pytest.raises(FileFormatError, match=r"another tokenizer|one tokenizer must have"):
            prepared(tmp_path, text)
    for name in ("t.json", "u.json"):
        (tmp_path / name).unlink()
    with pytest.raises(FileFormatError, match=r"one tokenizer must have .*c\.h5, .*d\.bin"):
        prepared(tmp_path, f"{tmp_path}/[cd].[hb]*")


# --- runs ----------------------------------------------------------------------------------------


def mixed_flags(folder: Path, out: str, **more: object) -> dict[str, object]:
    given = exact_runs.flags(folder, out, **more)
    if not (folder / "b").exists():
        write(folder / "b", RNG.integers(0, 96, 700), ".h5 chunked", 3)
    given["data.train"] = f"{folder}/tokens.npy:0.6,{folder}/b:0.4"
    given["data.val"] = f"{folder}/val.npy:0.6,{folder}/b:0.4"
    del given["train.epochs"]
    return given | {"train.iterations": 16, "train.eval_every": 8}


def test_a_killed_run_of_a_mixture_resumes_to_the_bit(tmp_path: Path) -> None:
    exact_runs.run(mixed_flags(tmp_path, "straight"))
    process = forked.start(exact_runs.run, mixed_flags(tmp_path, "killed"))
    first = tmp_path / "killed" / "checkpoints" / "step-00000004"
    while not first.exists() and process.is_alive():
        time.sleep(0.002)
    assert forked.kill_after(process, 0)
    exact_runs.run(mixed_flags(tmp_path, "killed"))
    exact_runs.assert_equal_runs(tmp_path, "straight", "killed")
    log = exact_runs.log_of(tmp_path / "straight")
    for line in log:  # 8 sequences a step
        first, second = line["source_sequences"]
        assert first + second == 8 * line["step"]
        assert abs(first - 0.6 * 8 * line["step"]) <= 1
    changed = mixed_flags(tmp_path, "killed") | {"train.iterations": 20}
    changed["data.train"] = str(changed["data.train"]).replace("0.6", "0.5")
    with pytest.raises(FileFormatError, match=r"must have the same batches .*mixture was 3:2, is"):
        exact_runs.run(changed)


def test_two_ranks_read_the_windows_of_one(tmp_path: Path) -> None:
    """Each rank computes a part of the rows, so the losses are equal up to rounding."""
    more = {"model.dropout": 0.0, "optim.lr": 1e-3, "optim.adamw_lr": 1e-3}
    for size, out in ((1, "one"), (2, "two")):
        forked.run_ranks(tmp_path, size, lambda ranks, given: exact_runs.run(given, ranks),
                         mixed_flags(tmp_path, out, **more))  # fmt: skip
    one, two = (exact_runs.log_of(tmp_path / out) for out in ("one", "two"))
    for mine, theirs in zip(one, two, strict=True):
        assert mine["source_sequences"] == theirs["source_sequences"]
        for key in {"loss", "val_loss"} & mine.keys():
            assert mine[key] == pytest.approx(theirs[key], rel=1e-4)


def test_the_command_reads_a_mixture_from_any_directory(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("books"), IDS, ".bin", 2)
    np.save("code.npy", IDS[:300])
    words = ["--train_data", "books/:0.7,code.npy:0.3", "--vocab_size", "300", "--d_model", "16",
             "--num_heads", "2", "--num_layers", "1", "--device", "cpu", "--compile", "off",
             "--context_length", "16", "--batch_size", "10", "--iterations", "10"]  # fmt: skip
    assert train([*words, "--out", "run"]) == 0
    said = capsys.readouterr().out
    assert "code.npy: 30 of 100 sequences (30.0%), which is 2 epochs of this source, so" in said
    assert "each validation reads" in said
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train(["--resume", "../run", "--iterations", "12"]) == 0
    assert "resumed at step 10" in capsys.readouterr().out
    (tmp_path / "code.npy").unlink()
    assert train(["--resume", "../run", "--iterations", "14"]) == 2
    assert "the run's data must still exist" in (error := capsys.readouterr().err)
    assert "code.npy); set" in error
