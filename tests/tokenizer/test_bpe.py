"""BPETokenizer: compare ids with tiktoken, compare streams and files with `encode`, and decode in
every way."""

from __future__ import annotations

import argparse
import doctest
import itertools
import pickle
import random
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiktoken

from helpers.tokenizer_texts import END, texts
from scratchlm.tokenizer import bpe, workers
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.encoding.merging import merge_long_word, merge_word
from scratchlm.tokenizer.pieces import pretokenize
from scratchlm.tokenizer.pieces.patterns import GPT2, LLAMA3
from scratchlm.tokenizer.train import train_bpe


def random_chunks(rng: random.Random, text: str) -> list[str]:
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(12)))
    return [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]


def tiktoken_twin(tokenizer: BPETokenizer) -> tiktoken.Encoding:
    specials = {special: tokenizer.token_to_id(special) for special in tokenizer.special_tokens}
    ranks = {token: id for id, token in tokenizer.vocab.items() if id not in specials.values()}
    return tiktoken.Encoding(
        "twin", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens=specials
    )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(argparse.__file__).read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("corpus") / "text"
    path.write_bytes((source.replace("\n\n\n", END) + "".join(texts(0, 1000))).encode())
    return path


@pytest.fixture(scope="session")
def trained(corpus: Path) -> BPETokenizer:
    return train_bpe(corpus, 2000, [END, "<|end|>"])


@pytest.fixture(scope="session")
def gpt2(shared_data: Path) -> BPETokenizer:
    return BPETokenizer.from_gpt2(shared_data / "gpt2_vocab.json", shared_data / "gpt2_merges.txt")


def test_gpt2_ids_equal_tiktoken(gpt2: BPETokenizer) -> None:
    assert len(gpt2) == 50_257
    assert gpt2.encode(f"Hello, world!{END}") == [15496, 11, 995, 0, 50256]
    twin = tiktoken_twin(gpt2)
    for text in texts(1, 3000):
        assert gpt2.encode(text) == twin.encode(text, allowed_special="all"), repr(text)
        plain = twin.encode(text, disallowed_special=())
        assert gpt2.encode(text, allowed_special="none") == plain, repr(text)


@pytest.mark.parametrize("pattern", [GPT2, LLAMA3], ids=["gpt2", "llama3"])
def test_trained_ids_equal_tiktoken(corpus: Path, pattern: str) -> None:
    tokenizer = train_bpe(corpus, 1200, [END, "<|end|>"], pattern=pattern)
    twin = tiktoken_twin(tokenizer)
    for text in [*texts(2, 1500), corpus.read_bytes().decode()]:
        plain = twin.encode(text, disallowed_special=())
        assert tokenizer.encode(text, allowed_special="none") == plain, repr(text)
        with_end = twin.encode(text, allowed_special={END}, disallowed_special=())
        assert tokenizer.encode(text, allowed_special={END}) == with_end, repr(text)


def test_from_tiktoken_recovers_the_merges(trained: BPETokenizer) -> None:
    ranks = {token: id for id, token in trained.vocab.items() if id < 1998}
    ids = {special: trained.token_to_id(special) for special in trained.special_tokens}
    for specials in (ids, [END, "<|end|>"]):
        copy = BPETokenizer.from_tiktoken(ranks, specials)
        assert copy.merges == trained.merges
        assert copy.hash == trained.hash


def test_from_tiktoken_with_tokens_that_merges_do_not_reach(trained: BPETokenizer) -> None:
    ranks = {token: id for id, token in trained.vocab.items() if id < 1998}
    for a, b in trained.merges[:40:3]:
        del ranks[a + b]
    twin = tiktoken.Encoding("twin", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={})
    tokenizer = BPETokenizer.from_tiktoken(ranks)
    assert tokenizer.ignore_merges
    for text in [*texts(20, 500), Path(argparse.__file__).read_text(encoding="utf-8")]:
        assert tokenizer.encode(text, allowed_special="none") == twin.encode_ordinary(text)


def test_from_tiktoken_recovers_gpt2_merges(gpt2: BPETokenizer) -> None:
    ranks = {token: id for id, token in gpt2.vocab.items() if id < 50_256}
    assert BPETokenizer.from_tiktoken(ranks, [END]).hash == gpt2.hash


def test_worked_example() -> None:
    assert doctest.testmod(bpe) == doctest.TestResults(failed=0, attempted=4)


def test_decode_gives_the_text_back(trained: BPETokenizer) -> None:
    for text in texts(3, 1000):
        for allowed in ("all", "none"):
            assert trained.decode(trained.encode(text, allowed_special=allowed)) == text


def test_decode_of_cut_characters_and_unknown_ids(trained: BPETokenizer) -> None:
    ids = trained.encode("é", allowed_special="none")
    assert trained.decode([*b"\xc3"]) == "\ufffd"
    assert trained.decode([*b"a\xf0\x9f\x98"]) == "a\ufffd"
    assert trained.decode_bytes([*b"\xff\x00"]) == b"\xff\x00"
    assert trained.decode([]) == ""
    assert trained.decode(np.array(ids, np.uint16)) == "é"
    for unknown in (2000, -1):
        with pytest.raises(ValueError, match=rf"no token has this id \({unknown}\); .* 0 to 1999"):
            trained.decode([0, unknown])


def test_allowed_special(trained: BPETokenizer) -> None:
    end, other = trained.token_to_id(END), trained.token_to_id("<|end|>")
    text = f"a{END}b<|end|>"
    assert trained.encode(text) == [97, end, 98, other]
    only_end = trained.encode(text, allowed_special={END})
    assert only_end[:3] == [97, end, 98]
    assert other not in only_end
    plain = trained.encode(text, allowed_special="none")
    assert plain == trained.encode(text, allowed_special=set())
    assert end not in plain
    assert trained.decode(only_end) == trained.decode(plain) == text
    for wrong in ("some", END, ""):
        with pytest.raises(ValueError, match='must be "all", "none" or a set'):
            trained.encode(text, allowed_special=wrong)
        with pytest.raises(ValueError, match='must be "all", "none" or a set'):
            trained.encode_iterable([text], allowed_special=wrong)  # now, not when iterated
    with pytest.raises(ValueError, match=r"unknown special token \('<\|pad\|>'\)"):
        trained.encode(text, allowed_special={END, "<|pad|>"})


def test_the_longest_special_token_wins() -> None:
    vocab = {i: bytes([i]) for i in range(256)}
    tokenizer = BPETokenizer(vocab, [], ["<a>", "<a><a>", "a><", "<a><a><b>"])
    assert tokenizer.encode("<a><a><a>") == [257, 256]
    assert tokenizer.encode("<a><a><b><a>") == [259, 256]
    assert tokenizer.encode("a><a>") == [258, *b"a>"]
    assert tokenizer.encode("<a><a>", allowed_special={"<a>"}) == [256, 256]


@pytest.mark.parametrize("specials", [[], [END], ["<a>", "<a><a>", "a><", "'s t", " "]])
def test_encode_iterable_equals_encode(trained: BPETokenizer, specials: list[str]) -> None:
    vocab = {id: token for id, token in trained.vocab.items() if id < 1998}
    tokenizer = BPETokenizer(vocab, trained.merges, specials)
    rng = random.Random(4)
    phrases = ["<a>", "<a><a>", "a><", "'s", "'ll", "'", "s", "t", " ", "  ", "\n", " a", "é1", END]
    for text in [*texts(5, 300), *("".join(rng.choices(phrases, k=12)) for _ in range(1000))]:
        for chunks in (random_chunks(rng, text), list(text)):
            assert list(tokenizer.encode_iterable(chunks)) == tokenizer.encode(text), chunks
            plain = tokenizer.encode(text, allowed_special="none")
            assert list(tokenizer.encode_iterable(chunks, allowed_special="none")) == plain, chunks


def test_encode_iterable_reads_an_open_file_by_lines(corpus: Path, trained: BPETokenizer) -> None:
    with open(corpus, encoding="utf-8", newline="") as file:
        assert list(trained.encode_iterable(file)) == trained.encode(corpus.read_bytes().decode())


def test_encode_iterable_is_lazy_and_bounded(trained: BPETokenizer) -> None:
    taken = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        for taken in itertools.count(1):
            yield f"line {taken} goes on{END}\n"

    ids = trained.encode_iterable(lines())
    assert taken == 0
    next(ids)
    assert taken <= 2
    tracemalloc.start()
    for _ in itertools.islice(ids, 100_000):
        pass
    assert tracemalloc.get_traced_memory()[1] < 25_000_000  # the cache of words, for the most part
    tracemalloc.stop()
    assert taken > 5_000


def test_encode_array(trained: BPETokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = trained.encode_array(f"some text{END}")
    assert ids.dtype == np.uint16
    assert ids.tolist() == trained.encode(f"some text{END}")
    assert trained.encode_array("").shape == (0,)
    vocab = {i: bytes([i]) for i in range(256)}
    many = {256 + i: b"%06d" % i for i in range(65_536 - 256)}
    assert BPETokenizer(vocab | many, []).dtype == np.uint16
    assert BPETokenizer(vocab | many, [], [END]).encode_array(END).tolist() == [65_536]
    assert BPETokenizer(vocab | many, [], [END]).dtype == np.uint32


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("block", [7, 1000, 1 << 20])
def test_encode_file_equals_encode(
    tmp_path: Path,
    trained: BPETokenizer,
    monkeypatch: pytest.MonkeyPatch,
    num_workers: int,
    block: int,
) -> None:
    monkeypatch.setattr(workers, "SMALL_BYTES", 0)
    monkeypatch.setattr(pretokenize, "BLOCK_CHARACTERS", block)
    text = "".join(texts(6, 100)) + " \n" * 500 + "a" * 2000 + "don't  " * 200 + END * 100 + "\r\n"
    src, dst = tmp_path / "text", tmp_path / "ids.bin"
    src.write_bytes(text.encode())
    dst.write_bytes(b"old")
    expected = trained.encode(text)
    assert trained.encode_file(src, dst, num_workers) == len(expected)
    assert np.fromfile(dst, "<u2").tolist() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.bin", "ids.bin.json", "text"]


def test_encode_file_replaces_dst_only_when_it_is_whole(
    tmp_path: Path, trained: BPETokenizer
) -> None:
    src, dst = tmp_path / "text", tmp_path / "ids.bin"
    src.write_bytes(b"good text " * 300_000 + b"\xff")
    dst.write_bytes(b"old")
    with pytest.raises(ValueError, match="not UTF-8"):
        trained.encode_file(src, dst)
    assert dst.read_bytes() == b"old"
    with pytest.raises(FileNotFoundError):
        trained.encode_file(tmp_path / "nowhere", dst)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.bin", "text"]
    src.write_bytes(b"")
    assert trained.encode_file(src, dst) == 0
    assert dst.read_bytes() == b""


def test_a_killed_encode_file_leaves_dst_alone(tmp_path: Path, trained: BPETokenizer) -> None:
    (tmp_path / "ids.bin").write_bytes(b"old")
    (tmp_path / "text").write_bytes(b"good text " * 1_500_000)
    trained.save(tmp_path / "tokenizer.json")
    program = (
        "from scratchlm.tokenizer.bpe import BPETokenizer\n"
        "tokenizer = BPETokenizer.load('tokenizer.json')\n"
        "print('go', flush=True)\n"
        "tokenizer.encode_file('text', 'ids.bin')\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while not list(tmp_path.glob(".ids.bin.*")):
            time.sleep(0.01)
        process.kill()
    assert (tmp_path / "ids.bin").read_bytes() == b"old"


def test_long_words_merge_as_short_ones_do(trained: BPETokenizer) -> None:
    rng = random.Random(7)
    words = ["".join(rng.choices("aeinrst", k=rng.randrange(1, 200))) for _ in range(200)]
    words += ["a" * n for n in range(20)]
    ids = {token: id for id, token in trained.vocab.items()}
    ranks = {(ids[a], ids[b]): rank for rank, (a, b) in enumerate(trained.merges)}
    # and ranks as no training gives them, where a late merge's product is needed by an early one
    pairs = [(rng.randrange(97, 123), rng.randrange(97, 123)) for _ in range(300)]
    odd = {pair: rank for rank, pair in enumerate(dict.fromkeys(pairs))}
    odd_products = [rng.randrange(97, 123) for _ in odd]
    products = [ids[a + b] for a, b in trained.merges]
    for word in words:
        for table, ends in ((ranks, products), (odd, odd_products)):
            data = list(word.encode())
            assert merge_word(data.copy(), table, ends) == merge_long_word(data, table, ends)


@pytest.mark.parametrize("word", ["a", "ab", " ", "é", "'s"])
def test_adversarial_words_take_seconds_at_most(trained: BPETokenizer, word: str) -> None:
    text = word * (200_000 // len(word))
    start = time.process_time()
    ids = trained.encode(text)
    assert time.process_time() - start < 8
    assert trained.decode(ids) == text


def test_a_lone_surrogate_is_an_error_with_its_place(trained: BPETokenizer) -> None:
    with pytest.raises(ValueError, match=r"lone surrogate \(U\+D83D at character 7\); replace"):
        trained.encode("fine 😀 \ud83d.")
    with pytest.raises(ValueError, match=r"lone surrogate \(U\+DE00 at character 498\); replace"):
        list(
            trained.encode_iterable(
                ["one two " * 30, "two one " * 30, "fine, or not: \u0131 ? ", "\ude00."]
            )
        )


def test_a_vocabulary_without_some_bytes() -> None:
    tokenizer = BPETokenizer({0: b"a", 1: b"b", 2: b"ab"}, [(b"a", b"b")])
    assert tokenizer.encode("abba") == [2, 1, 0]
    with pytest.warns(UserWarning, match=r"no token for a byte of the text \(0x63 in 'acbc'\)"):
        assert tokenizer.encode("acbc") == [2]  # what is left are neighbours
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokenizer.encode("dabé") == [2]  # it is said once
    with pytest.raises(ValueError, match=r"no token for a byte of the text \(0x63 in 'abc'\)"):
        tokenizer.encode_array("abc", strict=True)


def test_special_tokens_in_the_vocabulary_keep_their_ids() -> None:
    vocab = {0: END.encode(), 1: b"a", 2: b"b"}
    tokenizer = BPETokenizer(vocab, [], ["<|x|>", END])
    assert tokenizer.encode(f"a{END}b<|x|>") == [1, 0, 2, 3]
    assert len(tokenizer) == 4
    assert vocab == {0: END.encode(), 1: b"a", 2: b"b"}  # the caller's is not changed


def test_ids_may_have_holes() -> None:
    tokenizer = BPETokenizer({0: b"a", 2: b"b"}, [], ["<c>"])
    assert len(tokenizer) == 4
    assert tokenizer.encode("ab<c>") == [0, 2, 3]
    with pytest.raises(ValueError, match=r"no token has this id \(1\)"):
        tokenizer.decode([1])
    full = BPETokenizer({0: b"a", 1: b"x", 2: b"b"}, [], ["<c>"])
    assert tokenizer.hash != full.hash


@pytest.mark.parametrize(
    ("vocab", "merges", "specials", "message"),
    [
        ({0: b"a", 1: b"b"}, [(b"a", b"b")], [], r"merge 0 needs a token .*\(b'ab'\)"),
        ({0: b"a", 1: b"ab"}, [(b"a", b"b")], [], r"merge 0 needs a token .*\(b'b'\)"),
        ({0: b"a", 1: b"aa"}, [(b"a", b"a")] * 2, [], "a merge is listed 2 times"),
        ({0: b"a", 1: b"a"}, [], [], r"two ids must not have the same bytes \(b'a', ids 0 and 1\)"),
        ({-1: b"a", 0: b"b"}, [], [], r"an id must be at least 0 \(-1\)"),
        ({0: b"a"}, [], ["c", "c"], "2 times"),
        ({0: b"a"}, [], [""], "empty"),
        ({0: b"a"}, [], "<|x|>", "must be a list of strings"),
    ],
)
def test_inconsistent_arguments(
    vocab: dict[int, bytes],
    merges: list[tuple[bytes, bytes]],
    specials: list[str],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        BPETokenizer(vocab, merges, specials)


def test_hash_is_over_all_that_decides_the_ids(trained: BPETokenizer) -> None:
    v, m, s = trained.vocab, trained.merges, trained.special_tokens
    assert trained.hash == BPETokenizer(v, m, s[::-1]).hash
    swapped = {**v, 0: v[1], 1: v[0]}
    others = [(swapped, m, s), (v, m[::-1], s), (v, m[:-1], s), (v, m, s[:1]), (v, m, s, LLAMA3)]
    hashes = {trained.hash, *(BPETokenizer(*other).hash for other in others)}
    assert len(hashes) == 6
    assert all(len(hash) == 64 for hash in hashes)


def test_a_pickled_tokenizer_is_the_same(trained: BPETokenizer) -> None:
    copy = pickle.loads(pickle.dumps(trained))
    assert copy.hash == trained.hash
    assert copy.encode(f"the same{END}") == trained.encode(f"the same{END}")


def test_construction_is_cheap() -> None:
    # 50,000 entries: bytes, then pairs of bytes.
    pairs = list(itertools.islice(itertools.product(range(256), repeat=2), 49_744))
    merges = [(bytes([a]), bytes([b])) for a, b in pairs]
    tokens = [bytes([i]) for i in range(256)] + [a + b for a, b in merges]
    vocab = dict(enumerate(tokens))
    times = []
    for _ in range(5):
        start = time.process_time()
        BPETokenizer(vocab, merges, [END])
        times.append(time.process_time() - start)
    assert min(times) < 0.3  # 0.06 s measured; the rest is for slow machines


def test_torch_is_not_imported() -> None:
    program = (
        "import sys, scratchlm.tokenizer.bpe, scratchlm.tokenizer.train\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
