"""The flags of `scratchlm-generate`."""

from __future__ import annotations

import codecs
import os
import stat
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scratchlm.cli.command import Once, Parser, check_seed
from scratchlm.cli.streams import text

STRATEGY = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "no_repeat_ngram_size", "min_new_tokens",
)  # fmt: skip


def parse(argv: Sequence[str] | None, description: str) -> Namespace:
    """Parse the flags. Raise ValueError for a flag without effect and for a seed out of range."""
    args = _parser(description).parse_args(argv)
    check_seed(args.seed)
    for flag, needed in (
        ("length_penalty", "num_beams"),
        ("early_stopping", "num_beams"),
        ("num_draft", "draft_model"),
    ):
        value = getattr(args, flag)
        if value is not None and getattr(args, needed) is None:
            raise ValueError(f"--{flag} ({value}) needs --{needed}; add --{needed}")
    if args.json and args.show_tokens:
        raise ValueError("the output must have one format (--json, --show_tokens); remove one flag")
    if args.stream and (args.json or args.show_tokens or args.num_beams):
        other = "json" if args.json else "show_tokens" if args.show_tokens else "num_beams"
        raise ValueError(f"only plain text can be streamed (--stream, --{other}); remove one flag")
    return args


def strategy(args: Namespace) -> dict[str, Any]:
    """Return the fields of `Strategy` that the user set."""
    given = {name: getattr(args, name) for name in STRATEGY}
    chosen = {name: value for name, value in given.items() if value is not None}
    biases: dict[int, float] = {}
    for id, bias in args.logit_bias:
        if str(biases.setdefault(id, bias)) != str(bias):  # compare as text, because nan != nan
            raise ValueError(
                f"two values for one id (logit_bias {id}={biases[id]}, {id}={bias}); keep one"
            )
    return chosen | ({"logit_bias": biases} if biases else {})


def prompts(args: Namespace) -> list[str]:
    """Return all prompts: first the texts of --prompt, then the texts of the files.

    Without both flags, read standard input if it is a pipe or a file. Raise ValueError, with the
    file's name, if a file is not UTF-8.
    """
    texts = list(args.prompt or [])
    names = list(args.prompt_file or [])
    if not texts and not names and _is_piped():
        names = ["-"]
    for name in names:
        try:
            if name == "-":
                name = "standard input"
                content = sys.stdin.buffer.read()
            else:
                content = Path(name).read_bytes()
            texts.append(content.removeprefix(codecs.BOM_UTF8).decode())
        except UnicodeDecodeError as error:
            raise ValueError(
                f"a prompt must be UTF-8 ({name}, byte {error.start}); convert it to UTF-8"
            ) from None
    return texts or [""]


def _is_piped() -> bool:
    """Return whether standard input is a pipe or a file, not a terminal or closed."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or an object without a file
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _bias(word: str) -> tuple[int, float]:
    id, _, value = word.partition("=")
    try:
        return int(id), float(value)
    except ValueError:
        raise ArgumentTypeError(f"a bias must be ID=VALUE ({word!r}), e.g. 50256=-inf") from None


def _early_stopping(word: str) -> bool | str:
    choices: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}
    if word.lower() not in choices:
        raise ArgumentTypeError(f"the value must be true, false or never ({word!r})")
    return choices[word.lower()]


def _parser(description: str) -> Parser:
    summary, _, examples = description.partition("\n\n")
    parser = Parser("scratchlm-generate", summary, examples)
    flag = parser.add_argument_group("model").add_argument
    flag("--model_path", action=Once, required=True, metavar="PATH",
         help="a run's folder (its best checkpoint), a checkpoint, a .pt file, or a Hugging "
         "Face folder; with --dry_run also a config file or a recipe's name")  # fmt: skip
    flag("--tokenizer_path", action=Once, metavar="FILE",
         help="tokenizer.json (default: the one in the checkpoint)")  # fmt: skip
    flag("--device", action=Once, default="auto", help="auto, cpu, cuda, cuda:N or mps")
    flag("--dtype", action=Once, choices=["stored", "float32", "bfloat16"], default="stored",
         help="dtype of weights and arithmetic (default: the stored dtype)")  # fmt: skip
    flag("--weights", action=Once, choices=["stored", "int8"], default="stored",
         help="int8: store matrices in 8 bits, for a CPU (stored)")  # fmt: skip
    flag("--compile", action=Once, choices=["auto", "on", "off"], default="auto",
         help="compile the step with torch.compile; auto: on CUDA, for 1,000 tokens or "
         "more (auto)")  # fmt: skip
    flag("--draft_model", action=Once, metavar="PATH",
         help="a smaller model with the same tokenizer; it guesses the next tokens, which is "
         "faster and changes no probability")  # fmt: skip
    flag("--num_draft", action=Once, type=int, metavar="N", help="tokens in a guess (4)")
    flag("--dry_run", action="store_true",
         help="print the memory and compute that the model and its KV cache need; generate "
         "nothing")  # fmt: skip

    flag = parser.add_argument_group("prompts and texts").add_argument
    flag("--prompt", action="append", type=text, metavar="TEXT",
         help="text to continue; may be repeated (default: standard input if it is a pipe or a "
         "file, else the start of a new document)")  # fmt: skip
    flag("--prompt_file", action="append", metavar="FILE",
         help="a file whose text is a prompt; - is standard input; may be repeated")  # fmt: skip
    flag("--num_samples", action=Once, type=int, default=1, metavar="N",
         help="texts per prompt (1)")  # fmt: skip
    flag("--max_tokens", action=Once, type=int, default=100,
         metavar="N", help="maximum new tokens in a text (100)")  # fmt: skip
    flag("--stop", action="append", type=text, default=[], metavar="TEXT",
         help="end before this text; may be repeated")  # fmt: skip
    flag("--stop_id", action="append", type=int, default=[], metavar="ID",
         help="end before this token too, in addition to the model's own end tokens")  # fmt: skip
    flag("--overflow", action=Once, choices=["stop", "slide"], default="stop",
         help="if the context is full: stop, or continue from its last half (stop)")  # fmt: skip
    flag("--seed", action=Once, type=int, metavar="N", help="make the texts the same every time")

    flag = parser.add_argument_group("strategy, in this order (docs/sampling.md)").add_argument
    flag("--logit_bias", action="append", type=_bias, default=[], metavar="ID=VALUE",
         help="add VALUE to a token's logit; -inf bans the token; may be repeated")  # fmt: skip
    flag("--repetition_penalty", action=Once, type=float, metavar="R",
         help="above 1: make tokens of the prompt and of the new text less likely "
         "(1.0, off)")  # fmt: skip
    flag("--presence_penalty", action=Once, type=float, metavar="X",
         help="subtract X from the logits of tokens already written (0, off)")  # fmt: skip
    flag("--frequency_penalty", action=Once, type=float, metavar="X",
         help="subtract X once for each time the token was written (0, off)")  # fmt: skip
    flag("--no_repeat_ngram_size", action=Once, type=int, metavar="N",
         help="write no sequence of N tokens twice (0, off)")  # fmt: skip
    flag("--min_new_tokens", action=Once, type=int, metavar="N",
         help="do not end before N new tokens (0)")  # fmt: skip
    flag("--temperature", action=Once, type=float, metavar="T",
         help="below 1: more predictable; above 1: more varied; 0: always the most likely token "
         "(1.0)")  # fmt: skip
    flag("--top_k", action=Once, type=int, metavar="K",
         help="sample from the K most likely tokens (0, off)")  # fmt: skip
    flag("--top_p", action=Once, type=float, metavar="P",
         help="sample from the most likely tokens that together have probability P; 0 keeps one "
         "token (1, off)")  # fmt: skip
    flag("--min_p", action=Once, type=float, metavar="P",
         help="sample from tokens at least P times as likely as the most likely token "
         "(0, off)")  # fmt: skip
    flag("--typical_p", action=Once, type=float, metavar="P",
         help="sample from the tokens whose surprise is nearest to the average and that together "
         "have probability P (1, off)")  # fmt: skip
    flag("--num_beams", action=Once, type=int, metavar="N",
         help="search for the most likely text with N beams, instead of sampling")  # fmt: skip
    flag("--length_penalty", action=Once, type=float, metavar="X",
         help="for beams: 1 compares mean log-probabilities, above 1 prefers long texts "
         "(1.0)")  # fmt: skip
    flag("--early_stopping", action=Once, type=_early_stopping, metavar="true|false|never",
         help="for beams: end when N texts are complete (false)")  # fmt: skip

    flag = parser.add_argument_group("output").add_argument
    flag("--stream", action="store_true",
         help="write each text while the model generates it, one after another (a single text "
         "always streams)")  # fmt: skip
    flag("--json", action="store_true",
         help="write one JSON object per text: ids, log-probabilities, seed, "
         "times")  # fmt: skip
    flag("--show_tokens", action="store_true",
         help="colour each token by the model's own probability, or print the "
         "probability")  # fmt: skip
    return parser
