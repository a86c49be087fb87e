"""Turn the data that a user specifies (text, token files, a tokenizer) into memory-mapped ids."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scratchlm.data.batches import EvalBatches, TrainBatches
from scratchlm.data.config import DataConfig
from scratchlm.data.conversations.prepared import (
    PreparedDialogues,
    no_tokenizer,
    prepare_dialogues,
)
from scratchlm.data.corpus_writer import check_separator
from scratchlm.data.data_sources import Source, Split, has_held_out, sources_of
from scratchlm.data.joined import TokenArray
from scratchlm.data.mixture import (
    MixedBatches,
    MixedEvalBatches,
    Mixture,
    eval_batches,
    train_batches,
)
from scratchlm.data.open_sources import (
    OpenSource,
    as_data,
    check_all,
    held_out,
    identity,
    proportions,
)
from scratchlm.data.reading.text_warnings import read_as_text
from scratchlm.data.rows import Documents
from scratchlm.data.shards import open_shard, read_info
from scratchlm.data.sources import num_bytes, told_bytes, told_of_both
from scratchlm.data.tokenized import name_of, tokenized
from scratchlm.data.vocabulary import (
    BYTES_ALONE,
    ids_left_over,
    learn_tokenizer,
    suitable_vocab_size,
)
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.special_tokens import END_OF_TEXT
from scratchlm.tokenizer.token_files import ShardInfo


@dataclass(frozen=True)
class PreparedData:
    """Store the ids of a run: `train` and `val` are each one array, or a mixture of arrays.

    `context_length` is the requested length. With `fit_context`, it may be shorter to fit the data.
    `data_id` identifies the training ids and `val_id` the validation ids. `documents` says how
    batches treat documents, or is None if they ignore documents. `end_ids` and `start_ids` end and
    begin a text of the run's weights.
    """

    train: TokenArray | Mixture
    val: TokenArray | Mixture
    tokenizer: BPETokenizer | None
    context_length: int
    data_id: dict[str, Any]
    val_id: dict[str, Any]
    documents: Documents | None = None
    end_ids: Sequence[int] = ()
    start_ids: Sequence[int] = ()

    @property
    def new_ids(self) -> Sequence[int]:
        """The ids that the template of a dialogue adds to the vocabulary of the weights."""
        return ()

    @property
    def stored(self) -> dict[str, Any]:
        """What each checkpoint of the run contains about its data."""
        ids = {"end_ids": list(self.end_ids), "start_ids": list(self.start_ids)}
        own = {} if self.tokenizer is None else {"tokenizer": self.tokenizer.to_json()}
        return own | {key: some for key, some in ids.items() if some}

    def train_batches(self, batch_size: int, seed: int) -> TrainBatches | MixedBatches:
        return train_batches(self.train, batch_size, self.context_length, seed, self.documents)

    def eval_batches(self, batch_size: int, max_batches: int) -> EvalBatches | MixedEvalBatches:
        length = self.context_length
        return eval_batches(self.val, batch_size, length, max_batches, self.documents)

    def prompt(self, text: str) -> list[int]:
        """Return the ids of the beginning of a sample."""
        assert self.tokenizer is not None  # the recipe checks it
        return self.tokenizer.encode(text)


Prepared = PreparedData | PreparedDialogues


def prepare(
    config: DataConfig,
    vocab_size: int,
    context_length: int,
    folder: Path,
    say: Callable[[str], None] = print,
    own: BPETokenizer | None = None,
) -> Prepared:
    """Open or make the token files. Check that they fit tokenizer, vocabulary and context.

    `prepare_dialogues` prepares dialogues.

    `prepare` tokenizes text once into `folder`. It trains a tokenizer of `vocab_size` ids if there
    is none. `own` is the tokenizer of the initial or resumed weights. `prepare` uses `own` if
    `config` specifies no tokenizer. The caller must then save `own` as tokenizer.json beside
    `folder`. Without validation data, `prepare` holds out the last tenth of the training ids: of
    each source, if there are several. `say` receives one line for each decision. Raise ValueError
    or FileFormatError for data that does not fit.
    """
    if config.kind != "text":
        return prepare_dialogues(config, context_length, folder, say, own)
    sources = _sources(config, say)
    tokenizer, tokenizer_path = _tokenizer(config, sources["train"], vocab_size, folder, say, own)
    if tokenizer is not None and len(tokenizer) > vocab_size:
        raise ValueError(
            f"the tokenizer has more ids than the model ({len(tokenizer)} > vocab_size "
            f"{vocab_size}); use --vocab_size {len(tokenizer)}"
        )
    documents = _documents(config, tokenizer)

    def opened(name: Split) -> list[OpenSource]:
        makers = tokenizer, tokenizer_path
        found = [_open(source, config, makers, vocab_size, folder, name, say)
                 for source in sources[name]]  # fmt: skip
        check_all(found, tokenizer, vocab_size, say)
        return found

    train = val = opened("train")
    train_ids = [source.tokens for source in train]
    if "val" in sources:
        val = opened("val")
        val_ids = [source.tokens for source in val]
    else:
        train_ids, val_ids = held_out(train, say)
    learned = config.tokenizer is None and own is None
    learned &= all(source.kind != "shard" for source in sources["train"])
    more = _with_bytes_alone(train, val) if learned and len(tokenizer or ()) > BYTES_ALONE else ""
    shortest = min(train_ids, key=len), min(val_ids, key=len)
    context_length = _fitting(shortest, context_length, more, say if config.fit_context else None)
    total = sum(map(len, train_ids))
    data_id = _identity(config, train, total, tokenizer, documents)
    val_id = {"data": identity(val), "tokens": sum(map(len, val_ids))} | proportions(val)
    return PreparedData(
        as_data(train, train_ids), as_data(val, val_ids), tokenizer, context_length, data_id,
        val_id, documents,
    )  # fmt: skip


def _identity(
    config: DataConfig,
    train: Sequence[OpenSource],
    total: int,
    tokenizer: BPETokenizer | None,
    documents: Documents | None,
) -> dict[str, Any]:
    """Return plain values that identify the training ids. `total` is their number."""
    found = {
        "train data": identity(train),
        "training tokens": total,
        "tokenizer": None if tokenizer is None else tokenizer.hash,
    } | proportions(train)
    if documents is not None:
        found |= {"documents": config.documents, "rows": config.rows}
        found |= {"separator": documents.separator}
    return found


def _documents(config: DataConfig, tokenizer: BPETokenizer | None) -> Documents | None:
    """Return how batches treat documents. The tokenizer determines the id of the separator."""
    if not config.finds_documents:
        return None
    if tokenizer is None:
        raise ValueError(
            f"the id of the separator must be known (data.separator {config.separator!r}, and the "
            f"tokenizer of {config.train} is unknown); set --tokenizer_path FILE"
        )
    check_separator(tokenizer, config.separator)
    return Documents(
        tokenizer.token_to_id(config.separator),
        separate=config.documents == "separate",
        aligned=config.rows == "aligned",
    )


def _open(
    source: Source,
    config: DataConfig,
    makers: tuple[BPETokenizer | None, Path | None],
    vocab_size: int,
    folder: Path,
    name: Split,
    say: Callable[[str], None],
) -> OpenSource:
    """Open the token files of a source. Make them first for texts. makers: the tokenizer, and its
    file."""
    files, dtype = source.files, config.dtype
    if source.kind != "shard":
        dtype = None  # a new token file gets the tokenizer's dtype
        tokenizer, path = makers
        assert tokenizer is not None  # text always has a tokenizer
        assert path is not None
        files = [tokenized(source, config, tokenizer, path, folder, name, say)]
    return OpenSource(source, [
        open_shard(file, verify=config.verify, dtype=dtype, vocab_size=vocab_size)
        for file in files
    ])  # fmt: skip


def default_vocab_size(config: DataConfig, say: Callable[[str], None] = print) -> int:
    """Return the vocabulary size of the data's tokenizer. For a text without a tokenizer, choose a
    size.

    `say` receives a line about a chosen size. Raise ValueError for ids without a tokenizer.
    """
    if config.tokenizer is not None:
        return len(BPETokenizer.load(config.tokenizer))
    if config.kind != "text":
        raise no_tokenizer(config.train)
    sources = sources_of(config.train)
    if info := _info_of(sources):
        return info.vocab_size
    texts = [file for source in sources if source.kind != "shard" for file in source.files]
    if texts:
        size = suitable_vocab_size(num_bytes(texts))
        say(f"vocab_size is {size}: the default for {told_bytes(texts)}")
        return size
    raise ValueError(
        f"the vocabulary size is unknown ({config.train} specifies no tokenizer); "
        "use --vocab_size N or --tokenizer_path"
    )


def _sources(config: DataConfig, say: Callable[[str], None]) -> dict[str, list[Source]]:
    """Find and check all configured files before tokenizing, which may take minutes."""
    sources = {"train": sources_of(config.train)}
    if config.val is not None:
        sources["val"] = sources_of(config.val, "val")
    elif has_held_out(config.train):
        sources["val"] = sources_of(config.train, "val")
        say(f"the validation data is the held-out documents of {config.train}")
    for line in told_of_both(*(
        [file for source in sources.get(name, []) for file in source.files]
        for name in ("train", "val")
    )):  # fmt: skip
        say(line)
    if config.tokenizer is not None:
        with open(config.tokenizer, "rb"):
            pass
    every = [source for each in sources.values() for source in each]
    texts = [source.files for source in every if source.kind != "shard"]
    for line in read_as_text(itertools.chain(*texts)):
        say(line)
    if not any(source.kind == "documents" for source in every):
        _check_reading_is_unset(config)
    if config.dtype is not None and not any(source.kind == "shard" for source in every):
        raise ValueError(
            f"data.dtype ({config.dtype}) is only for ids without a sidecar ({config.train}); "
            "remove data.dtype, because the vocabulary determines the type of a text's ids"
        )
    return sources


def _info_of(sources: Sequence[Source]) -> ShardInfo | None:
    """Return the description of the first token file that has one."""
    found = _first_described(sources)
    return None if found is None else found[1]


def _first_described(sources: Sequence[Source]) -> tuple[Path, ShardInfo] | None:
    shards = [source.files[0] for source in sources if source.kind == "shard"]
    for path in shards:
        info = read_info(path)
        if info is not None:
            return path, info
    return None


def _check_reading_is_unset(config: DataConfig) -> None:
    for name, default in (("field", "text"), ("separator", END_OF_TEXT), ("join", None)):
        value = getattr(config, name)
        if value != default and not (name == "separator" and config.finds_documents):
            raise ValueError(
                f"data.{name} ({value}) is only for many documents ({config.train}); remove "
                f"data.{name}, because one text file is one text"
            )


def _with_bytes_alone(train: Sequence[OpenSource], val: Sequence[OpenSource]) -> str:
    """Return advice for a message: the longest context for a vocabulary that has no merges."""
    train_bytes, val_bytes = ([each.text_bytes for each in opened] for opened in (train, val))
    if None in train_bytes or None in val_bytes:
        return ""
    sizes = [min(filter(None, each), default=0) for each in (train_bytes, val_bytes)]
    most = sizes[0] // 10 - 1 if train is val else min(sizes) - 1
    return f", or --vocab_size {BYTES_ALONE} for a context of up to {most}" if most > 0 else ""


def _fitting(
    data: tuple[TokenArray, TokenArray],
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
    sources: Sequence[Source],
    vocab_size: int,
    folder: Path,
    say: Callable[[str], None],
    own: BPETokenizer | None,
) -> tuple[BPETokenizer | None, Path | None]:
    """Return a tokenizer and its file: the configured tokenizer, or the tokenizer of the weights,
    or the tokenizer of the token files. If none of these exists, train a tokenizer on the texts."""
    if config.tokenizer is not None:
        path = Path(config.tokenizer)
        tokenizer = BPETokenizer.load(path)
        if own is not None and own.hash != tokenizer.hash:
            say(f"{path} is not the tokenizer that the weights were trained with")
        return tokenizer, path
    if own is not None:
        return own, folder.parent / "tokenizer.json"
    texts = [source for source in sources if source.kind != "shard"]
    if described := _first_described(sources):
        shard, info = described
        path = shard.parent / (info.tokenizer or "")
        if path.is_file():
            return BPETokenizer.load(path), path
        if info.tokenizer is not None and not texts:
            say(
                f"{shard} was made with {path}, which is missing: the run has no bits per byte and "
                "no text samples"
            )
    if not texts:
        return None, None
    if len(texts) < len(sources):
        shard = next(source.files[0] for source in sources if source.kind == "shard")
        raise ValueError(
            f"a text in a mixture needs the tokenizer of the token files ({texts[0].name}; the "
            f"tokenizer of {shard} is unknown); set --tokenizer_path"
        )
    files = list(itertools.chain(*(source.files for source in texts)))
    whole = texts[0] if len(texts) == 1 else Source(config.train, "documents", files)
    path = folder / f"tokenizer-{name_of(whole, config, str(vocab_size))}.json"
    if path.is_file():
        return BPETokenizer.load(path), path
    tokenizer = learn_tokenizer(files, vocab_size, [config.separator], reading=config.reading)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(path)
    say(f"trained a tokenizer of {len(tokenizer):,} ids on {config.train}: {path}")
    for line in ids_left_over(tokenizer, vocab_size, num_bytes(files)):
        say(line)
    return tokenizer, path
