"""The steps of `scratchlm-tokenize`. Each step calls the library once and prints a line."""

from __future__ import annotations

import signal
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from scratchlm.cli.command import has_colour
from scratchlm.cli.tokenize_flags import READING
from scratchlm.data.corpora import encode_corpus
from scratchlm.data.corpus_folder import PROGRESS
from scratchlm.data.documents import read_documents
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.settings import Reading
from scratchlm.data.reading.text_warnings import read_as_text
from scratchlm.data.shards import write_shard
from scratchlm.data.sources import is_plain, num_bytes
from scratchlm.data.vocabulary import ids_left_over, learn_tokenizer
from scratchlm.errors import Interrupted
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.formats.content import check_portable
from scratchlm.tokenizer.inspection import inspect
from scratchlm.tokenizer.pieces.patterns import canonical, find_pieces
from scratchlm.tokenizer.pieces.text_files import read_text
from scratchlm.tokenizer.playground import page
from scratchlm.tokenizer.playground.browser_pattern import browser_pattern
from scratchlm.tokenizer.special_tokens import END_OF_TEXT


def train(args: Namespace) -> tuple[BPETokenizer, Path]:
    """Train and save a tokenizer. Return the tokenizer and its file."""
    start = time.perf_counter()
    path = Path(args.output_tokenizer or "tokenizer.json")
    settings: dict[str, Any] = {
        "vocab_size": args.vocab_size,
        "special_tokens": args.special_tokens or [END_OF_TEXT],
        "pattern": "gpt2" if args.pattern is None else args.pattern,
    } | _given(args, "min_frequency", "max_token_length", "num_workers")
    print(f"learning from {_counted(args.corpus_files, 'file')}: {_shown(settings)}")
    for line in read_as_text(args.corpus_files):
        print(line)
    settings["pattern"] = canonical(settings["pattern"])
    find_pieces(settings["pattern"])  # refuse an invalid pattern before minutes of work,
    check_portable(settings["pattern"])  # and a pattern that no file can store
    if args.html is not None:
        browser_pattern(settings["pattern"])
    specials = settings.pop("special_tokens")
    separator = END_OF_TEXT if END_OF_TEXT in specials else specials[0]
    reading = Reading(**{"separator": separator} | _given(args, *READING))
    with Rejects(args.rejects, args.max_bad or 0) as rejects:
        tokenizer = learn_tokenizer(
            args.corpus_files,
            special_tokens=specials,
            reading=reading,
            rejects=rejects,
            **settings,
        )
    old = path.read_bytes() if path.is_file() else None
    tokenizer.save(path)
    _tell_what_is_left_out(rejects.account(), args)
    print(f"trained {len(tokenizer):,} ids in {time.perf_counter() - start:.1f} s: {path}")
    if old not in (None, path.read_bytes()):
        print(f"{path} replaced another file; encode your texts a second time, with this tokenizer")
    limits = " and ".join(f"--{flag}" for flag in _given(args, "min_frequency", "max_token_length"))
    for line in ids_left_over(tokenizer, args.vocab_size, num_bytes(args.corpus_files), limits):
        print(line)
    return tokenizer, path


def encode_file(tokenizer: BPETokenizer, path: Path, args: Namespace) -> None:
    """Encode one text to one token file."""
    start, source = time.perf_counter(), args.encode_files[0]
    output = Path(args.output or f"{source}.bin")
    _tell_what_is_read_as_text(args)
    replaced = output.is_file()
    info = write_shard(tokenizer, source, output, num_workers=args.num_workers, tokenizer_path=path)
    print(
        f"encoded {info.text_bytes:,} bytes to {info.count:,} tokens "
        f"({info.text_bytes / max(info.count, 1):.2f} bytes each) in "
        f"{time.perf_counter() - start:.1f} s: {output}"
    )
    if replaced:
        print(f"{output} replaced an older file")


def encode_documents(tokenizer: BPETokenizer, args: Namespace) -> None:
    """Encode many documents to a folder of shards."""
    start, output = time.perf_counter(), Path(args.output)
    reading = _given(args, *READING)
    settings = _given(args, "val_fraction", "seed", "shard_tokens", "resume", "num_workers")
    shown = f": {_shown(reading | settings)}" if reading | settings else ""
    print(f"encoding {_counted(args.encode_files, 'file')} into {output}{shown}")
    _tell_what_is_read_as_text(args)
    try:
        with Rejects(args.rejects, args.max_bad or 0) as rejects:
            info = encode_corpus(
                tokenizer,
                args.encode_files,
                output,
                reading=Reading(**reading),
                rejects=rejects,
                **settings,
            )
    except (KeyboardInterrupt, Interrupted) as stop:
        if not (output / PROGRESS).exists():  # no shard is finished, so there is nothing to resume
            raise
        raise Interrupted(
            getattr(stop, "signum", signal.SIGINT),
            f"stopped; the finished shards are in {output}; "
            "to continue, repeat the command with --resume",
        ) from None
    _tell_what_is_left_out(info.reading, args)
    for name, split in (("train", info.train), ("val", info.val)):
        if name == "train" or args.val_fraction:
            print(
                f"{name}: {split.documents:,} documents, {split.text_bytes:,} bytes, "
                f"{split.tokens:,} tokens ({split.text_bytes / max(split.tokens, 1):.2f} bytes "
                f"each) in {_counted(split.shards, 'shard')}"
            )
    print(f"encoded in {time.perf_counter() - start:.1f} s: {output}")


def _tell_what_is_left_out(reading: dict[str, int], args: Namespace) -> None:
    """Print what became of the records if the reader dropped any."""
    empty, rejected = reading.get("empty", 0), reading.get("rejected", 0)
    if empty or rejected:
        told = f"{empty:,} empty, {rejected:,} rejected"
        if rejected:
            told += f" ({reading['rejected_bytes']:,} bytes, in {args.rejects})"
        documents = reading["records"] - empty - rejected
        print(f"{reading['records']:,} records: {documents:,} documents, {told}")


def _tell_what_is_read_as_text(args: Namespace) -> None:
    """Print which files of --encode are read as text. `train` prints this for files of --corpus."""
    for line in read_as_text(file for file in args.encode_files if file not in args.corpus_files):
        print(line)


def inspection(args: Namespace) -> str:
    """Return the report of a tokenizer.json."""
    tokenizer = BPETokenizer.load(args.inspect)
    return inspect(tokenizer, _sample(args) if args.sample else None, args.word)


def _sample(args: Namespace) -> str:
    """Return the text of a file, or of all its documents."""
    if is_plain(Path(args.sample)):
        return "".join(read_text(args.sample))
    reading = Reading(**_given(args, "field", "join"))
    return "".join(chunk.text for chunk in read_documents(args.sample, reading))


def show(tokenizer: BPETokenizer, args: Namespace) -> str:
    """Return the tokens of a text as the terminal shows them."""
    return page.show(tokenizer, args.show, colour=has_colour())


def write_page(tokenizer: BPETokenizer, path: Path, args: Namespace) -> None:
    """Write the page of a tokenizer. The page shows the name of the tokenizer's file."""
    size = page.write_page(tokenizer, args.html, path.name)
    print(f"page of {size / 1e6:.1f} MB: {args.html}")


def _given(args: Namespace, *flags: str) -> dict[str, Any]:
    return {flag: getattr(args, flag) for flag in flags if getattr(args, flag) is not None}


def _counted(things: list[Any], name: str) -> str:
    return f"{len(things):,} {name}{'s' * (len(things) != 1)}"


def _shown(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())
