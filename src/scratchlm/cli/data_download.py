"""scratchlm-data download: download texts, evaluation sets, models and tokenizers by name.

scratchlm-data download                          list the names
scratchlm-data download shakespeare              into data/train
scratchlm-data download pile --train_max 1 --train_dir data/train --val_dir data/val
scratchlm-data download r50k_base                into ~/.cache/scratchlm
scratchlm-data download smollm2-135m --mirror https://hf-mirror.com

Repeat a command that stopped: it continues each download.
"""

from __future__ import annotations

import shlex
from argparse import Namespace

from scratchlm.cli.command import Once, Parser


def add_flags(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="what to download")
    parser.add_argument("--train_max", type=int, action=Once, metavar="N",
                        help="the largest number of training files (default: 1)")  # fmt: skip
    parser.add_argument("--train_dir", action=Once, metavar="DIR",
                        help="the folder of training texts (default: data/train)")  # fmt: skip
    parser.add_argument("--val_dir", action=Once, metavar="DIR",
                        help="the folder of validation texts (default: data/val)")  # fmt: skip
    parser.add_argument("--output", action=Once, metavar="DIR",
                        help="the folder of other files; the list shows the default")  # fmt: skip
    parser.add_argument("--mirror", action=Once, metavar="URL",
                        help="a server that contains the files at the same paths")  # fmt: skip
    parser.add_argument("--table", action=Once, metavar="FILE.json",
                        help="your own table of names (docs/data.md)")  # fmt: skip
    parser.add_argument("--connections", type=int, default=4, action=Once, metavar="N",
                        help="the number of files at once (default: 4)")  # fmt: skip


def run(args: Namespace) -> None:
    from scratchlm.data.download.table import check_address, files_of, find_source, read_table

    table = read_table(args.table)
    if args.name is None:
        for source in table.values():
            print(f"{source.name:<22} {source.about} [{source.licence}]")
            print(f"{'':<22} into {source.folder or 'data/train and data/val'}")
        return
    source = find_source(table, args.name)
    if args.mirror is not None:
        check_address(args.mirror, "the mirror")
    if args.train_max is not None and args.train_max < 0:
        raise ValueError(f"train_max must be at least 0 ({args.train_max}); set --train_max 1")
    folders = _folders(args, source.folder)
    train_max = 1 if args.train_max is None else args.train_max
    files = files_of(source, folders, train_max, args.mirror)
    if not files:
        raise ValueError(f"{source.name} has no other files (--train_max 0); set --train_max 1")
    from scratchlm.data.download.several import download_files

    print(f"{source.name}: {source.about}; licence: {source.licence}; {source.home}", flush=True)
    for file, outcome in zip(files, download_files(files, args.connections), strict=True):
        what = "saved" if outcome.is_new else "already there"
        confirmed = {"length": "the server's length", "size": "size"}
        checked = confirmed.get(outcome.confirmed_by, outcome.confirmed_by)
        print(f"{what}: {file.path} ({outcome.size:,} bytes; {checked} checked)")
    if source.folder is None:
        print(_next(folders, any(entry.part == "val" for entry in source.entries)))


def _next(folders: dict[str, str], has_val: bool) -> str:
    """Return a line with the command that uses a text. Leave out its default folders."""
    if not has_val:
        return f"train: scratchlm-train --train_data {shlex.quote(folders['train'])} --config tiny"
    words = ["scratchlm-data", "tokenize"]
    for part in ("train", "val"):
        if folders[part] != f"data/{part}":
            words += [f"--{part}_dir", folders[part]]
    if len(words) > 2:
        words += ["--out_train_file", f"{folders['train']}/train.h5"]
        words += ["--out_val_file", f"{folders['val']}/val.h5"]
    return f"tokenize: {shlex.join(words)}"


def _folders(args: Namespace, folder: str | None) -> dict[str, str]:
    """Return the folder of each part. Raise ValueError for a flag without an effect."""
    if folder is not None:
        for flag in ("train_dir", "val_dir"):
            if getattr(args, flag) is not None:
                raise ValueError(
                    f"--{flag} has no effect ({args.name} uses one folder); use --output DIR"
                )
        return dict.fromkeys(("train", "val", ""), args.output or folder)
    if args.output is not None:
        raise ValueError(
            f"--output has no effect ({args.name} has training or validation texts); use "
            "--train_dir and --val_dir"
        )
    return {"train": args.train_dir or "data/train", "val": args.val_dir or "data/val"}
