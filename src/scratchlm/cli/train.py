"""scratchlm-train: train a model on token shards or text.

scratchlm-train --train_data corpus.bin --d_model 256 --num_layers 4 --num_heads 8 --iterations 1000
scratchlm-train --config configs/shakespeare.toml --train_data shakespeare.txt --optim.lr 1e-3
scratchlm-train --resume runs/2026-01-31-120000

Any key of a config file is a flag by its dotted name (--model.qk_norm true); a flag wins over the
file. The resolved config is printed, and saved in the run's folder.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from scratchlm.cli.command import Once, Parser, command

# config key: (help, our flag, the names that other projects use for it)
FLAGS: dict[str, tuple[str, ...]] = {
    "data.train": ("token shard (.bin, .npy) or text to train on", "train_data"),
    "data.val": ("the same to validate on (default: the last tenth)", "val_data"),
    "data.tokenizer": ("tokenizer.json of the text, or of shards that name none", "tokenizer_path"),
    "model.vocab_size": ("ids the model knows (default: the tokenizer's)", "vocab_size"),
    "model.context_length": (
        "tokens a sequence",
        "max_seq_len", "context_length", "block_size", "context_size", "n_positions",
    ),
    "model.d_model": ("width", "d_model", "emb_dim", "n_embd", "hidden_size", "dim"),
    "model.num_layers": ("blocks", "num_layers", "n_layer", "n_layers", "num_hidden_layers"),
    "model.num_heads": (
        "query heads", "num_heads", "n_head", "n_heads", "num_attention_heads",
    ),
    "model.num_kv_heads": (
        "key and value heads", "num_kv_heads", "n_kv_heads", "num_key_value_heads",
    ),
    "model.d_ff": ("width of the feed-forward layer", "d_ff", "intermediate_size"),
    "model.rope_theta": ("base of the rotary angles", "rope_theta"),
    "model.dropout": ("dropout on the residual branches", "dropout", "drop_rate"),
    "optim.optimizer": ("adamw, muon or sgd", "optimizer"),
    "optim.lr": ("peak learning rate", "lr", "learning_rate", "max_lr"),
    "optim.min_lr": ("learning rate at the end", "min_lr"),
    "optim.warmup_steps": ("steps of linear warm-up", "warmup_steps", "warmup_iters"),
    "optim.weight_decay": ("decay of the matrices", "weight_decay"),
    "train.out": ("the run's folder (default: runs/<date-time>)", "out", "out_dir"),
    "train.iterations": ("optimizer steps", "iterations", "max_iters", "max_steps"),
    "train.epochs": ("passes over the data, instead of steps", "epochs", "num_epochs"),
    "train.batch_size": ("sequences a micro-batch", "batch_size"),
    "train.accumulate": (
        "micro-batches a step", "accumulate", "gradient_accumulation_steps",
    ),
    "train.max_grad_norm": ("clip the gradient to this norm", "max_grad_norm", "grad_clip"),
    "train.eval_every": ("steps between validations", "eval_every", "eval_interval"),
    "train.save_every": ("steps between checkpoints", "save_every"),
    "train.save_format": ("directory or pt", "save_format"),
    "train.seed": ("of weights, dropout and batches", "seed"),
    "runtime.device": ("auto, cpu, cuda, cuda:N or mps", "device"),
    "runtime.dtype": ("auto, float32 or bfloat16", "dtype"),
}  # fmt: skip


def _parser() -> Parser:
    summary, _, examples = (__doc__ or "").partition("\n\n")
    parser = Parser("scratchlm-train", summary, examples)
    parser.add_argument("--config", action=Once, metavar="FILE", help="a TOML file of configs/")
    parser.add_argument("--resume", action=Once, metavar="auto|PATH",
                        help="go on with a run: its folder or a checkpoint of it; auto: the run "
                        "in --out, else the newest, else a new one")  # fmt: skip
    parser.add_argument("--verify", action="store_true", help="hash the whole shards first")
    for key, (text, *names) in FLAGS.items():
        parser.add_argument(
            *(f"--{name}" for name in names), dest=key, action=Once, help=text, metavar="X"
        )
    return parser


@command()
def main(argv: Sequence[str] | None = None) -> None:
    words, dotted = _split_dotted(list(sys.argv[1:] if argv is None else argv))
    args = vars(_parser().parse_args(words))
    overrides = _overrides(args, dotted)
    from scratchlm import recipe  # here, so that --help answers at once

    config, checkpoint = recipe.resolve(args["config"], overrides, args["resume"])
    trainer = recipe.build(config, resume=checkpoint)
    trainer.fit()
    print(
        f"trained: {trainer.saved}\n"
        f'generate: scratchlm-generate --model_path {trainer.out} --prompt "..." --max_tokens 200'
    )


def _split_dotted(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take `--optim.lr 3e-4` and `--optim.lr=3e-4` out of the words."""
    words: list[str] = []
    dotted: dict[str, str] = {}
    rest = iter(argv)
    for word in rest:
        match = re.fullmatch(r"--([a-z]+(?:\.[A-Za-z_-]+)+)(?:=(.*))?", word, re.DOTALL)
        if not match:
            words.append(word)
            continue
        key = match[1].replace("-", "_")
        value = match[2] if match[2] is not None else next(rest, None)
        if value is None:
            raise ValueError(f"a flag has no value (--{key}); give --{key} VALUE")
        if dotted.setdefault(key, value) != value:
            raise ValueError(
                f"two values for one option (--{key} {dotted[key]}, {value}); give one"
            )
    return words, dotted


def _overrides(args: dict[str, Any], dotted: dict[str, str]) -> dict[str, Any]:
    """{config key: value as typed}; two flags of one key must agree."""
    given = dict(dotted)
    for key in FLAGS:
        value = args[key]
        if value is None:
            continue
        if given.setdefault(key, value) != value:
            raise ValueError(
                f"two values for one option (--{key} {given[key]}, --{FLAGS[key][1]} {value}); "
                "give one"
            )
    if args["verify"]:
        given["data.verify"] = "true"
    return given


if __name__ == "__main__":
    sys.exit(main())
