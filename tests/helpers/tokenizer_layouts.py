"""tokenizer.json files in the layouts of real models, with small trained tokenizers."""

from __future__ import annotations

import argparse
import functools
import random
import tempfile
from pathlib import Path
from typing import Any

from helpers.tokenizer_texts import END, texts
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.formats.tiktoken_files import splits_of_ranks
from scratchlm.tokenizer.parts import TokenizerParts
from scratchlm.tokenizer.pieces.patterns import GPT2, LLAMA3, O200K, QWEN2
from scratchlm.tokenizer.train import train_bpe

BYTES = {i: bytes([i]) for i in range(256)}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
WORDS = [" Der", " zyxwvut", "e\u0301", "é", "ﬁ", "\u212b", "<|im_start|>user\n", " the", "x"]


def gpt2_byte_map() -> dict[int, str]:
    """`bytes_to_unicode` as openai/gpt-2 has it."""
    bs = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    cs = bs[:]
    for b in range(256):
        if b not in bs:
            bs.append(b)
            cs.append(256 + len(cs) - 188)
    return dict(zip(bs, map(chr, cs), strict=True))


NAMES = gpt2_byte_map()


def name(token: bytes) -> str:
    return "".join(NAMES[byte] for byte in token)


def tokenizer_of(parts: TokenizerParts) -> BPETokenizer:
    return BPETokenizer(
        parts.vocab,
        parts.merges,
        parts.special_tokens,
        parts.pattern,
        ignore_merges=parts.ignore_merges,
        normalization=parts.normalization,
    )


def parts_of(tokenizer: BPETokenizer) -> TokenizerParts:
    return TokenizerParts(
        tokenizer.vocab,
        tokenizer.merges,
        tokenizer.special_tokens,
        tokenizer.pattern,
        tokenizer.ignore_merges,
        tokenizer.normalization,
    )


@functools.cache
def learned(pattern: str) -> BPETokenizer:
    """A small tokenizer of a pattern, without special tokens."""
    source = Path(argparse.__file__).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        path.write_bytes((source[:30_000] + "".join(texts(0, 300))).encode())
        return train_bpe(path, 1000, [], pattern=pattern)


def added(id: int, content: str, **flags: bool) -> dict[str, Any]:
    names = ("single_word", "lstrip", "rstrip", "normalized")
    return {"id": id, "content": content} | dict.fromkeys(names, False) | {"special": True} | flags


def split_by(pattern: str, trim_offsets: bool) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    byte_level = BYTE_LEVEL | {"trim_offsets": trim_offsets, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split | {"invert": False}, byte_level]}


def gpt2_layout(tokenizer: BPETokenizer) -> dict[str, Any]:
    """As openai-community/gpt2 has it: the special token in the vocabulary, merges as strings."""
    vocab = {name(token): id for id, token in tokenizer.vocab.items()}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(len(vocab), END, normalized=True)],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": BYTE_LEVEL | {"trim_offsets": False},
        "decoder": BYTE_LEVEL | {"add_prefix_space": True},
        "model": {
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": vocab | {END: len(vocab)},
            "merges": [f"{name(a)} {name(b)}" for a, b in tokenizer.merges],
        },
    }


def llama3_layout(tokenizer: BPETokenizer) -> dict[str, Any]:
    """As meta-llama/Meta-Llama-3-8B has it: a token's every split is a merge, a token that none
    reaches, 256 added tokens that the model does not have, and a template."""
    content = gpt2_layout(tokenizer)
    ranks = {token: id for id, token in tokenizer.vocab.items()} | {b" zyxwvut": len(tokenizer)}
    names = ["<|begin_of_text|>", "<|end_of_text|>"]
    names += [f"<|reserved_special_token_{i}|>" for i in range(254)]
    content["added_tokens"] = [added(len(ranks) + i, text) for i, text in enumerate(names)]
    content["pre_tokenizer"] = split_by(tokenizer.pattern, True)
    begin = {"SpecialToken": {"id": names[0], "type_id": 0}}
    single = [begin, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {names[0]: {"id": names[0], "ids": [len(ranks)], "tokens": [names[0]]}},
    }
    byte_level = BYTE_LEVEL | {"use_regex": True}
    content["post_processor"] = {"type": "Sequence", "processors": [byte_level, template]}
    content["model"] |= {
        "type": "BPE",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "byte_fallback": False,
        "ignore_merges": True,
        "vocab": {name(token): rank for token, rank in ranks.items()},
        "merges": [f"{name(a)} {name(b)}" for a, b in splits_of_ranks(ranks)],
    }
    return content


def qwen_layout(tokenizer: BPETokenizer) -> dict[str, Any]:
    """As Qwen/Qwen3-0.6B has it: NFC, added tokens that are not special, merges as pairs."""
    content = gpt2_layout(tokenizer)
    size = len(tokenizer)
    content["normalizer"] = {"type": "NFC"}
    content["added_tokens"] = [
        added(size, END),
        added(size + 1, "<|im_start|>"),
        added(size + 2, "<|im_end|>"),
        added(size + 3, "<tool_call>", special=False),
        added(size + 4, "<think>", special=False),
    ]
    content["pre_tokenizer"] = split_by(tokenizer.pattern, False)
    content["decoder"] = BYTE_LEVEL | {"trim_offsets": False, "use_regex": False}
    content["model"] |= {
        "type": "BPE",
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {name(token): id for id, token in tokenizer.vocab.items()},
        "merges": [[name(a), name(b)] for a, b in tokenizer.merges],
    }
    return content


def padded_layout(tokenizer: BPETokenizer) -> dict[str, Any]:
    """Ids with holes, and special tokens beyond them."""
    content = qwen_layout(tokenizer)
    vocab = {name(token): 2 * id for id, token in tokenizer.vocab.items()}
    content["normalizer"] = None
    content["added_tokens"] = [added(9_001, "<|a|>"), added(10_000, "<|b|>")]
    content["model"]["vocab"] = vocab | {"<|b|>": 10_000, "<|a|>": 9_001}
    return content


LAYOUTS = {
    "gpt2": (gpt2_layout, GPT2),
    "llama3": (llama3_layout, LLAMA3),
    "qwen": (qwen_layout, QWEN2),
    "padded": (padded_layout, O200K),
}


def samples(specials: list[str], seed: int, n: int) -> list[str]:
    rng = random.Random(seed)
    more = [*specials[:3], *specials[-2:], *WORDS]
    return [text + "".join(rng.choices(more, k=3)) for text in texts(seed, n)]


def check_same_ids(theirs: Any, ours: BPETokenizer, n: int = 200) -> None:
    for text in samples(ours.special_tokens, 1, n):
        ids = theirs.encode(text, add_special_tokens=False)
        assert getattr(ids, "ids", ids) == ours.encode(text), repr(text)
