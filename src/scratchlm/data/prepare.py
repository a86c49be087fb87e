"""Turn the data that a user specifies (text, token files, a tokenizer) into memory-mapped ids."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scratchlm.data.config import DataConfig
from scratchlm.data.documents import read_as_text
from scratchlm.data.shards import TokenShard, open_shard
from scratchlm.data.sources import Source, num_bytes, source_of, told_bytes
from scratchlm.data.tokenized import name_of, tokenized
from scratchlm.data.vocabulary import (
    BYTES_ALONE,
    ids_left_over,
    learn_tokenizer,
    suitable_vocab_size,
)
from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.special_tokens import END_OF_TEXT
from scratchlm.tokenizer.token_files import read_sidecar


@dataclass(frozen=True)
class PreparedData:
    """Store the ids of a run: `train` and `val` are 1-D integer arrays.

    `context_length` is the requested length. With `fit_context`, it may be shorter to fit the data.
    `data_id` identifies the training ids and `val_id` the validation ids.
    """

    train: np.ndarray
    val: np.ndarray
    tokenizer: BPETokenizer | None
    context_length: int
    data_id: dict[str, Any]
    val_id: dict[str, Any]


def prepare(
    config: DataConfig,
    vocab_size: int,
    context_length: int,
    folder: Path,
    say: Callable[[str], None] = print,
    own: BPETokenizer | None = None,
) -> PreparedData:
    """Open or make the token files. Check that they fit tokenizer, vocabulary and context.

    `prepare` tokenizes text once into `folder`. It trains a tokenizer of `vocab_size` ids if there
    is none. `own` is the tokenizer of the initial or resumed weights. `prepare` uses `own` if
    `config` specifies no tokenizer. The caller must then save `own` as tokenizer.json beside
    `folder`. Without validation data, `prepare` holds out the last tenth of the training ids. `say`
    receives one line for each decision. Raise ValueError or FileFormatError for data that does not
    fit.
    """
    sources = _sources(config, say)
    tokenizer, tokenizer_path = _tokenizer(config, sources["train"], vocab_size, folder, say, own)
    if tokenizer is not None and len(tokenizer) > vocab_size:
        raise ValueError(
            f"the tokenizer has more ids than the model ({len(tokenizer)} > vocab_size "
            f"{vocab_size}); use --vocab_size {len(tokenizer)}"
        )

    def shard(name: str) -> TokenShard:
        source = sources[name]
        path, dtype = source.files[0], config.dtype
        if source.kind != "shard":
            dtype = None  # a new token file gets the tokenizer's dtype
            assert tokenizer is not None  # text always has a tokenizer
            assert tokenizer_path is not None
            path = tokenized(source, config, tokenizer, tokenizer_path, folder, name, say)
        opened = open_shard(path, verify=config.verify, dtype=dtype, vocab_size=vocab_size)
        if opened.info is None and path.suffix.lower() == ".bin":
            say(f"{path} has no sidecar: its ids are read as {opened.tokens.dtype.name}")
        _check(opened, tokenizer, vocab_size)
        return opened

    train = val = shard("train")
    if "val" in sources:
        val = shard("val")
        train_ids, val_ids = train.tokens, val.tokens
    else:
        total = len(train.tokens)
        train_ids, val_ids = np.split(train.tokens, [total - total // 10])
        say(f"without validation data, the last {len(val_ids):,} of {total:,} tokens are held out")
    learned = sources["train"].kind != "shard" and config.tokenizer is None and own is None
    more = _with_bytes_alone(train, val) if learned and len(tokenizer or ()) > BYTES_ALONE else ""
    context_length = _fitting(
        (train_ids, val_ids), context_length, more, say if config.fit_context else None
    )
    data_id = {
        "train data": train.sha256,
        "training tokens": len(train_ids),
        "tokenizer": None if tokenizer is None else tokenizer.hash,
    }
    val_id = {"data": val.sha256, "tokens": len(val_ids)}
    return PreparedData(train_ids, val_ids, tokenizer, context_length, data_id, val_id)


def default_vocab_size(config: DataConfig, say: Callable[[str], None] = print) -> int:
    """Return the vocabulary size of the data's tokenizer. For a text without a tokenizer, choose a
    size.

    `say` receives a line about a chosen size. Raise ValueError for ids without a tokenizer.
    """
    if config.tokenizer is not None:
        return len(BPETokenizer.load(config.tokenizer))
    source = source_of(config.train)
    if source.kind != "shard":
        size = suitable_vocab_size(num_bytes(source.files))
        say(f"vocab_size is {size}: the default for {told_bytes(source.files)}")
        return size
    info = read_sidecar(source.files[0])
    if info is not None:
        return info.vocab_size
    raise ValueError(
        f"the vocabulary size is unknown ({config.train} specifies no tokenizer); "
        "use --vocab_size N or --tokenizer_path"
    )


def _sources(config: DataConfig, say: Callable[[str], None]) -> dict[str, Source]:
    """Find and check all configured files before tokenizing, which may take minutes."""
    sources = {"train": source_of(config.train)}
    if config.val is not None:
        sources["val"] = source_of(config.val)
    if config.tokenizer is not None:
        with open(config.tokenizer, "rb"):
            pass
    texts = [source.files for source in sources.values() if source.kind != "shard"]
    for line in read_as_text(itertools.chain(*texts)):
        say(line)
    if not any(source.kind == "documents" for source in sources.values()):
        _check_reading_is_unset(config)
    if config.dtype is not None and not any(each.kind == "shard" for each in sources.values()):
        raise ValueError(
            f"data.dtype ({config.dtype}) is only for ids without a sidecar ({config.train}); "
            "remove data.dtype, because the vocabulary determines the type of a text's ids"
        )
    return sources


def _check_reading_is_unset(config: DataConfig) -> None:
    for name, default in (("field", "text"), ("separator", END_OF_TEXT)):
        value = getattr(config, name)
        if value != default:
            raise ValueError(
                f"data.{name} ({value}) is only for many documents ({config.train}); remove "
                f"data.{name}, because one text file is one text"
            )


def _with_bytes_alone(train: TokenShard, val: TokenShard) -> str:
    """Return advice for a message: the longest context for a vocabulary that has no merges."""
    if train.info is None or val.info is None:
        return ""
    sizes = [train.info.text_bytes, val.info.text_bytes]
    most = sizes[0] // 10 - 1 if train is val else min(sizes) - 1
    return f", or --vocab_size {BYTES_ALONE} for a context of up to {most}" if most > 0 else ""


def _fitting(
    data: tuple[np.ndarray, np.ndarray],
    context_length: int,
    more: str,
    shrinks: Callable[[str], None] | None,
) -> int:
    """Return `context_length`. If the data is shorter and `shrinks` is not None, return the longest
    context that fits.

    `shrinks` receives a line about the change. A window has one token more than the context. Raise
    ValueError if no window fits.
    """
    longest = min(map(len, data)) - 1
    if longest >= context_length:
        return context_length
    if shrinks is not None and longest >= 1:
        shrinks(
            f"context_length is {longest}, not {context_length}: the data is short "
            f"({len(data[0]):,} tokens for training, {len(data[1]):,} for validation); for a "
            f"longer context, use more text{more}"
        )
        return longest
    which, ids = next(
        (which, ids)
        for which, ids in zip(("training", "validation"), data, strict=True)
        if len(ids) < context_length + 1
    )
    fits = f" --context_length {longest} or less,{'' if more else ' or'}" if longest >= 1 else ""
    raise ValueError(
        f"the {which} data must be longer than the context ({len(ids)} tokens, "
        f"{context_length + 1} needed); use{fits} more text{more}"
    )


def _tokenizer(
    config: DataConfig,
    source: Source,
    vocab_size: int,
    folder: Path,
    say: Callable[[str], None],
    own: BPETokenizer | None,
) -> tuple[BPETokenizer | None, Path | None]:
    """Return a tokenizer and its file: the configured tokenizer, or the tokenizer of the weights,
    or the tokenizer of the token file. If none of these exists, train a tokenizer."""
    if config.tokenizer is not None:
        path = Path(config.tokenizer)
        tokenizer = BPETokenizer.load(path)
        if own is not None and own.hash != tokenizer.hash:
            say(f"{path} is not the tokenizer that the weights were trained with")
        return tokenizer, path
    if own is not None:
        return own, folder.parent / "tokenizer.json"
    if source.kind == "shard":
        shard = source.files[0]
        info = read_sidecar(shard)
        if info is None or info.tokenizer is None:
            return None, None
        path = shard.parent / info.tokenizer
        if not path.is_file():
            say(
                f"{shard} was made with {path}, which is missing: the run has no bits per byte and "
                "no text samples"
            )
            return None, None
        return BPETokenizer.load(path), path
    path = folder / f"tokenizer-{name_of(source, config, str(vocab_size))}.json"
    if path.is_file():
        return BPETokenizer.load(path), path
    reading = {"field": config.field, "separator": config.separator}
    tokenizer = learn_tokenizer(source.files, vocab_size, [config.separator], **reading)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(path)
    say(f"trained a tokenizer of {len(tokenizer):,} ids on {config.train}: {path}")
    for line in ids_left_over(tokenizer, vocab_size, num_bytes(source.files)):
        say(line)
    return tokenizer, path


def _check(shard: TokenShard, tokenizer: BPETokenizer | None, vocab_size: int) -> None:
    info = shard.info
    if info and tokenizer and info.tokenizer_hash not in (None, tokenizer.hash):
        raise FileFormatError(
            f"the token file was made with another tokenizer ({shard.path}: its tokenizer is "
            f"{info.tokenizer or 'unknown'}); use that tokenizer, or encode the text with yours"
        )
    bare = info is None and shard.path.suffix.lower() == ".bin"
    width = shard.tokens.dtype.name
    if bare and tokenizer and width == "uint16" and tokenizer.dtype.name == "uint32":
        raise ValueError(
            f"uint16 is too small for the tokenizer's ids ({shard.path}, {len(tokenizer)} ids); "
            "use --data.dtype uint32, or encode the text again"
        )
    if shard.max_id >= vocab_size:
        other = "uint32" if width == "uint16" else "uint16"
        remedy = f", or use --data.dtype {other} if the ids have that type" if bare else ""
        raise ValueError(
            f"each id must be less than vocab_size ({shard.max_id} in {shard.path}, vocab_size "
            f"{vocab_size}); use --vocab_size {shard.max_id + 1} or more, or encode the text "
            f"again{remedy}"
        )
