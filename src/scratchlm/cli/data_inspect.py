"""scratchlm-data inspect: show what files of text contain, before you use them.

scratchlm-data inspect data/train
scratchlm-data inspect 'web/*.jsonl.zst' --field meta.body --sample 10
scratchlm-data inspect corpus.parquet --json

It reads all files, and shows their formats, records, fields, scripts and special tokens.
"""

from __future__ import annotations

from argparse import Namespace

from scratchlm.cli.command import Once, Parser
from scratchlm.cli.streams import text


def add_flags(parser: Parser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, folders or globs")
    parser.add_argument("--field", type=text, action=Once, default="text", metavar="NAME",
                        help="key of the text in .json, .jsonl and .parquet (default: text); "
                        "meta.body is a key in an object")  # fmt: skip
    parser.add_argument("--join", type=text, action=Once, metavar="TEXT",
                        help="accept a list of strings as a text")  # fmt: skip
    parser.add_argument("--separator", type=text, action=Once, default="<|endoftext|>",
                        metavar="TEXT", help="the text between the documents of a plain text "
                        "(default: <|endoftext|>)")  # fmt: skip
    parser.add_argument("--sample", type=int, action=Once, default=3, metavar="N",
                        help="show the start of N random documents (default: 3)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: Namespace) -> None:
    from scratchlm.data.inspection import inspect
    from scratchlm.data.inspection_report import as_json, report
    from scratchlm.data.reading.settings import Reading
    from scratchlm.data.reading.text_warnings import read_as_text
    from scratchlm.data.sources import find_files

    files = find_files(args.paths)
    reading = Reading(args.field, args.separator, args.join)
    found = inspect(files, reading, args.sample)
    if args.json:
        print(as_json(found))
        return
    for line in read_as_text(files):
        print(line)
    print(report(found, reading))
