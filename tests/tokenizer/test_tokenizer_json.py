"""Tokenizer files: Hugging Face tokenizers, transformers and tiktoken give our ids for the files
that we read and write."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import tokenizers

from helpers.tokenizer_layouts import (
    BYTES,
    LAYOUTS,
    NAMES,
    added,
    check_same_ids,
    gpt2_layout,
    learned,
    padded_layout,
    parts_of,
    qwen_layout,
    tokenizer_of,
)
from helpers.tokenizer_texts import END, texts
from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.formats.content import check_portable
from scratchlm.tokenizer.formats.gpt2_files import read_gpt2, write_gpt2_merges, write_gpt2_vocab
from scratchlm.tokenizer.formats.tiktoken_files import (
    read_tiktoken,
    tiktoken_ranks,
    write_tiktoken,
)
from scratchlm.tokenizer.formats.tokenizer_json import read_tokenizer_json, write_tokenizer_json
from scratchlm.tokenizer.parts import TokenizerParts
from scratchlm.tokenizer.pieces.patterns import CL100K, GPT2, LLAMA3, O200K, PATTERNS, QWEN2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layouts_of_real_files_load_and_give_the_ids_of_tokenizers(
    layout: str, tmp_path: Path
) -> None:
    write, pattern = LAYOUTS[layout]
    text = json.dumps(write(learned(pattern)))
    theirs = tokenizers.Tokenizer.from_str(text)
    parts = read_tokenizer_json(text, "theirs.json")
    ours = tokenizer_of(parts)
    assert ours.pattern == pattern
    check_same_ids(theirs, ours)

    again = write_tokenizer_json(parts_of(ours))
    check_same_ids(tokenizers.Tokenizer.from_str(again), ours)
    assert read_tokenizer_json(again, "ours.json") == parts
    assert write_tokenizer_json(read_tokenizer_json(again, "ours.json")) == again
    # What tokenizers writes of either is the same tokenizer too.
    assert read_tokenizer_json(tokenizers.Tokenizer.from_str(again).to_str(), "both") == parts
    assert read_tokenizer_json(theirs.to_str(), "both") == parts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_transformers_gives_the_same_ids(layout: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write, pattern = LAYOUTS[layout]
    parts = read_tokenizer_json(json.dumps(write(learned(pattern))), "theirs.json")
    path = tmp_path / "tokenizer.json"
    path.write_text(write_tokenizer_json(parts), encoding="utf-8")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    check_same_ids(theirs, tokenizer_of(parts), 50)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_a_normalizer_is_read_and_written(form: str) -> None:
    content = qwen_layout(learned(QWEN2))
    content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": form}]}
    parts = read_tokenizer_json(json.dumps(content), "theirs.json")
    assert parts.normalization == form
    again = write_tokenizer_json(parts)
    assert json.loads(again)["normalizer"] == {"type": form}
    check_same_ids(tokenizers.Tokenizer.from_str(again), tokenizer_of(parts), 60)


def test_save_and_load_restore_everything(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for tokenizer in map(learned, (GPT2, CL100K, LLAMA3, O200K)):
        specials = [END, "<|é x|>", "<|endoftext|><|é x|>"]
        first = BPETokenizer(tokenizer.vocab, tokenizer.merges, specials, tokenizer.pattern)
        first.save(path)
        copy = BPETokenizer.load(path)
        assert parts_of(copy) == parts_of(first)
        assert copy.hash == first.hash
        check_same_ids(tokenizers.Tokenizer.from_file(str(path)), first, 100)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_load_reads_a_tokenizer_that_tokenizers_trained(tmp_path: Path) -> None:
    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train_from_iterator(texts(2, 300), 600, special_tokens=[END])  # END is id 0
    theirs.save(str(tmp_path / "tokenizer.json"))
    check_same_ids(theirs, BPETokenizer.load(tmp_path / "tokenizer.json"))


def test_merges_of_a_token_named_version_are_kept() -> None:
    """`tokenizers` skips a merge that is a string and starts with #version, as a header."""
    words = [b"#v", b"#ve", b"#ver", b"#vers", b"#versi", b"#versio", b"#version", b"#versions"]
    vocab = BYTES | {256 + i: word for i, word in enumerate(words)}
    merges = [(word[:-1], word[-1:]) for word in words]
    parts = TokenizerParts(vocab, merges, [], r"\S+|\s+")
    theirs = tokenizers.Tokenizer.from_str(write_tokenizer_json(parts))
    assert theirs.encode("#versions").ids == [263]
    assert read_tokenizer_json(write_tokenizer_json(parts), "x") == parts
    with pytest.raises(ValueError, match=r"merges.txt cannot store a merge of the token #version"):
        write_gpt2_merges(TokenizerParts(vocab, merges, []))


def test_tokenizers_numbers_added_tokens_as_the_reader_expects() -> None:
    """It is why an id that `tokenizers` would not keep is refused, and why all are written."""
    content = padded_layout(BPETokenizer(BYTES, []))
    for own in ({}, {"<|b|>": 10_000}, {"<|a|>": 9_001}, {"<|a|>": 9_001, "<|b|>": 10_000}):
        content["model"]["vocab"] = {NAMES[b]: b for b in range(256)} | own
        theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
        kept = [theirs.token_to_id("<|a|>"), theirs.token_to_id("<|b|>")] == [9_001, 10_000]
        try:
            read_tokenizer_json(json.dumps(content), "x")
        except FileFormatError as error:
            assert "the id of an added token must be" in str(error)  # noqa: PT017
            assert not kept
        else:
            assert kept


def test_added_tokens_that_are_not_normalized_are_found_first() -> None:
    """`tokenizers` looks for those that are not normalized first, wherever they stand."""
    for a, b, text in (
        ("abc", "xab", "xabc"), ("bc", "abcd", "abcd"), ("abcd", "bc", "abcd"),
        ("<a>", "<b>", "<a><b>"), ("ba", "ab", "aba"), ("aa", "bb", "abba"),
    ):  # fmt: skip
        content = gpt2_layout(BPETokenizer(BYTES, []))
        del content["model"]["vocab"][END]
        content["added_tokens"] = [added(256, a, normalized=True), added(257, b)]
        theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
        parts = read_tokenizer_json(json.dumps(content), "x")
        assert parts.special_tokens == [a, b]
        assert theirs.encode(text).ids == BPETokenizer.from_parts(parts).encode(text)
        again = tokenizers.Tokenizer.from_str(write_tokenizer_json(parts))
        assert theirs.encode(text).ids == again.encode(text).ids


@pytest.mark.parametrize(
    ("pattern", "text"),
    [(r"\p{N}{1,3}+|\D", "12345"), (r"\s+$|\s|\S", "a  \n b"), (r"\w+|\W", "a²b"),
     (r"xa{2}?b|[abx]", "xb")],
)  # fmt: skip
def test_a_pattern_that_tokenizers_reads_otherwise_is_refused(pattern: str, text: str) -> None:
    ours = BPETokenizer(BYTES, [], pattern=pattern).pretokenizer("none").pieces(text)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    assert [piece for piece, _ in split.pre_tokenize_str(text)] != ours
    with pytest.raises(ValueError, match="would read the pattern differently"):
        write_tokenizer_json(TokenizerParts(BYTES, [], [], pattern))


def test_the_known_patterns_are_portable() -> None:
    for pattern in [*PATTERNS.values(), r"[^$^\]]++|(?<!a)(?>b|c)(?i:d){1,2}|\x41\n|[\s\S]"]:
        check_portable(pattern)
    for pattern in (r"a|(?i)b", "[a[b]]", "[a-z&&b]", r"\h", "^a", r"\bx", r"(?m:a)", "a{2}+"):
        with pytest.raises(ValueError, match="differently"):
            check_portable(pattern)


def test_real_gpt2_through_every_format(shared_data: Path, tmp_path: Path) -> None:
    parts = read_gpt2(shared_data / "gpt2_vocab.json", shared_data / "gpt2_merges.txt")
    ours = tokenizer_of(parts)
    assert ours.token_to_id(END) == 50_256
    text = write_tokenizer_json(parts)
    assert read_tokenizer_json(text, "x") == parts
    check_same_ids(tokenizers.Tokenizer.from_str(text), ours, 50)
    ranks = tiktoken_ranks(parts)  # compares the merges
    (tmp_path / "gpt2.tiktoken").write_bytes(write_tiktoken(ranks))
    assert read_tiktoken(tmp_path / "gpt2.tiktoken") == ranks
    lines = (shared_data / "gpt2_merges.txt").read_text(encoding="utf-8").splitlines()[-50_000:]
    assert write_gpt2_merges(parts).splitlines()[1:] == lines
    theirs = json.loads((shared_data / "gpt2_vocab.json").read_bytes())
    assert json.loads(write_gpt2_vocab(parts)) == theirs


# What every writer refuses


def test_writers_refuse_what_no_reader_would_take() -> None:
    ab = BYTES | {256: b"ab", 257: b"abc"}
    for parts, message in (
        (TokenizerParts({0: b"a", 1: b"a"}, [], []), r"have the same bytes \(b'a', ids 0"),
        (TokenizerParts({2**22: b"a"}, [], []), r"from 0 to 4194303 \(4194304 of b'a'\)"),
        (TokenizerParts({0: b""}, [], []), r"a token must not be empty \(id 0\)"),
        (TokenizerParts(BYTES | {256: b" a", 257: "Ġa".encode()}, [], ["Ġa"]),
         r"two tokens have the same name in the file \('Ġa', ids 256 and 257\)"),
        (TokenizerParts(BYTES | {256: b" a"}, [(b" ", b"a")], [" a"]),
         r"merge 0 must not contain a special token \(' a'\)"),
        (TokenizerParts(ab, [(b"ab", b"c"), (b"a", b"b")], []),
         r"merge 0 joins a token that no earlier merge makes \(b'ab' \+ b'c'\)"),
        (TokenizerParts(ab, [(b"ab", b"c")], []), r"merge 0 joins a token that no earlier merge"),
        (TokenizerParts({97: b"a", 300: "é".encode()}, [], ["é"]), "also the name of other bytes"),
        (TokenizerParts(BYTES | {300: "Ġzz".encode()}, [], ["Ġzz"], ignore_merges=True),
         r"a special token is also the name of other bytes \('Ġzz' of b' zz'\)"),
        (TokenizerParts(BYTES, [], [], "("), "must be a regular expression"),
        (TokenizerParts(BYTES, [], [], "(?:" * 3000), "too deeply"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            write_tokenizer_json(parts)
    # Out of order, but with another merge in order, or where merges are not the only way.
    early = [(b"a", b"bc"), (b"a", b"b"), (b"ab", b"c"), (b"b", b"c")]
    write_tokenizer_json(TokenizerParts(ab | {258: b"bc"}, early, []))
    write_tokenizer_json(TokenizerParts(ab, [(b"ab", b"c")], [], ignore_merges=True))
    write_tokenizer_json(TokenizerParts(BYTES | {300: "Ġzz".encode()}, [], ["Ġzz"]))


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        BPETokenizer.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        read_gpt2(tmp_path / "nowhere", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        read_tiktoken(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        BPETokenizer(BYTES, []).save(tmp_path / "nowhere" / "tokenizer.json")
    assert list(itertools.islice(tmp_path.iterdir(), 1)) == []
