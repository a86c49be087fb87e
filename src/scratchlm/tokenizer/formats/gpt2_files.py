"""GPT-2's two files: vocab.json (or encoder.json) and merges.txt (or vocab.bpe).

vocab.json maps each token's name to its id. merges.txt has one merge a line, after a `#version`
line. The files contain neither the pattern nor the special tokens: both are GPT-2's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.formats.content import (
    all_to_bytes,
    check,
    checked,
    ids_by_name,
    names_of,
    to_characters,
    to_merge,
)
from scratchlm.tokenizer.formats.json_content import (
    decode,
    parse_object,
    read_file,
    refuse,
    shown,
)
from scratchlm.tokenizer.merge_table import MergeTable
from scratchlm.tokenizer.parts import Merges, TokenizerParts
from scratchlm.tokenizer.pieces.patterns import GPT2
from scratchlm.tokenizer.special_tokens import END_OF_TEXT


def read_gpt2(
    vocab_json: StrPath, merges_txt: StrPath, special_tokens: Sequence[str] = (END_OF_TEXT,)
) -> TokenizerParts:
    """Read both files.

    Every token needs a merge that makes the token, unless the token is special or one byte. If this
    merge is missing, the merges are incomplete or belong to another vocabulary.
    """
    ids = ids_by_name(vocab_json, parse_object(vocab_json, read_file(vocab_json)))
    ordinary = {name: id for name, id in ids.items() if name not in special_tokens}
    tokens = all_to_bytes(vocab_json, list(ordinary))
    vocab = dict(zip(ordinary.values(), tokens, strict=True))
    vocab |= {ids[special]: special.encode() for special in special_tokens if special in ids}
    lines = _merge_lines(merges_txt)
    merges = MergeTable.of_names(vocab, ordinary, lines[1]) or _merges_of(merges_txt, *lines)
    files = f"{os.fspath(vocab_json)} with {os.fspath(merges_txt)}"
    parts = checked(files, TokenizerParts(vocab, merges, list(special_tokens)))
    made = {a + b for a, b in merges} | {special.encode() for special in special_tokens}
    for id, token in vocab.items():
        if len(token) > 1 and token not in made:
            what = f"no merge makes a token ({shown(token)}, id {id})"
            refuse(files, what, "use the complete merges.txt, or pass the token as a special token")
    return parts


def _merge_lines(path: StrPath) -> tuple[int, list[str]]:
    """Return how many header lines merges.txt has, 0 or 1, and the lines with merges. Lines may end
    with CR LF."""
    lines = decode(path, read_file(path)).rstrip("\r\n").split("\n")
    start = 1 if lines[0].startswith("#version") else 0
    return start, [line.removesuffix("\r") for line in lines[start:]]


def _merges_of(path: StrPath, start: int, lines: list[str]) -> Merges:
    merges = []
    for i, line in enumerate(lines, start + 1):
        if line.startswith("#version"):
            # Readers disagree here: some read a merge of the token `#version`, others skip the
            # line like a header.
            what = f"only the first line may start with #version (line {i})"
            refuse(path, what, "choose a tokenizer.json file")
        merges.append(to_merge(path, line.split(" "), "line", i))
    return merges


def write_gpt2_vocab(parts: TokenizerParts) -> str:
    """Return the text of vocab.json. Raise ValueError if it cannot store the tokenizer."""
    _check_is_gpt2(parts)
    return json.dumps(names_of(parts), ensure_ascii=False)


def write_gpt2_merges(parts: TokenizerParts) -> str:
    """Return the text of merges.txt. Raise ValueError if it cannot store the tokenizer."""
    _check_is_gpt2(parts)
    lines = [f"{to_characters(a)} {to_characters(b)}\n" for a, b in parts.merges]
    for i, line in enumerate(lines):
        if line.startswith("#version"):
            raise ValueError(
                f"merges.txt cannot store a merge of the token #version (merge {i}), because "
                "#version begins the header of the file; save a tokenizer.json file"
            )
    return "#version: 0.2\n" + "".join(lines)


def _check_is_gpt2(parts: TokenizerParts) -> None:
    check(parts)
    for name, value, gpt2 in (
        ("pattern", parts.pattern, GPT2),
        ("ignore_merges", parts.ignore_merges, False),
        ("normalization", parts.normalization, None),
        ("normalized_tokens", parts.normalized_tokens, ()),
        ("unk_token", parts.unk_token, None),
    ):
        if value != gpt2:
            raise ValueError(
                f"GPT-2's files cannot store {name} ({shown(value)}), because GPT-2 always has "
                f"{shown(gpt2)}; save a tokenizer.json file"
            )
