"""The open sources of a run: their ids, their identity, and the checks of their ids."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from scratchlm.data.data_sources import Source
from scratchlm.data.joined import TokenArray, cut, joined
from scratchlm.data.mixture import Mixture
from scratchlm.data.shards import TokenShard
from scratchlm.errors import FileFormatError
from scratchlm.tokenizer.bpe import BPETokenizer


class OpenSource:
    """An open source. `tokens` are the ids of all its files, as one array."""

    def __init__(self, source: Source, shards: Sequence[TokenShard]) -> None:
        self.source, self.shards = source, shards
        self.tokens = joined([shard.tokens for shard in shards])

    @property
    def text_bytes(self) -> int | None:
        """The number of bytes of text, or None if a file has no sidecar."""
        infos = [shard.info for shard in self.shards]
        return None if None in infos else sum(info.text_bytes for info in infos if info)


def as_data(opened: Sequence[OpenSource], ids: Sequence[TokenArray]) -> TokenArray | Mixture:
    if len(opened) == 1:
        return ids[0]
    names = tuple(each.source.name for each in opened)
    return Mixture(names, tuple(ids), tuple(each.source.weight for each in opened))


def held_out(
    train: Sequence[OpenSource], say: Callable[[str], None]
) -> tuple[list[TokenArray], list[TokenArray]]:
    """Return the training ids and the validation ids: the last tenth of each source."""
    train_ids, val_ids = [], []
    for source in train:
        total = len(source.tokens)
        kept, held_out = cut(source.tokens, total - total // 10)
        train_ids.append(kept)
        val_ids.append(held_out)
        of = "" if len(train) == 1 else f" of {source.source.name}"
        say(
            f"without validation data, the last {len(held_out):,} of {total:,} tokens{of} are "
            "held out"
        )
    return train_ids, val_ids


def identity(opened: Sequence[OpenSource]) -> str:
    """Return the hash of a single file, or the hash of the hashes of several files."""
    hashes = [[shard.sha256 for shard in source.shards] for source in opened]
    if len(hashes) == len(hashes[0]) == 1:
        return hashes[0][0]
    lines = "\n\n".join("\n".join(each) for each in hashes)
    return hashlib.sha256(lines.encode()).hexdigest()


def proportions(opened: Sequence[OpenSource]) -> dict[str, str]:
    """Return the weights of a mixture for an identity. One source has no weights."""
    weights = ":".join(str(each.source.weight) for each in opened)
    return {"mixture": weights} if len(opened) > 1 else {}


def check_all(
    opened: Sequence[OpenSource],
    tokenizer: BPETokenizer | None,
    vocab_size: int,
    say: Callable[[str], None],
) -> None:
    """Check the ids of each token file. Check that one tokenizer made all of them."""
    makers: dict[str, Path] = {}
    for shard in itertools.chain(*(source.shards for source in opened)):
        if shard.info is None and shard.path.suffix.lower() == ".bin":
            say(f"{shard.path} has no sidecar: its ids are read as {shard.tokens.dtype.name}")
        _check(shard, tokenizer, vocab_size)
        if shard.info is not None:
            makers.setdefault(shard.info.tokenizer_hash, shard.path)
    if len(makers) > 1:
        first, second = list(makers.values())[:2]
        raise FileFormatError(
            f"one tokenizer must have made all token files ({first}, {second}: their tokenizers "
            "differ); encode the texts with one tokenizer"
        )


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
