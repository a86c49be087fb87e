"""Read and write the tokenizer of a Hugging Face folder, its chat template, start and end ids."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from scratchlm.convert.hf_config import read_json
from scratchlm.errors import FileFormatError
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.chat_template import FORMS, ChatTemplate, missing_markers
from scratchlm.tokenizer.start_and_end_ids import check_start_ids, default_end_ids, known_ids


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


def read_template(folder: StrPath, tokenizer: BPETokenizer | None) -> str | None:
    """Return the name of the chat template in the folder, if it is one of `FORMS`, or None.

    The result is also None if the tokenizer does not have the template's markers.
    """
    name = _template_name(folder)
    if name is None or tokenizer is None or missing_markers(FORMS[name], tokenizer):
        return None
    return name


def has_other_template(folder: StrPath) -> bool:
    """Return whether the folder has a chat template that is not one of `FORMS`."""
    return bool(_chat_template(Path(folder))) and _template_name(folder) is None


def read_adapter_template(folder: StrPath, tokenizer: BPETokenizer) -> str | None:
    """Return the name of the chat template in a folder of adapters, if it is one of `FORMS`.

    Raise FileFormatError if the model's tokenizer does not have the template's markers, because
    then the adapters belong to another model.
    """
    name = _template_name(folder)
    if name is not None and (missing := missing_markers(FORMS[name], tokenizer)):
        raise FileFormatError(
            f"the adapter's template needs a special token that the model's tokenizer does not "
            f"have ({os.fspath(folder)}: {name} needs {missing[0]}); use the model that the "
            "adapter was trained with"
        )
    return name


def _template_name(folder: StrPath) -> str | None:
    text = _chat_template(Path(folder))
    return next((name for name, form in FORMS.items() if form.jinja == text), None)


def _chat_template(folder: Path) -> Any:
    """Return the text that `transformers` uses: its own file comes before tokenizer_config.json."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_bytes().decode("utf-8", "replace")
    path = folder / "tokenizer_config.json"
    stored = read_json(path).get("chat_template") if path.is_file() else None
    if isinstance(stored, list):  # several templates, each with a name
        named = [each for each in stored if isinstance(each, dict)]
        return next((each.get("template") for each in named if each.get("name") == "default"), None)
    return stored


def special_ids(
    tokenizer: BPETokenizer | None,
    end_ids: Sequence[int],
    start_ids: Sequence[int],
    template: str | None,
) -> tuple[list[int], int | None]:
    """Return the ids that end a text, first the eos_token, and the id of the bos_token, or None.

    With a chat template, the eos_token ends an answer. Without `start_ids`, the bos_token is the
    marker that begins a conversation, or the token between texts. Raise ValueError if the tokenizer
    does not fit the template.
    """
    separator = [] if tokenizer is None else default_end_ids(tokenizer)
    ends, opening = list(end_ids) or separator, list(start_ids)
    if template is not None:
        if tokenizer is None:
            raise ValueError(
                f"a chat template needs a tokenizer ({template}); add the model's tokenizer"
            )
        chat = ChatTemplate(template, tokenizer)
        ends, opening = chat.with_end_of_answer(end_ids), opening or chat.start_ids
    return ends, next(iter(opening + separator), None)


def tokenizer_files(
    tokenizer: BPETokenizer,
    context_length: int,
    end_ids: Sequence[int] = (),
    start_ids: Sequence[int] = (),
    template: str | None = None,
) -> dict[str, Any]:
    """Return the content of tokenizer.json and tokenizer_config.json. `to_hf` has the arguments.

    The chat template is in tokenizer_config.json, because all versions of `transformers` and other
    programs read it there. Only newer versions read a file chat_template.jinja.
    """
    ends, begin = special_ids(tokenizer, end_ids, start_ids, template)
    content = json.loads(tokenizer.to_json())
    if start_ids:
        content["post_processor"] = _post_processor(tokenizer, start_ids)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    for key, id in (("eos_token", next(iter(ends), None)), ("bos_token", begin)):
        if id in tokenizer.vocab:
            config[key] = tokenizer.vocab[id].decode("utf-8", "replace")
    if template is not None:
        config["chat_template"] = FORMS[template].jinja
    return {"tokenizer.json": content, "tokenizer_config.json": config}


def _post_processor(tokenizer: BPETokenizer, starts: Sequence[int]) -> dict[str, Any]:
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
