"""tokenizer.json against Hugging Face tokenizers, and a table of broken files."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.pretokenize import GPT2
from scratchlm.tokenizer.training import train_bpe
from test_bpe import CL100K, END, texts

BYTES = {i: bytes([i]) for i in range(256)}


def gpt2_byte_map() -> dict[int, str]:
    """`bytes_to_unicode` as openai/gpt-2 has it."""
    bs = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    cs = bs[:]
    for b in range(256):
        if b not in bs:
            bs.append(b)
            cs.append(256 + len(cs) - 188)
    return dict(zip(bs, map(chr, cs), strict=True))


@pytest.fixture(scope="module", params=[GPT2, CL100K], ids=["gpt2", "cl100k"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> BPETokenizer:
    path = tmp_path_factory.mktemp("corpus") / "text"
    source = Path(argparse.__file__).read_text(encoding="utf-8")
    path.write_bytes((source + "".join(texts(0, 500))).encode())
    return train_bpe(path, 1500, [END, "<|é x|>", "<|endoftext|><|é x|>"], pattern=request.param)


def test_tokenizers_gives_the_same_ids(trained: BPETokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == len(trained)
    for special in trained.special_tokens:
        assert theirs.token_to_id(special) == trained.token_to_id(special)
    rng = random.Random(0)
    for text in texts(1, 1000):
        text += "".join(rng.choices([*trained.special_tokens, "x", " "], k=3))
        ids = trained.encode(text)
        assert theirs.encode(text).ids == ids, repr(text)
        if "é x" not in text:  # their decoder takes the é of a special token for a byte
            assert theirs.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_in_the_middle_load_in_tokenizers_too(tmp_path: Path) -> None:
    vocab = {0: END.encode(), **{1 + i: bytes([i]) for i in range(256)}, 257: b"ab"}
    ours = BPETokenizer(vocab, [(b"a", b"b")], ["<|x|>", END])
    ours.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = f"ab{END}b<|x|>é"
    assert theirs.encode(text).ids == ours.encode(text)
    assert BPETokenizer.load(tmp_path / "tokenizer.json").special_tokens == ["<|x|>", END]


def test_save_and_load_restore_everything(trained: BPETokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "tokenizer.json")
    copy = BPETokenizer.load(tmp_path / "tokenizer.json")
    assert copy.vocab == trained.vocab
    assert copy.merges == trained.merges
    assert copy.special_tokens == trained.special_tokens
    assert copy.pattern == trained.pattern
    assert copy.hash == trained.hash
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_load_reads_what_tokenizers_saves(trained: BPETokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "ours.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "ours.json"))
    theirs.save(str(tmp_path / "theirs.json"))  # merges as pairs, other keys
    assert BPETokenizer.load(tmp_path / "theirs.json").hash == trained.hash


def test_load_reads_a_tokenizer_that_tokenizers_trained(tmp_path: Path) -> None:
    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train_from_iterator(texts(2, 500), 600, special_tokens=[END])  # END is id 0
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = BPETokenizer.load(tmp_path / "tokenizer.json")
    for text in texts(3, 500):
        assert ours.encode(text) == theirs.encode(text).ids, repr(text)


def test_from_gpt2_with_and_without_a_version_line(tmp_path: Path) -> None:
    names = gpt2_byte_map()
    tokens = [*names.values(), "Ġt", "##", "Ġt##"]
    (tmp_path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(tokens)}))
    lines = "# #\nĠ t\nĠt ##\n"
    (tmp_path / "bare.txt").write_text(lines)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + lines)
    for merges in ("bare.txt", "merges.txt"):
        tokenizer = BPETokenizer.from_gpt2(tmp_path / "vocab.json", tmp_path / merges)
        assert tokenizer.merges == [(b"#", b"#"), (b" ", b"t"), (b" t", b"##")]
        assert [tokenizer.vocab[i] for i in range(256)] == [bytes([b]) for b in names]
        assert tokenizer.special_tokens == [END]
        assert tokenizer.encode(f" t{END}##") == [256, 259, 257]


def test_real_gpt2_through_tokenizer_json(shared_data: Path, tmp_path: Path) -> None:
    files = shared_data / "gpt2_vocab.json", shared_data / "gpt2_merges.txt"
    gpt2 = BPETokenizer.from_gpt2(*files)
    assert gpt2.token_to_id(END) == 50_256
    gpt2.save(tmp_path / "tokenizer.json")
    assert BPETokenizer.load(tmp_path / "tokenizer.json").hash == gpt2.hash
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in texts(4, 500):
        assert theirs.encode(text).ids == gpt2.encode(text), repr(text)


def set_in(*keys: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


def remove(*keys: str | int) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("model"), "'model' must be a dict"),
        (remove("model", "vocab"), "'vocab' must be a dict"),
        (remove("model", "merges"), "'merges' must be a list"),
        (remove("added_tokens"), "'added_tokens' must be a list"),
        (remove("pre_tokenizer"), "pre_tokenizer must be ByteLevel"),
        (set_in("model", to=[]), "'model' must be a dict"),
        (set_in("model", "type", to="WordPiece"), r"model must be BPE \('WordPiece'\)"),
        (set_in("model", "dropout", to=0.1), r"dropout is not supported \(0.1\)"),
        (set_in("model", "ignore_merges", to=True), "ignore_merges is not supported"),
        (set_in("model", "byte_fallback", to=True), "byte_fallback is not supported"),
        (set_in("normalizer", to={"type": "NFC"}), "normalizer is not supported"),
        (set_in("truncation", to={"max_length": 5}), "truncation is not supported"),
        (set_in("post_processor", to={"type": "TemplateProcessing"}), "must add no tokens"),
        (set_in("post_processor", to="x"), "must add no tokens"),
        (set_in("pre_tokenizer", to={"type": "Whitespace"}), "pre_tokenizer must be ByteLevel"),
        (set_in("pre_tokenizer", "use_regex", to=False), "pre_tokenizer must be ByteLevel"),
        (set_in("pre_tokenizer", "add_prefix_space", to=True), "add_prefix_space"),
        (remove("pre_tokenizer", "add_prefix_space"), "add_prefix_space"),
        (set_in("model", "vocab", "a", to=98), r"same id \(98"),
        (set_in("model", "vocab", "a", to=1000), r"no hole \(97 is missing\)"),
        (set_in("model", "vocab", "a", to="97"), "must be an int from 0 on"),
        (set_in("model", "vocab", "a", to=-1), "must be an int from 0 on"),
        (set_in("model", "vocab", "a", to=True), "must be an int from 0 on"),
        (set_in("model", "vocab", "a b", to=259), "stands for no byte .' ' in 'a b'"),
        (set_in("model", "vocab", "中", to=259), "stands for no byte .'中'"),
        (set_in("model", "merges", 0, to="a z"), r"merge 0 needs a token .*\(b'az'\)"),
        (set_in("model", "merges", 0, to="a zz"), r"merge 0 needs a token .*\(b'zz'\)"),
        (set_in("model", "merges", 0, to="ab"), "a merge must be two tokens"),
        (set_in("model", "merges", 0, to="a b c"), "a merge must be two tokens"),
        (set_in("model", "merges", 0, to=["a"]), "a merge must be two tokens"),
        (set_in("model", "merges", 0, to=7), "a merge must be two tokens"),
        (set_in("model", "merges", 1, to="a b"), "merge 1 was listed before"),
        (set_in("added_tokens", 0, "content", to=3), "'content' must be a str"),
        (set_in("added_tokens", to=[{"id": 259, "content": "\ud800"}]), "lone surrogate"),
        (set_in("added_tokens", 0, "lstrip", to=True), "lstrip is not supported"),
        (set_in("added_tokens", 0, "id", to=97), r"same id \(97"),
        (set_in("added_tokens", to=["x"]), "'content' must be a str"),
        (set_in("added_tokens", to=[{"id": 258, "content": "x"}] * 2), "listed twice"),
    ],
)
def test_a_broken_tokenizer_json_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = tmp_path / "tokenizer.json"
    vocab = BYTES | {256: b"ab", 257: b"abc"}
    BPETokenizer(vocab, [(b"a", b"b"), (b"ab", b"c")], [END]).save(path)
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=message) as error:
        BPETokenizer.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "; " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"{", b'{"model": \xff}', b"[]", b"null", b"\x80\x02K"])
def test_what_is_no_json_object_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    with pytest.raises(
        FileFormatError, match=r"tokenizer.json: it (is not JSON|must be a JSON obj)"
    ):
        BPETokenizer.load(path)
    with pytest.raises(FileFormatError):
        BPETokenizer.from_gpt2(path, path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"a b\n\xff", "it is not UTF-8"),
        (b"a b c", "a merge must be two tokens"),
        (b"ab", "a merge must be two tokens"),
        ("a 中".encode(), "a token has a character that stands for no byte"),
        (b"a b\nb c", r"merge 1 needs a token .*\(b'bc'\)"),
    ],
)
def test_broken_gpt2_merges_are_named(tmp_path: Path, lines: bytes, message: str) -> None:
    names = [*gpt2_byte_map().values(), "ab"]
    (tmp_path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (tmp_path / "merges.txt").write_bytes(lines)
    with pytest.raises(FileFormatError, match=rf"merges\.txt: {message}"):
        BPETokenizer.from_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        BPETokenizer.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        BPETokenizer.from_gpt2(tmp_path / "nowhere", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        BPETokenizer(BYTES, []).save(tmp_path / "nowhere" / "tokenizer.json")


def test_save_refuses_what_the_format_cannot_hold(tmp_path: Path) -> None:
    alike = BPETokenizer(BYTES | {256: b" a"}, [(b" ", b"a")], ["Ġa"])
    with pytest.raises(ValueError, match=r"writes two tokens alike \('Ġa', ids 256 and 257\)"):
        alike.save(tmp_path / "tokenizer.json")
    both = BPETokenizer(BYTES | {256: b" a"}, [(b" ", b"a")], [" a"])
    with pytest.raises(ValueError, match=r"both special and merged"):
        both.save(tmp_path / "tokenizer.json")
    assert list(tmp_path.iterdir()) == []
