"""The flags of `scratchlm-chat`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from scratchlm.cli.command import Once, Parser
from scratchlm.cli.streams import text


def parse(argv: Sequence[str] | None, description: str) -> Namespace:
    return _parser(description).parse_args(argv)


def _parser(description: str) -> Parser:
    summary, _, examples = description.partition("\n\n")
    parser = Parser("scratchlm-chat", summary, examples)
    flag = parser.add_argument
    flag("--model_path", action=Once, required=True, metavar="PATH",
         help="a run's folder (its best checkpoint), a checkpoint, a .pt file, or a Hugging "
         "Face folder")  # fmt: skip
    flag("--tokenizer_path", action=Once, metavar="FILE",
         help="tokenizer.json (default: the one in the checkpoint)")  # fmt: skip
    flag("--template", action=Once, choices=("auto", "plain", "chatml", "llama3", "plain_alpaca"),
         help="format of the messages (auto: the format of the training; if the model does not "
         "record it, the tokenizer's special tokens decide; plain: no template, the model "
         "continues one text)")  # fmt: skip
    flag(
        "--system",
        action=Once,
        type=text,
        metavar="TEXT",
        help="system text, which comes before the conversation",
    )
    flag("--load", action=Once, metavar="FILE",
         help="continue a conversation that /save wrote; --template and --system replace "
         "the values in the file")  # fmt: skip
    flag(
        "--max_tokens",
        action=Once,
        default="256",
        metavar="N",
        help="maximum tokens in a reply (256)",
    )
    flag("--temperature", action=Once, default="0.8", metavar="T",
         help="below 1: more predictable; above 1: more varied; 0: always the most likely token "
         "(0.8)")  # fmt: skip
    flag("--top_k", action=Once, metavar="K", help="sample from the K most likely tokens")
    flag("--top_p", action=Once, metavar="P",
         help="sample from the most likely tokens that together have probability P")  # fmt: skip
    flag("--min_p", action=Once, metavar="P",
         help="sample from tokens at least P times as likely as the most likely token")  # fmt: skip
    flag("--repetition_penalty", action=Once, metavar="R",
         help="above 1: make tokens of the earlier text less likely (1.0)")  # fmt: skip
    flag("--seed", action=Once, metavar="N", help="make the replies the same every time")
    flag("--stop", action="append", type=text, default=[], metavar="TEXT",
         help="end a reply before this text; may be repeated")  # fmt: skip
    flag("--device", action=Once, default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser
