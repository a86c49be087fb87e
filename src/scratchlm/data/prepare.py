"""From what a user names (text, shards, a tokenizer) to what a trainer reads: mapped ids."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scratchlm.data.config import DataConfig
from scratchlm.data.shards import TokenShard, open_shard, write_shard
from scratchlm.data.sources import SHARD_SUFFIXES
from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.token_files import read_sidecar
from scratchlm.tokenizer.training import train_bpe


@dataclass(frozen=True)
class PreparedData:
    """train, val: 1-D integer arrays of ids. `data_id` says which the training ids are, `val_id`
    which are validated on."""

    train: np.ndarray
    val: np.ndarray
    tokenizer: BPETokenizer | None
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
    """Open, or first make, the shards; check them against the tokenizer, vocabulary and context.

    Text is tokenized once into `folder` (and a tokenizer trained to `vocab_size` where none is
    given). own: the tokenizer of the weights that training begins with or goes on from, which is
    taken where `config` names none, and which the caller keeps as tokenizer.json beside `folder`.
    Without validation data the last tenth of the training ids is held out. What was decided is
    said, each in one line; what does not fit is a ValueError or FileFormatError.
    """
    for named in (config.train, config.val, config.tokenizer):
        if named is not None:  # before minutes go into tokenizing the others
            with open(named, "rb"):
                pass
    tokenizer, tokenizer_path = _tokenizer(config, vocab_size, folder, say, own)
    if tokenizer is not None and len(tokenizer) > vocab_size:
        raise ValueError(
            f"the tokenizer has more ids than the model ({len(tokenizer)} > vocab_size "
            f"{vocab_size}); give --vocab_size {len(tokenizer)}"
        )

    def shard(path: Path, name: str) -> TokenShard:
        if path.suffix not in SHARD_SUFFIXES:
            assert tokenizer is not None  # text always has one
            assert tokenizer_path is not None
            shard_path = folder / f"{name}-{_key(path, tokenizer.hash)}.bin"
            path = _tokenized(path, shard_path, tokenizer, tokenizer_path, say)
        opened = open_shard(path, verify=config.verify, dtype=config.dtype, vocab_size=vocab_size)
        if opened.info is None and path.suffix == ".bin":
            say(f"{path} has no sidecar: read as {opened.tokens.dtype.name}")
        _check(opened, tokenizer, vocab_size)
        return opened

    train = shard(Path(config.train), "train")
    train_ids, val = train.tokens, train
    if config.val is not None:
        val = shard(Path(config.val), "val")
        val_ids = val.tokens
    else:
        cut = len(train_ids) - len(train_ids) // 10
        train_ids, val_ids = train_ids[:cut], train_ids[cut:]
        held, total = len(val_ids), len(train.tokens)
        say(f"no validation data: the last {held:,} of {total:,} tokens are held out")
    for ids, which in ((train_ids, "training"), (val_ids, "validation")):
        if len(ids) < context_length + 1:
            raise ValueError(
                f"the {which} data is shorter than the context ({len(ids)} tokens, "
                f"{context_length + 1} needed); give more text or a smaller --context_length"
            )
    data_id = {
        "train data": train.sha256,
        "training tokens": len(train_ids),
        "tokenizer": None if tokenizer is None else tokenizer.hash,
    }
    val_id = {"data": val.sha256, "tokens": len(val_ids)}
    return PreparedData(train_ids, val_ids, tokenizer, data_id, val_id)


def default_vocab_size(config: DataConfig) -> int:
    """The size of the tokenizer that the data names; ValueError where there is none."""
    if config.tokenizer is not None:
        return len(BPETokenizer.load(config.tokenizer))
    Path(config.train).stat()  # a missing file is the system's own FileNotFoundError
    info = read_sidecar(config.train)
    if info is not None:
        return info.vocab_size
    raise ValueError(
        f"the vocabulary's size is not known ({config.train} names no tokenizer); "
        "give --vocab_size N, or --tokenizer_path"
    )


def _tokenizer(
    config: DataConfig,
    vocab_size: int,
    folder: Path,
    say: Callable[[str], None],
    own: BPETokenizer | None,
) -> tuple[BPETokenizer | None, Path | None]:
    """The tokenizer and where it lies: the one given, the weights' own, the shard's, or one trained
    here."""
    if config.tokenizer is not None:
        path = Path(config.tokenizer)
        tokenizer = BPETokenizer.load(path)
        if own is not None and own.hash != tokenizer.hash:
            say(f"{path} is another tokenizer than the weights were trained with")
        return tokenizer, path
    if own is not None:
        return own, folder.parent / "tokenizer.json"
    source = Path(config.train)
    if source.suffix in SHARD_SUFFIXES:
        info = read_sidecar(source)
        if info is None or info.tokenizer is None:
            return None, None
        path = source.parent / info.tokenizer
        if not path.is_file():
            say(f"{source} was made with {path}, which is gone: no bits per byte, no text samples")
            return None, None
        return BPETokenizer.load(path), path
    path = folder / f"tokenizer-{_key(source, str(vocab_size))}.json"
    if path.is_file():
        return BPETokenizer.load(path), path
    tokenizer = train_bpe(source, vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(path)
    say(f"trained a tokenizer of {len(tokenizer):,} on {source}: {path}")
    return tokenizer, path


def _tokenized(
    source: Path,
    shard: Path,
    tokenizer: BPETokenizer,
    tokenizer_path: Path,
    say: Callable[[str], None],
) -> Path:
    """The shard of a text file, made where it is not there yet."""
    size = source.stat().st_size
    with contextlib.suppress(OSError, FileFormatError):  # absent, or replaced only in part
        open_shard(shard)
        say(f"{source} is tokenized already: {shard}")
        return shard
    shard.parent.mkdir(parents=True, exist_ok=True)
    info = write_shard(tokenizer, source, shard, tokenizer_path=tokenizer_path)
    say(f"tokenized {source}: {info.count:,} tokens, {size / info.count:.2f} bytes each: {shard}")
    return shard


def _check(shard: TokenShard, tokenizer: BPETokenizer | None, vocab_size: int) -> None:
    info = shard.info
    if info and tokenizer and info.tokenizer_hash not in (None, tokenizer.hash):
        raise FileFormatError(
            f"the shard was made with another tokenizer ({shard.path}: its tokenizer is "
            f"{info.tokenizer or 'not named'}); give that one, or encode the text again"
        )
    bare = info is None and shard.path.suffix == ".bin"
    width = shard.tokens.dtype.name
    if bare and tokenizer and width == "uint16" and tokenizer.dtype.name == "uint32":
        raise ValueError(
            f"uint16 cannot hold the tokenizer's ids ({shard.path}, {len(tokenizer)} ids); "
            "give --data.dtype uint32, or encode the text again"
        )
    if shard.max_id >= vocab_size:
        other = "uint32" if width == "uint16" else "uint16"
        remedy = f", or --data.dtype {other} where they are that" if bare else ""
        raise ValueError(
            f"an id is past the vocabulary ({shard.max_id} in {shard.path}, vocab_size "
            f"{vocab_size}); give --vocab_size {shard.max_id + 1} or more, or encode the text "
            f"again{remedy}"
        )


def _key(source: Path, maker: str) -> str:
    """Part of the name of what is made from a text file: another text or maker, another name."""
    status = source.stat()
    made_from = f"{source.resolve()} {status.st_size} {status.st_mtime_ns} {maker}"
    return hashlib.sha256(made_from.encode("utf-8", "surrogateescape")).hexdigest()[:12]
