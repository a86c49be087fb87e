"""The flags of `scratchlm-tokenize`, and the checks of their combinations."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scratchlm.cli.command import Once, Parser
from scratchlm.cli.streams import text
from scratchlm.files.file_kinds import ending_of
from scratchlm.tokenizer.special_tokens import END_OF_TEXT

TRAINING = (
    "vocab_size", "output_tokenizer", "special_tokens", "pattern", "min_frequency",
    "max_token_length",
)  # fmt: skip
FOLDER = ("val_fraction", "seed", "shard_tokens", "resume")
READING = ("field", "separator", "join")  # the fields of `Reading`
REJECTS = ("max_bad", "rejects")
ONE_FILE = (".bin", ".h5", ".hdf5")  # endings of a file of ids
USES = ("encode", "show", "html")  # what a command can do with a tokenizer

_MANY: dict[str, Any] = {"nargs": "+", "action": "extend"}
_ONE: dict[str, Any] = {"action": Once}
_UTF8: dict[str, Any] = {"action": Once, "type": text}
_NUMBER: dict[str, Any] = {"action": Once, "type": int, "metavar": "N"}


def parse(argv: Sequence[str] | None, description: str) -> Namespace:
    """Parse the flags. Raise ValueError if they contradict each other or would replace an input.

    Add the values that follow from the flags: `corpus_files`, `encode_files`, `as_documents`
    (whether the corpus is documents), `one_text` (whether there is one text to encode), and
    `to_folder` (whether the ids go to a folder).
    """
    args = _parser(description).parse_args(argv)
    if args.inspect is not None:
        _only_inspected(args)
        return args
    _check_together(args)
    _find(args)
    _check_encoding(args)
    _check_rejects(args)
    _check_outputs(args)
    return args


def _parser(description: str) -> Parser:
    summary, _, examples = description.partition("\n\n")
    parser = Parser("scratchlm-tokenize", summary, examples)
    _add_training(parser)
    _add_encoding(parser)
    _add_looking(parser)
    return parser


def _add_training(parser: Parser) -> None:
    group = parser.add_argument_group("train a tokenizer")
    flag = group.add_argument
    flag("--corpus", **_MANY, metavar="PATH", help="files, folders or globs of text to learn from")
    flag("--vocab_size", **_NUMBER, help="number of ids: 256 bytes, merges, special tokens")
    flag("--output_tokenizer", **_ONE, metavar="FILE", help="default: tokenizer.json")
    flag("--special_tokens", **_MANY, type=text, metavar="TEXT", help="default: <|endoftext|>")
    flag("--pattern", **_UTF8, metavar="NAME", help="gpt2 (default), cl100k, o200k, llama3, qwen2,"
         " starcoder, tekken, or a regular expression that cuts text into pieces")  # fmt: skip
    flag("--min_frequency", **_NUMBER,
         help="merge no pair that occurs fewer than N times (default: 0)")  # fmt: skip
    flag("--max_token_length", **_NUMBER,
         help="learn no token longer than N bytes (default: any length)")  # fmt: skip


def _add_encoding(parser: Parser) -> None:
    group = parser.add_argument_group("encode")
    flag = group.add_argument
    flag("--tokenizer_path", **_ONE, metavar="FILE", help="use this tokenizer instead of a new one")
    flag("--encode", **_MANY, metavar="PATH", help="one file of text, or many documents: .json, "
         ".jsonl, .parquet, .gz, .zst, several files, folders, globs")  # fmt: skip
    flag("--output", **_ONE, metavar="PATH", help="FILE.bin or FILE.h5 for one file (default: .bin "
         "beside that file), where special tokens become their ids; or a folder, for shards of "
         "many documents")  # fmt: skip
    flag("--val_fraction", **_ONE, type=float, metavar="X",
         help="fraction of documents to hold out (default: 0)")  # fmt: skip
    flag("--seed", **_NUMBER, help="choose which documents to hold out (default: 0)")
    flag("--shard_tokens", **_NUMBER, help="number of ids in a shard (default: 100,000,000)")
    flag("--resume", action="store_true", default=None, help="continue an incomplete folder")

    group = parser.add_argument_group("train and encode")
    flag = group.add_argument
    flag(
        "--field",
        **_UTF8,
        metavar="NAME",
        help="key of the text in .json, .jsonl and .parquet "
        """(default: text); meta.body is a key in an object, and '["a.b"]' a key with a dot""",
    )
    flag("--join", **_UTF8, metavar="TEXT", help="accept a list of strings as a text, and join the "
         r"strings with TEXT, such as '\n\n'")  # fmt: skip
    flag("--separator", **_UTF8, metavar="TEXT", help="special token between the documents of a "
         "text, and after each document in the shards (default: <|endoftext|>)")  # fmt: skip
    flag("--max_bad", **_NUMBER, help="continue after up to N bad records (default: 0)")
    flag("--rejects", **_ONE, metavar="FILE.jsonl", help="with --max_bad: write the bad records "
         "to this file")  # fmt: skip
    flag("--num_workers", **_NUMBER, help="processes (default: one per core); any number gives the "
         "same result")  # fmt: skip


def _add_looking(parser: Parser) -> None:
    group = parser.add_argument_group("look at a tokenizer")
    flag = group.add_argument
    flag("--show", **_UTF8, metavar="TEXT", help="print a text's tokens, ids and counts; special "
         "tokens become their ids; with NO_COLOR=1, bars separate the tokens")  # fmt: skip
    flag("--html", **_ONE, metavar="FILE", help="write a page that shows the tokens, bytes and "
         "merges of a typed text; the page needs no network")  # fmt: skip
    flag("--inspect", **_ONE, metavar="FILE", help="print what a tokenizer.json learned")
    flag("--sample", **_ONE, metavar="FILE",
         help="with --inspect: print how much the tokenizer compresses this text")  # fmt: skip
    flag("--word", **_UTF8, metavar="TEXT",
         help="with --inspect: print how the tokenizer merges this word")  # fmt: skip


def _given(args: Namespace, flags: Sequence[str]) -> list[str]:
    return [flag for flag in flags if getattr(args, flag) is not None]


def _only_inspected(args: Namespace) -> None:
    others = [*TRAINING, *FOLDER, *REJECTS, *USES, "separator", "corpus", "tokenizer_path",
              "output", "num_workers"]  # fmt: skip
    if args.sample is None:
        others += ["field", "join"]
    for flag in _given(args, others):
        raise ValueError(
            f"--inspect only prints a report (--{flag}); use --{flag} in another command"
        )


def _check_together(args: Namespace) -> None:
    if args.corpus and args.tokenizer_path:
        raise ValueError(
            f"a command must train a tokenizer or load one, not both (--corpus, --tokenizer_path "
            f"{args.tokenizer_path}); remove one flag"
        )
    if not args.corpus and not (args.tokenizer_path and _given(args, USES)):
        raise ValueError(
            "nothing to do (no --corpus, and no --tokenizer_path with --encode, --show or --html); "
            "to train, add --corpus FILE --vocab_size N; to encode, add --tokenizer_path FILE "
            "--encode FILE"
        )
    for flags, needed, what in (
        (TRAINING, "corpus", "a new tokenizer"),
        (("output", *FOLDER), "encode", "encoding"),
        (("sample", "word"), "inspect", "looking at a tokenizer"),
    ):
        for flag in _given(args, flags):
            if not getattr(args, needed):
                raise ValueError(
                    f"--{flag} ({getattr(args, flag)}) is only for {what}; add --{needed}"
                )
    for flag, least in (
        ("num_workers", 1),
        ("min_frequency", 0),
        ("max_token_length", 1),
        ("max_bad", 0),
    ):
        value = getattr(args, flag)
        if value is not None and value < least:
            raise ValueError(
                f"{flag} must be at least {least} ({value}); remove --{flag} for the default"
            )
    if args.num_workers is not None and not args.corpus and not args.encode:
        raise ValueError(
            f"--num_workers ({args.num_workers}) is only for training and encoding; remove the flag"
        )


def _find(args: Namespace) -> None:
    # These imports are slow, and --help does not need them.
    from scratchlm.data.sources import find_files, is_plain, num_bytes, told_bytes

    args.corpus_files = find_files(args.corpus) if args.corpus else []
    args.encode_files = find_files(args.encode) if args.encode else []
    if args.corpus and args.vocab_size is None:
        from scratchlm.data.vocabulary import suitable_vocab_size

        fit = suitable_vocab_size(num_bytes(args.corpus_files), len(args.special_tokens or [""]))
        raise ValueError(
            f"a new tokenizer needs a size (no --vocab_size); set --vocab_size {fit}, which "
            f"suits {told_bytes(args.corpus_files)}"
        )
    args.as_documents = not all(map(is_plain, args.corpus_files))
    one_file = args.encode is not None and args.encode_files == [Path(args.encode[0])]
    args.one_text = one_file and is_plain(args.encode_files[0])
    named_file = args.output is None or Path(args.output).suffix.lower() in ONE_FILE
    args.to_folder = bool(args.encode) and not (args.one_text and named_file)
    if args.to_folder and named_file:
        raise ValueError(
            f"the output of many documents must be a folder (--encode {args.encode[0]}, --output "
            f"{args.output}); set --output DIR"
        )


def _check_encoding(args: Namespace) -> None:
    if args.encode and not args.to_folder:
        for flag in _given(args, FOLDER):
            raise ValueError(
                f"--{flag} ({getattr(args, flag)}) is only for many documents (--encode "
                f"{args.encode[0]}); set --output DIR, without .bin, or remove --{flag}"
            )
    if not args.to_folder and not args.as_documents:
        for flag in _given(args, (*READING, *REJECTS)):
            raise ValueError(
                f"--{flag} ({getattr(args, flag)}) is only for many documents; remove --{flag}, "
                "because a text file is one text, which its special tokens split"
            )
    if args.seed is not None and not args.val_fraction:
        raise ValueError(
            f"--seed ({args.seed}) chooses the documents to hold out; add --val_fraction X"
        )
    separator = args.separator or END_OF_TEXT
    if args.to_folder and args.special_tokens and separator not in args.special_tokens:
        raise ValueError(
            f"the separator must be a special token of the new tokenizer ({separator!r}); add it "
            "to --special_tokens, or choose a special token with --separator"
        )


def _check_rejects(args: Namespace) -> None:
    if bool(args.max_bad) != (args.rejects is not None):
        missing = "max_bad N" if not args.max_bad else "rejects FILE.jsonl"
        raise ValueError(
            f"bad records need a number and a file (--max_bad {args.max_bad}, --rejects "
            f"{args.rejects}); add --{missing}"
        )
    if args.rejects is None:
        return
    from scratchlm.data.outputs import check_outputs  # slow, and --help does not need it

    check_outputs({"--rejects": args.rejects}, [*(args.corpus or []), *(args.encode or [])])
    if ending_of(Path(args.rejects)) != ".jsonl":
        raise ValueError(
            f"bad records must go to a .jsonl file ({args.rejects}); set --rejects "
            f"{Path(args.rejects).with_suffix('.jsonl')}"
        )
    if args.as_documents and args.to_folder and args.corpus_files != args.encode_files:
        raise ValueError(
            f"a file of bad records must belong to one set of inputs (--rejects {args.rejects}, "
            "but --corpus and --encode differ); use two commands"
        )


def _check_outputs(args: Namespace) -> None:
    taken = {path.resolve() for path in (*args.corpus_files, *args.encode_files)}
    if args.tokenizer_path:
        taken.add(Path(args.tokenizer_path).resolve())
    for flag, default in (
        ("output_tokenizer", "tokenizer.json"),
        ("output", None),
        ("html", None),
        ("rejects", None),
    ):
        name = getattr(args, flag)
        if name is None and args.corpus:
            name = default
        if name is None:
            continue
        path = Path(name)
        if not name or (flag != "output" and path.is_dir()):
            raise ValueError(
                f"--{flag} must be a file, not a folder ({name!r}); choose a file in it"
            )
        if flag == "html" and path.suffix != ".html":
            raise ValueError(f"a page must be an .html file ({name}); set --html PAGE.html")
        sidecar = path.parent / f"{path.name}.json"
        if taken & {path.resolve(), sidecar.resolve()}:
            raise ValueError(
                f"--{flag} must not replace an input or another output ({path}); choose another "
                "file"
            )
        if flag == "output_tokenizer" and ending_of(path) not in ("", ".json"):
            raise ValueError(
                f"a tokenizer must be a .json file ({name}); set --{flag} "
                f"{path.with_suffix('.json')}"
            )
        taken.add(path.resolve())
        if not path.parent.is_dir():
            raise ValueError(
                f"the folder of --{flag} must exist ({path}); create {path.parent} first"
            )
    if args.to_folder:
        _check_folder(args)


def _check_folder(args: Namespace) -> None:
    from scratchlm.data.corpus_folder import check_folder  # slow, and --help does not need it

    output = Path(args.output)
    if ending_of(output) and not output.is_dir():
        folder = output.with_suffix("")
        name = f"{folder}.bin or {folder}.h5, or {folder} for a folder" if args.one_text else folder
        raise ValueError(
            f"--output must be a .bin file, an .h5 file or a folder, not a {output.suffix} file "
            f"({output}); "
            f"set --output {name}"
        )
    check_folder(output, resume=bool(args.resume))
