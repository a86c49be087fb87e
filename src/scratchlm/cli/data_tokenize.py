"""scratchlm-data tokenize: encode the documents of two folders, for training and validation.

scratchlm-data tokenize                          the Pile, as scratchlm-data download pile saves it
scratchlm-data tokenize --max_data 0 --num_workers 8
scratchlm-data tokenize --train_dir data/train --val_dir data/val \\
    --out_train_file data/train/pile_train.h5 --out_val_file data/val/pile_dev.h5 \\
    --tokenizer_name r50k_base --max_data 1000
scratchlm-data tokenize --resume                 continue after a kill

Each folder becomes one HDF5 file of ids. scratchlm-tokenize --encode writes other formats.
"""

from __future__ import annotations

import shlex
import signal
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from scratchlm.cli.command import Once, Parser
from scratchlm.cli.streams import text
from scratchlm.errors import FileFormatError, Interrupted

if TYPE_CHECKING:
    from scratchlm.tokenizer.bpe import BPETokenizer

TRAIN_DIR, VAL_DIR = "data/train", "data/val"
TRAIN_FILE, VAL_FILE = "data/train/pile_train.h5", "data/val/pile_dev.h5"
MAX_DATA = 1000
GPT2_IDS = 50257  # the vocabulary that the recipe pile-13m is for


def add_flags(parser: Parser) -> None:
    flag = parser.add_argument
    flag("--train_dir", default=TRAIN_DIR, action=Once, metavar="DIR",
         help=f"the folder of the training documents (default: {TRAIN_DIR})")  # fmt: skip
    flag("--val_dir", default=VAL_DIR, action=Once, metavar="DIR",
         help=f"the folder of the validation documents (default: {VAL_DIR})")  # fmt: skip
    flag("--out_train_file", default=TRAIN_FILE, action=Once, metavar="FILE.h5",
         help=f"the file for the training ids (default: {TRAIN_FILE})")  # fmt: skip
    flag("--out_val_file", default=VAL_FILE, action=Once, metavar="FILE.h5",
         help=f"the file for the validation ids (default: {VAL_FILE})")  # fmt: skip
    flag("--tokenizer_name", action=Once, metavar="NAME",
         help="r50k_base (default), gpt2 or cl100k_base")  # fmt: skip
    flag("--tokenizer_dir", action=Once, metavar="DIR",
         help="the folder of this tokenizer's files (default: ~/.cache/scratchlm)")  # fmt: skip
    flag("--tokenizer_path", action=Once, metavar="FILE",
         help="a tokenizer.json, instead of a name")  # fmt: skip
    flag("--max_data", type=int, default=MAX_DATA, action=Once, metavar="N",
         help=f"take the first N documents of each file; 0: all (default: {MAX_DATA})")  # fmt: skip
    flag("--field", type=text, default="text", action=Once, metavar="NAME",
         help="the key of the text in each document (default: text)")  # fmt: skip
    flag("--join", type=text, action=Once, metavar="TEXT",
         help=r"accept a list of strings as a text, and join the strings with TEXT, such as "
         r"'\n\n'")  # fmt: skip
    flag("--separator", type=text, default="<|endoftext|>", action=Once, metavar="TEXT",
         help="the special token after each document (default: <|endoftext|>)")  # fmt: skip
    flag("--num_workers", type=int, action=Once, metavar="N",
         help="processes (default: one per core); any number gives the same files")  # fmt: skip
    flag("--resume", action="store_true", help="continue after a kill")


def run(args: Namespace) -> None:
    _check(args)
    from scratchlm.data.corpus_writer import CorpusSettings
    from scratchlm.data.encoded_folders import SHARD_TOKENS, encode_folders, folders_of
    from scratchlm.data.reading.text_warnings import read_as_text

    start = time.perf_counter()
    outputs = [args.out_train_file, args.out_val_file]
    folders = folders_of(list(zip([args.train_dir, args.val_dir], outputs, strict=True)))
    tokenizer, path = _tokenizer(args)
    settings = CorpusSettings(
        field=args.field,
        separator=args.separator,
        join=args.join,
        shard_tokens=SHARD_TOKENS,
        max_documents=args.max_data or None,
    )
    many = f"the first {args.max_data:,} documents" if args.max_data else "all documents"
    for folder in folders:
        files = f"{len(folder.files):,} file{'s' * (len(folder.files) != 1)}"
        print(f"encoding {many} of {files} in {folder.path}: {folder.files[0].name} …")
    for line in read_as_text(file for folder in folders for file in folder.files):
        print(line)
    replaced = [output for output in outputs if Path(output).is_file()]
    try:
        totals = encode_folders(
            tokenizer, path, folders, settings, args.num_workers, resume=args.resume
        )
    except (KeyboardInterrupt, Interrupted) as stop:
        if not any(folder.has_begun for folder in folders):
            raise
        number = getattr(stop, "signum", signal.SIGINT)
        told = "stopped; to continue, repeat the command with --resume"
        raise Interrupted(number, told) from None
    if not path.exists():  # a run that fails leaves no tokenizer
        tokenizer.save(path)
    for folder, total in zip(folders, totals, strict=True):
        print(
            f"{folder.output}: {total.documents:,} documents, {total.text_bytes:,} bytes, "
            f"{total.tokens:,} tokens ({total.text_bytes / max(total.tokens, 1):.2f} bytes each)"
        )
    for output in replaced:
        print(f"{output} replaced an older file")
    print(f"encoded in {time.perf_counter() - start:.1f} s with {path}")
    print(f"train: {_next(args, len(tokenizer))}")


def _check(args: Namespace) -> None:
    for flag in ("tokenizer_name", "tokenizer_dir"):
        if args.tokenizer_path is not None and getattr(args, flag) is not None:
            raise ValueError(
                f"a command must have one tokenizer (--tokenizer_path {args.tokenizer_path}, "
                f"--{flag} {getattr(args, flag)}); remove one flag"
            )
    if args.max_data < 0:
        raise ValueError(f"max_data must be at least 0 ({args.max_data}); use 0 for all documents")
    if args.num_workers is not None and args.num_workers < 1:
        raise ValueError(
            f"num_workers must be at least 1 ({args.num_workers}); omit --num_workers to use all "
            "cores"
        )


def _tokenizer(args: Namespace) -> tuple[BPETokenizer, Path]:
    """Return the tokenizer and its tokenizer.json. For a named tokenizer, this is a file beside the
    training ids, where a run finds it; the file may not exist yet."""
    from scratchlm.tokenizer.bpe import BPETokenizer
    from scratchlm.tokenizer.named import FOLDER, load_named

    if args.tokenizer_path is not None:
        return BPETokenizer.load(args.tokenizer_path), Path(args.tokenizer_path)
    name = args.tokenizer_name or "r50k_base"
    tokenizer = load_named(name, args.tokenizer_dir or FOLDER)
    path = Path(args.out_train_file).parent / f"{name}.json"
    if path.exists() and BPETokenizer.load(path).hash != tokenizer.hash:
        raise FileFormatError(
            f"the file contains another tokenizer ({path}); remove the file, or choose another "
            "folder with --out_train_file"
        )
    return tokenizer, path


def _next(args: Namespace, vocab_size: int) -> str:
    """Return the command that trains on the files. Leave out flags with the recipe's defaults."""
    words = ["scratchlm-train", "--config", "pile-13m"]
    if (args.out_train_file, args.out_val_file) != (TRAIN_FILE, VAL_FILE):
        words += ["--train_data", args.out_train_file, "--val_data", args.out_val_file]
    if vocab_size != GPT2_IDS:
        words += ["--vocab_size", str(vocab_size)]
    return shlex.join(words)
