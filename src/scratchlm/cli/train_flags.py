"""What may be typed after `scratchlm-train`, and the keys of the configuration it sets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from scratchlm.cli.command import Once, Parser

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
    "model.norm_eps": (
        "added under the norms' root", "norm_eps", "rms_norm_eps", "layer_norm_epsilon",
    ),
    "model.tie_embeddings": (
        "one matrix for embedding and head: true", "tie_embeddings", "tie_word_embeddings",
    ),
    "model.dropout": ("dropout on the residual branches", "dropout", "drop_rate"),
    "optim.optimizer": ("adamw, muon or sgd", "optimizer"),
    "optim.lr": ("peak learning rate", "lr", "learning_rate", "max_lr"),
    "optim.min_lr": ("learning rate at the end", "min_lr"),
    "optim.warmup_steps": ("steps of linear warm-up", "warmup_steps", "warmup_iters"),
    "optim.weight_decay": ("decay of the matrices", "weight_decay"),
    "train.out": ("the run's folder (default: runs/<date-time>)", "out", "out_dir"),
    "train.init_from": ("begin with these weights: a run, a checkpoint, a folder of the hub",
                        "init_from"),
    "train.iterations": ("optimizer steps", "iterations", "max_iters", "max_steps"),
    "train.epochs": ("passes over the data, instead of steps", "epochs", "num_epochs"),
    "train.batch_size": ("sequences a micro-batch", "batch_size"),
    "train.accumulate": (
        "micro-batches a step", "accumulate", "gradient_accumulation_steps",
    ),
    "train.z_loss": ("weight of the square of the logits' logsumexp", "z_loss"),
    "train.max_grad_norm": ("clip the gradient to this norm", "max_grad_norm", "grad_clip"),
    "train.eval_every": ("steps between validations", "eval_every", "eval_interval"),
    "train.eval_batches": ("batches of a validation, 0 all", "eval_batches", "eval_iters"),
    "train.save_every": ("steps between checkpoints", "save_every"),
    "train.save_format": ("directory or pt", "save_format"),
    "train.keep_last": ("checkpoints kept beside the best, 0 all", "keep_last", "save_total_limit"),
    "train.log_every": ("steps an accelerator is not waited for", "log_every", "log_interval",
                        "logging_steps"),
    "train.tensorboard": ("log for TensorBoard too: true", "tensorboard"),
    "train.sample_every": ("steps between samples of text, 0 none", "sample_every"),
    "train.sample_prompt": ("what samples continue", "sample_prompt"),
    "train.sample_tokens": ("tokens of a sample", "sample_tokens"),
    "train.seed": ("of weights, dropout and batches", "seed"),
    "runtime.device": ("auto, cpu, cuda, cuda:N or mps", "device"),
    "runtime.dtype": ("auto, float32, tf32, bfloat16 or float16", "dtype"),
    "runtime.compile": ("by torch.compile: auto, on or off", "compile"),
    "runtime.parallel": ("what ranks of torchrun do: ddp or fsdp", "parallel"),
    "runtime.activation_checkpointing": (
        "compute blocks twice to save memory: true", "activation_checkpointing",
    ),
}  # fmt: skip


class _Parser(Parser):
    def hint(self, name: str) -> str:
        """The keys of the configuration that end so, where there are any."""
        from scratchlm.config import keys
        from scratchlm.train_config import TrainConfig  # slow, and for a mistake alone

        last = "." + name.removeprefix("--").replace("-", "_")
        found = [f"--{key}" for key in keys(TrainConfig) if f".{key}".endswith(last)]
        return f"write {' or '.join(found)}" if found else super().hint(name)


def _parser(description: str) -> Parser:
    summary, _, examples = description.partition("\n\n")
    parser = _Parser("scratchlm-train", summary, examples)
    parser.add_argument("--config", action=Once, metavar="FILE", help="a TOML file of configs/")
    parser.add_argument("--resume", action=Once, metavar="auto|PATH",
                        help="go on with a run: its folder or a checkpoint of it; auto: the run "
                        "in --out, else the newest, else a new one")  # fmt: skip
    parser.add_argument("--verify", action="store_true", help="hash the whole shards first")
    parser.add_argument("--dry_run", action="store_true",
                        help="print what it costs, and on which GPUs; train nothing")  # fmt: skip
    for key, (text, *names) in FLAGS.items():
        parser.add_argument(
            *(f"--{name}" for name in names), dest=key, action=Once, help=text, metavar="X"
        )
    return parser


class Parsed(NamedTuple):
    """--config, {dotted key: value} of all other flags, --resume, --dry_run."""

    file: str | None
    flags: dict[str, Any]
    resume: str | None
    dry_run: bool


def parse(argv: Sequence[str], description: str) -> Parsed:
    """What was typed; ValueError where two flags of one key differ."""
    words, dotted = _split_dotted(argv)
    args = vars(_parser(description).parse_args(words))
    return Parsed(args["config"], _overrides(args, dotted), args["resume"], args["dry_run"])


def _split_dotted(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
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
