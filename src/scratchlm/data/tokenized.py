"""Tokenize text or documents once, into one token file in a run's folder."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from scratchlm.data.config import DataConfig
from scratchlm.data.corpora import encode_corpus
from scratchlm.data.corpus_folder import MANIFEST
from scratchlm.data.data_sources import Source
from scratchlm.data.shards import open_shard, write_shard
from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.bpe import BPETokenizer

_ONE_SHARD = 1 << 62  # ids in a token file: all of them


def tokenized(
    source: Source,
    config: DataConfig,
    tokenizer: BPETokenizer,
    tokenizer_path: Path,
    folder: Path,
    name: str,
    say: Callable[[str], None],
) -> Path:
    """Return the token file of a source. Make it in `folder` if it does not exist yet.

    `tokenized` encodes a text as `scratchlm-tokenize --output FILE.bin` does: special tokens become
    ids. It encodes documents as `scratchlm-tokenize --output FOLDER` does: the separator's id
    follows each document.
    """
    named = f"{name}-{name_of(source, config, tokenizer.hash)}"
    if source.kind == "documents":
        return _documents(source, config, tokenizer, folder / named, say)
    shard = folder / f"{named}.bin"
    with contextlib.suppress(OSError, FileFormatError):  # the file is missing, or partly replaced
        open_shard(shard)
        say(f"{source.name} is already tokenized: {shard}")
        return shard
    folder.mkdir(parents=True, exist_ok=True)
    info = write_shard(tokenizer, source.files[0], shard, tokenizer_path=tokenizer_path)
    say(_told(source.name, "", info.count, info.text_bytes, shard))
    return shard


def _documents(
    source: Source,
    config: DataConfig,
    tokenizer: BPETokenizer,
    output: Path,
    say: Callable[[str], None],
) -> Path:
    shard = output / "train-00000.bin"
    if (output / MANIFEST).exists():  # `encode_corpus` writes it last
        with contextlib.suppress(OSError, FileFormatError):
            open_shard(shard)
            say(f"{source.name} is already tokenized: {shard}")
            return shard
    if output.exists():  # a killed run left the folder, or the folder is damaged
        shutil.rmtree(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    corpus = encode_corpus(
        tokenizer, source.files, output, reading=config.reading, shard_tokens=_ONE_SHARD
    )
    info, empty = corpus.train, corpus.reading["empty"]
    documents = f"{info.documents:,} documents, " + f"{empty:,} empty ones dropped, " * (empty > 0)
    say(_told(source.name, documents, info.tokens, info.text_bytes, shard))
    return shard


def _told(name: str, documents: str, tokens: int, text_bytes: int, shard: Path) -> str:
    each = text_bytes / max(tokens, 1)
    return f"tokenized {name}: {documents}{tokens:,} tokens, {each:.2f} bytes per token: {shard}"


def name_of(source: Source, config: DataConfig, maker: str) -> str:
    """Return a hash for the name of a derived file. Another source or maker gives another name."""
    made_from = maker
    for file in source.files:
        status = file.stat()
        made_from += f"\n{file.resolve()} {status.st_size} {status.st_mtime_ns}"
    if source.kind == "documents":
        made_from += f"\n{config.field} {config.separator}"
        if config.join is not None:
            made_from += f" {config.join}"
    return hashlib.sha256(made_from.encode("utf-8", "surrogateescape")).hexdigest()[:12]
