"""Training, compared with a simple trainer that counts all pairs again for every merge."""

from __future__ import annotations

import argparse
import doctest
import lzma
import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import regex

from scratchlm.tokenizer import workers
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.learning import fast_merges, merges, training
from scratchlm.tokenizer.learning.fast_merges import learn_merges_fast
from scratchlm.tokenizer.learning.merges import learn_merges
from scratchlm.tokenizer.pieces import pretokenize
from scratchlm.tokenizer.pieces.patterns import GPT2
from scratchlm.tokenizer.pieces.pretokenize import Pretokenizer
from scratchlm.tokenizer.train import train_bpe, train_bpe_from_texts

END = "<|endoftext|>"


def naive_merges(words: Counter[bytes], num_merges: int) -> list[tuple[bytes, bytes]]:
    split = {word: [word[i : i + 1] for i in range(len(word))] for word in words}
    merges: list[tuple[bytes, bytes]] = []
    while len(merges) < num_merges:
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for word, tokens in split.items():
            for pair in pairwise(tokens):
                counts[pair] += words[word]
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        for word, tokens in split.items():
            merged: list[bytes] = []
            i = 0
            while i < len(tokens):
                if tuple(tokens[i : i + 2]) == best:
                    merged.append(best[0] + best[1])
                    i += 2
                else:
                    merged.append(tokens[i])
                    i += 1
            split[word] = merged
    return merges


def naive_train(
    texts: list[str], num_merges: int, special_tokens: list[str]
) -> list[tuple[bytes, bytes]]:
    longest_first = sorted(special_tokens, key=len, reverse=True)
    at_specials = "|".join(map(re.escape, longest_first)) or r"\b\B"  # which is nowhere
    words: Counter[bytes] = Counter()
    for text in texts:
        for part in re.split(at_specials, text):
            words.update(piece.encode() for piece in regex.findall(GPT2, part))
    return naive_merges(words, num_merges)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def natural_text() -> str:
    """English and Python, wherever Python is; with non-ASCII letters and documents."""
    source = Path(argparse.__file__).read_text(encoding="utf-8")[:40_000]
    return source.replace("ar", "är").replace("\n\n\n", END)


@pytest.mark.parametrize("seed", range(40))
def test_learn_merges_equals_naive_on_random_words(seed: int) -> None:
    rng = random.Random(seed)
    alphabet = rng.choice([b"a", b"ab", b"abc", b"\x00\x7f\x80\xff", bytes(range(256))])
    words = Counter(
        bytes(rng.choices(alphabet, k=rng.randrange(1, rng.choice([4, 12, 60]))))
        for _ in range(rng.randrange(1, 60))
    )
    for word in words:
        words[word] = rng.choice([1, 1, 2, 1000])
    assert learn_merges(words, 200) == learn_merges_fast(words, 200) == naive_merges(words, 200)
    few, longest = rng.choice([0, 2, 5]), rng.choice([None, 1, 2, 5])
    readable = learn_merges(words, 200, few, longest)
    assert readable == learn_merges_fast(words, 200, few, longest)
    assert all(len(a + b) <= (longest or 100) for a, b in readable)


@pytest.mark.parametrize("seed", range(5))
def test_train_bpe_equals_naive_on_random_text(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    alphabet = ["a", "b", "s", "'", " ", "\n", "\r\n", "1", "é", "中", "😀", "<|", "|>", END]
    text = "".join(rng.choices(alphabet, k=3000))
    tokenizer = train_bpe(write(tmp_path / "text", text), 400, [END, "<||>"])
    assert tokenizer.merges == naive_train([text], 400 - 258, [END, "<||>"])


def test_train_bpe_equals_naive_on_natural_text(tmp_path: Path) -> None:
    text = natural_text()
    tokenizer = train_bpe(write(tmp_path / "text", text), 556, [END])
    assert tokenizer.merges == naive_train([text], 299, [END])


def test_train_bpe_equals_naive_on_shakespeare(shared_data: Path, tmp_path: Path) -> None:
    text = (shared_data / "shakespeare.txt").read_bytes()[:40_000].decode()
    tokenizer = train_bpe(write(tmp_path / "text", text), 406, [])
    assert tokenizer.merges == naive_train([text], 150, [])


def test_the_fast_trainer_equals_the_readable_one_on_real_text() -> None:
    text = natural_text() + "春眠不覺曉處處聞啼鳥夜來風雨聲花落知多少" * 9
    words = {p.encode(): n for p, n in Counter(Pretokenizer().pieces(text)).items()}
    for few in (1, 3):
        fast = learn_merges_fast(words, 900, few)
        assert fast == learn_merges(words, 900, few)
    assert len(fast) > 500


@pytest.mark.slow
def test_the_fast_trainer_equals_the_readable_one_on_a_whole_book(shared_data: Path) -> None:
    text = (shared_data / "shakespeare.txt").read_text(encoding="utf-8")
    words = {p.encode(): n for p, n in Counter(Pretokenizer().pieces(text)).items()}
    assert learn_merges_fast(words, 3000) == learn_merges(words, 3000)


@pytest.mark.parametrize("few", [0, 1000])
def test_both_ways_of_the_fast_trainer_agree(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {p.encode(): n for p, n in Counter(Pretokenizer().pieces(natural_text())).items()}
    expected = learn_merges(words, 300)
    monkeypatch.setattr(fast_merges, "FEW", few)
    monkeypatch.setattr(fast_merges, "MANY", 10)
    assert learn_merges_fast(words, 300) == expected


def test_texts_in_memory_are_learned_as_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = natural_text().split(END)
    path = write(tmp_path / "text", END.join(texts))
    expected = train_bpe(path, 400)
    assert train_bpe_from_texts(iter(texts), 400).hash == expected.hash
    assert BPETokenizer.fit(texts, 400).hash == expected.hash
    assert train_bpe_from_texts([END.join(texts)], 400).hash == expected.hash
    monkeypatch.setattr(training, "SMALL_BYTES", 1000)
    monkeypatch.setattr(workers, "SMALL_BYTES", 1000)
    assert train_bpe_from_texts(texts, 400, num_workers=2).hash == expected.hash


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one string", "put the string in a list"),
        ([], "corpus is empty"),
        (["a", "b\udfffc"], r"lone surrogate \(U\+DFFF\)"),
        (["a b " * 50 + "\ud800"], r"lone surrogate \(U\+D800\)"),
    ],
)
def test_texts_that_cannot_be_learned(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_bpe_from_texts(texts, 300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_frequency": -1}, r"min_frequency must be at least 0 \(-1\)"),
        ({"max_token_length": 0}, r"at least 1 \(0\)"),
        ({"pattern": "("}, "must be a regular expression"),
        ({"pattern": "[a]"}, "does not match every character of the text"),
    ],
)
def test_what_may_be_asked_of_training(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_bpe_from_texts(["some text"], 300, **arguments)


def test_wikipedia_example() -> None:
    # aaabdaaabac: a a stands in 4 places (overlapping ones count) and becomes Z: ZabdZabac. Of
    # Z a and a b, in 2 each, (aa, a) is the greater: YbdYbac; then Y b, in 2, for XdXac.
    merges = learn_merges({b"aaabdaaabac": 1}, 3)
    assert merges == [(b"a", b"a"), (b"aa", b"a"), (b"aaa", b"b")]


def test_a_tie_goes_to_the_greater_pair_of_byte_strings() -> None:
    assert learn_merges({b"ab": 1, b"ba": 1, b"\xffa": 1, b"\x00\x01": 1}, 1) == [(b"\xff", b"a")]
    # (ab, x) is greater than (a, zz), for "ab" continues "a": strings, not ids, are compared.
    words = {b"ab": 50, b"zz": 40, b"abx": 5, b"azz": 5}
    assert learn_merges(words, 3) == [(b"a", b"b"), (b"z", b"z"), (b"ab", b"x")]
    # Not the joined bytes: they are equal here, and (ab, c) is greater than (a, bc).
    words = {b"ab": 9, b"abc": 1, b"abd": 1}
    assert learn_merges(words, 2)[1] == (b"ab", b"d")


def test_docstring_examples() -> None:
    assert doctest.testmod(merges) == doctest.TestResults(failed=0, attempted=2)


def test_ids_are_bytes_then_merges_then_special_tokens(tmp_path: Path) -> None:
    specials = ["<|pad|>", END]
    tokenizer = train_bpe(write(tmp_path / "text", "low lower lowest" + END), 261, specials)
    assert [tokenizer.vocab[i] for i in range(256)] == [bytes([i]) for i in range(256)]
    assert [tokenizer.vocab[256 + i] for i in range(3)] == [a + b for a, b in tokenizer.merges]
    assert [tokenizer.vocab[i] for i in (259, 260)] == [b"<|pad|>", END.encode()]
    assert len(tokenizer) == 261
    assert tokenizer.special_tokens == specials


def test_nothing_merges_across_special_tokens_or_files(tmp_path: Path) -> None:
    first = write(tmp_path / "first", f"{END}ab{END}cd" * 100)
    second = write(tmp_path / "second", "ef")
    tokenizer = train_bpe([first, second], 1000, [END])
    assert tokenizer.merges == [(b"c", b"d"), (b"a", b"b"), (b"e", b"f")]


def test_the_longest_of_overlapping_special_tokens_splits(tmp_path: Path) -> None:
    path = write(tmp_path / "text", "xx<|a|><|a|>yy" * 5)
    specials = ["<|a|>", "<|a|><|a|>"]
    assert train_bpe(path, 1000, specials).merges == naive_train(
        ["xx<|a|><|a|>yy" * 5], 999, specials
    )


def test_line_ends_are_learned_as_they_are(tmp_path: Path) -> None:
    merges = train_bpe(write(tmp_path / "text", "a\r\n" * 9), 1000).merges
    assert (b"\r", b"\n") in merges


def test_chinese_takes_two_to_four_times_fewer_tokens_than_bytes(shared_data: Path) -> None:
    poems = lzma.decompress((shared_data / "tang_poems.txt.xz").read_bytes()).decode()
    size = 1 << 18
    tokenizer = BPETokenizer.fit([poems[:size]], 5000)
    for text in (poems[:size], poems[-size:]):  # learned from, and not seen before
        ids = tokenizer.encode_array(text)
        assert 2 <= len(text.encode()) / len(ids) <= 4
        assert tokenizer.decode(ids) == text


def test_a_corpus_that_runs_out_of_pairs_gives_a_smaller_tokenizer(tmp_path: Path) -> None:
    tokenizer = train_bpe(write(tmp_path / "text", "abc"), 10_000)
    assert tokenizer.merges == [(b"b", b"c"), (b"a", b"bc")]
    assert len(tokenizer) == 256 + 2 + 1
    assert len(train_bpe(write(tmp_path / "one", END), 10_000)) == 257
    assert train_bpe(tmp_path / "text", 257).merges == []


def test_the_same_for_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SMALL_BYTES", 0)
    monkeypatch.setattr(pretokenize, "BLOCK_CHARACTERS", 1000)
    path = write(tmp_path / "text", natural_text())
    one, two, three = (train_bpe(path, 600, num_workers=n) for n in (1, 2, 3))
    assert one.hash == two.hash == three.hash
    assert one.merges == naive_train([natural_text()], 343, [END])


def test_one_long_word_is_learned_in_time(tmp_path: Path) -> None:
    letters = "".join(random.Random(0).choices("acgt", k=200_000))
    assert len(train_bpe(write(tmp_path / "text", letters), 1000)) == 1000


def test_progress_is_silent_where_stderr_is_no_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train_bpe(write(tmp_path / "text", "some text"), 260)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("vocab_size", "special_tokens", "message"),
    [
        (256, [END], r"must be at least 257 \(256\), for the 256 bytes and all special tokens"),
        (-1, [], r"must be at least 256 \(-1\)"),
        (300, END, "must be a list of strings"),
        (300, [END, END], "2 times"),
        (300, [""], "empty"),
        (300, ["\n"], "longer than one byte"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, vocab_size: int, special_tokens: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_bpe(write(tmp_path / "text", "some text"), vocab_size, special_tokens)


def test_a_corpus_that_is_not_there(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty", "")
    for paths in (empty, [empty, empty], []):
        with pytest.raises(ValueError, match="the corpus is empty"):
            train_bpe(paths, 300)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train_bpe([empty, tmp_path / "nowhere"], 300)
    with pytest.raises(IsADirectoryError):
        train_bpe(tmp_path, 300)
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"is not UTF-8 \(.*latin: byte 0xe9 at offset 3\)"):
        train_bpe(tmp_path / "latin", 300)
