"""Broken tokenizer files, one by one and at random: each is refused with the rule that it breaks,
or it is a tokenizer that can be written and read again; nothing is half loaded."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from helpers.broken_tokenizers import END, ID, JSON, Change, check_is_refused
from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.formats.gpt2_files import read_gpt2
from scratchlm.tokenizer.formats.json_content import read_file
from scratchlm.tokenizer.formats.tiktoken_files import read_tiktoken
from scratchlm.tokenizer.formats.tokenizer_json import (
    read_tokenizer_json,
)

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def load(path: Path) -> BPETokenizer:
    parts = read_tokenizer_json(read_file(path), path)
    return BPETokenizer(
        parts.vocab,
        parts.merges,
        parts.special_tokens,
        parts.pattern,
        ignore_merges=parts.ignore_merges,
        normalization=parts.normalization,
    )


def put(*keys: str | int, to: Any) -> Change:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        if isinstance(content, list):
            content[keys[-1] :] = [to, *content[keys[-1] + 1 :]]
        else:
            content[keys[-1]] = to

    return change


def drop(*keys: str | int) -> Change:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def token(id: Any, content: Any, **flags: Any) -> dict[str, Any]:
    return {"id": id, "content": content} | FLAGS | {"special": True} | flags


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
VOCAB = ("model", "vocab")
SPLIT = ("pre_tokenizer", "pretokenizers", 0)
PRE = "pre_tokenizer must end with ByteLevel"
STEP = "pre_tokenizer has an unsupported step"

CHANGED = [  # of a tokenizer.json
    (drop("model"), "'model' must be of type dict"),
    (put("model", to=[]), "'model' must be of type dict"),
    (put("model", "type", to="WordPiece"), r"model must be BPE \('WordPiece'\)"),
    (put("model", "type", to=7), r"model must be BPE \(7\)"),
    (put("model", "dropout", to=0.1), r"dropout must be null or 0 or 0.0 \(0.1\)"),
    (put("model", "dropout", to=False), "dropout must be null"),
    (put("model", "ignore_merges", to="no"), "ignore_merges must be null or false or true"),
    (put("model", "ignore_merges", to=1), "ignore_merges must be null or false or true"),
    (put("model", "byte_fallback", to=True), "byte_fallback must be null or false"),
    (put("model", "fuse_unk", to=[]), "fuse_unk must be"),
    (put("model", "continuing_subword_prefix", to="##"), "continuing_subword_prefix must be null"),
    (put("model", "end_of_word_suffix", to="</w>"), "end_of_word_suffix must be null"),
    (put("model", "unk_token", to=0), "'unk_token' must be of type str"),
    (lambda c: (put("model", "unk_token", to="?!")(c), drop(*VOCAB, "x")(c)),
     "unk_token must be in the vocabulary"),
    (put("version", to="2.0"), r'version must be null or "1.0" \(\'2.0\'\)'),
    (put("surprise", to=1), r"an unknown key \('surprise'\)"),
    (put("truncation", to={"max_length": 5}), "truncation must be null"),
    (put("padding", to={}), "padding must be null"),
    (put("normalizer", to={"type": "Lowercase"}), "normalizer must be NFC, NFD"),
    (put("normalizer", to="NFC"), "normalizer must be NFC, NFD"),
    (put("normalizer", to={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 2}),
     "normalizer must be NFC, NFD"),
    (put("post_processor", to="x"), "post_processor must be ByteLevel or TemplateProcessing"),
    (put("post_processor", to={"type": "Sequence", "processors": [None]}), "post_processor must"),
    (put("post_processor", to={"type": "Sequence", "processors": [{"type": "x"}]}),
     "post_processor must be"),
    (put("decoder", to={"type": "Metaspace"}), "decoder must be ByteLevel"),
    (put("decoder", to="ByteLevel"), "'decoder' must be of type dict"),
    (drop("pre_tokenizer"), PRE),
    (put("pre_tokenizer", to=[]), PRE),
    (put("pre_tokenizer", to={"type": "Whitespace"}), PRE),
    (put("pre_tokenizer", to={"type": "Sequence", "pretokenizers": []}), PRE),
    (put("pre_tokenizer", to={"type": "Metaspace", "replacement": "▁"}), PRE),
    (put("pre_tokenizer", "pretokenizers", 2, to={"type": "Digits", "individual_digits": True}),
     PRE),
    (put("pre_tokenizer", "pretokenizers", 0, to={"type": "Digits"}), STEP),
    (put("pre_tokenizer", "pretokenizers", 0, to={"type": "Punctuation"}), STEP),
    (put("pre_tokenizer", "pretokenizers", to=[BYTE_LEVEL | {"use_regex": False}]), "must cut"),
    (put("pre_tokenizer", "pretokenizers", 1, "use_regex", to="yes"), "use_regex must be"),
    (put("pre_tokenizer", "pretokenizers", 1, "use_regex", to=0), "use_regex must be null or"),
    (put("pre_tokenizer", "pretokenizers", 1, "add_prefix_space", to=True),
     r"add_prefix_space must be false \(True\)"),
    (drop("pre_tokenizer", "pretokenizers", 1, "add_prefix_space"), "add_prefix_space must be"),
    (put(*SPLIT, "behavior", to="MergedWithNext"), STEP),
    (drop(*SPLIT, "invert"), STEP),
    (put(*SPLIT, "behavior", to="Removed"), STEP),
    (put(*SPLIT, "pattern", to={"String": " "}), STEP),
    (put(*SPLIT, "pattern", to={"Regex": "abc"}), r"no pattern has this name \(abc\)"),
    (put(*SPLIT, "pattern", to={"Regex": "("}), "the pattern must be a regular expression"),
    (put(*SPLIT, "pattern", to={"Regex": "(a)"}), "the pattern must not have capturing groups"),
    (put(*SPLIT, "pattern", to={"Regex": "(?:" * 5000}), "the pattern is nested too deeply"),
    (put(*SPLIT, "pattern", to={"Regex": r"\p{N}{1,3}+"}), "would read the pattern differently"),
    (put(*SPLIT, "pattern", to={"Regex": "\ud800"}), "a string has a lone surrogate .U.D800"),
    (drop("model", "vocab"), "'vocab' must be of type dict"),
    (put(*VOCAB, to=["a"]), "'vocab' must be of type dict"),
    (put(*VOCAB, "a", to=98), r"two tokens have the same id \(98, 'a' and 'b'\)"),
    (put(*VOCAB, "a", to="97"), ID),
    (put(*VOCAB, "a", to=-1), ID),
    (put(*VOCAB, "a", to=True), ID),
    (put(*VOCAB, "a", to=97.0), ID),
    (put(*VOCAB, "a", to=None), ID),
    (put(*VOCAB, "a", to=2**22), ID),
    (put(*VOCAB, "a", to=10**400), ID),
    (put(*VOCAB, "a", to=float("nan")), "the file is not JSON .NaN is not a JSON number"),
    (put(*VOCAB, "a", to=float("-inf")), "the file is not JSON .-Infinity is not a JSON number"),
    (put(*VOCAB, "", to=259), r"a token must not be empty \(id 259\)"),
    (put(*VOCAB, "a b", to=259), "represents no byte .vocab: ' ' in 'a b'"),
    (put(*VOCAB, "中文", to=259), "represents no byte .vocab: '中'"),
    (put(*VOCAB, "\udc00", to=259), "a string has a lone surrogate .U.DC00"),
    (put(*VOCAB, "a\n" * 999, to=259), "represents no byte"),
    (drop(*VOCAB, "a"), r"merge 0 needs a token that is not in the vocabulary \(b'a'\)"),
    (drop(*VOCAB, "ab"), r"merge 0 needs a token that is not in the vocabulary \(b'ab'\)"),
    (drop("model", "merges"), "'merges' must be of type list"),
    (put("model", "merges", to={}), "'merges' must be of type list"),
    (put("model", "merges", to=["ab c", "a b"]), "merge 0 joins a token that no earlier merge"),
    (put("model", "merges", to=["ab c"]), r"a token that no earlier merge .*b'ab' \+ b'c'"),
    (put("model", "merges", 0, to="a z"), r"merge 0 needs a token .*\(b'az'\)"),
    (put("model", "merges", 0, to="a zz"), r"merge 0 needs a token .*\(b'zz'\)"),
    (put("model", "merges", 0, to="ab"), "a merge must be two tokens .merge 0: .'ab'"),
    (put("model", "merges", 0, to="a b c"), "a merge must be two tokens"),
    (put("model", "merges", 0, to="a  b"), "a merge must be two tokens"),
    (put("model", "merges", 0, to="a "), "a merge must be two tokens"),
    (put("model", "merges", 0, to=["a"]), "a merge must be two tokens"),
    (put("model", "merges", 0, to=["a", 7]), "a merge must be two tokens"),
    (put("model", "merges", 0, to={"a": 1, "b": 2}), "a merge must be two tokens"),
    (put("model", "merges", 0, to=7), "a merge must be two tokens"),
    (put("model", "merges", 0, to="中 b"), "represents no byte"),
    (put("model", "merges", 0, to="#version 0.2"), "skips a merge that begins like a header"),
    (put("model", "merges", 1, to="a b"), r"a merge is listed 2 times \(\(b'a', b'b'\)\)"),
    (put("added_tokens", to=[token(256, "ab")]), r"must not contain a special token \('ab'\)"),
    (drop("added_tokens"), "'added_tokens' must be of type list"),
    (put("added_tokens", to={}), "'added_tokens' must be of type list"),
    (put("added_tokens", to=["x"]), "'content' must be of type str"),
    (put("added_tokens", 0, "content", to=3), "'content' must be of type str"),
    (put("added_tokens", 0, "content", to="\ud800"), "a string has a lone surrogate"),
    (put("added_tokens", 0, to=token(259, "")), "a token must not be empty"),
    (put("added_tokens", 0, "id", to="258"), "'id' must be of type int"),
    (put("added_tokens", 0, "id", to=True), "'id' must be of type int"),
    (put("added_tokens", 0, "id", to=97), "must be 258, as in `tokenizers` .97 of"),
    (put("added_tokens", 0, to=token(300, "new")), "must be 259, as in `tokenizers`"),
    (put("added_tokens", to=[token(258, END)] * 2), "an added token is listed twice"),
    (put("added_tokens", 0, "lstrip", to=True), "lstrip must be false"),
    (put("added_tokens", 0, "rstrip", to=True), "rstrip must be false"),
    (put("added_tokens", 0, "single_word", to=True), "single_word must be false"),
    (put("added_tokens", 0, "lstrip", to=0), "'lstrip' must be of type bool"),
    (drop("added_tokens", 0, "normalized"), "'normalized' must be of type bool"),
    (lambda c: (put("normalizer", to={"type": "NFC"})(c),
                put("added_tokens", 1, to=token(259, "e\u0301", normalized=True))(c)),
     "NFC must not change a normalized token"),
    (lambda c: (drop(*VOCAB, "é")(c), put(*VOCAB, "é", to=259)(c),
                put("added_tokens", 0, to=token(259, "é"))(c)),
     r"name of other bytes \('é' of b'.xe9'\)"),
    (lambda c: (put(*VOCAB, "あ", to=259)(c), put(*VOCAB, "ãģĤ", to=260)(c),
                put("added_tokens", to=[token(258, END), token(259, "あ")])(c)),
     r"two ids must not have the same bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), CHANGED, ids=range(len(CHANGED)))
def test_a_changed_tokenizer_json_is_refused(tmp_path: Path, change: Change, message: str) -> None:
    path = tmp_path / "tokenizer.json"
    content = json.loads(JSON)
    change(content)
    path.write_text(json.dumps(content))
    check_is_refused(lambda: load(path), path, message)


RAW = [  # the bytes of any JSON file
    (b"", r"the file is empty \(0 bytes\)"),
    (b"{", "the file is not JSON"),
    (b"[]", r"the file must be a JSON object \(list\)"),
    (b"null", r"the file must be a JSON object \(NoneType\)"),
    (b"\0" * 1000, "the file is not JSON"),
    (b'{"model": \xff}', r"the file is not UTF-8 \(byte 0xff at offset 10\)"),
    (b"\x80\x02K", r"the file is not UTF-8 \(byte 0x80"),
    (gzip.compress(JSON.encode(), mtime=0), r"the file is not UTF-8 \(byte 0x8b at offset 1\)"),
    (b"\xef\xbb\xbf" * 2 + JSON.encode(), "the file is not JSON .Unexpected UTF-8 BOM"),
    (JSON.encode("utf-16"), "the file is not UTF-8"),
    (JSON.encode() + b"}", "the file is not JSON .Extra data"),
    (JSON.encode() * 2, "the file is not JSON .Extra data"),
    (b"[" * 100_000, "the file is not JSON .nested too deeply"),
    (b'{"a":' * 100_000, "the file is not JSON .nested too deeply"),
    (b'{"a": %s}' % (b"9" * 5000), "the file is not JSON .Exceeds the limit"),
    (b'{"model": 1, "model": 2}', "the file is not JSON .an object has a key twice: 'model'"),
    (JSON.replace('"a": 97', '"a": 97, "a": 300').encode(), "an object has a key twice: 'a'"),
    (random.Random(0).randbytes(10_000), "the file is not UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), RAW, ids=range(len(RAW)))
def test_what_is_no_json_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(data)
    check_is_refused(lambda: load(path), path, message)
    check_is_refused(lambda: read_gpt2(path, path), path, message)


def test_a_truncated_tokenizer_json_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    data = JSON.encode()
    for end in {*range(0, len(data), 97), len(data) - 1}:
        path.write_bytes(data[:end])
        check_is_refused(lambda: load(path), path, "the file is (empty|not JSON|not UTF-8)")


def test_no_depth_of_nesting_ends_in_another_error(tmp_path: Path) -> None:
    """JSON that is almost too deep to parse may be too deep to print."""
    path = tmp_path / "tokenizer.json"
    for depth in range(1, 1100, 7):
        nested = "[" * depth + '"\\ud800"' + "]" * depth
        for value in (nested, nested.replace("\\ud800", "")):
            path.write_text(JSON.replace('"truncation": null', f'"truncation": {value}'))
            check_is_refused(lambda: load(path), path, "truncation must|nested too|lone surrogate")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    for read in (load, lambda path: read_gpt2(path, path), read_tiktoken):
        check_is_refused(lambda read=read: read(tmp_path), tmp_path, "the path must be a file")


def damaged(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data))
    match rng.randrange(4):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + data[place + 1 :]
        case 2:
            return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        case _:
            return data[:place] + bytes([rng.choice(b'"{}[],:0 9\\eE-.tn')]) + data[place + 1 :]


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_tokenizer_json_is_refused_or_stable(tmp_path: Path, seed: int) -> None:
    """Most of the file is the vocabulary, so half of the damage goes to the other parts."""
    rng = random.Random(seed)
    path = tmp_path / "tokenizer.json"
    data = JSON.encode()
    start, end = data.index(b'"vocab"'), data.index(b'"merges"')
    outcomes = {"refused": 0, "stable": 0}
    for i in range(150):
        if i % 2:
            broken = damaged(rng, data)
        elif i % 4:
            broken = damaged(rng, data[:start]) + data[start:]
        else:
            broken = data[:end] + damaged(rng, data[end:])
        path.write_bytes(broken)
        try:
            tokenizer = load(path)
        except FileFormatError as error:
            assert f" ({path}: " in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            outcomes["refused"] += 1
            continue
        path.write_text(tokenizer.to_json(), encoding="utf-8")
        assert load(path).hash == tokenizer.hash
        outcomes["stable"] += 1
    assert min(outcomes.values()) > 10, outcomes
