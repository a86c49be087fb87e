"""Load a published tokenizer by its name, from the files that `scratchlm-data download` saves.

    gpt2, r50k_base    r50k_base.tiktoken, or vocab.json and merges.txt
    cl100k_base        cl100k_base.tiktoken

These files contain no special tokens, so this module adds them, with tiktoken's ids.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.pieces.patterns import CL100K, GPT2
from scratchlm.tokenizer.special_tokens import END_OF_TEXT

FOLDER = "~/.cache/scratchlm"
GPT2_FILES = ("vocab.json", "merges.txt")


class _Published(NamedTuple):
    """A published tokenizer. `ranks` is tiktoken's file."""

    ranks: str
    pattern: str
    special_tokens: Mapping[str, int]


_R50K = _Published("r50k_base.tiktoken", GPT2, {END_OF_TEXT: 50256})
_PUBLISHED = {
    "gpt2": _R50K,
    "r50k_base": _R50K,
    "cl100k_base": _Published(
        "cl100k_base.tiktoken",
        CL100K,
        {
            END_OF_TEXT: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
}


def load_named(name: str, folder: StrPath = FOLDER) -> BPETokenizer:
    """Load a published tokenizer from its files in `folder`.

    Raise ValueError for an unknown name. If the files are missing, the message contains the command
    that downloads them. Raise FileFormatError for damaged files.
    """
    if name not in _PUBLISHED:
        raise ValueError(
            f"no such tokenizer ({name}); choose {', '.join(_PUBLISHED)}, or specify a "
            "tokenizer.json with --tokenizer_path"
        )
    published, place = _PUBLISHED[name], Path(folder).expanduser()
    if (ranks := place / published.ranks).is_file():
        return BPETokenizer.from_tiktoken(ranks, published.special_tokens, published.pattern)
    files = [place / file for file in GPT2_FILES]
    if published is _R50K and all(file.is_file() for file in files):
        return BPETokenizer.from_gpt2(*files)
    output = "" if str(folder) == FOLDER else f" --output {shlex.quote(str(folder))}"
    others = " and no vocab.json with merges.txt" if published is _R50K else ""
    raise ValueError(
        f"the tokenizer {name} must be in the folder ({folder} has no {published.ranks}{others}); "
        f"run scratchlm-data download {name}{output}"
    )
