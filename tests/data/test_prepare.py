"""From the data that a user specifies to the data that a trainer reads."""

from __future__ import annotations

import os

import numpy as np
import pytest

from helpers import tiny
from scratchlm import BPETokenizer
from scratchlm.data.config import DataConfig
from scratchlm.data.prepare import default_vocab_size, prepare
from scratchlm.data.shards import write_shard
from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.token_files import bytes_of


def run(folder, *, vocab_size=300, context_length=32, **named):
    said = []
    config = DataConfig(**{key: str(value) for key, value in named.items()})
    return prepare(config, vocab_size, context_length, folder / "data", said.append), said


def test_text_is_held_out_at_the_last_tenth(tmp_path):
    corpus = tiny.corpus(tmp_path)
    data, said = run(tmp_path, train=corpus)
    text = corpus.read_text(encoding="utf-8")
    assert data.tokenizer is not None
    assert data.tokenizer.decode([*data.train, *data.val]) == text
    assert len(data.val) == (len(data.train) + len(data.val)) // 10
    assert sum("held out" in line for line in said) == 1


def test_a_text_is_tokenized_once_and_again_when_it_changes(tmp_path):
    corpus = tiny.corpus(tmp_path)
    first, _ = run(tmp_path, train=corpus)
    again, said = run(tmp_path, train=corpus)
    assert any("already tokenized" in line for line in said)
    assert again.data_id == first.data_id
    text = corpus.read_text(encoding="utf-8")
    status = corpus.stat()
    corpus.write_text(text.replace("cat", "dog"), encoding="utf-8", newline="")  # of one size
    os.utime(corpus, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    changed, said = run(tmp_path, train=corpus)
    assert not any("already" in line for line in said)
    assert changed.data_id != first.data_id


def test_another_vocabulary_is_another_tokenizer(tmp_path):
    corpus = tiny.corpus(tmp_path)
    small, _ = run(tmp_path, train=corpus, vocab_size=260)
    large, _ = run(tmp_path, train=corpus, vocab_size=300)
    assert small.tokenizer is not None
    assert large.tokenizer is not None
    assert (len(small.tokenizer), len(large.tokenizer)) == (260, 300)


def test_a_half_replaced_cache_is_made_anew(tmp_path):
    corpus = tiny.corpus(tmp_path)
    first, _ = run(tmp_path, train=corpus)
    (shard,) = (tmp_path / "data").glob("train-*.bin")
    shard.write_bytes(shard.read_bytes()[:-2])
    again, _ = run(tmp_path, train=corpus)
    assert np.array_equal(again.train, first.train)


def test_the_data_id_tells_another_split_and_another_array(tmp_path):
    ids = (np.arange(2000) % 300).astype(np.uint16)
    np.save(tmp_path / "a.npy", ids)
    np.save(tmp_path / "b.npy", ids[::-1])
    np.save(tmp_path / "val.npy", ids[:100])
    identities = [
        run(tmp_path, train=tmp_path / "a.npy")[0].data_id,
        run(tmp_path, train=tmp_path / "a.npy", val=tmp_path / "val.npy")[0].data_id,
        run(tmp_path, train=tmp_path / "b.npy")[0].data_id,
    ]
    assert all(identities.count(each) == 1 for each in identities)


def test_the_tokenizer_is_found_through_the_sidecar(tmp_path):
    corpus, tokenizer = tiny.corpus(tmp_path), tiny.tokenizer(tmp_path)
    tokenizer.save(tmp_path / "t.json")
    write_shard(tokenizer, corpus, tmp_path / "c.bin", tokenizer_path=tmp_path / "t.json")
    data, _ = run(tmp_path, train=tmp_path / "c.bin")
    assert data.tokenizer is not None
    assert data.tokenizer.hash == tokenizer.hash
    assert default_vocab_size(DataConfig(str(tmp_path / "c.bin"))) == 300
    (tmp_path / "t.json").unlink()
    data, said = run(tmp_path, train=tmp_path / "c.bin")
    assert data.tokenizer is None
    assert any("is missing" in line for line in said)


def test_what_does_not_fit_is_refused(tmp_path):
    corpus, tokenizer = tiny.corpus(tmp_path), tiny.tokenizer(tmp_path)
    tokenizer.save(tmp_path / "t.json")
    tiny.tokenizer(tmp_path, 290).save(tmp_path / "other.json")
    write_shard(tokenizer, corpus, tmp_path / "c.bin", tokenizer_path=tmp_path / "t.json")
    shard = tmp_path / "c.bin"
    with pytest.raises(ValueError, match=r"more ids than the model \(300 > vocab_size 299\)"):
        run(tmp_path, train=shard, vocab_size=299)
    with pytest.raises(FileFormatError, match="another tokenizer"):
        run(tmp_path, train=shard, tokenizer=tmp_path / "other.json")
    with pytest.raises(ValueError, match="validation data must be longer than the context"):
        run(tmp_path, train=shard, context_length=1000)
    with pytest.raises(FileNotFoundError, match=r"gone\.txt"):
        run(tmp_path, train=corpus, val=tmp_path / "gone.txt")
    assert not (tmp_path / "data").exists(), "refused before the training text was tokenized"


def test_the_width_of_a_bare_bin(tmp_path):
    """The dtype of ids that a user wrote depends on the vocabulary or on the tokenizer."""
    ids = np.arange(1, 2001) % 300
    ids.astype("<u4").tofile(tmp_path / "wide.bin")
    ids.astype("<u2").tofile(tmp_path / "narrow.bin")
    for vocab_size, dtype in ((300, "uint32"), (70_000, None)):
        named = {"dtype": dtype} if dtype else {}
        data, said = run(tmp_path, train=tmp_path / "wide.bin", vocab_size=vocab_size, **named)
        assert [*data.train, *data.val] == ids.tolist()
        assert "wide.bin has no sidecar: its ids are read as uint32" in said[0]
    with pytest.raises(ValueError, match=r"every second id is 0 .*wide\.bin"):
        run(tmp_path, train=tmp_path / "wide.bin")
    for vocab_size, dtype in ((300, "uint32"), (70_000, None)):
        named = {"dtype": dtype} if dtype else {}
        with pytest.raises(ValueError, match=r"less than vocab_size .*narrow\.bin.*dtype uint16"):
            run(tmp_path, train=tmp_path / "narrow.bin", vocab_size=vocab_size, **named)
    vocab = {i: bytes([i]) for i in range(256)} | {i: b"%06d" % i for i in range(256, 70_000)}
    BPETokenizer(vocab, []).save(tmp_path / "large.json")
    named = {"train": tmp_path / "narrow.bin", "tokenizer": tmp_path / "large.json"}
    with pytest.raises(
        ValueError, match=r"uint16 is too small for the tokenizer's ids .*70000 ids"
    ):
        run(tmp_path, vocab_size=70_000, dtype="uint16", **named)


def test_special_tokens_stand_for_no_text(tmp_path):
    tokenizer = tiny.tokenizer(tmp_path)
    lengths = bytes_of(tokenizer.parts)
    assert lengths[tokenizer.token_to_id("<|endoftext|>")] == 0
    ids = tokenizer.encode("über 中文<|endoftext|>cat")
    assert lengths[ids].sum() == len("über 中文cat".encode())
