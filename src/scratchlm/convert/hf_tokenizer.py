"""Read and write the tokenizer of a Hugging Face folder, and its start and end ids."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from scratchlm.convert.hf_config import read_json
from scratchlm.errors import FileFormatError
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.start_and_end_ids import check_start_ids, known_ids


def read_tokenizer(folder: StrPath) -> BPETokenizer | None:
    """Return the tokenizer from tokenizer.json, or from vocab.json and merges.txt, or None."""
    folder = Path(folder)
    if (folder / "tokenizer.json").exists():
        return BPETokenizer.load(folder / "tokenizer.json")
    if (folder / "vocab.json").exists():
        return BPETokenizer.from_gpt2(folder / "vocab.json", folder / "merges.txt")
    return None


def read_end_ids(folder: StrPath, vocabulary: Collection[int]) -> list[int]:
    """Return the ids that end a text, from the first file with known ids, or an empty list.

    vocabulary: the ids that both the model and the tokenizer have. Other ids are dropped with a
    Notice. A config often keeps GPT-2's id 50256 although its vocabulary is smaller, and
    transformers loads such folders.
    """
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        named = read_json(path).get("eos_token_id") if path.exists() else None
        if named is None:
            continue
        ends = named if isinstance(named, list) else [named]
        if not all(type(end) is int for end in ends):
            raise FileFormatError(
                f"eos_token_id must be an id or a list of ids ({path}: {named!r}); "
                "download the file again"
            )
        if known := known_ids(ends, vocabulary, "eos_token_id", path):
            return known
    return []


def read_start_ids(folder: StrPath, vocabulary: Collection[int]) -> list[int]:
    """Return the ids that the folder's tokenizer puts before a text. Most tokenizers put none."""
    path = Path(folder) / "tokenizer.json"
    processor = (read_json(path).get("post_processor") if path.exists() else None) or {}
    ids: list[int] = []
    for step in processor.get("processors", [processor]):
        if step.get("type") != "TemplateProcessing":
            continue
        try:
            for part in step["single"]:
                if "SpecialToken" not in part:  # the text itself
                    break
                ids += step["special_tokens"][part["SpecialToken"]["id"]]["ids"]
        except (KeyError, TypeError):
            raise FileFormatError(
                f"the template uses tokens that it does not list ({path}); download the file again"
            ) from None
    check_start_ids(ids, vocabulary, path)
    return ids


def tokenizer_config(
    tokenizer: BPETokenizer, ends: list[int], start: int | None, context_length: int
) -> dict[str, Any]:
    """Return the content of tokenizer_config.json. It leaves out an id without a token."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    if ends and ends[0] in tokenizer.vocab:
        config["eos_token"] = tokenizer.vocab[ends[0]].decode("utf-8", "replace")
    if start is not None and start in tokenizer.vocab:
        config["bos_token"] = tokenizer.vocab[start].decode("utf-8", "replace")
    return config


def template(tokenizer: BPETokenizer, starts: list[int]) -> dict[str, Any]:
    """Return the post_processor that puts the tokens `starts` before a text."""
    names = [tokenizer.vocab[start].decode("utf-8", "replace") for start in starts]
    before = [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]
    first, second = ({"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [*before, first],
        "pair": [*before, first, second],
        "special_tokens": {
            name: {"id": name, "ids": [start], "tokens": [name]}
            for name, start in zip(names, starts, strict=True)
        },
    }
